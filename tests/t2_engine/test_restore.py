"""Restore: whole files come back, whatever happens meanwhile."""

import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio

from tests.assembly import PREFIX, Machine, World, meanwhile
from tests.invariants import check_invariants
from tierfs.core.access import Opener
from tierfs.core.errors import AccessDenied, FileLost, IntegrityError, NotEligible, ObjectMissing
from tierfs.core.records import Record
from tierfs.core.residency import Residency
from tierfs.stores.cold import ObjectInfo
from tierfs.stores.hot import RENAME_EXCHANGE

Step = Callable[[Machine], Awaitable[None]]

DATA = b"a content of several chunks"


async def cold(machine: Machine, path: bytes = b"a", data: bytes = DATA) -> None:
    await machine.write(path, data)
    await machine.release(path)
    await machine.hydrator.evict(None)


# -- while the download is under way -----------------------------------------------------------------------------


async def unlink(machine: Machine) -> None:
    machine.unlink(b"a")


async def unlink_and_make_again(machine: Machine) -> None:
    machine.unlink(b"a")
    await machine.write(b"a", b"another file")


async def rename_away(machine: Machine) -> None:
    machine.mkdir(b"d")
    await machine.rename(b"a", b"d/a")


async def rename_over(machine: Machine) -> None:
    await machine.write(b"other", b"other content")
    await machine.rename(b"other", b"a")


async def exchange(machine: Machine) -> None:
    await machine.write(b"other", b"other content")
    await machine.rename(b"a", b"other", RENAME_EXCHANGE)


async def open_with_truncation(machine: Machine) -> None:
    (await machine.open(b"a", os.O_WRONLY | os.O_TRUNC)).close()


async def truncate_to_nothing(machine: Machine) -> None:
    await machine.truncate(b"a", 0)


async def chmod_and_utime(machine: Machine) -> None:
    await machine.change(b"a", mode=0o600, mtime_ns=77)
    await machine.setxattr(b"a", b"user.k", b"v")


async def rewrite(machine: Machine) -> None:
    await machine.write(b"a", b"written from the start")


@pytest.mark.parametrize(
    "happens",
    [
        unlink,
        unlink_and_make_again,
        rename_away,
        rename_over,
        exchange,
        open_with_truncation,
        truncate_to_nothing,
        chmod_and_utime,
        rewrite,
    ],
)
async def test_what_happens_during_a_restore(world: World, happens: Step) -> None:
    async with world.running() as machine:
        await cold(machine)
        async with meanwhile(world, "get", machine.restore, b"a") as restore:
            await happens(machine)
        assert restore.error is None or isinstance(restore.error, NotEligible)
        check_invariants(machine)
        found = await machine.contents()
        if happens in (unlink,):
            assert found == {}
        if happens is unlink_and_make_again:
            assert found == {b"a": b"another file"}
        if happens is rename_away:
            assert found == {b"d/a": DATA}
            assert machine.residency(b"d/a") is Residency.MIRRORED
        if happens is rename_over:
            assert found == {b"a": b"other content"}
        if happens is exchange:
            assert found == {b"a": b"other content", b"other": DATA}
        if happens in (open_with_truncation, truncate_to_nothing):
            assert found == {b"a": b""}
        if happens is rewrite:
            assert found == {b"a": b"written from the start"}
        if happens is chmod_and_utime:
            st = os.stat(world.hot / "a")
            assert (stat.S_IMODE(st.st_mode), st.st_mtime_ns) == (0o600, 77)
            assert machine.xattrs(b"a") == {b"user.k": b"v"}
            assert machine.residency(b"a") is Residency.MIRRORED
        await machine.sweep()
        check_invariants(machine)
        assert await machine.contents() == found


async def test_a_write_that_waits_for_a_restore_wins_over_nothing_and_loses_to_nobody(world: World) -> None:
    """Two writers share one restore; a truncation in between leaves both with a hot file to write to."""
    async with world.running() as machine:
        await cold(machine)
        one, other = await machine.open(b"a", os.O_RDWR), await machine.open(b"a", os.O_RDWR)
        world.held.hold("get")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.write, 0, b"A")
            nursery.start_soon(other.write, 2, b"C")
            await trio.to_thread.run_sync(world.held.wait_until_waiting)
            assert machine.restorer.active() == 1
            await truncate_to_nothing(machine)
            world.held.release("get")
        assert await machine.read(b"a") == b"A\0C"
        one.close()
        other.close()
        check_invariants(machine)


async def test_readers_go_over_to_the_hot_bytes(world: World) -> None:
    async with world.running() as machine:
        await cold(machine)
        reader, writer = await machine.open(b"a", os.O_RDONLY), await machine.open(b"a", os.O_WRONLY)
        assert await reader.read(0, 9) == DATA[:9]
        await writer.write(2, b"XYZ")
        assert await reader.read(0, 9) == b"a XYZtent"
        writer.close()
        reader.close()
        assert not machine.tier.open_files.objects
        check_invariants(machine)


async def test_a_restored_file_has_its_node_id_and_can_go_again(world: World) -> None:
    async with world.running() as machine:
        await cold(machine)
        number = machine.stat(b"a").ino
        await machine.write(b"thief", b"may get the inode")
        for _ in range(3):
            await machine.restore(b"a")
            assert machine.stat(b"a").ino == number
            await machine.archiver.release(b"a")
            assert machine.stat(b"a").ino == number
            check_invariants(machine)
        assert len(world.memory.objects) == 1


async def test_an_object_that_a_sweep_moves_as_the_restore_begins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running() as machine:
        await cold(machine)
        await machine.rename(b"a", b"b")
        started = machine.tier.restore_started

        def and_then_the_copy_is_there(path: bytes) -> Record:
            record = started(path)
            stored = record.object
            assert stored
            copied = world.memory.copy(ObjectInfo(stored.key, stored.size, stored.etag), PREFIX + "b")
            assert machine.sweeper._moved(stored, replace(stored, key=copied.key, etag=copied.etag))
            return record

        monkeypatch.setattr(machine.tier, "restore_started", and_then_the_copy_is_there)
        await machine.restore(b"b")
        assert machine.residency(b"b") is Residency.MIRRORED
        await machine.sweep()
        assert world.memory.objects == {PREFIX + "b": DATA}
        check_invariants(machine)


# -- what can go wrong -----------------------------------------------------------------------------------------------


async def test_a_restore_that_fails_leaves_the_file_cold(world: World) -> None:
    async with world.running() as machine:
        await cold(machine)
        world.store.fail("get", AccessDenied("no"), times=None)
        with pytest.raises(AccessDenied):
            await machine.restore(b"a")
        world.store.heal()
        assert machine.residency(b"a") is Residency.COLD
        check_invariants(machine)
        await machine.restore(b"a")


async def test_an_object_with_other_bytes_never_becomes_the_file(world: World) -> None:
    """Without CRCs (an object that was found) the digest of the whole is still compared."""
    async with world.running() as machine:
        await cold(machine)
        record = machine.catalog.get(b"a")
        assert record
        assert record.object
        machine.catalog.put(replace(record, object=replace(record.object, crcs=b"")))
        world.store.corrupt_next_get(3)
        with pytest.raises(IntegrityError):
            await machine.restore(b"a")
        assert machine.residency(b"a") is Residency.COLD
        assert os.listdir(world.hot) == []


async def test_lost_and_found(world: World) -> None:
    async with world.running() as machine:
        await cold(machine)
        info, body = world.memory._objects.pop(PREFIX + "a")
        with pytest.raises(ObjectMissing):
            await machine.restore(b"a")
        assert machine.residency(b"a") is Residency.LOST
        with pytest.raises(FileLost):
            await machine.restore(b"a")
        with pytest.raises(FileLost):
            await machine.open(b"a", os.O_RDONLY)
        assert machine.list(b"") == [b"a"]
        await machine.sweep()
        assert machine.residency(b"a") is Residency.LOST
    async with world.running() as machine:
        assert machine.residency(b"a") is Residency.LOST
        world.memory._objects[PREFIX + "a"] = info, body
        await machine.sweep()
        assert machine.residency(b"a") is Residency.COLD
        assert await machine.read(b"a") == DATA
        check_invariants(machine)


async def test_a_lost_file_can_be_overwritten_and_removed(world: World) -> None:
    async with world.running() as machine:
        for path in (b"a", b"b"):
            await cold(machine, path)
            world.memory.delete(PREFIX + path.decode())
            with pytest.raises(ObjectMissing):
                await machine.read(path)
            assert machine.residency(path) is Residency.LOST
        await machine.write(b"a", b"new")
        machine.unlink(b"b")
        assert await machine.contents() == {b"a": b"new"}
        await machine.archive(b"a")
        await machine.sweep()
        check_invariants(machine)


async def test_an_empty_object_of_somebody_else_can_be_restored(world: World) -> None:
    world.memory._store(PREFIX + "empty", b"", {})
    async with world.running() as machine:
        await machine.scanner.scan()
        await machine.restore(b"empty")
        assert (world.hot / "empty").read_bytes() == b""
        check_invariants(machine)


# -- calls that need hot bytes and wait for them ---------------------------------------------------------------------


async def shorten(machine: Machine) -> None:
    await machine.truncate(b"a", 3)


async def link(machine: Machine) -> None:
    await machine.link(b"a", b"linked")


@pytest.mark.parametrize("call", [shorten, link])
async def test_a_file_that_is_renamed_while_a_call_waits_for_it(world: World, call: Step) -> None:
    async with world.running() as machine:
        await cold(machine)
        async with meanwhile(world, "get", call, machine) as waiting:
            await machine.rename(b"a", b"b")
            await machine.write(b"a", b"another file")
        assert waiting.error is None
        expected = {b"a": b"another file", b"b": DATA[:3] if call is shorten else DATA}
        if call is link:
            expected[b"linked"] = DATA
        assert await machine.contents() == expected
        check_invariants(machine)


@pytest.mark.parametrize("call", [shorten, link])
async def test_a_file_that_is_removed_while_a_call_waits_for_it(world: World, call: Step) -> None:
    async with world.running() as machine:
        await cold(machine)
        keeper = await machine.open(b"a", os.O_RDONLY)
        async with meanwhile(world, "get", call, machine) as waiting:
            machine.unlink(b"a")
        if call is shorten:
            assert waiting.error is None
            assert await keeper.read(0, 100) == DATA[:3]
        else:
            assert isinstance(waiting.error, OSError)
        keeper.close()
        assert await machine.contents() == {}
        await machine.sweep()
        check_invariants(machine)
        assert world.memory.objects == {}


@pytest.mark.parametrize("call", [shorten, link])
async def test_a_file_that_is_released_again_before_the_call_goes_on(
    world: World, call: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running() as machine:
        await cold(machine)
        restore, times = machine.restorer.restore, 0

        async def unlucky(path: bytes, opener: Opener) -> None:
            nonlocal times
            times += 1
            await restore(path, opener)
            if times == 1:
                await machine.archiver.release(path)

        monkeypatch.setattr(machine.restorer, "restore", unlucky)
        await call(machine)
        assert times == 2
        check_invariants(machine)


async def test_a_write_to_a_removed_cold_file(world: World) -> None:
    async with world.running() as machine:
        await cold(machine)
        one, other = await machine.open(b"a", os.O_RDWR), await machine.open(b"a", os.O_RDONLY)
        machine.unlink(b"a")
        await machine.sweep()
        await one.write(2, b"XYZ")
        assert await other.read(0, 9) == b"a XYZtent"
        one.close()
        other.close()
        await machine.sweep()
        assert world.memory.objects == {}
        check_invariants(machine)


async def restore(machine: Machine) -> None:
    await machine.restore(b"a")


async def write(machine: Machine) -> None:
    file = await machine.open(b"a", os.O_RDWR)
    await file.write(0, b"A")
    file.close()


@pytest.mark.parametrize(("comes_back", "expected"), [(restore, DATA), (write, b"A" + DATA[1:]), (rewrite, b"written")])
@pytest.mark.parametrize("goes", [unlink, rename_over])
async def test_a_handle_that_nobody_used_while_the_file_came_back_and_went(
    world: World, comes_back: Step, goes: Step, expected: bytes
) -> None:
    """The hot bytes have no name any more when the handle is used, and the object is an older version."""
    async with world.running() as machine:
        await cold(machine)
        file = await machine.open(b"a", os.O_RDWR)
        await comes_back(machine)
        await goes(machine)
        assert (await file.read(0, 99)).startswith(expected)
        assert file.size() == len(await file.read(0, 99))
        await file.write(0, b"later")
        assert (await file.read(0, 99))[5:].startswith(expected[5:])
        file.close()
        await machine.sweep()
        check_invariants(machine)
        assert len(machine.filesystem.nodes) == 1
