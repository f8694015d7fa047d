"""Somebody puts a symlink where a directory or a file of the hot tier is, at every step: it leads nowhere."""

import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from tests.assembly import Machine, World
from tierfs.core import steps
from tierfs.core.errors import TierfsError

CONTENT, SECRET = b"the bytes of the file", b"something else, outside"


async def archive(machine: Machine, path: bytes) -> None:
    await machine.archive(path)


async def release(machine: Machine, path: bytes) -> None:
    await machine.release(path)


async def restore(machine: Machine, path: bytes) -> None:
    await machine.restore(path)


async def overwrite(machine: Machine, path: bytes) -> None:
    await machine.write(path, CONTENT)


async def unlink(machine: Machine, path: bytes) -> None:
    machine.unlink(path)


async def rename(machine: Machine, path: bytes) -> None:
    await machine.rename(path, path + b"-renamed")


Verb = Callable[[Machine, bytes], Awaitable[None]]

#: What is done, and what the file was before.
VERBS: dict[Verb, str] = {
    archive: "hot",
    release: "hot",
    restore: "cold",
    overwrite: "cold",
    unlink: "warm",
    rename: "cold",
}


@dataclass(frozen=True)
class Place:
    """What is swapped: the directory of the file, or the file itself. `is_known`: open descriptors stay open."""

    is_directory: bool
    is_known: bool


class Intruder:
    """Puts a symlink to what is outside in the place of a victim at one moment, and takes it away at the end."""

    def __init__(self, machine: Machine, path: bytes, place: Place, moment: int) -> None:
        victim = os.path.dirname(path) if place.is_directory else path
        self._directory = os.path.dirname(path)
        self._machine = machine
        self._victim = machine.world.hot / os.fsdecode(victim)
        self._target = machine.world.home / "outside" / os.fsdecode(victim)
        self._aside = machine.world.hot / "aside"
        self._place = place
        self._moment = moment
        self.moments = 0

    @contextmanager
    def watch(self, _name: str) -> Iterator[None]:
        """Stand beside a step."""
        self._pass()
        yield
        self._pass()

    def _pass(self) -> None:
        if self.moments == self._moment:
            if os.path.lexists(self._victim):
                self._victim.rename(self._aside)
            self._victim.symlink_to(self._target)
            if not self._place.is_known:
                self._machine.hot.forget(self._directory)
        self.moments += 1

    def leave(self) -> None:
        """Put back what was there, if nothing is there now."""
        if self._victim.is_symlink():
            self._victim.unlink()
        if os.path.lexists(self._aside):
            self._aside.rename(self._victim)
        self._machine.hot.forget(self._directory)


def outside(world: World) -> dict[str, bytes]:
    """What nobody may touch."""
    root = world.home / "outside"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def prepare(machine: Machine, path: bytes, before: str) -> None:
    """A file in a directory, and one of the same name outside."""
    directory = os.path.dirname(path)
    twin = machine.world.home / "outside" / os.fsdecode(path)
    twin.parent.mkdir(parents=True)
    twin.write_bytes(SECRET)
    machine.mkdir(directory)
    await machine.write(path, CONTENT)
    if before == "warm":
        await machine.archive(path)
    elif before == "cold":
        await machine.release(path)


@pytest.mark.parametrize("place", [Place(True, True), Place(True, False), Place(False, True)], ids=repr)
@pytest.mark.parametrize("verb", VERBS)
async def test_a_symlink_at_any_step_leads_nowhere(world: World, verb: Verb, place: Place) -> None:
    """Nothing outside of the hot directory is read, written or removed, and the file is there again afterwards."""
    async with world.running() as machine:
        for moment in itertools.count():
            path = b"d%d/file" % moment
            await prepare(machine, path, VERBS[verb])
            before = outside(world)
            intruder = Intruder(machine, path, place, moment)
            steps.watch(intruder.watch)
            try:
                with suppress(TierfsError, OSError):
                    await verb(machine, path)
            finally:
                steps._watcher = None
            assert outside(world) == before, moment
            assert not any(SECRET in body for body in bodies(world)), moment
            if intruder.moments <= moment:
                assert moment, "there was no step"
                return
            intruder.leave()
            if verb in (archive, release, restore):  # the others take the bytes away
                assert await machine.read(path) == CONTENT


def bodies(world: World) -> list[bytes]:
    """What the bucket holds."""
    return [b"".join(world.memory.get(info.key, 0, info.size, info.etag)) for info in world.memory.list("")]
