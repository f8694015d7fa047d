"""Calls of the cold side, in threads and in a process of its own: the same, but for what happens when one dies."""

import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes import PATIENCE_S
from tests.servers import ACCESS_KEY, REGION, SECRET_KEY
from tests.t2_engine.hydration import read
from tierfs.cold import Configuration, open_side
from tierfs.core.config import Settings
from tierfs.core.errors import ConfigError, NotEligible, ObjectMissing, StoreError, StoreUnavailable
from tierfs.core.extents import Item
from tierfs.core.records import Attributes, Fd, ObjectRef
from tierfs.engine.arena import Arena, Slot
from tierfs.engine.calls import Calls, InThreads
from tierfs.engine.coldprocess import ColdProcess
from tierfs.engine.coldtier import ColdTier, upload_of
from tierfs.engine.hydrate import HydrateSettings, Hydrator
from tierfs.engine.measures import Odometer
from tierfs.stores.directory_lease import DirectoryLeasePlace
from tierfs.stores.hot import HotTier
from tierfs.stores.identity import owner_of

CHUNK = 1 << 16

Start = Callable[[Configuration], "AsyncIterator[ColdTier]"]


class Cold:
    """A cold side that runs, and its memory."""

    def __init__(self, calls: Calls, arena: Arena) -> None:
        self.tier = ColdTier(calls)
        self.arena = arena

    def slots(self, ref: ObjectRef) -> dict[int, Slot]:
        """Room for each chunk of an object."""
        item = Item(ref, CHUNK)
        slots = {index: self.arena.take(item.size_of(index)) for index in range(-(-ref.size // CHUNK))}
        return {index: slot for index, slot in slots.items() if slot}


@asynccontextmanager
async def running(configuration: Configuration, kind: str) -> AsyncIterator[Cold]:
    arena = Arena(1 << 20)
    async with AsyncExitStack() as exits:
        if kind == "threads":
            side = open_side(configuration, arena.view)
            exits.callback(side.close)
            yield Cold(InThreads(side), arena)
        else:
            process = ColdProcess(configuration, arena.fd)
            nursery = await exits.enter_async_context(trio.open_nursery())
            await nursery.start(process.serve)
            yield Cold(process, arena)
            nursery.cancel_scope.cancel()
    arena.close()


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "state").mkdir()
    settings = Settings(cache_size=64 << 20, chunk_size=CHUNK)
    return Configuration(f"file://{tmp_path}/bucket", str(tmp_path / "state"), settings, False)


@pytest.fixture(params=["threads", "process"])
async def cold(request: pytest.FixtureRequest, configuration: Configuration) -> AsyncIterator[Cold]:
    async with running(configuration, request.param) as found:
        yield found


def written(tmp_path: Path, content: bytes) -> tuple[Fd, Attributes]:
    path = tmp_path / "file"
    path.write_bytes(content)
    st = path.stat()
    return Fd(os.open(path, os.O_RDONLY)), Attributes(
        st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
    )


async def put(cold: Cold, tmp_path: Path, content: bytes, key: str = "k") -> ObjectRef:
    fd, attributes = written(tmp_path, content)
    try:
        return await cold.tier.put(upload_of(fd, key, attributes, CHUNK))
    finally:
        os.close(fd)


async def test_a_file_becomes_an_object_and_its_chunks_come_back(cold: Cold, tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK + 7)
    ref = await put(cold, tmp_path, content)
    assert (await cold.tier.head("k")).size == len(content)
    slots, landed = cold.slots(ref), list[int]()

    def land(index: int) -> bool:
        landed.append(index)
        return True

    item = Item(ref, CHUNK)
    await cold.tier.load(item, slots, land)
    assert landed == []
    await cold.tier.fetch(item, slots, land, is_kept=True)
    assert landed == [0, 1, 2, 3]
    assert b"".join(slots[index].view for index in landed) == content
    assert await cold.tier.cached_bytes(ref) == len(content)
    again = cold.slots(ref)
    await cold.tier.load(item, again, land)
    assert b"".join(again[index].view for index in range(4)) == content
    assert await cold.tier.evict(ref) == 4
    assert (await cold.tier.numbers()).store.bytes_downloaded == len(content)


async def test_a_file_is_closed_when_its_put_is_answered(cold: Cold, tmp_path: Path) -> None:
    """A file that anybody still has open is not released, and the answer is what a release waits for."""
    root = Fd(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    hot = HotTier(root)
    for number in range(50):
        await put(cold, tmp_path, b"%d" % number)
        assert hot.why_busy(b"file") == ""
    hot.close()
    os.close(root)


async def test_the_lease_is_given_back_while_answers_come_that_nobody_hears(configuration: Configuration) -> None:
    """An unmount right after the mount ended the process over an answer of its self-test: 90 s for the next mount."""
    owner = owner_of(Path(configuration.state), "/mnt", "session")
    place = DirectoryLeasePlace(configuration.source.removeprefix("file://"), False)
    for _ in range(5):
        process = ColdProcess(replace(configuration, owner=owner), Arena(1 << 20).fd)
        async with trio.open_nursery() as nursery:
            await nursery.start(process.serve)
            tier = ColdTier(process)
            report = await tier.take_lease(False)
            assert report
            assert report.state == "held"
            for _ in range(200):
                nursery.start_soon(partial(tier.inspect_cache, is_deep=False, is_repaired=False))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        found = place.read()
        assert found
        assert found.lease
        assert found.lease.is_free
    place.close()


async def test_chunks_that_do_not_adjoin_are_never_fetched_as_one(cold: Cold, tmp_path: Path) -> None:
    """The bytes of the gap would land in the chunk after it, and without a CRC-32 nothing would notice."""
    ref = replace(await put(cold, tmp_path, os.urandom(3 * CHUNK)), crcs=b"")
    slots = {index: slot for index, slot in cold.slots(ref).items() if index != 1}
    with pytest.raises(ValueError, match="adjoin"):
        await cold.tier.fetch(Item(ref, CHUNK), slots, lambda _index: True, is_kept=True)
    assert await cold.tier.cached_bytes(ref) == 0


async def test_a_fetch_that_nobody_wants_any_more_ends_early(cold: Cold, tmp_path: Path) -> None:
    ref = await put(cold, tmp_path, os.urandom(64 * CHUNK))
    slots, landed = cold.slots(ref), list[int]()

    def land(index: int) -> bool:
        landed.append(index)
        return False

    await cold.tier.fetch(Item(ref, CHUNK), slots, land, is_kept=False)
    assert 0 < len(landed) <= 64
    assert await cold.tier.cached_bytes(ref) == 0


async def test_errors_are_those_of_the_store(cold: Cold, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match="missing"):
        await cold.tier.head("missing")
    ref = ObjectRef("missing", "etag", 10)
    with pytest.raises(ObjectMissing):
        await cold.tier.fetch(Item(ref, CHUNK), cold.slots(ref), lambda _index: True, is_kept=True)
    fd, attributes = written(tmp_path, b"longer")
    os.truncate(tmp_path / "file", 3)
    with pytest.raises(NotEligible, match="shorter"):
        await cold.tier.put(upload_of(fd, "k", attributes, CHUNK))
    os.close(fd)


async def test_an_upload_that_is_ended_leaves_no_object(cold: Cold, tmp_path: Path) -> None:
    fd, attributes = written(tmp_path, b"x")
    upload = upload_of(fd, "k", attributes, CHUNK)
    upload.end()
    with pytest.raises(NotEligible):
        await cold.tier.put(upload)
    os.close(fd)
    with pytest.raises(ObjectMissing):
        await cold.tier.head("k")


async def test_long_listings_come_in_pieces_and_can_be_left(
    cold: Cold, configuration: Configuration, tmp_path: Path
) -> None:
    ref = await put(cold, tmp_path, b"x")
    info = await cold.tier.head("k")
    for index in range(2100):
        os.link(tmp_path / "bucket" / "k", tmp_path / "bucket" / f"k{index:04}")
    async with aclosing(cold.tier.objects("k")) as listing:
        sizes = [len(batch) async for batch in listing]
    assert (len(sizes), sum(sizes)) == (3, 2101)
    async with aclosing(cold.tier.objects("k")) as listing:
        async for _ in listing:
            break
    assert info.etag == ref.etag
    await cold.tier.delete("k")
    async with aclosing(cold.tier.objects("")) as listing:
        assert "k" not in {info.key for batch in [batch async for batch in listing] for info in batch}


async def test_messages_larger_than_the_socket_takes_at_once(configuration: Configuration, tmp_path: Path) -> None:
    async with running(configuration, "process") as cold:
        ref = await put(cold, tmp_path, b"x")
        long = ObjectRef("k", ref.etag, 1, crcs=bytes(4 << 20))

        async def ask() -> None:
            assert await cold.tier.cached_bytes(long) == 0

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)


async def test_a_store_that_cannot_be_opened_is_said_at_the_start(configuration: Configuration, tmp_path: Path) -> None:
    (tmp_path / "bucket").rmdir()
    with pytest.raises(ExceptionGroup) as caught:
        async with running(configuration, "process"):
            raise AssertionError("it started")
    assert caught.group_contains(StoreError | ConfigError)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not await condition():
            await trio.sleep(0.01)


async def test_what_is_under_way_fails_when_the_process_dies_and_the_next_one_serves(
    configuration: Configuration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}", region=REGION)
        mute = Configuration("s3://bucket", str(tmp_path / "state"), settings, False)
        async with running(mute, "process") as cold:
            before = (await cold.tier.numbers()).pid
            failures: list[StoreError] = []

            async def wait_for_ever() -> None:
                with pytest.raises(StoreUnavailable, match="signal 9") as caught:
                    await cold.tier.head("k")
                failures.append(caught.value)

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(wait_for_ever)
                connection, _ = await trio.to_thread.run_sync(silent.accept)
                os.kill(before, signal.SIGKILL)
            connection.close()
            assert len(failures) == 3

            async def serves() -> bool:
                try:
                    return (await cold.tier.numbers()).pid != before
                except StoreUnavailable:
                    return False

            await until(serves)


async def kill(cold: Cold) -> int:
    pid = (await cold.tier.numbers()).pid
    os.kill(pid, signal.SIGKILL)

    async def is_known() -> bool:
        try:
            return (await cold.tier.numbers()).pid != pid
        except StoreUnavailable:
            return True

    await until(is_known)
    return pid


async def wait_serving(cold: Cold) -> None:
    async def serves() -> bool:
        with suppress(StoreUnavailable):
            await cold.tier.numbers()
            return True
        return False

    await until(serves)


async def test_readers_with_read_ahead_get_every_byte_while_it_is_killed(
    configuration: Configuration, tmp_path: Path
) -> None:
    content = os.urandom(64 * CHUNK)
    async with running(configuration, "process") as cold:
        ref = await put(cold, tmp_path, content)
        settings = HydrateSettings(
            CHUNK, 16 * CHUNK, int(PATIENCE_S) * 10**9, fetch_bytes=4 * CHUNK, memory_bytes=1 << 20
        )
        hydrator = Hydrator(cold.tier, cold.arena, settings)
        async with trio.open_nursery() as nursery:
            await nursery.start(hydrator.run)
            reader = hydrator.reader(ref)
            for offset in range(0, len(content), CHUNK // 2):
                if offset % (16 * CHUNK) == 0:
                    await kill(cold)
                assert await read(reader, offset, CHUNK // 2) == content[offset : offset + CHUNK // 2]
            nursery.cancel_scope.cancel()


async def test_totals_outlive_the_process(configuration: Configuration, tmp_path: Path) -> None:
    """What was counted before a kill -9 stays counted, while the process is away and when the next one counts on."""
    async with running(configuration, "process") as cold:
        odometer = Odometer(cold.tier)
        ref = await put(cold, tmp_path, os.urandom(3 * CHUNK))
        for round_ in range(1, 4):
            await cold.tier.fetch(Item(ref, CHUNK), cold.slots(ref), lambda _index: True, is_kept=False)
            counted = await odometer.read()
            assert counted.store.bytes_downloaded == round_ * 3 * CHUNK
            assert counted.store.requests["GetObject"] == counted.store.first_byte.count == round_
            pid = await kill(cold)
            assert (await odometer.read()).store == counted.store
            await wait_serving(cold)
            again = await odometer.read()
            assert again.pid != pid
            assert again.store == counted.store
            assert set(again.health) == {"reads", "writes"}


async def test_while_it_is_away_the_cache_has_nothing_and_a_listing_is_interrupted(
    configuration: Configuration, tmp_path: Path
) -> None:
    async with running(configuration, "process") as cold:
        ref = await put(cold, tmp_path, b"x")
        for index in range(1001):
            os.link(tmp_path / "bucket" / "k", tmp_path / "bucket" / f"k{index:04}")
        async with aclosing(cold.tier.objects("k")) as listing:
            await anext(listing)
            await kill(cold)
            assert await cold.tier.cached_bytes(ref) == 0
            await cold.tier.load(Item(ref, CHUNK), cold.slots(ref), lambda _index: True)
            await wait_serving(cold)
            with pytest.raises(StoreUnavailable, match="interrupted"):
                await anext(listing)


async def test_a_store_that_went_away_meanwhile_is_waited_for(
    configuration: Configuration, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(configuration, "process") as cold:
        ref = await put(cold, tmp_path, b"x")
        (tmp_path / "bucket").rename(tmp_path / "away")
        await kill(cold)

        async def was_tried() -> bool:
            return caplog.text.count("is started again") >= 2

        await until(was_tried)
        with pytest.raises(StoreUnavailable):
            await cold.tier.head("k")
        (tmp_path / "away").rename(tmp_path / "bucket")
        await wait_serving(cold)
        assert (await cold.tier.head("k")).etag == ref.etag


async def test_what_it_logs_is_logged_once_and_under_its_own_name(
    configuration: Configuration, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state" / "cache").write_bytes(b"no directory")
    async with running(configuration, "process") as cold:
        await cold.tier.numbers()
    (record,) = [record for record in caplog.records if record.name == "tierfs.stores.cache"]
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("the chunk cache in ")
    assert vars(record)["alike"].startswith("the chunk cache in %s")


async def test_the_process_goes_with_its_worker(configuration: Configuration) -> None:
    async with running(configuration, "process") as cold:
        pid = (await cold.tier.numbers()).pid
    assert not Path(f"/proc/{pid}").exists()
