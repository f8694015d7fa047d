"""The disk of the state directory is full while bytes move: nothing is lost, and it heals when there is room again."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assembly import Machine, World, meanwhile
from tests.disks import fill, small_disk
from tests.invariants import check_invariants
from tierfs.core.errors import CatalogFull
from tierfs.core.residency import Residency


@pytest.fixture
def small_world(swift_path: Path) -> Iterator[World]:
    """A world whose state directory is on a disk of 4 MiB."""
    world = World(swift_path / "small")
    with small_disk(world.state, 4, detached=True):
        yield world


def fill_state(world: World) -> None:
    """Leave no byte on the disk of the state directory."""
    fill(world.state / "filler", b"f" * 4096)


def make_room(world: World) -> None:
    (world.state / "filler").unlink()


async def cold(machine: Machine, path: bytes) -> None:
    await machine.write(path, b"content of " + path)
    await machine.release(path)


async def test_an_archive_whose_end_cannot_be_written_down(small_world: World) -> None:
    """The file is hot whatever happens; the next pass with room takes it back, and another archive succeeds."""
    async with small_world.running() as machine:
        await machine.write(b"a", b"content")
        async with meanwhile(small_world, "put", machine.archive, b"a") as background:
            fill_state(small_world)
        assert isinstance(background.error, CatalogFull)
        assert "its disk is full" in str(background.error)
        assert await machine.read(b"a") == b"content"
        assert machine.residency(b"a") is Residency.ARCHIVING
        make_room(small_world)
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is Residency.HOT
        await machine.archive(b"a")
        assert machine.residency(b"a") is Residency.MIRRORED
        check_invariants(machine)


async def test_a_restore_whose_end_cannot_be_written_down(small_world: World) -> None:
    """The file stays in the bucket and has no name on the SSD; with room it is restored."""
    async with small_world.running() as machine:
        await cold(machine, b"a")
        async with meanwhile(small_world, "get", machine.restore, b"a") as background:
            fill_state(small_world)
        assert isinstance(background.error, CatalogFull)
        assert os.listdir(small_world.hot) == []
        assert await machine.read(b"a") == b"content of a"
        with pytest.raises(CatalogFull):
            await machine.restore(b"a")
        make_room(small_world)
        await machine.restore(b"a")
        assert machine.residency(b"a") is Residency.MIRRORED
        assert await machine.read(b"a") == b"content of a"
        check_invariants(machine)


async def test_changes_of_cold_files_that_cannot_be_written_down(small_world: World) -> None:
    """Each says ENOSPC and has not happened."""
    async with small_world.running() as machine:
        for path in (b"a", b"b", b"c", b"d"):
            await cold(machine, path)
        fill_state(small_world)
        for refused in (
            lambda: machine.rename(b"b", b"new"),
            lambda: machine.change(b"c", mode=0o600),
            lambda: machine.open(b"d", os.O_RDWR | os.O_TRUNC),
        ):
            with pytest.raises(CatalogFull) as full:
                await refused()
            assert full.value.errno == errno.ENOSPC
        with pytest.raises(CatalogFull):
            machine.unlink(b"a")
        await machine.write(b"hot", b"goes on")
        contents = {path: b"content of " + path for path in (b"a", b"b", b"c", b"d")}
        assert await machine.contents() == {**contents, b"hot": b"goes on"}
        assert os.listdir(small_world.hot) == ["hot"]
        make_room(small_world)
        machine.unlink(b"a")
        await machine.rename(b"b", b"new")
        await machine.write(b"d", b"written")
        await machine.sweep()
        assert set(machine.list(b"")) == {b"new", b"c", b"d", b"hot"}
        check_invariants(machine)
