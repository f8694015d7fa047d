"""A gate that stops a movement where it waits: before or after a call in a thread, a request, a block of a body.

The engine waits for nothing else, but for others that do.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from tests.assembly import Machine, World
from tests.fakes import PATIENCE_S
from tierfs.stores.cold import ColdStore, Deleted, ObjectInfo, Progress, Source, delete_each

#: Calls before which something else is worth a try than after the one that came before them.
_CHANGES_MUCH = ("copy", "delete", "delete_many", "evict")
_UNTIMELY = "sleep"  # how often an archive looks again whether the clock has moved is a matter of time


class Gate:
    """Stops what is under way at one point; knows when nothing moves any more."""

    def __init__(self) -> None:
        self.points: list[str] = []  # that were passed since arm(), up to the one that is wanted
        self.reached = trio.Event()
        self._wanted: str | None = None
        self._is_armed = False
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._running = 0  # calls in threads, but for one that is stopped
        self._ended = trio.Event()
        self._open = trio.Event()
        self._open_in_thread = threading.Event()
        self._is_thread_stopped = False

    def arm(self, point: str | None) -> None:
        """From now on stop what comes to this point; None for nobody."""
        self.points, self._wanted, self._is_armed = [], point, True
        self._times.clear()
        self.reached, self._open, self._open_in_thread = trio.Event(), trio.Event(), threading.Event()

    def open(self) -> None:
        """Let it go on; nobody is stopped from now on."""
        self._is_armed = False
        if self._is_thread_stopped:
            self._is_thread_stopped = False
            self._change_running(1)
        self._open.set()
        self._open_in_thread.set()

    def _is_stopped(self, name: str) -> bool:
        with self._lock:
            if not self._is_armed:
                return False
            self._times[name] += 1
            point = f"{name} {self._times[name]}" if self._times[name] > 1 else name
            self.points.append(point)
            self._is_armed = point != self._wanted
            return not self._is_armed

    async def passing(self, name: str) -> None:
        """A task comes by."""
        if self._is_stopped(name):
            self.reached.set()
            await self._open.wait()

    def passing_in_thread(self, name: str) -> None:
        """A thread comes by."""
        if self._is_stopped(name):
            trio.from_thread.run_sync(self._stopped_in_thread)
            if not self._open_in_thread.wait(PATIENCE_S):
                raise TimeoutError(f"nobody opened the gate {name}")

    def _stopped_in_thread(self) -> None:
        self._is_thread_stopped = True
        self._change_running(-1)
        self.reached.set()

    def _change_running(self, difference: int) -> None:
        self._running += difference
        self._ended.set()
        self._ended = trio.Event()

    async def wait_until_nothing_moves(self) -> None:
        """Wait until every task has ended, or waits for the gate or for another one that does."""
        await trio.testing.wait_all_tasks_blocked()
        while self._running:
            await self._ended.wait()
            await trio.testing.wait_all_tasks_blocked()

    def watch(self, monkeypatch: pytest.MonkeyPatch, world: World, machine: Machine) -> None:
        """See everything that the machine waits for."""
        run_sync, run_one = trio.to_thread.run_sync, machine.restorer._run_one

        async def in_thread(work: Callable[..., Any], *args: Any, **how: Any) -> Any:
            name = getattr(work, "__name__", type(work).__name__)
            if name == _UNTIMELY:
                return await run_sync(work, *args, **how)
            if name in _CHANGES_MUCH:
                await self.passing(f"before {name}")
            self._change_running(1)
            try:
                result = await run_sync(work, *args, **how)
            finally:
                self._change_running(-1)
            await self.passing(f"after {name}")
            return result

        async def restore(*args: Any) -> None:
            await self.passing("before the restore begins")
            await run_one(*args)

        monkeypatch.setattr(machine.catalog, "keep_durable", lambda: None)  # no power is cut here
        monkeypatch.setattr(trio.to_thread, "run_sync", in_thread)
        monkeypatch.setattr(machine.restorer, "_run_one", restore)
        machine.store.inner = GatedStore(world.memory, self)


class GatedStore:
    """A store in memory with a gate before and after each request."""

    def __init__(self, inner: ColdStore, gate: Gate) -> None:
        self.inner = inner
        self.counters = inner.counters
        self._gate = gate

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        self._gate.passing_in_thread("before PUT")
        return self.inner.put(key, source, metadata, progress)

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        self._gate.passing_in_thread("before GET")
        for block in self.inner.get(key, start, stop, etag, version_id):
            yield block
            self._gate.passing_in_thread("after a block of the body")

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        return self.inner.copy(source, key)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        return delete_each(self.delete, keys)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def tidy(self) -> None:
        self.inner.tidy()

    def probe(self) -> tuple[str, ...]:
        return self.inner.probe()

    def close(self) -> None:
        """Nothing to close."""
