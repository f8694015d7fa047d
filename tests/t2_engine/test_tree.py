"""Names over both tiers: what renames do while they wait for the disk, pins, listings, and the errors in between."""

import errno
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from tests.assembly import PREFIX, Background, Died, Machine, World
from tests.invariants import check_invariants
from tests.t2_engine.test_recover import picture, prepare
from tierfs.core.config import Settings
from tierfs.core.residency import Residency
from tierfs.stores.hot import RENAME_EXCHANGE, RENAME_NOREPLACE

HOT, MIRRORED, COLD = Residency.HOT, Residency.MIRRORED, Residency.COLD


@asynccontextmanager
async def renaming(machine: Machine, *arguments: object) -> AsyncIterator[Background]:
    """A rename that has written its intention down, and waits for that to be durable while the block runs."""
    waits, may_go = threading.Event(), threading.Event()
    sync = machine.catalog.sync

    def held_sync() -> None:
        waits.set()
        may_go.wait()
        sync()

    background = Background()
    machine.catalog.sync = held_sync  # type: ignore[method-assign]
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background.run, machine.tree.rename, *arguments)
            await trio.to_thread.run_sync(waits.wait)
            machine.catalog.sync = sync  # type: ignore[method-assign]
            yield background
            may_go.set()
    finally:
        may_go.set()


async def release(machine: Machine) -> None:
    await machine.archiver.release(b"a")


async def write(machine: Machine) -> None:
    file = await machine.open(b"a", os.O_WRONLY)
    await file.write(0, b"W")
    file.close()


async def forge(machine: Machine) -> None:
    """A write that leaves size and mtime as they were: the ctime alone tells."""
    path = machine.world.hot / "a"
    st = path.stat()
    with path.open("r+b") as file:
        file.write(b"F")
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


async def chmod(machine: Machine) -> None:
    await machine.change(b"a", mode=0o600)


async def restore_target(machine: Machine) -> None:
    if machine.residency(b"b") is COLD:
        await machine.restore(b"b")


async def release_target(machine: Machine) -> None:
    if machine.residency(b"b") is MIRRORED:
        await machine.archiver.release(b"b")


@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE], ids=["over", "exchange"])
@pytest.mark.parametrize("target", ["plain", "stale", "mirrored", "cold"])
@pytest.mark.parametrize("happens", [release, write, forge, chmod, restore_target, release_target])
async def test_what_happens_during_a_rename(
    world: World, happens: Callable[[Machine], Awaitable[None]], target: str, flags: int
) -> None:
    """The rename is looked at again: what was hot may be cold by now, and the other way round."""
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        await prepare(machine, b"b", target)
        b = await machine.read(b"b")
        async with renaming(machine, b"a", b"b", flags) as rename:
            await happens(machine)
            a = await machine.read(b"a")
        assert rename.error is None
        expected = {b"b": a} | ({b"a": b} if flags else {})
        assert await machine.contents() == expected
        if happens is chmod:
            assert machine.residency(b"b") is MIRRORED
        if happens in (write, forge):
            assert machine.residency(b"b") is HOT
        check_invariants(machine)
        await machine.sweep()
        for path in expected:
            await machine.release(path)
        await machine.sweep()
        check_invariants(machine)
        assert await machine.contents() == expected


async def test_a_source_that_goes_away_during_a_rename(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        async with renaming(machine, b"a", b"b", 0) as rename:
            machine.unlink(b"a")
        assert isinstance(rename.error, FileNotFoundError)
        check_invariants(machine)
        assert machine.list(b"") == []


async def test_a_target_that_appears_during_a_rename_without_replacing(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        async with renaming(machine, b"a", b"b", RENAME_NOREPLACE) as rename:
            await machine.write(b"b", b"new")
        assert isinstance(rename.error, FileExistsError)
        check_invariants(machine)
        assert await machine.contents() == {b"a": b"first of a", b"b": b"new"}


async def test_a_rename_that_is_cancelled_has_not_happened(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        with trio.CancelScope() as scope:
            scope.cancel()
            await machine.tree.rename(b"a", b"b", 0)
        check_invariants(machine)
        assert machine.list(b"") == [b"a"]


async def test_a_forged_mtime_is_not_believed_after_a_crash_in_a_rename(world: World) -> None:
    """Recovery takes a new ctime for the rename's: so what does not match is written down before."""
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        await forge(machine)
        machine.life.left = 4  # written, intended, synced, renamed
        with pytest.raises(Died):
            await machine.tree.rename(b"a", b"b", 0)
        assert os.listdir(world.hot) == ["b"]
    async with world.running() as machine:
        assert machine.residency(b"b") is HOT
        assert await machine.read(b"b") == b"First of a"
        check_invariants(machine)


async def test_a_cold_file_over_a_file_with_two_names(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        await prepare(machine, b"b", "plain")
        await machine.link(b"b", b"c")
        number = machine.stat(b"c").ino
        await machine.rename(b"a", b"b")
        assert machine.stat(b"c").ino == number
        assert await machine.contents() == {b"b": b"first of a", b"c": b"first of b"}
        check_invariants(machine)


@pytest.mark.parametrize("source", ["plain", "mirrored", "cold", "full directory"])
@pytest.mark.parametrize("target", ["absent", "plain", "mirrored", "cold"])
async def test_exchange_and_back(world: World, source: str, target: str) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", source)
        await prepare(machine, b"b", target)
        before = await picture(machine)
        if target == "absent":
            with pytest.raises(FileNotFoundError):
                await machine.rename(b"a", b"b", RENAME_EXCHANGE)
        else:
            numbers = machine.stat(b"a").ino, machine.stat(b"b").ino
            await machine.rename(b"a", b"b", RENAME_EXCHANGE)
            assert (machine.stat(b"b").ino, machine.stat(b"a").ino) == numbers
            check_invariants(machine)
            await machine.rename(b"a", b"b", RENAME_EXCHANGE)
        assert await picture(machine) == before
        check_invariants(machine)


# -- pins ----------------------------------------------------------------------------------------------------------


async def test_pins_follow_renames(world: World) -> None:
    async with world.running() as machine:
        pins = machine.tier.pins
        machine.mkdir(b"d")
        for path in (b"a", b"b", b"d/x"):
            await machine.write(path, b"x")
        pins.add(b"a")
        pins.add(b"d/x")
        await machine.rename(b"a", b"c")
        await machine.rename(b"d", b"e")
        assert pins.cover(b"c")
        assert pins.cover(b"e/x")
        assert not pins.cover(b"a")
        await machine.rename(b"b", b"c", RENAME_EXCHANGE)
        assert pins.cover(b"b")
        assert not pins.cover(b"c")
        await machine.rename(b"c", b"b")  # what is renamed over a pinned file is pinned, as after an atomic save
        assert pins.cover(b"b")
        machine.unlink(b"b")
        await machine.write(b"b", b"x")
        assert not pins.cover(b"b")
        assert machine.catalog.pins() == {b"e/x"}
    async with world.running() as machine:
        assert machine.tier.pins.cover(b"e/x")


async def test_pins_stay_with_a_rename_that_does_nothing(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"x")
        await machine.link(b"a", b"b")
        machine.tier.pins.add(b"a")
        await machine.rename(b"a", b"b")
        assert machine.tier.pins.cover(b"a")
        assert machine.list(b"") == [b"a", b"b"]


async def test_pins_of_directories_and_patterns(world: World) -> None:
    world.settings = world.settings.model_copy(update={"pins": ("*.index",)})
    async with world.running() as machine:
        pins = machine.tier.pins
        pins.add(b"d")
        assert pins.cover(b"d/e/f")
        assert not pins.cover(b"dd")
        assert pins.cover(b"x/00.index")
        assert not pins.discard(b"d/e")
        assert pins.discard(b"d")
        assert not pins.cover(b"d/e/f")
        pins.add(b"")
        assert pins.cover(b"anything")


# -- names ---------------------------------------------------------------------------------------------------------


async def test_a_directory_with_cold_files_is_not_empty(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        machine.mkdir(b"e")
        await machine.write(b"d/a", b"x")
        await machine.release(b"d/a")
        with pytest.raises(OSError, match="not empty") as caught:
            machine.rmdir(b"d")
        assert caught.value.errno == errno.ENOTEMPTY
        with pytest.raises(OSError, match="not empty"):
            await machine.rename(b"e", b"d")
        machine.unlink(b"d/a")
        machine.rmdir(b"d")
        check_invariants(machine)


async def test_a_cold_file_has_its_name(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        for make in (lambda: machine.mkdir(b"a"), lambda: machine.symlink(b"x", b"a")):
            with pytest.raises(FileExistsError):
                make()
        with pytest.raises(FileExistsError):
            await machine.open(b"a", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        await machine.write(b"b", b"x")
        with pytest.raises(FileExistsError):
            await machine.link(b"b", b"a")
        with pytest.raises(FileExistsError):
            await machine.rename(b"b", b"a", RENAME_NOREPLACE)
        with pytest.raises(OSError, match="Invalid"):
            await machine.rename(b"b", b"a", 8)
        assert await machine.read(b"a") == b"first of a"


async def test_names_are_bytes(world: World) -> None:
    """The control directory is off: its name is one like any other then."""
    world.settings = Settings.model_validate(world.settings.model_dump() | {"control_directory": False})
    names = [b"\xff\xfe", b"new\nline", b"%41", "ü".encode(), b" ", b".tierfs", b"a" * 255]
    async with world.running() as machine:
        for name in names:
            await machine.write(name, b"content of " + name)
            await machine.release(name)
        await machine.hydrator.evict(None)
        assert await machine.contents() == {name: b"content of " + name for name in names}
        assert all(key.startswith(PREFIX) for key in world.memory.objects)
        assert not any(key.startswith(PREFIX + ".tierfs/") for key in world.memory.objects)
        check_invariants(machine)


async def test_removing_one_of_two_names_keeps_the_other_and_its_number(world: World) -> None:
    """A restored file has another inode than its number says; a new file may get the inode of that number."""
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        number = machine.stat(b"a").ino
        await machine.write(b"filler", b"x")
        await machine.restore(b"a")
        await machine.link(b"a", b"b")
        machine.unlink(b"a")
        assert machine.stat(b"b").ino == number
        for index in range(20):
            await machine.write(b"new-%d" % index, b"x")
        check_invariants(machine)
