"""The only writer of residency: node ids, what is believed, what recovery makes of work behind the mount."""

import os
from dataclasses import replace

import pytest

from tests.assembly import PREFIX, STORE, Died, World
from tests.invariants import check_invariants
from tests.t2_engine.test_recover import prepare
from tierfs.core.errors import CatalogError, NotEligible
from tierfs.core.residency import Residency
from tierfs.stores.catalog import Catalog

HOT, MIRRORED, COLD, LOST = Residency.HOT, Residency.MIRRORED, Residency.COLD, Residency.LOST


# -- node ids ------------------------------------------------------------------------------------------------------


async def test_numbers_stay_when_inodes_do_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On a disk that reuses inodes: a released file keeps its number, and who gets its inode gets another."""
    world = World(tmp_path_factory.mktemp("disk") / "world")
    numbers = {}
    async with world.running() as machine:
        for index in range(8):
            path = b"cold-%d" % index
            await prepare(machine, path, "cold")
            numbers[path] = machine.stat(path).ino
            await machine.write(b"hot-%d" % index, b"x")
            numbers[b"hot-%d" % index] = machine.stat(b"hot-%d" % index).ino
        check_invariants(machine)
        assert len(set(numbers.values())) == len(numbers)
        for index in range(8):
            await machine.restore(b"cold-%d" % index)
        assert {path: machine.stat(path).ino for path in numbers} == numbers
        check_invariants(machine)
    async with world.running() as machine:
        check_invariants(machine)
        found = {path: machine.stat(path).ino for path in numbers}
        assert all(found[path] == number for path, number in numbers.items() if path.startswith(b"cold"))


async def test_a_number_outlives_release_restart_and_rename(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        number = machine.stat(b"a").ino
        await machine.rename(b"a", b"b")
    async with world.running() as machine:
        assert machine.stat(b"b").ino == number
        await machine.restore(b"b")
        await machine.rename(b"b", b"c")
        assert machine.stat(b"c").ino == number
    async with world.running() as machine:
        assert machine.stat(b"c").ino == number
        check_invariants(machine)


async def test_a_removed_directory_gives_its_inode_up(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        machine.mkdir(b"e")
        st = machine.hot.lstat(b"e")
        machine.tier.numbers.bind(st, machine.tier.numbers.new())
        await machine.tree.rename(b"d", b"e", 0)
        assert machine.tier.numbers.of(st) == st.st_ino


# -- behind the mount ------------------------------------------------------------------------------------------------


async def restarted(world: World, path: bytes) -> Residency | None:
    async with world.running() as machine:
        check_invariants(machine)
        return machine.residency(path) if machine.tree.find_or_none(path) else None


@pytest.mark.parametrize(
    ("state", "residency"),
    [("plain", None), ("stale", LOST), ("mirrored", COLD), ("cold", COLD)],
)
async def test_hot_bytes_removed_while_nobody_looked(world: World, state: str, residency: Residency | None) -> None:
    """What the bucket has comes back; what it has an older version of is lost, and says so."""
    async with world.running() as machine:
        await prepare(machine, b"a", state)
    (world.hot / "a").unlink(missing_ok=True)
    assert await restarted(world, b"a") is residency


async def test_a_warm_file_that_was_rewritten_and_removed_is_not_its_older_version(world: World) -> None:
    """Closing a file that was written to is committed: the object is an older version from then on."""
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        file = await machine.open(b"a", os.O_RDWR)
        await file.write(0, b"X")
        file.close()
    (world.hot / "a").unlink()
    assert await restarted(world, b"a") is LOST


async def test_an_archive_that_never_ended_leaves_no_ghost(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"x")
        machine.life.left = 2
        with pytest.raises(Died):
            await machine.archive(b"a")
        assert machine.life.is_over
    (world.hot / "a").unlink()
    assert await restarted(world, b"a") is None


@pytest.mark.parametrize("state", ["stale", "mirrored", "cold"])
@pytest.mark.parametrize("what", ["other file", "directory", "symlink"])
async def test_a_name_taken_while_nobody_looked(world: World, state: str, what: str) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", state)
    path = world.hot / "a"
    path.unlink(missing_ok=True)
    if what == "directory":
        path.mkdir()
    elif what == "symlink":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(b"new")
    async with world.running() as machine:
        found = machine.tree.find(b"a")
        assert found.record is None
        if what == "other file":
            assert machine.residency(b"a") is HOT
            assert await machine.read(b"a") == b"new"
            check_invariants(machine)
        if state == "cold":
            assert PREFIX + "a" in world.memory.objects
        await machine.sweep()
        assert state != "cold" or PREFIX + "a" in world.memory.objects


async def test_a_file_where_a_directory_of_cold_files_was(world: World) -> None:
    """Nothing can be shown there, and nothing is lost: mounting works all the same."""
    async with world.running() as machine:
        machine.mkdir(b"d")
        await prepare(machine, b"d/a", "cold")
    (world.hot / "d").rmdir()
    (world.hot / "d").write_bytes(b"in the way")
    async with world.running() as machine:
        assert machine.list(b"") == [b"d"]
    (world.hot / "d").unlink()
    async with world.running() as machine:
        assert await machine.contents() == {b"d/a": b"first of d/a"}
        check_invariants(machine)


async def test_a_directory_of_cold_files_removed_while_nobody_looked(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        machine.mkdir(b"d/e")
        await prepare(machine, b"d/e/a", "cold")
    (world.hot / "d" / "e").rmdir()
    (world.hot / "d").rmdir()
    async with world.running() as machine:
        assert await machine.contents() == {b"d/e/a": b"first of d/e/a"}


async def test_a_file_renamed_behind_the_mount_is_refused_with_a_reason(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        os.rename(world.hot / "a", world.hot / "b")
        with pytest.raises(NotEligible, match="renamed behind the mount"):
            await machine.archive(b"b")


async def test_copied_back_hot_bytes_are_hot_whatever_their_times(world: World) -> None:
    """The bytes may be the same; only the ctime could prove it."""
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        st = machine.stat(b"a").st
    (world.hot / "a").write_bytes(b"first of a")
    os.utime(world.hot / "a", ns=(st.st_atime_ns, st.st_mtime_ns))
    assert await restarted(world, b"a") is HOT


# -- the catalog -----------------------------------------------------------------------------------------------------


async def test_a_full_disk_under_the_catalog_changes_nothing(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        record = machine.catalog.get(b"a")
        assert record
        machine.catalog._db.execute("PRAGMA max_page_count = 1")
        more = (replace(record, path=b"d/%d" % index + bytes(3000), ino=record.ino + index) for index in range(1, 1000))
        with pytest.raises(CatalogError, match="full"):
            list(map(machine.catalog.put, more))
        assert not machine.catalog._db.in_transaction
        for path in [r.path for r in machine.catalog.records() if r.path != b"a"]:
            machine.catalog.drop(path)
        check_invariants(machine)


async def test_a_damaged_catalog_is_said(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
    world.catalog_path.write_bytes(b"no database at all" * 1000)
    for leftover in world.state.glob("catalog.sqlite-*"):
        leftover.unlink()
    with pytest.raises(CatalogError, match="cannot be opened"):
        Catalog(world.catalog_path, STORE)


async def test_two_records_cannot_have_one_number(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        record = machine.catalog.get(b"a")
        assert record
        with pytest.raises(CatalogError, match="UNIQUE"):
            machine.catalog.put(replace(record, path=b"b"))
        check_invariants(machine)
