"""Something moves, is stopped where it waits, and applications go on: what the table of races is made of.

A Scene is a tree and its model, and what applications do to both; a race is with one movement, which a Gate stops.
"""

import copy
import errno
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from tests.assembly import PREFIX, Background, Machine, Open
from tests.fakes import PATIENCE_S
from tests.invariants import check_invariants
from tests.model import Handle, Model
from tests.t2_engine.gate import Gate
from tests.t3_model.engine_subject import seen_of
from tests.t3_model.transparency import differences
from tierfs.core.errors import NotEligible, TierfsError
from tierfs.core.records import Record
from tierfs.core.residency import Residency

#: One call of an application, or a movement: its name, and what it is given.
Call = tuple[Any, ...]
#: A call and its result.
Answered = tuple[Call, object]

_LOOKED_UP = "looked up"


class Scene:
    """A tree, its model, and the open files of both."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.model = Model()
        self.files: dict[str, Open] = {}
        self.handles: dict[str, Handle] = {}

    # -- the tree ------------------------------------------------------------------------------------------------

    async def do(self, *calls: Call) -> list[object]:
        """What applications do to the tree: the result or the errno of each call."""
        return [await self._really(*call) for call in calls]

    async def _really(self, name: str, *args: Any) -> object:
        call = getattr(self, f"_{name}")
        try:
            try:
                return await call(*args)
            except OSError as error:
                if error.errno != errno.ESTALE or not isinstance(args[0], bytes):
                    raise
                return await call(*args)  # as the kernel does: it looks the path up again, once
        except (OSError, TierfsError) as error:
            return os.strerror(error.errno or 0)
        except KeyError as label:
            return f"{label} is not open"

    async def _open(self, label: str, path: bytes, flags: int) -> None:
        self.files[label] = await self.machine.open(path, flags)

    async def _close(self, label: str) -> None:
        self.files.pop(label).close()

    async def _read(self, label: str) -> bytes:
        return await self.files[label].read(0, 1 << 20)

    async def _pwrite(self, label: str, offset: int, data: bytes) -> None:
        await self.files[label].write(offset, data)

    async def _ftruncate(self, label: str, size: int) -> None:
        await self.files[label].truncate(size)

    async def _mkdir(self, path: bytes) -> None:
        self.machine.mkdir(path, 0o755)

    async def _rmdir(self, path: bytes) -> None:
        self.machine.rmdir(path)

    async def _write(self, path: bytes, data: bytes) -> None:
        await self.machine.write(path, data)

    async def _truncate(self, path: bytes, size: int) -> None:
        await self.machine.truncate(path, size)

    async def _unlink(self, path: bytes) -> None:
        self.machine.unlink(path)

    async def _link(self, source: bytes, target: bytes) -> None:
        await self.machine.link(source, target)

    async def _rename(self, source: bytes, target: bytes, flags: int = 0) -> None:
        await self.machine.rename(source, target, flags)

    async def _chmod(self, path: bytes, mode: int) -> None:
        await self.machine.change(path, mode=mode)

    async def _utime(self, path: bytes, mtime_ns: int) -> None:
        await self.machine.change(path, mtime_ns=mtime_ns)

    async def _setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        await self.machine.setxattr(path, name, value)

    async def _removexattr(self, path: bytes, name: bytes) -> None:
        await self.machine.removexattr(path, name)

    async def _move(self, verb: str, *paths: bytes) -> None:
        """Not a call of an application: nobody sees it, and it may be refused."""
        try:
            await MOVES[verb](self.machine, *paths)
        except (NotEligible, FileNotFoundError):
            pass

    # -- the model -----------------------------------------------------------------------------------------------

    def imagine(self, *calls: Call) -> list[object]:
        """The same to the model."""
        return [self._ideally(*call) for call in calls]

    def _ideally(self, name: str, *args: Any) -> object:
        try:
            call = getattr(self, f"_ideal_{name}", None) or getattr(self.model, name)
            return call(*args)
        except OSError as error:
            return os.strerror(error.errno or 0)
        except KeyError as label:
            return f"{label} is not open"

    def _ideal_open(self, label: str, path: bytes, flags: int) -> None:
        self.handles[label] = self.model.open(path, flags, 0o644)

    def _ideal_close(self, label: str) -> None:
        self.handles.pop(label)

    def _ideal_read(self, label: str) -> bytes:
        return bytes(self.handles[label].node.data)

    def _ideal_pwrite(self, label: str, offset: int, data: bytes) -> None:
        self.handles[label].write(offset, data)

    def _ideal_ftruncate(self, label: str, size: int) -> None:
        self.handles[label].truncate(size)

    def _ideal_mkdir(self, path: bytes) -> None:
        self.model.mkdir(path, 0o755)

    def _ideal_write(self, path: bytes, data: bytes) -> None:
        handle = self.model.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        handle.write(0, data)

    def _ideal_rename(self, source: bytes, target: bytes, flags: int = 0) -> None:
        self.model.rename(source, target, flags)

    def _ideal_move(self, *_verb: object) -> None:
        """Nobody sees it."""

    # -- comparing -----------------------------------------------------------------------------------------------

    async def differences(self) -> dict[Any, Any]:
        """Where the tree and the open files are not what the model says."""
        different: dict[Any, Any] = {**differences(self.model.seen(), await seen_of(self.machine))}
        for label, handle in self.handles.items():
            file, expected = self.files.get(label), bytes(handle.node.data)
            found = await file.read(0, 1 << 20) if file and handle.can_read else expected
            if file is None or found != expected or file.size() != len(expected):
                different[label] = expected, found
        return different


async def policy_pass(machine: Machine) -> None:
    """A pass of the policy, in which nothing may fail."""
    await machine.daemon.run_pass()
    assert not machine.daemon.passes.waiting, machine.daemon.passes.waiting
    assert not machine.daemon.passes.failed, machine.tier.failures


async def evict(machine: Machine) -> None:
    """Everything leaves memory and the cache."""
    await machine.hydrator.evict(None)


async def begin_later(machine: Machine) -> None:
    """This worker has begun after everything that was written: it cannot know of it."""
    machine.archiver._began_ns = 1 << 62


MOVES: dict[str, Callable[..., Awaitable[object]]] = {
    "archive": Machine.archive,
    "release": Machine.release,
    "restore": Machine.restore,
    "sweep": Machine.sweep,
    "evict": evict,
    "policy": policy_pass,
    "begin later": begin_later,
}


@contextmanager
def nobody_writes(machine: Machine) -> Iterator[None]:
    """In this block an archive need not wait until another change of its file would have another time."""

    async def at_once(_path: bytes) -> None:
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine.archiver, "_wait_until_changes_show", at_once)
        yield


async def prepare(scene: Scene, calls: Sequence[Call]) -> None:
    """What comes before a race, done to the tree and to the model."""
    machine = scene.machine
    with nobody_writes(machine):
        assert await scene.do(*calls) == scene.imagine(*calls)
    for record in list(machine.catalog.records(Residency.MIRRORED)):
        await machine.archiver._wait_until_changes_show(record.path)


async def race(scene: Scene, gate: Gate, moving: Call, callers: Sequence[Sequence[Call]], point: str | None) -> None:
    """Begin to move, stop at the point, let applications call, go on; then compare, and compare again at the end.

    Each caller begins when those before have ended or wait; calls that wait for the movement end after it.
    """
    movement, applications = Background(), [Background() for _ in callers]

    async def move() -> None:
        await movement.run(scene.do, moving)
        gate.reached.set()

    await gate.wait_until_nothing_moves()
    gate.arm(point)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(move)
            await gate.reached.wait()
            for application, calls in zip(applications, callers, strict=True):
                nursery.start_soon(application.run, scene.do, *calls)
                await gate.wait_until_nothing_moves()
            gate.open()
        await gate.wait_until_nothing_moves()
        for ended in (movement, *applications):
            if ended.error:
                raise ended.error
        answered = [list(zip(calls, one.result, strict=True)) for one, calls in zip(applications, callers, strict=True)]
        await agree(scene, moving, movement.result[0], answered)
        await finish(scene)


async def agree(scene: Scene, moving: Call, moved: object, answered: Sequence[Sequence[Answered]]) -> None:
    """The tree and all results are what some order of the calls makes of the model.

    What moves may be a call of an application itself; else nobody sees it.
    """
    complaints = []
    for same in meanings(scene, moving):
        for order in orders([(same, moved)], *answered):
            model, handles = scene.model, scene.handles
            scene.model, scene.handles = copy.deepcopy((model, handles))
            expected = scene.imagine(*(call for call, _ in order))
            found = [result for _, result in order]
            scene.handles.pop(_LOOKED_UP, None)
            different: object = await scene.differences()
            if expected == found and not different:
                return
            complaints.append(f"{[call[0] for call, _ in order]}: expected {expected}, found {found}, {different}")
            scene.model, scene.handles = model, handles
            if moving[0] == "move" and len(answered) == 1:
                break  # all orders are the same
    raise AssertionError("\n".join(complaints))


def orders(*sequences: Sequence[Answered]) -> Iterator[list[Answered]]:
    """All ways to make one sequence of several, each of which keeps its order."""
    left = [sequence for sequence in sequences if sequence]
    if not left:
        yield []
    for index, (first, *rest) in enumerate(left):
        for order in orders(*left[:index], rest, *left[index + 1 :]):
            yield [first, *order]


def meanings(scene: Scene, moving: Call) -> list[Call]:
    """A truncation is for the file that its path led to at first, or later, when that file was removed meanwhile."""
    if moving[0] != "truncate":
        return [moving]
    scene.imagine(("open", _LOOKED_UP, moving[1], os.O_RDWR))
    return [("ftruncate", _LOOKED_UP, moving[2]), moving]


async def finish(scene: Scene) -> None:
    """All that is owed is done; everything goes cold; everything is removed. Nothing is lost or left on the way."""
    machine, bucket = scene.machine, scene.machine.world.memory
    check_invariants(machine)
    await machine.sweep()
    assert not (different := await scene.differences()), f"after a sweep: {different}"
    for label in list(scene.files):
        await scene.do(("close", label))
    scene.handles.clear()
    await settle(machine)
    with nobody_writes(machine):
        await scene.do(*(("move", "release", path) for path in scene.model.paths("file")))
    await settle(machine)
    for path, seen in scene.model.seen().items():
        if seen.data and seen.nlink == 1:
            assert machine.residency(path) is Residency.COLD, f"{path!r} does not go cold"
    for record in machine.catalog.records(Residency.COLD):
        check_body(scene, record)
    check_invariants(machine)
    assert not machine.catalog.tombstones()
    emptied: list[Call] = [("unlink", path) for path in scene.model.paths("file")]
    emptied += [("rmdir", path) for path in reversed(scene.model.paths("directory"))]
    assert await scene.do(*emptied, ("move", "sweep")) == scene.imagine(*emptied, ("move", "sweep"))
    assert not bucket.objects, f"left in the bucket: {bucket.objects}"
    assert not list(machine.catalog.records())
    assert len(machine.filesystem.nodes) == 1


async def settle(machine: Machine) -> None:
    """Sweep until nothing is owed: what one sweep copies, the next one deletes. A third one has nothing to do."""
    for _ in range(2):
        if machine.catalog.misplaced() or machine.catalog.tombstones():
            await machine.sweep()


def check_body(scene: Scene, record: Record) -> None:
    """The bucket has the bytes of a cold file, under the key of its name."""
    assert record.object
    assert record.object.key == PREFIX + record.path.decode()
    body = scene.machine.world.memory.objects[record.object.key]
    assert body == bytes(scene.model.nodes[record.path].data), f"other bytes in the bucket: {record.path!r}"
