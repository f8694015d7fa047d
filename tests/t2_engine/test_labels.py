"""Extended attributes `user.tierfs.*`: computed for files of either tier, never listed, stored or archived."""

import errno
import os

import pytest

from tests.assembly import CALLER, Caller, Machine, World
from tests.t2_engine.hydration import settled
from tierfs.core.config import Settings
from tierfs.core.errors import ObjectMissing
from tierfs.core.records import OWN_XATTRS

NOBODY = Caller(CALLER.uid + 4711, CALLER.gid)


async def label(machine: Machine, path: bytes, name: str) -> str | int:
    """What one says; the errno where it says nothing."""
    with machine.node(path) as ino:
        try:
            return (await machine.filesystem.labels.get(ino, OWN_XATTRS + name.encode())).decode()
        except OSError as error:
            return error.errno or 0


async def labels(machine: Machine, path: bytes) -> list[str | int]:
    return [await label(machine, path, name) for name in ("state", "object", "etag", "cached", "pinned", "reason")]


def set_label(machine: Machine, path: bytes, name: str, value: bytes, caller: Caller = CALLER) -> int:
    """Write one; the errno, 0 for success."""
    with machine.node(path) as ino:
        try:
            machine.filesystem.labels.set(ino, OWN_XATTRS + name.encode(), value, caller)
        except OSError as error:
            return error.errno or -1
    return 0


async def test_they_follow_a_file_through_the_tiers(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"file", b"content!")
        none = errno.ENODATA
        *others, reason = await labels(machine, b"file")
        assert others == ["hot", none, none, "0", "0"]
        assert str(reason).startswith("changed too recently")
        await machine.archive(b"file")
        etag = world.memory.head("p/file").etag
        *others, reason = await labels(machine, b"file")
        assert others == ["mirrored", "p/file", etag, "0", "0"]
        assert str(reason).startswith("younger than cold_after")
        await machine.release(b"file")
        reason = "its bytes are in the bucket alone"
        assert await labels(machine, b"file") == ["cold", "p/file", etag, "0", "0", reason]
        assert await machine.read(b"file") == b"content!"
        await settled(machine.hydrator)
        assert await label(machine, b"file", "cached") == "8"
        assert set_label(machine, b"file", "pinned", b"1") == 0
        assert await label(machine, b"file", "pinned") == "1"
        await machine.restore(b"file")
        assert await labels(machine, b"file") == ["mirrored", "p/file", etag, "0", "1", "pinned"]
        await machine.write(b"file", b"new")
        assert (await labels(machine, b"file"))[:3] == ["hot", none, none]


async def test_a_lost_file_says_why(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"file", b"content!")
        await machine.release(b"file")
        world.memory.delete("p/file")
        with pytest.raises(ObjectMissing):
            await machine.read(b"file")
        assert await label(machine, b"file", "state") == "lost"
        assert await label(machine, b"file", "reason") == "its object p/file is gone from the bucket"


async def test_directories_have_two_and_everything_else_has_none(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        none = errno.ENODATA
        assert await labels(machine, b"d") == ["hot", none, none, none, "0", none]
        assert await label(machine, b"", "pinned") == "0"
        await machine.write(b"file", b"text")
        assert await label(machine, b"file", "other") == none
        assert await labels(machine, b".tierfs") == [none] * 6
        file = await machine.open(b"file", os.O_RDONLY)
        machine.unlink(b"file")
        with pytest.raises(OSError, match="No data"):
            await machine.filesystem.labels.get(file.ino, OWN_XATTRS + b"state")
        file.close()


@pytest.mark.parametrize("is_cold", [False, True])
async def test_the_owner_pins(world: World, is_cold: bool) -> None:
    async with world.running() as machine:
        await machine.write(b"file", b"text")
        await (machine.release(b"file") if is_cold else machine.archive(b"file"))
        assert set_label(machine, b"file", "pinned", b"1", NOBODY) == errno.EPERM
        assert set_label(machine, b"file", "pinned", b"yes") == errno.EINVAL
        for name in ("state", "object", "reason", "other"):
            assert set_label(machine, b"file", name, b"1", Caller(0, 0)) == errno.EPERM
        assert not machine.tier.pins.cover(b"file")
        for caller in (CALLER, Caller(0, 0)):
            assert set_label(machine, b"file", "pinned", b"1", caller) == 0
            assert set_label(machine, b"file", "pinned", b"1", caller) == 0
            assert b"file" in machine.tier.pins
            assert set_label(machine, b"file", "pinned", b"0", caller) == 0
            assert set_label(machine, b"file", "pinned", b"0", caller) == 0
            assert b"file" not in machine.tier.pins
        set_label(machine, b"file", "pinned", b"1")
        with machine.node(b"file") as ino:
            machine.filesystem.labels.remove(ino, OWN_XATTRS + b"pinned", CALLER)
        assert b"file" not in machine.tier.pins


async def test_a_pin_of_a_directory_or_a_pattern_is_not_taken_away_from_a_file(world: World) -> None:
    world.settings = Settings.model_validate(world.settings.model_dump() | {"pins": ("*.keep",)})
    async with world.running() as machine:
        machine.mkdir(b"d")
        for path in (b"d/file", b"a.keep"):
            await machine.write(path, b"text")
        assert set_label(machine, b"d", "pinned", b"1") == 0
        for path in (b"d/file", b"a.keep"):
            assert await label(machine, path, "pinned") == "1"
            assert set_label(machine, path, "pinned", b"0") == errno.EPERM
        assert set_label(machine, b"d", "pinned", b"0") == 0
        assert await label(machine, b"d/file", "pinned") == "0"


async def test_what_a_backing_file_has_by_such_a_name_is_neither_shown_nor_archived(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"file", b"text")
        await machine.setxattr(b"file", b"user.mine", b"value")
        os.setxattr(world.hot / "file", "user.tierfs.state", b"nonsense")
        assert machine.xattrs(b"file") == {b"user.mine": b"value"}
        assert await label(machine, b"file", "state") == "hot"
        await machine.release(b"file")
        record = machine.tier.cold_record(b"file")
        assert record
        assert record.attributes.xattrs == ((b"user.mine", b"value"),)
        await machine.restore(b"file")
        assert os.listxattr(world.hot / "file") == ["user.mine"]
