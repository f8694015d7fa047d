"""Rebuild: with the SSD lost, the bucket alone gives back every archived file; nothing is invented, nothing deleted."""

import os
import random
import stat
from contextlib import suppress

import pytest

from tests.assembly import PREFIX, Machine, World
from tests.invariants import check_invariants
from tests.t2_engine.rebuilding import DEEP, age_objects, attributes_of_all, hot_path, rebuild, without_ssd
from tests.t2_engine.test_recover import picture, prepare
from tierfs.core.errors import NotEligible, StoreUnavailable
from tierfs.core.records import Record
from tierfs.core.residency import Residency
from tierfs.core.snapshot import snapshots_of

ODD = (b"\xff", b"new\nline", b"%41", "ünïcode".encode(), b" ", b".tierfs", b"n" * 250)
LARGE = b"x" * 3000  # more than the metadata of an object has room for


async def plant(machine: Machine) -> None:
    """A tree with everything in it that can be given back, and no hot bytes."""
    for directory in (b"d", b"d/deep", b"empty", b"closed"):
        machine.mkdir(directory)
    for index, name in enumerate((b"a", b"d/b", b"d/deep/c", b"closed/x", *(b"d/" + odd for odd in ODD))):
        await prepare(machine, name, "plain")
        await machine.change(name, mode=0o600 + index, mtime_ns=10**18 + index)
        await machine.setxattr(name, b"user.k", b"v" + name)
    await machine.setxattr(b"d/b", b"user.large", LARGE)
    machine.symlink(b"../nowhere \xff", b"d/link")
    machine.symlink(b"d", b"d2")
    (await machine.open(b"d/nothing", os.O_CREAT | os.O_WRONLY, 0o640)).close()
    await machine.setxattr(b"empty", b"user.d", b"\0\xff")
    for path in [path for path in machine.walk() if stat.S_ISREG(machine.stat(path).st.st_mode)]:
        if machine.stat(path).st.st_size:
            await machine.release(path)
    machine.tier.pins.add(b"d/deep")
    await machine.change(b"d/b", mode=0o4711)
    await machine.setxattr(b"a", b"user.late", b"while cold")
    for directory, mode in ((b"empty", 0o2750), (b"closed", 0o500), (b"d", 0o1777)):
        await machine.change(directory, mode=mode, mtime_ns=12 * 10**17)


async def test_every_archived_file_comes_back(world: World) -> None:
    async with world.running() as machine:
        await plant(machine)
        before, attributes = await picture(machine), attributes_of_all(machine)
        await machine.snapshotter.take()
    fresh = without_ssd(world)
    outcome = await rebuild(fresh)
    assert not outcome.findings
    assert outcome.rebuilt.recorded == 4 + len(ODD)
    assert (outcome.rebuilt.newer, outcome.rebuilt.added, outcome.rebuilt.lost) == (0, 0, 0)
    async with fresh.running() as machine:
        assert attributes_of_all(machine) == attributes
        assert await picture(machine) == before
        assert machine.tier.pins.cover(b"d/deep/c")
        assert not await machine.check(DEEP)
        check_invariants(machine, snapshots=True)


async def test_the_objects_alone_give_back_what_they_can(world: World) -> None:
    async with world.running() as machine:
        await plant(machine)
        contents = await machine.contents()
    fresh = without_ssd(world)
    outcome = await rebuild(fresh)
    assert outcome.rebuilt.taken_ns == 0
    assert outcome.rebuilt.added == 4 + len(ODD)
    assert outcome.told == {("xattrs-older", b"d/b")}
    async with fresh.running() as machine:
        assert await machine.contents() == {path: body for path, body in contents.items() if body}
        assert machine.xattrs(b"d/deep/c") == {b"user.k": b"vd/deep/c"}
        assert not await machine.check(DEEP)
        check_invariants(machine)


async def test_what_is_newer_than_the_snapshot_says_so_itself(world: World) -> None:
    async with world.running() as machine:
        for name in (b"same", b"again", b"chmod", b"touched", b"large"):
            await prepare(machine, name, "cold")
        await machine.setxattr(b"large", b"user.large", LARGE)
        await machine.snapshotter.take()
        await machine.write(b"again", b"another version")
        await machine.change(b"again", mode=0o600)
        await prepare(machine, b"new", "plain")
        for name in (b"chmod", b"large"):
            await machine.restore(name)
            await machine.write(name, b"longer than it was before")
        await machine.change(b"chmod", mode=0o711)
        await machine.setxattr(b"large", b"user.large", LARGE)
        for name in (b"again", b"new", b"chmod", b"large"):
            await machine.release(name)
        before, attributes = await picture(machine), attributes_of_all(machine)
    fresh = without_ssd(world)
    outcome = await rebuild(fresh)
    assert (outcome.rebuilt.newer, outcome.rebuilt.added) == (3, 1)
    assert outcome.told == {("xattrs-older", b"large")}
    async with fresh.running() as machine:
        assert await picture(machine) == before
        assert attributes_of_all(machine) == attributes
        assert not await machine.check(DEEP)


async def test_old_objects_are_not_asked_about(world: World) -> None:
    async with world.running() as machine:
        for number in range(20):
            await prepare(machine, b"f%d" % number, "cold")
        age_objects(world)
        await machine.snapshotter.take()
        await prepare(machine, b"new", "cold")
    world.memory.counters.requests.clear()
    outcome = await rebuild(without_ssd(world))
    assert not outcome.findings
    assert world.memory.counters.requests["HeadObject"] == 2  # the snapshot, and the new one


async def test_removed_files_stay_removed_and_used_names_come_back(world: World) -> None:
    async with world.running() as machine:
        machine.sweeper.covers = machine.snapshotter.covers
        for name in (b"removed", b"reused", b"later"):
            await prepare(machine, name, "cold")
        machine.unlink(b"removed")
        machine.unlink(b"reused")
        age_objects(world)
        await machine.snapshotter.take()
        await machine.write(b"reused", b"another file")
        await machine.release(b"reused")
        machine.unlink(b"later")
        await machine.sweep()
        assert PREFIX + "removed" not in world.memory.objects
        assert PREFIX + "later" in world.memory.objects, "the newest snapshot names it"
        await machine.snapshotter.take()
        await machine.sweep()
        assert PREFIX + "later" not in world.memory.objects
    fresh = without_ssd(world)
    assert not (await rebuild(fresh)).findings
    async with fresh.running() as machine:
        assert await machine.contents() == {b"reused": b"another file"}
        assert not await machine.check(DEEP)


async def test_a_removed_file_whose_object_is_still_there_is_not_shown(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"removed", "cold")
        machine.unlink(b"removed")
        age_objects(world)
        await machine.snapshotter.take()
    fresh = without_ssd(world)
    assert not (await rebuild(fresh)).findings
    async with fresh.running() as machine:
        assert await picture(machine) == {}
        await machine.sweep()
        assert PREFIX + "removed" not in world.memory.objects


async def test_a_file_renamed_while_cold_has_its_new_name(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"old", "cold")
        await machine.rename(b"old", b"new")
        await machine.snapshotter.take()
    fresh = without_ssd(world)
    assert not (await rebuild(fresh)).findings
    async with fresh.running() as machine:
        assert await machine.contents() == {b"new": b"first of old"}
        await machine.sweep()
        assert PREFIX + "new" in world.memory.objects
        assert await machine.contents() == {b"new": b"first of old"}
        check_invariants(machine, snapshots=True)


async def test_the_key_of_a_renamed_file_is_used_by_another(world: World) -> None:
    """Renamed, and not yet moved, when the snapshot was taken; moved since, and its key was used again."""
    async with world.running() as machine:
        machine.sweeper.covers = machine.snapshotter.covers
        await prepare(machine, b"a", "cold")
        await machine.rename(b"a", b"b")
        await machine.snapshotter.take()
        await machine.sweep()
        await machine.write(b"a", b"another file")
        await machine.release(b"a")
        before = await picture(machine)
    fresh = without_ssd(world)
    assert not (await rebuild(fresh)).findings
    async with fresh.running() as machine:
        assert await picture(machine) == before
        assert not await machine.check(DEEP)


@pytest.mark.parametrize("damage", ["cut off", "a byte", "empty", "not gzip"])
async def test_a_damaged_snapshot_is_told_and_the_one_before_is_taken(world: World, damage: str) -> None:
    async with world.running() as machine:
        machine.symlink(b"x", b"link")
        await prepare(machine, b"a", "cold")
        await machine.change(b"a", mode=0o601)
        await machine.snapshotter.take()
        await prepare(machine, b"b", "cold")
        await machine.snapshotter.take()
    key = max(key for key in world.memory.objects if key.startswith(snapshots_of(PREFIX)))
    body = bytearray(world.memory.objects[key])
    if damage == "a byte":
        body[len(body) // 2] ^= 0x10
    world.memory._store(
        key, {"cut off": bytes(body[:-60]), "empty": b"", "not gzip": b"text"}.get(damage, bytes(body)), {}
    )
    fresh = without_ssd(world)
    outcome = await rebuild(fresh)
    assert outcome.told == {("snapshot-damaged", b"")}
    assert (outcome.rebuilt.recorded, outcome.rebuilt.added) == (1, 1)
    async with fresh.running() as machine:
        assert await picture(machine) == {b"link": b"", b"a": b"first of a", b"b": b"first of b"}
        assert stat.S_IMODE(machine.stat(b"a").st.st_mode) == 0o601
        assert not await machine.check(DEEP)


async def test_files_without_an_object_are_lost_and_named(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        await prepare(machine, b"b", "cold")
        await machine.snapshotter.take()
    world.memory.delete(PREFIX + "a")
    fresh = without_ssd(world)
    outcome = await rebuild(fresh)
    assert outcome.told == {("lost", b"a")}
    async with fresh.running() as machine:
        assert machine.residency(b"a") is Residency.LOST
        assert machine.residency(b"b") is Residency.COLD
        assert {finding.what for finding in await machine.check(DEEP)} == {"lost"}


async def test_the_last_archived_version_of_a_hot_file_is_shown_and_named(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "stale")
        await prepare(machine, b"never archived", "plain")
        await machine.snapshotter.take()
    fresh = without_ssd(world)
    outcome = await rebuild(fresh)
    assert outcome.told == {("older-version", b"a")}
    async with fresh.running() as machine:
        assert await machine.contents() == {b"a": b"first of a"}
        assert not await machine.check(DEEP)


async def test_hot_bytes_win_and_mirrored_files_stay_mirrored(world: World) -> None:
    """The catalog alone is lost."""
    async with world.running() as machine:
        for state in ("plain", "stale", "mirrored", "cold"):
            await prepare(machine, state.encode(), state)
        await prepare(machine, b"written", "mirrored")
        machine.mkdir(b"d", 0o700)
        await machine.snapshotter.take()
        await machine.write(b"written", b"after the snapshot")
        await machine.change(b"d", mode=0o751)
        before, attributes = await picture(machine), attributes_of_all(machine)
    outcome = await rebuild(world)
    assert not outcome.findings
    async with world.running() as machine:
        assert await picture(machine) == before
        assert attributes_of_all(machine) == attributes
        found = {path: machine.residency(path) for path in before if path != b"d"}
        assert found == {
            b"plain": Residency.HOT,
            b"stale": Residency.HOT,
            b"mirrored": Residency.MIRRORED,
            b"cold": Residency.COLD,
            b"written": Residency.HOT,
        }
        assert not await machine.check(DEEP)
        check_invariants(machine, snapshots=True)
        await machine.release(b"stale", b"written")
        assert await picture(machine) == before


async def test_hot_bytes_of_another_disk_win(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        await prepare(machine, b"d", "directory")
        await prepare(machine, b"d/b", "cold")
        await machine.snapshotter.take()
    fresh = without_ssd(world)
    hot_path(fresh, b"a").write_bytes(b"from a backup")
    hot_path(fresh, b"d").write_bytes(b"a file where a directory is needed")
    outcome = await rebuild(fresh)
    assert outcome.told == {("not-shown", b"d/b")}
    async with fresh.running() as machine:
        assert await picture(machine) == {b"a": b"from a backup", b"d": b"a file where a directory is needed"}
        assert machine.residency(b"a") is Residency.HOT


@pytest.mark.parametrize(("operation", "key"), [("list", PREFIX), ("head", PREFIX + "a")])
async def test_a_rebuild_that_fails_is_begun_again(world: World, operation: str, key: str) -> None:
    async with world.running() as machine:
        await plant(machine)
        before, attributes = await picture(machine), attributes_of_all(machine)
        await machine.snapshotter.take()
    fresh = without_ssd(world)
    world.store.fail(operation, StoreUnavailable("down"), key=key, times=1)
    with pytest.raises(StoreUnavailable):
        await rebuild(fresh)
    assert not list(fresh.hot.iterdir()), "the hot directory changes last"
    await rebuild(fresh)
    async with fresh.running() as machine:
        assert (await picture(machine), attributes_of_all(machine)) == (before, attributes)


async def test_objects_of_others_are_shown_and_what_has_no_name_is_told(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        await machine.snapshotter.take()
    for key in ("other", "d/", "d/x", "a//b", "../x", ".tierfs/unknown"):
        world.memory._store(PREFIX + key, b"12345", {})
    fresh = without_ssd(world)
    outcome = await rebuild(fresh)
    assert outcome.told == {("object-unnameable", b"")}
    assert len(outcome.findings) == 2
    async with fresh.running() as machine:
        wanted = {b"a": b"first of a", b"other": b"12345", b"d/x": b"12345"}
        assert await machine.contents() == wanted
        assert {finding.what for finding in await machine.check(DEEP)} == {"object-unnameable"}


def files(machine: Machine) -> list[bytes]:
    return sorted(path for path in machine.walk() if stat.S_ISREG(machine.stat(path).st.st_mode))


async def act(machine: Machine, dice: random.Random) -> None:
    """One thing that happens to a tree."""
    there = files(machine)
    path = dice.choice(there) if there else b"f0"
    new = b"%s%d" % (dice.choice((b"", b"d/", b"e/")) + b"f", dice.randrange(6))
    match dice.randrange(9):
        case 0 | 1:
            await machine.write(new, b"%d" % dice.randrange(10**9))
        case 2 | 3 if there:
            with suppress(NotEligible):  # a renamed file still has its key
                await machine.release(path)
        case 4 if there:
            machine.unlink(path)
        case 5 if there:
            await machine.rename(path, new)
        case 6 if there:
            await machine.change(path, mode=0o600 + dice.randrange(0o77))
        case 7:
            await machine.sweep()
        case 8:
            if dice.randrange(2):
                age_objects(machine.world)
            await machine.snapshotter.take()


@pytest.mark.parametrize("seed", range(24))
async def test_whatever_happened_no_archived_byte_is_lost(world: World, seed: int) -> None:
    """The SSD may go at any moment: every cold file's bytes are there again, and check finds nothing wrong."""
    dice = random.Random(seed)
    async with world.running() as machine:
        machine.sweeper.covers = machine.snapshotter.covers
        machine.mkdir(b"d")
        machine.mkdir(b"e")
        for step in range(60):
            await act(machine, dice)
            if step % 12 == 11:
                await survive(machine, world, f"fresh-{step}")


async def survive(machine: Machine, world: World, name: str) -> None:
    cold = [record for record in machine.catalog.records() if record.residency is Residency.COLD]
    wanted = {record.path: await machine.read(record.path) for record in cold}
    objects = dict(world.memory.objects)
    fresh = without_ssd(world, name)
    outcome = await rebuild(fresh)
    assert not outcome.rebuilt.lost, outcome.findings
    assert dict(world.memory.objects) == objects, "a rebuild changes nothing in the bucket"
    async with fresh.running() as after:
        found = await after.contents()
        assert not await after.check(DEEP)
        assert set(wanted.values()) <= set(found.values()), (wanted, found, outcome)
        check_invariants(after, snapshots=True)
        _same_where_known(cold, wanted, found)


def _same_where_known(cold: list[Record], wanted: dict[bytes, bytes], found: dict[bytes, bytes]) -> None:
    for record in cold:
        if not record.misplaced:
            assert found.get(record.path) == wanted[record.path]
