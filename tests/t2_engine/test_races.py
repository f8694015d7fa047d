"""Races: every movement, stopped at every point where it waits, while applications do everything that they can do.

The table is made of MOVEMENTS, their points, and OPERATIONS.
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.assembly import CHUNK, World
from tests.t2_engine.gate import Gate
from tests.t2_engine.races import Call, Scene, prepare, race
from tierfs.core.config import Settings
from tierfs.stores.hot import RENAME_EXCHANGE

A, OLD, OTHER, COLD = b"d/a", b"d/old", b"other", b"cold"
DATA = b"chunks"

#: Test at all points that a movement comes by, also those where nothing new is to be expected: for minutes.
EVERYWHERE = bool(os.environ.get("RACES_EVERYWHERE"))
ALL = "all points"

#: The policy leaves alone what it is not asked for.
SETTINGS = Settings.of(
    chunk_size=CHUNK,
    read_ahead=64,
    min_size=1,
    cache_size="64MiB",
    warm_after="1h",
    cold_after="2h",
    settle="0s",
    exclude=["other"],
)


@dataclass(frozen=True)
class Movement:
    """What moves: the calls before it, the call that moves, and the points at which it is stopped.

    Between two of its points nothing can be seen to change, or another movement has the same ones; all of them are
    tested with RACES_EVERYWHERE=1.
    """

    before: Sequence[Call]
    moving: Call
    points: Sequence[str]
    is_rename: bool = False


@dataclass(frozen=True)
class Operation:
    """What applications do meanwhile; `before` comes before the movement, and `beside` is done by somebody else."""

    calls: Sequence[Call]
    before: Sequence[Call] = ()
    is_of_names: bool = False
    beside: Sequence[Call] = ()

    @property
    def is_opening(self) -> bool:
        """Whether a file is open in between."""
        return any(name == "open" for name, *_ in [*self.before, *self.calls])

    @property
    def is_holding(self) -> bool:
        """Whether the file is open before the movement, which may be refused then."""
        return any(name == "open" for name, *_ in self.before)


EMPTY: list[Call] = [("mkdir", b"d"), ("mkdir", b"e")]
HOT: list[Call] = [("write", A, DATA)]
STALE: list[Call] = [("write", A, b"older"), ("move", "archive", A), ("write", A, DATA)]
WARM: list[Call] = [*HOT, ("move", "archive", A)]
OLD_WARM: list[Call] = [*WARM, ("move", "begin later")]
FROZEN: list[Call] = [*HOT, ("move", "release", A), ("move", "evict")]
OPEN: list[Call] = [*FROZEN, ("open", "w", A, os.O_RDWR), ("read", "w"), ("move", "evict")]
CACHED: list[Call] = [*FROZEN, ("open", "r", A, os.O_RDONLY), ("read", "r")]
MADE_AGAIN: list[Call] = [*FROZEN, ("unlink", A), ("write", A, b"another file")]
MISPLACED: list[Call] = [("write", OLD, DATA), ("move", "release", OLD), ("rename", OLD, A)]
MISPLACED_WARM: list[Call] = [("write", OLD, DATA), ("move", "archive", OLD), ("rename", OLD, A)]
SWAPPED: list[Call] = [*FROZEN, ("write", OLD, b"x"), ("move", "release", OLD), ("rename", A, OLD, RENAME_EXCHANGE)]

RESTORE = ["before the restore begins", "before GET", "after write", "after fsync", "after fsync 2"]

MOVEMENTS = {
    "archive": Movement(HOT, ("move", "archive", A), ["after sync", "before PUT", "after put"]),
    "archive again": Movement(STALE, ("move", "archive", A), ["before PUT"]),
    "release": Movement(WARM, ("move", "release", A), ["after confirm", "after sync"]),
    "release what is old": Movement(OLD_WARM, ("move", "release", A), ["after sha256"]),
    "restore": Movement(FROZEN, ("move", "restore", A), RESTORE),
    "write": Movement(OPEN, ("pwrite", "w", 2, b"XY"), ["before the restore begins", "after fsync"]),
    "shorten": Movement(FROZEN, ("truncate", A, 3), ["before GET"]),
    "link": Movement(FROZEN, ("link", A, b"e/linked"), ["before GET"]),
    "evict": Movement(CACHED, ("move", "evict"), ["before evict"]),
    "policy archives": Movement(HOT, ("move", "policy"), ["after timed_walk"]),
    "policy releases": Movement(WARM, ("move", "policy"), ["after timed_walk"]),
    "delete": Movement(MADE_AGAIN, ("move", "sweep"), ["before delete_many", "after delete_many"]),
    "follow": Movement(MISPLACED, ("move", "sweep"), ["after sync", "after copy"]),
    "follow, warm": Movement(MISPLACED_WARM, ("move", "sweep"), ["after copy"]),
    "follow in a circle": Movement(SWAPPED, ("move", "sweep"), ["after copy 2"]),
    "rename": Movement(WARM, ("rename", A, b"e/renamed"), ["after sync"], is_rename=True),
}


def opened(flags: int, *calls: Call) -> list[Call]:
    """Calls through a handle, between open and close."""
    return [("open", "h", A, flags), *calls, ("close", "h")]


READ: Call = ("read", "h")
WRITE: Call = ("pwrite", "h", 4, b"12345")
MAKE: Call = ("write", A, b"made")
OTHER_THERE: list[Call] = [("write", OTHER, b"other content")]
COLD_THERE: list[Call] = [("write", COLD, b"cold content"), ("move", "release", COLD)]

OPERATIONS = {
    "open and read": Operation([("open", "h", A, os.O_RDONLY), READ]),
    "go on reading": Operation([READ], before=[("open", "h", A, os.O_RDONLY)]),
    "open to write": Operation(opened(os.O_WRONLY)),
    "write": Operation(opened(os.O_RDWR, WRITE, READ)),
    "open and write": Operation([("open", "h", A, os.O_RDWR), WRITE]),
    "go on writing": Operation([WRITE, READ], before=[("open", "h", A, os.O_RDWR)]),
    "overwrite": Operation([("write", A, b"overwritten")], is_of_names=True),
    "ftruncate": Operation(opened(os.O_RDWR, ("ftruncate", "h", 3), READ)),
    "fill up": Operation([("truncate", A, 30)]),
    "cut": Operation([("truncate", A, 5)]),
    "empty": Operation([("truncate", A, 0)]),
    "change attributes": Operation(
        [("chmod", A, 0o600), ("setxattr", A, b"user.x", b"1"), ("utime", A, 1_500_000_000_000_000_001)]
    ),
    "chmod": Operation([("chmod", A, 0o640)]),
    "removexattr": Operation([("removexattr", A, b"user.y")], before=[("setxattr", A, b"user.y", b"2")]),
    "unlink": Operation([("unlink", A)], is_of_names=True),
    "unlink and make": Operation([("unlink", A), MAKE], is_of_names=True),
    "unlink, open": Operation([("open", "h", A, os.O_RDWR), ("unlink", A), READ, WRITE, READ], is_of_names=True),
    "rename": Operation([("rename", A, b"e/new")], is_of_names=True),
    "rename and make": Operation([("rename", A, b"e/new"), MAKE], is_of_names=True),
    "rename there and back": Operation([("rename", A, b"e/new"), ("rename", b"e/new", A)], is_of_names=True),
    "rename its directory": Operation([("rename", b"d", b"f")], is_of_names=True),
    "rename over it": Operation([("rename", OTHER, A)], before=OTHER_THERE, is_of_names=True),
    "rename cold over it": Operation([("rename", COLD, A)], before=COLD_THERE, is_of_names=True),
    "rename onto cold": Operation([("rename", A, COLD)], before=COLD_THERE, is_of_names=True),
    "exchange": Operation([("rename", A, OTHER, RENAME_EXCHANGE)], before=OTHER_THERE, is_of_names=True),
    "exchange with cold": Operation([("rename", A, COLD, RENAME_EXCHANGE)], before=COLD_THERE, is_of_names=True),
    "link": Operation([("link", A, b"e/hard")], is_of_names=True),
    "link and unlink": Operation([("link", A, b"e/hard"), ("unlink", A)], is_of_names=True),
    "write, and unlink": Operation(opened(os.O_RDWR, WRITE), is_of_names=True, beside=[("unlink", A)]),
    "cut, and rename over it": Operation(
        [("truncate", A, 5)], is_of_names=True, beside=[("rename", OTHER, A)], before=OTHER_THERE
    ),
    "write, and cut": Operation(opened(os.O_RDWR, WRITE), beside=[("truncate", A, 5)]),
    "write, and empty": Operation(opened(os.O_RDWR, WRITE), beside=[("truncate", A, 0)]),
    "write, and release": Operation(opened(os.O_RDWR, WRITE), beside=[("move", "release", A)]),
    "link, and rename": Operation([("link", A, b"e/hard")], is_of_names=True, beside=[("rename", A, b"e/new")]),
    "archive, and write": Operation(
        [("move", "archive", A)], beside=[("open", "h", A, os.O_RDWR), WRITE], before=[("chmod", A, 0o640)]
    ),
    "archive": Operation([("move", "archive", A)]),
    "release": Operation([("move", "release", A)]),
    "restore": Operation([("move", "restore", A)]),
    "evict": Operation([("move", "evict")]),
    "sweep": Operation([("move", "sweep")]),
    "policy pass": Operation([("move", "policy")]),
}


@asynccontextmanager
async def staged(
    path: Path, open_files: Literal["closed", "idle"], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Scene, Gate]]:
    """An empty tree in which everything is old enough for the policy, and the gate."""
    world, gate = World(path / "world", SETTINGS.model_copy(update={"open_files": open_files})), Gate()
    world.offset_ns = 3 * 3600 * 10**9
    async with world.running() as machine:
        with monkeypatch.context() as patch:
            gate.watch(patch, world, machine)
            yield Scene(machine), gate


async def run(scene: Scene, gate: Gate, moving: str, point: str, doing: str) -> None:
    """One case, from an empty tree to an empty tree; or all those of a movement and an operation."""
    movement, operation = MOVEMENTS[moving], OPERATIONS[doing]
    if movement.is_rename and operation.is_of_names:
        return  # the kernel lets nobody change names of a directory while one of them is being renamed
    before = [*EMPTY, *movement.before, *operation.before]
    callers = [operation.calls, operation.beside] if operation.beside else [operation.calls]
    points = [point]
    for at in points:
        try:
            await prepare(scene, before)
            await race(scene, gate, movement.moving, callers, at)
            # Among all points there are some that it does not always come by: chunks are read ahead of readers.
            assert point == ALL or operation.is_holding or at in gate.points, f"it comes by {gate.points} only"
        except BaseException as error:
            error.add_note(f"{moving}, {at}: {doing}")
            raise
        points += gate.points if at == ALL else []


@pytest.mark.parametrize(
    ("moving", "point"),
    [(name, at) for name, movement in MOVEMENTS.items() for at in ([ALL] if EVERYWHERE else movement.points)],
)
@pytest.mark.parametrize("open_files", ["closed", "idle"])
async def test_race(
    moving: str, point: str, open_files: Literal["closed", "idle"], swift_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell that anything moved, and nothing is left behind or stuck, whatever applications do meanwhile.

    Also where hot bytes go underneath files that are open.
    """
    operations = [name for name, one in OPERATIONS.items() if open_files == "closed" or one.is_opening]
    left, failures = operations, []
    while left:
        try:
            async with staged(swift_path / str(len(left)), open_files, monkeypatch) as (scene, gate):
                while left:
                    await run(scene, gate, moving, point, left.pop())
        except Exception as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup("some operations", failures)
