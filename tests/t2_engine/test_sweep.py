"""What the bucket owes: deletions and moves, in the right order, and never what somebody still needs."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.assembly import PREFIX, Machine, World, meanwhile
from tests.invariants import check_invariants
from tierfs.core.errors import AccessDenied, NotEligible, StoreError, StoreUnavailable
from tierfs.core.residency import Residency
from tierfs.stores.cold import Deleted
from tierfs.stores.hot import RENAME_EXCHANGE


async def cold(machine: Machine, *paths: bytes) -> None:
    for path in paths:
        await machine.write(path, b"content of " + path)
        await machine.release(path)
    await machine.hydrator.evict(None)


def keys(world: World) -> dict[str, bytes]:
    return {key.removeprefix(PREFIX): body for key, body in world.memory.objects.items()}


# -- deletions -----------------------------------------------------------------------------------------------------


async def test_a_removed_file_leaves_the_bucket(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a", b"b")
        machine.unlink(b"a")
        assert set(keys(world)) == {"a", "b"}
        await machine.sweep()
        assert set(keys(world)) == {"b"}
        check_invariants(machine)


@pytest.mark.parametrize("is_there", [False, True])
async def test_a_deletion_below_another_object_takes_only_its_own(world: World, is_there: bool) -> None:
    """Where keys are paths, deleting one that is not there would delete the file that stands in its way."""
    async with world.running() as machine:
        await cold(machine, b"a", b"b")
        if is_there:
            world.memory._store(f"{PREFIX}a/x", b"left", {})
        world.memory.deletes_above = not is_there
        machine.catalog.bury(f"{PREFIX}a/x", 0)
        machine.unlink(b"b")
        await machine.sweep()
        assert keys(world) == {"a": b"content of a"}
        assert not machine.catalog.tombstones()
        machine.catalog.bury(f"{PREFIX}a/x", 0)
        async with machine.sweeper.using(f"{PREFIX}a/x"):
            await machine.sweeper.clear(f"{PREFIX}a/x")
        assert keys(world) == {"a": b"content of a"}
        check_invariants(machine)


async def test_deletions_wait_for_a_bucket_that_is_down(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a", b"b", b"c")
        for path in (b"a", b"b", b"c"):
            machine.unlink(path)
        world.store.fail("delete", StoreUnavailable("down"), times=None)
        with pytest.raises(StoreUnavailable):
            await machine.sweep()
        world.store.heal()
    async with world.running() as machine:
        assert machine.list(b"") == []
        await machine.scanner.scan()
        assert machine.list(b"") == []
        await machine.sweep()
        assert keys(world) == {}
        check_invariants(machine)


async def test_one_key_that_cannot_be_deleted_does_not_stop_the_others(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a", b"b", b"c")
        for path in (b"a", b"b", b"c"):
            machine.unlink(path)
        world.store.fail("delete", AccessDenied("not this one"), times=None, key=PREFIX + "b")
        with pytest.raises(AccessDenied):
            await machine.sweep()
        assert set(keys(world)) == {"b"}
        check_invariants(machine)


async def test_a_key_that_is_never_served_does_not_hold_up_the_others(world: World) -> None:
    """A sweep ends where the bucket seems to be down; what failed then goes last the next time."""
    async with world.running() as machine:
        await cold(machine, b"a", b"b", b"c", b"d")
        for key in ("a", "b", "new-c"):
            for operation in ("delete", "copy"):
                world.store.fail(operation, StoreUnavailable("not this one"), times=None, key=PREFIX + key)
        machine.unlink(b"a")
        machine.unlink(b"b")
        await machine.rename(b"c", b"new-c")
        await machine.rename(b"d", b"new-d")
        world.store.fail("copy", StoreUnavailable("not this one"), times=None, key=PREFIX + "c")
        for _ in range(4):
            with pytest.raises(StoreUnavailable):
                await machine.sweep()
        assert set(keys(world)) == {"a", "b", "c", "new-d"}
        world.store.heal()
        await machine.sweep()
        await machine.sweep()  # what was moved is deleted where it was
        assert set(keys(world)) == {"new-c", "new-d"}
        check_invariants(machine)


async def test_a_topic_is_deleted_with_few_requests(world: World) -> None:
    """What is deleted at once is what one request of S3 takes; the files made meanwhile keep their objects."""
    async with world.running() as machine:
        for number in range(2_500):
            machine.catalog.bury(f"{PREFIX}topic/{number}", machine.tier.now())
        await cold(machine, b"kept")
        sizes = []
        delete_many = world.memory.delete_many

        def counting(some: Sequence[str]) -> Deleted:
            sizes.append(len(some))
            return delete_many(some)

        machine.store.delete_many = counting  # type: ignore[method-assign]
        await machine.sweep()
        assert sizes == [1000, 1000, 500]
        assert machine.catalog.tombstones() == []
        assert set(keys(world)) == {"kept"}
        check_invariants(machine)


async def test_a_request_that_fails_as_a_whole_keeps_all_of_its_tombstones(world: World) -> None:
    """One key may be the reason: fewer are tried together the next time, and those of that request go last."""
    async with world.running() as machine:
        for number in range(8):
            machine.catalog.bury(f"{PREFIX}{number}", machine.tier.now())
        poison, sizes = f"{PREFIX}3", []

        def failing(some: Sequence[str]) -> Deleted:
            sizes.append(len(some))
            if poison in some:
                raise StoreUnavailable("no answer to that")
            return world.memory.delete_many(some)

        machine.store.delete_many = failing  # type: ignore[method-assign]
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await machine.sweep()
            if len(machine.catalog.tombstones()) == 1:
                break
        assert [tombstone.key for tombstone in machine.catalog.tombstones()] == [poison]
        assert sizes[0] == 8


async def test_an_open_file_keeps_its_object(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a")
        reader = await machine.open(b"a", os.O_RDONLY)
        machine.unlink(b"a")
        await machine.sweep()
        assert await reader.read(0, 100) == b"content of a"
        reader.close()
        await machine.sweep()
        assert keys(world) == {}


async def test_a_deletion_under_way_and_a_new_archive_of_the_same_key(world: World) -> None:
    """The archive waits for the deletion: the other order would delete what was just archived."""
    async with world.running() as machine:
        await cold(machine, b"a")
        machine.unlink(b"a")
        await machine.write(b"a", b"the next life")
        async with meanwhile(world, "delete", machine.sweep), archiving(machine, b"a"):
            assert keys(world) == {"a": b"content of a"}
            world.held.release("delete")
        assert keys(world) == {"a": b"the next life"}
        assert machine.residency(b"a") is Residency.MIRRORED
        await machine.sweep()
        assert keys(world) == {"a": b"the next life"}
        check_invariants(machine)


@asynccontextmanager
async def archiving(machine: Machine, path: bytes) -> AsyncIterator[None]:
    """An archive that waits for something when the block begins."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.archive, path)
        await wait_all_tasks_blocked(0.01)
        yield


async def test_an_archive_deletes_what_is_left_under_its_key_first(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a")
        machine.unlink(b"a")
        await machine.write(b"a", b"new")
        world.store.fail("delete", StoreUnavailable("down"))
        with pytest.raises(StoreUnavailable):
            await machine.archive(b"a")
        assert machine.residency(b"a") is Residency.HOT
        await machine.archive(b"a")
        check_invariants(machine)
        await machine.sweep()
        assert keys(world) == {"a": b"new"}


async def test_an_upload_under_way_is_not_swept(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"one")
        async with meanwhile(world, "put", machine.archive, b"a") as archive:
            machine.unlink(b"a")
            await machine.sweep()
            assert machine.catalog.is_buried(PREFIX + "a")
        assert isinstance(archive.error, NotEligible)
        await machine.sweep()
        assert keys(world) == {}
        check_invariants(machine)


# -- renames -------------------------------------------------------------------------------------------------------


async def test_objects_follow_their_files(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        await cold(machine, b"a", b"d/b")
        await machine.rename(b"a", b"c")
        await machine.rename(b"d", b"e")
        await machine.sweep()
        check_invariants(machine)
        await machine.sweep()
        assert keys(world) == {"c": b"content of a", "e/b": b"content of d/b"}
        assert await machine.contents() == {b"c": b"content of a", b"e/b": b"content of d/b"}
        check_invariants(machine)


async def test_renaming_back_costs_nothing(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a")
        await machine.rename(b"a", b"b")
        await machine.rename(b"b", b"a")
        await machine.sweep()
        assert ("copy", PREFIX + "a") not in world.store.calls
        assert not machine.catalog.misplaced()
        check_invariants(machine)


async def test_a_rotation_moves_each_object_once(world: World) -> None:
    """log.2 goes to log.3 before log.1 goes to log.2: nobody steps aside."""
    async with world.running() as machine:
        names = [b"log", b"log.1", b"log.2", b"log.3"]
        await cold(machine, *names[:-1])
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            await machine.rename(newer, older)
        await machine.sweep()
        copies = [key for operation, key in world.store.calls if operation == "copy"]
        assert len(copies) == 3
        await machine.sweep()
        assert keys(world) == {
            "log.1": b"content of log",
            "log.2": b"content of log.1",
            "log.3": b"content of log.2",
        }
        check_invariants(machine)


@pytest.mark.parametrize("count", [2, 3])
async def test_a_circle_is_broken(world: World, count: int) -> None:
    async with world.running() as machine:
        names = [b"a", b"b", b"c"][:count]
        await cold(machine, *names)
        for name in names[1:]:
            await machine.rename(names[0], name, RENAME_EXCHANGE)
        expected = await machine.contents()
        await machine.sweep()
        check_invariants(machine)
        await machine.sweep()
        check_invariants(machine)
        assert keys(world) == {path.decode(): body for path, body in expected.items()}
        assert await machine.contents() == expected
        copies = [key for operation, key in world.store.calls if operation == "copy"]
        assert len(copies) == count + 1


async def test_a_swap_with_a_file_that_was_rewritten(world: World) -> None:
    """The other key is held by an older version of a HOT file: it is taken, once, and not stepped around for ever."""
    async with world.running() as machine:
        await cold(machine, b"a", b"b")
        await machine.rename(b"a", b"b", RENAME_EXCHANGE)
        await machine.write(b"a", b"rewritten")
        for _ in range(3):
            await machine.sweep()
            check_invariants(machine)
        assert [operation for operation, _ in world.store.calls].count("copy") == 1
        await machine.archive(b"a")
        await machine.sweep()
        assert keys(world) == {"a": b"rewritten", "b": b"content of a"}
        check_invariants(machine)


async def test_an_object_that_is_being_read_stays_where_it_is(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a")
        reader = await machine.open(b"a", os.O_RDONLY)
        await machine.rename(b"a", b"b")
        await machine.sweep()
        assert set(keys(world)) == {"a"}
        assert await reader.read(0, 100) == b"content of a"
        reader.close()
        await machine.sweep()
        await machine.sweep()
        assert set(keys(world)) == {"b"}


async def test_a_restore_and_a_move_of_the_same_object(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a")
        await machine.rename(b"a", b"b")
        async with meanwhile(world, "copy", machine.sweep):
            await machine.restore(b"b")
        assert machine.residency(b"b") is Residency.MIRRORED
        check_invariants(machine)
        await cold(machine, b"c")
        await machine.rename(b"c", b"d")
        async with meanwhile(world, "get", machine.restore, b"d") as restore:
            await machine.sweep()
        assert restore.error is None
        assert machine.residency(b"d") is Residency.MIRRORED
        await machine.sweep()
        await machine.sweep()
        check_invariants(machine)
        assert set(keys(world)) == {"b", "d"}


@pytest.mark.parametrize("happens", ["unlink", "rename", "rename back", "write", "open", "taken"])
async def test_what_happens_during_a_move(world: World, happens: str) -> None:
    async with world.running() as machine:
        await cold(machine, b"a")
        await machine.rename(b"a", b"b")
        opened = []
        async with meanwhile(world, "copy", machine.sweep):
            if happens == "unlink":
                machine.unlink(b"b")
            elif happens == "rename":
                await machine.rename(b"b", b"c")
            elif happens == "rename back":
                await machine.rename(b"b", b"a")
            elif happens == "write":
                await machine.write(b"b", b"rewritten")
            elif happens == "open":
                opened.append(await machine.open(b"b", os.O_RDONLY))
            else:
                await machine.rename(b"b", b"c")
                await machine.write(b"b", b"a new file")
            expected = await machine.contents()
        check_invariants(machine)
        assert await machine.contents() == expected
        for file in opened:
            assert await file.read(0, 100) == b"content of a"
            file.close()
        for _ in range(3):
            await machine.sweep()
            check_invariants(machine)
        for path in expected:
            await machine.release(path)
        await machine.sweep()
        await machine.sweep()
        assert keys(world) == {path.decode(): body for path, body in expected.items()}
        check_invariants(machine)


@pytest.mark.parametrize("after_effect", [False, True])
async def test_a_move_that_fails(world: World, after_effect: bool) -> None:
    async with world.running() as machine:
        await cold(machine, b"a")
        await machine.rename(b"a", b"b")
        world.store.fail("copy", AccessDenied("no"), after_effect=after_effect)
        with pytest.raises(StoreError):
            await machine.sweep()
        check_invariants(machine)
        assert await machine.contents() == {b"b": b"content of a"}
        await machine.sweep()
        await machine.sweep()
        assert keys(world) == {"b": b"content of a"}
        check_invariants(machine)


async def test_an_object_that_vanished_makes_a_warm_file_hot_and_a_cold_file_lost(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a", b"b")
        await machine.restore(b"b")
        for name in (b"a", b"b"):
            await machine.rename(name, name + b"2")
            world.memory.delete(PREFIX + name.decode())
        with pytest.raises(StoreError):
            await machine.sweep()
        assert machine.residency(b"a2") is Residency.LOST
        assert machine.residency(b"b2") is Residency.HOT
        await machine.archive(b"b2")
        await machine.sweep()
        check_invariants(machine)


async def test_a_new_file_under_the_old_name_waits_until_the_object_has_moved(world: World) -> None:
    async with world.running() as machine:
        await cold(machine, b"a")
        await machine.rename(b"a", b"b")
        await machine.write(b"a", b"new")
        with pytest.raises(NotEligible, match="still belongs to b"):
            await machine.archive(b"a")
        await machine.sweep()
        await machine.archive(b"a")
        await machine.sweep()
        assert keys(world) == {"a": b"new", "b": b"content of a"}
        check_invariants(machine)
