"""Which directories the native module answers for: those whose names are all in the hot directory."""

import os
from collections.abc import Iterator

import pytest

from tests.assembly import Machine, World
from tierfs.core.records import Fd, Ino
from tierfs.engine.numbers import ROOT


class Native:
    """What the native module is told, without a kernel."""

    def __init__(self) -> None:
        self.directories: dict[Ino, Fd] = {}

    def attach(self, index: int, ino: Ino, fd: Fd | None, size: int, is_known: bool = True) -> None: ...

    def detach(self, index: int) -> None: ...

    def kills_privileges(self) -> bool:
        return False

    def keep_directory(self, ino: Ino, fd: Fd) -> None:
        self.drop_directory(ino)
        self.directories[ino] = fd

    def drop_directory(self, ino: Ino) -> None:
        if ino in self.directories:
            os.close(self.directories.pop(ino))

    def drop_directories(self) -> None:
        for ino in list(self.directories):
            self.drop_directory(ino)


@pytest.fixture
def native() -> Iterator[Native]:
    """A native module; what it has kept is closed."""
    made = Native()
    yield made
    made.drop_directories()


def look_in_vain(machine: Machine, *directories: Ino) -> None:
    """Look up a name that is not there."""
    for directory in directories:
        with pytest.raises(FileNotFoundError):
            machine.filesystem.lookup(directory, b"missing")


async def test_a_directory_is_kept_until_a_file_in_it_has_a_record(world: World, native: Native) -> None:
    async with world.running() as machine:
        machine.filesystem.files.attachments = native
        machine.mkdir(b"d")
        await machine.write(b"d/file", b"text")
        with machine.node(b"d") as d:
            look_in_vain(machine, ROOT, d)
            assert set(native.directories) == {ROOT, d}
            await machine.archive(b"d/file")
            assert not native.directories
            look_in_vain(machine, ROOT, d)
            machine.filesystem.getattr(d)
            assert set(native.directories) == {ROOT}


async def test_records_that_come_by_a_rename_count_too(world: World, native: Native) -> None:
    async with world.running() as machine:
        machine.filesystem.files.attachments = native
        machine.mkdir(b"from")
        machine.mkdir(b"to")
        await machine.write(b"from/file", b"text")
        await machine.release(b"from/file")
        with machine.node(b"to") as to:
            look_in_vain(machine, to)
            assert set(native.directories) == {to}
            await machine.rename(b"from/file", b"to/file")
            assert not native.directories


async def test_what_the_kernel_forgets_is_not_kept(world: World, native: Native) -> None:
    async with world.running() as machine:
        machine.filesystem.files.attachments = native
        machine.mkdir(b"d")
        with machine.node(b"d") as d:
            machine.filesystem.getattr(d)
            assert set(native.directories) == {d}
        assert not native.directories
