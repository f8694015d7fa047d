"""Names that do not last: what is renamed only to be removed costs one deletion, and no copy."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.assembly import PREFIX, SETTINGS, Machine, World
from tests.invariants import check_invariants
from tests.t2_engine.rebuilding import rebuild, without_ssd
from tierfs.core.config import Settings
from tierfs.core.errors import NotEligible, StoreUnavailable
from tierfs.core.residency import Residency

KAFKA = ("*.deleted", "*.cleaned", "*.swap", "*-delete")


@pytest.fixture
def world(swift_path: Path) -> World:
    """As everywhere, with the names that Kafka gives to what it is about to remove."""
    values = SETTINGS.model_dump(mode="json") | {"transient": KAFKA}
    return World(swift_path / "world", Settings.of(**values))


async def cold(machine: Machine, *paths: bytes) -> None:
    for path in paths:
        await machine.write(path, b"content of " + path)
        await machine.release(path)
    await machine.hydrator.evict(None)


def keys(world: World) -> dict[str, bytes]:
    return {key.removeprefix(PREFIX): body for key, body in world.memory.objects.items()}


def requests(world: World) -> dict[str, int]:
    return {
        kind: count for kind, count in world.memory.counters.requests.items() if kind in ("CopyObject", "DeleteObject")
    }


async def test_a_cold_file_that_is_renamed_to_be_removed_is_not_copied(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"log")
        await machine.rename(b"log", b"log.deleted")
        await machine.sweep()
        await machine.sweep()
        assert keys(world) == {"log": b"content of log"}
        assert await machine.contents() == {b"log.deleted": b"content of log"}
        machine.unlink(b"log.deleted")
        await machine.sweep()
        assert keys(world) == {}
        assert requests(world) == {"DeleteObject": 1}
        check_invariants(machine)


async def test_a_directory_that_is_renamed_to_be_removed_is_not_copied(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"topic-0")
        await cold(machine, b"topic-0/1.log", b"topic-0/2.log")
        await machine.rename(b"topic-0", b"topic-0.77-delete")
        await machine.sweep()
        assert set(keys(world)) == {"topic-0/1.log", "topic-0/2.log"}
        for name in (b"1.log", b"2.log"):
            machine.unlink(b"topic-0.77-delete/" + name)
        machine.rmdir(b"topic-0.77-delete")
        await machine.sweep()
        assert keys(world) == {}
        assert requests(world) == {"DeleteObject": 2}
        check_invariants(machine)


async def test_a_name_that_lasts_after_all_gets_its_object(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"log")
        await machine.rename(b"log", b"log.deleted")
        await machine.sweep()
        await machine.rename(b"log.deleted", b"kept")
        await machine.sweep()
        await machine.sweep()
        assert keys(world) == {"kept": b"content of log"}
        check_invariants(machine)


async def test_the_policy_leaves_them_alone(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"topic-0.77-delete")
        for path in (b"log.swap", b"topic-0.77-delete/1.log", b"log"):
            await machine.write(path, b"content of " + path)
        world.offset_ns += 10**18
        await machine.daemon.run_pass()
        assert set(keys(world)) == {"log"}
        entry = machine.tier.look(b"log.swap", machine.hot.lstat(b"log.swap"))
        assert entry.residency is Residency.HOT


async def test_a_new_file_under_the_old_name_takes_the_key(world: World) -> None:
    """The object of the file that is to be removed moves then: what lasts has the key of its name."""
    async with world.running() as machine:
        await cold(machine, b"log")
        await machine.rename(b"log", b"log.deleted")
        await machine.write(b"log", b"the next log")
        with pytest.raises(NotEligible, match=r"still belongs to log\.deleted"):
            await machine.archive(b"log")
        assert await machine.contents() == {b"log": b"the next log", b"log.deleted": b"content of log"}
        await machine.sweep()
        await machine.archive(b"log")
        assert keys(world) == {"log": b"the next log", "log.deleted": b"content of log"}
        machine.unlink(b"log.deleted")
        await machine.sweep()
        assert keys(world) == {"log": b"the next log"}
        assert await machine.contents() == {b"log": b"the next log"}
        check_invariants(machine)


async def test_the_key_is_asked_for_again_when_the_move_failed(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"log")
        await machine.rename(b"log", b"log.deleted")
        await machine.write(b"log", b"the next log")
        world.offset_ns += 10**18
        await machine.daemon.run_pass()
        world.store.fail("copy", StoreUnavailable("down"))
        await machine.daemon.run_pass()
        assert machine.residency(b"log") is Residency.HOT
        await machine.daemon.run_pass()
        assert machine.residency(b"log") is Residency.MIRRORED
        check_invariants(machine)


async def test_when_it_is_removed_first_the_key_is_free_without_a_copy(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"log")
        await machine.rename(b"log", b"log.deleted")
        await machine.write(b"log", b"the next log")
        machine.unlink(b"log.deleted")
        await machine.archive(b"log")
        assert keys(world) == {"log": b"the next log"}
        assert "CopyObject" not in requests(world)
        check_invariants(machine)


async def test_a_file_that_is_renamed_to_the_old_name_takes_the_key(world: World) -> None:
    """A compaction: log is put aside, and a cold file gets its name."""
    async with world.running() as machine:
        await cold(machine, b"log", b"compacted")
        await machine.rename(b"log", b"log.deleted")
        await machine.rename(b"compacted", b"log")
        for _ in range(3):
            await machine.sweep()
        assert keys(world) == {"log": b"content of compacted", "log.deleted": b"content of log"}
        check_invariants(machine)


@pytest.mark.parametrize("names", [[b"log.deleted"], [b"log.deleted", b"log"]])
async def test_a_rebuild_gives_the_file_its_name(world: World, names: Sequence[bytes]) -> None:
    async with world.running() as machine:
        machine.sweeper.covers = machine.snapshotter.covers
        await cold(machine, b"log")
        await machine.rename(b"log", b"log.deleted")
        if b"log" in names:
            await machine.write(b"log", b"the next log")
            with pytest.raises(NotEligible):
                await machine.archive(b"log")
            await machine.sweep()
            await machine.snapshotter.take()  # the old key may be written now
            await machine.release(b"log")
        await machine.snapshotter.take()
        before = await machine.contents()
        assert set(before) == set(names)
    fresh = without_ssd(world)
    assert not (await rebuild(fresh)).findings
    async with fresh.running() as machine:
        assert await machine.contents() == before
        await machine.sweep()
        assert await machine.contents() == before
        check_invariants(machine, snapshots=True)
