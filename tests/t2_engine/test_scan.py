"""Scan: a bucket that is not empty, and rebuilding a tree from it."""

import os
import stat

import pytest

from tests.assembly import PREFIX, World
from tests.invariants import check_invariants
from tests.t2_engine.test_recover import picture, prepare
from tierfs.core.errors import StoreRefused, StoreUnavailable
from tierfs.core.residency import Residency
from tierfs.engine.scan import attributes_of
from tierfs.stores.cold import ObjectInfo


def put(world: World, key: str, body: bytes = b"x", **metadata: str) -> None:
    world.memory._store(PREFIX + key, body, metadata)


async def test_the_tree_is_rebuilt_from_the_bucket_alone(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        for path in (b"a", b"d/\xff", b"d/new\nline", b"%41"):
            await prepare(machine, path, "plain")
            await machine.change(path, mode=0o640, mtime_ns=1_234_567_890)
            await machine.setxattr(path, b"user.k", b"v" + path)
            await machine.release(path)
        before = await picture(machine)
    fresh = World(world.home / "fresh")
    fresh.store, fresh.memory, fresh.held = world.store, world.memory, world.held
    async with fresh.running() as machine:
        scanned = await machine.scanner.scan()
        assert (scanned.objects, scanned.shown, scanned.unnameable) == (4, 4, 0)
        assert await picture(machine) == before
        for path in before:
            if path != b"d":
                st = machine.stat(path).st
                assert (stat.S_IMODE(st.st_mode), st.st_mtime_ns) == (0o640, 1_234_567_890)
                assert machine.xattrs(path) == {b"user.k": b"v" + path}
        check_invariants(machine)
        assert machine.catalog.fact("scanned")


async def test_objects_of_others_are_cold_files(world: World) -> None:
    put(world, "a", b"12345")
    put(world, "d/b", b"678")
    put(world, "dir/", b"")
    put(world, "dir/inside", b"9")
    async with world.running() as machine:
        await machine.scanner.scan()
        assert await machine.contents() == {b"a": b"12345", b"d/b": b"678", b"dir/inside": b"9"}
        assert machine.residency(b"a") is Residency.COLD
        assert stat.S_IMODE(machine.stat(b"a").st.st_mode) == 0o644
        check_invariants(machine)
        await machine.restore(b"d/b")
        await machine.write(b"a", b"changed")
        await machine.archive(b"a")
        await machine.rename(b"dir", b"moved")
        await machine.sweep()
        check_invariants(machine)


@pytest.mark.parametrize(
    "key", ["../x", "a//b", "/abs", ".", "d/../x", "d/./x", "a\0b", "n" * 300, ".tierfs/moving/1", "//", "d//"]
)
async def test_keys_that_are_no_paths(world: World, key: str) -> None:
    put(world, key)
    put(world, "good")
    async with world.running() as machine:
        await machine.scanner.scan()
        assert await machine.contents() == {b"good": b"x"}
    assert sorted(os.listdir(world.home)) == ["hot", "state"]
    assert PREFIX + key in world.memory.objects


@pytest.mark.parametrize("keys", [("p", "p/q"), ("p/q", "p")])
async def test_a_key_that_is_both_file_and_directory(world: World, keys: tuple[str, str]) -> None:
    for key in keys:
        put(world, key, key.encode())
    async with world.running() as machine:
        await machine.scanner.scan()
        assert len(await machine.contents()) == 1
        assert len(world.memory.objects) == 2


async def test_hot_files_and_what_was_removed_are_left_alone(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"gone", "cold")
        machine.unlink(b"gone")
        await prepare(machine, b"moved", "cold")
        await machine.rename(b"moved", b"elsewhere")
        await machine.write(b"hot", b"local")
        put(world, "hot", b"remote")
        await machine.scanner.scan()
        assert await machine.contents() == {b"hot": b"local", b"elsewhere": b"first of moved"}
        world.memory.delete(PREFIX + "hot")
        check_invariants(machine)


async def test_a_second_scan_shows_what_is_new_and_finds_what_was_lost(world: World) -> None:
    put(world, "a")
    async with world.running() as machine:
        await machine.scanner.scan()
        body = world.memory._objects.pop(PREFIX + "a")
        record = machine.catalog.get(b"a")
        assert record
        assert record.object
        machine.tier.missing(record.object)
        assert machine.residency(b"a") is Residency.LOST
        world.memory._objects[PREFIX + "a"] = body
        put(world, "b")
        scanned = await machine.scanner.scan()
        assert (scanned.objects, scanned.shown) == (2, 1)
        assert machine.residency(b"a") is Residency.COLD
        check_invariants(machine)


async def test_a_scan_that_fails_is_not_remembered_as_done(world: World) -> None:
    put(world, "a")
    world.store.fail("list", StoreUnavailable("down"))
    async with world.running() as machine:
        with pytest.raises(StoreUnavailable):
            await machine.scanner.scan()
        assert machine.catalog.fact("scanned") is None


async def test_an_object_that_cannot_be_looked_at_is_shown_by_the_next_scan(world: World) -> None:
    """The others are shown at once; one error is raised, not a group of them."""
    for name in ("a", "b", "c"):
        put(world, name)
    world.store.fail("head", StoreUnavailable("down"), key=PREFIX + "b")
    async with world.running() as machine:
        with pytest.raises(StoreUnavailable):
            await machine.scanner.scan()
        assert machine.list(b"") == [b"a", b"c"]
        assert machine.catalog.fact("scanned") is None
        await machine.scanner.scan()
        assert machine.list(b"") == [b"a", b"b", b"c"]
        assert machine.catalog.fact("scanned")
        check_invariants(machine)


async def test_an_object_that_is_refused_for_good_hides_nothing_else(world: World) -> None:
    """Encrypted with a key of somebody else's, perhaps: the scan is complete without it."""
    put(world, "a")
    put(world, "b")
    world.store.fail("head", StoreRefused("its key is needed"), times=None, key=PREFIX + "a")
    async with world.running() as machine:
        scanned = await machine.scanner.scan()
        assert (scanned.shown, scanned.unnameable) == (1, 1)
        assert machine.list(b"") == [b"b"]
        assert machine.catalog.fact("scanned")


@pytest.mark.parametrize(
    "metadata",
    [
        {"tierfs-mode": "rwx"},
        {"tierfs-xattrs": "not json"},
        {"tierfs-xattrs": "[[1, 2]]"},
        {"tierfs-sha256": "xyz"},
        {"tierfs-size": "7"},
        {"tierfs-uid": "-1x"},
        {"tierfs-uid": "-1"},
        {"tierfs-gid": str(2**32 - 1)},
        {"tierfs-mtime-ns": str(2**63)},
        {"tierfs-xattrs": '[["AA==", ""]]'},
        {"tierfs-xattrs": '[["", ""]]'},
    ],
)
def test_metadata_that_makes_no_sense_is_nobodys(metadata: dict[str, str]) -> None:
    good = {
        "tierfs-format": "1",
        "tierfs-mode": "600",
        "tierfs-uid": "7",
        "tierfs-gid": "8",
        "tierfs-mtime-ns": "9",
        "tierfs-size": "3",
    }
    attributes, _ = attributes_of(ObjectInfo("k", 3, "e", metadata=good), (1, 2))
    assert (attributes.mode, attributes.uid, attributes.mtime_ns) == (stat.S_IFREG | 0o600, 7, 9)
    attributes, sha256 = attributes_of(ObjectInfo("k", 3, "e", modified_ns=5, metadata=good | metadata), (1, 2))
    assert (attributes.mode, attributes.uid, attributes.mtime_ns, sha256) == (stat.S_IFREG | 0o644, 1, 5, b"")


@pytest.mark.parametrize(
    "metadata",
    [
        {"tierfs-mtime-ns": str(2**63)},
        {"tierfs-uid": str(2**40)},
        {"tierfs-uid": "-2"},
        {"tierfs-xattrs": '[["dXNlci4A", ""]]'},  # a NUL in its name
    ],
)
async def test_impossible_metadata_stops_nothing(world: World, metadata: dict[str, str]) -> None:
    """Whoever may write to the bucket wrote it: the object is a file of nobody, and can be read and restored."""
    good = {"tierfs-format": "1", "tierfs-mode": "600", "tierfs-uid": "7", "tierfs-gid": "8", "tierfs-mtime-ns": "9"}
    put(world, "a", b"12345", **(good | {"tierfs-size": "5"} | metadata))
    async with world.running() as machine:
        await machine.scanner.scan()
        assert await machine.contents() == {b"a": b"12345"}
        await machine.restore(b"a")
        assert await machine.contents() == {b"a": b"12345"}
        check_invariants(machine)


async def test_the_deepest_key_is_a_file(world: World) -> None:
    deepest = "/".join("d" * ((1024 - len(PREFIX)) // 2))
    put(world, deepest)
    async with world.running() as machine:
        await machine.scanner.scan()
        assert await machine.read(deepest.encode()) == b"x"
        await machine.restore(deepest.encode())
        assert await machine.read(deepest.encode()) == b"x"
