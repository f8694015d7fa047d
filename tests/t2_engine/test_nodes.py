"""Node ids outlive what the kernel forgets of the directories above them."""

import os

from tests.assembly import CALLER, CHUNK, World
from tests.invariants import check_invariants
from tierfs.engine.numbers import ROOT
from tierfs.mount.changes import Changes


async def test_a_file_keeps_its_path_when_the_directory_of_its_other_name_is_forgotten(world: World) -> None:
    async with world.running() as machine:
        fs = machine.filesystem
        machine.mkdir(b"d")
        await machine.write(b"d/b", b"text")
        await machine.link(b"d/b", b"a")
        d = fs.lookup(ROOT, b"d").ino
        ino = fs.lookup(d, b"b").ino
        assert fs.lookup(ROOT, b"a").ino == ino
        fs.forget(d, 1)  # the kernel is short of memory, and still has `a`
        assert fs.getattr(ino).st.st_size == 4
        check_invariants(machine)
        fs.unlink(ROOT, b"a")
        await fs.setattr(ino, Changes(mode=0o600), None, CALLER)
        assert machine.stat(b"d/b").st.st_mode & 0o777 == 0o600
        fs.forget(ino, 2)
        assert len(fs.nodes) == 1
        check_invariants(machine)


async def test_an_open_file_goes_cold_under_the_name_that_a_rename_gave_it(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        machine.mkdir(b"d/e")
        await machine.write(b"a", b"c" * 2 * CHUNK)
        await machine.release(b"a")
        file = await machine.open(b"a", os.O_RDWR)
        await machine.rename(b"a", b"d/e/a")
        await machine.rename(b"d", b"f")
        assert file.size() == 2 * CHUNK
        check_invariants(machine)
        await file.write(0, b"new")
        assert await machine.read(b"f/e/a") == b"new" + b"c" * (2 * CHUNK - 3)
        file.close()
        assert len(machine.filesystem.nodes) == 1
        check_invariants(machine)


async def test_directories_that_only_an_orphan_was_in_are_let_go_with_it(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        machine.mkdir(b"d/e")
        await machine.write(b"a", b"text")
        file = await machine.open(b"a", os.O_RDWR)
        await machine.rename(b"a", b"d/e/a")
        machine.unlink(b"d/e/a")
        machine.rmdir(b"d/e")
        machine.rmdir(b"d")
        assert await file.read(0, 9) == b"text"
        check_invariants(machine)
        file.close()
        assert len(machine.filesystem.nodes) == 1
