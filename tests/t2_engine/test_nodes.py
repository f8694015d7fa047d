"""Node ids mean the same file for as long as the kernel knows them, whatever becomes of its names and its bytes."""

import os

import pytest
import trio

from tests.assembly import CALLER, CHUNK, Open, World
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


@pytest.mark.parametrize("was_cold", [False, True])
async def test_a_file_that_changes_tiers_while_another_takes_its_name(
    world: World, monkeypatch: pytest.MonkeyPatch, was_cold: bool
) -> None:
    """A rename waits until its intention is durable; the file that it replaces may be released and opened meanwhile."""
    async with world.running() as machine:
        for path in (b"a", b"b"):
            await machine.write(path, b"content of " + path)
            await machine.archive(path)
        if was_cold:
            await machine.release(b"b")
        sync, opened = machine.catalog.sync, list[Open]()

        async def change_tiers() -> None:
            await (machine.restore(b"b") if was_cold else machine.archiver.release(b"b"))
            opened.append(await machine.open(b"b", os.O_RDWR))

        def sync_slowly() -> None:
            monkeypatch.setattr(machine.catalog, "sync", sync)
            trio.from_thread.run(change_tiers)
            sync()

        monkeypatch.setattr(machine.catalog, "sync", sync_slowly)
        await machine.rename(b"a", b"b")
        (file,) = opened
        assert file.size() == 12
        assert await file.read(0, 99) == b"content of b"
        await file.write(0, b"CONTENT")
        assert await file.read(0, 99) == b"CONTENT of b"
        file.close()
        assert await machine.contents() == {b"b": b"content of a"}
        assert len(machine.filesystem.nodes) == 1
        await machine.sweep()
        check_invariants(machine)
