"""Crashes: at every effect of every operation, with and without a power cut, nothing in between is left over.

The table of docs/ARCHITECTURE.md, as a loop: the process dies before effect 0, 1, 2, ... of an operation until the
operation has fewer. After each death the next process recovers, and the tree is what it was before the operation, or
what it is after it; then it sweeps, and nothing has changed.
"""

import itertools
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.assembly import Died, Machine, World
from tests.invariants import check_invariants
from tierfs.core.errors import TierfsError
from tierfs.stores.hot import RENAME_EXCHANGE, RENAME_NOREPLACE

Step = Callable[[Machine], Awaitable[object]]


async def prepare(machine: Machine, path: bytes, state: str) -> None:
    """Bring a name into a state: what there is, and where its bytes are."""
    if state == "absent":
        return
    if state == "symlink":
        machine.symlink(b"nowhere", path)
        return
    if state.endswith("directory"):
        machine.mkdir(path)
        if state == "full directory":
            for name, below in ((b"cold", "cold"), (b"warm", "mirrored"), (b"hot", "plain")):
                await prepare(machine, path + b"/" + name, below)
        return
    await machine.write(path, b"first of " + path)
    if state != "plain":
        await machine.archive(path)
    if state == "stale":
        await machine.write(path, b"second of " + path)
    if state == "cold":
        await machine.release(path)


async def picture(machine: Machine) -> dict[bytes, bytes]:
    """The tree: names and contents."""
    return dict.fromkeys(machine.walk(), b"") | await machine.contents()


@contextmanager
def dying(machine: Machine, effects: int) -> Iterator[None]:
    """Let the machine die before one of the effects in this block; errors of the operation are no matter."""
    machine.life.left = effects
    try:
        yield
    except (OSError, TierfsError):
        pass
    except BaseExceptionGroup as group:
        _, others = group.split((Died, trio.Cancelled))
        if others:
            raise
        raise Died from None
    finally:
        machine.life.left = None


@dataclass
class Run:
    """One operation, interrupted or not: the tree before it, its effects, whether the process died."""

    before: dict[bytes, bytes]
    effects: list[str]
    has_died: bool = True


NEVER = 1 << 30


async def survive(home: Path, setup: Step, operate: Step, is_power_cut: bool) -> None:
    """Die at every effect of `operate`, and look at what the next process makes of it."""
    world = World(home / "alive")
    whole = await run_and_die(world, setup, operate, NEVER)
    assert not whole.has_died
    after = await recovered(world, whole)
    for effects in range(len(whole.effects)):
        world = World(home / f"{effects}")
        run = await run_and_die(world, setup, operate, effects)
        assert run.has_died
        if is_power_cut:
            world.cut_power()
        assert await recovered(world, run) in (run.before, after), f"after {run.effects}"
        shutil.rmtree(world.home, ignore_errors=True)  # a fetch that nobody waits for may still fill the cache


async def recovered(world: World, run: Run) -> dict[bytes, bytes]:
    """What the next process shows; its sweep must not change that, and check must find nothing."""
    async with world.running() as machine:
        check_invariants(machine)
        found = await picture(machine)
        await machine.sweep()
        check_invariants(machine)
        assert await picture(machine) == found, f"after {run.effects} and a sweep"
        assert not await machine.check()
    return found


async def run_and_die(world: World, setup: Step, operate: Step, effects: int) -> Run:
    run = Run({}, [])
    try:
        async with world.running() as machine:
            await setup(machine)
            await machine.sweep()
            run.before = await picture(machine)
            machine.catalog.sync()
            run.effects = machine.life.effects
            with dying(machine, effects):
                await operate(machine)
            run.has_died = machine.life.is_over
    except* Died:
        pass
    return run


@dataclass(frozen=True)
class Case:
    """Names in their states, and what is done to them."""

    name: str
    states: tuple[tuple[bytes, str], ...]
    operate: Step

    async def setup(self, machine: Machine) -> None:
        for path, state in self.states:
            await prepare(machine, path, state)


def rename(flags: int) -> Step:
    return lambda machine: machine.rename(b"a", b"b", flags)


async def empty(machine: Machine) -> None:
    (await machine.open(b"a", os.O_WRONLY | os.O_TRUNC)).close()


async def cut(machine: Machine) -> None:
    await machine.truncate(b"a", 0)


async def modify(machine: Machine) -> None:
    file = await machine.open(b"a", os.O_WRONLY)
    try:
        await file.write(0, b"F")
    finally:
        file.close()


async def unlink(machine: Machine) -> None:
    machine.unlink(b"a")


async def chmod(machine: Machine) -> None:
    await machine.change(b"a", mode=0o600)


FILES = ("plain", "stale", "mirrored", "cold")
NAMES = (*FILES, "empty directory", "full directory")


def cases() -> list[Case]:
    found = [
        Case(f"rename {one} to {other}", ((b"a", one), (b"b", other)), rename(0))
        for one, other in itertools.product(NAMES, ("absent", *FILES, "empty directory"))
        if ("directory" in one) == ("directory" in other) or other == "absent"
    ]
    found += [
        Case(f"exchange {one} and {other}", ((b"a", one), (b"b", other)), rename(RENAME_EXCHANGE))
        for one, other in itertools.combinations_with_replacement(("plain", "mirrored", "cold", "full directory"), 2)
        if not one == other == "plain"
    ]
    found += [
        Case(f"rename {one} to nothing", ((b"a", one),), rename(RENAME_NOREPLACE)) for one in ("mirrored", "cold")
    ]
    for name, operate in (("O_TRUNC", empty), ("truncate", cut), ("unlink", unlink), ("chmod", chmod)):
        found += [Case(f"{name} {one}", ((b"a", one),), operate) for one in ("stale", "mirrored", "cold")]
    found += [
        *(Case(f"rename symlink to {one}", ((b"a", "symlink"), (b"b", one)), rename(0)) for one in FILES),
        Case("write cold", ((b"a", "cold"),), modify),
        Case("archive plain", ((b"a", "plain"),), lambda m: m.archive(b"a")),
        Case("archive stale", ((b"a", "stale"),), lambda m: m.archive(b"a")),
        Case("release plain", ((b"a", "plain"),), lambda m: m.release(b"a")),
        Case("release stale", ((b"a", "stale"),), lambda m: m.release(b"a")),
        Case("release mirrored", ((b"a", "mirrored"),), lambda m: m.release(b"a")),
        Case("restore", ((b"a", "cold"),), lambda m: m.restore(b"a")),
        Case("link cold", ((b"a", "cold"),), lambda m: m.link(b"a", b"b")),
        Case("link mirrored", ((b"a", "mirrored"),), lambda m: m.link(b"a", b"b")),
    ]
    return found


@pytest.mark.parametrize("is_power_cut", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
async def test_death_at_every_effect(case: Case, is_power_cut: bool, swift_path: Path) -> None:
    await survive(swift_path, case.setup, case.operate, is_power_cut)
