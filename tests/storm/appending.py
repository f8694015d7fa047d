"""A log: small appends, one after the other, into segments that are read back, kept for a while and removed."""

import os
import resource
import time
from pathlib import Path
from typing import ClassVar

from tests.model import Handle
from tests.storm.player import Player

_RECORD = 4096
_SEGMENT_BYTES = 2 << 20
_SEGMENTS_KEPT = 6
_LATEST_BYTES = 64 << 10
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
#: Of so many appends one is followed by a look at what was written last, and by fdatasync(2).
_READ_EVERY = 32
_SYNC_EVERY = 256
#: Names go round.
_NAMES = _SEGMENTS_KEPT + 2


class Appender(Player):
    """Appends 4 KiB each half millisecond: what it waits for is what a broker waits for."""

    pause_s: ClassVar[float] = 0.0005

    @classmethod
    def names(cls) -> list[str]:
        return [os.fsdecode(_name(number)) for number in range(_NAMES)]

    def make_directories(self) -> None:
        super().make_directories()
        self._number = 0
        self._begin()

    def _act(self) -> None:
        data = self._data(_RECORD)
        self._note("append", self._handle.node, len(self._handle.node.data))
        self._expect(self._append(data) == _RECORD, self._handle, "less was appended")
        self._handle.write(0, data)
        if self.operations % _READ_EVERY == 0:
            self._look_back()
        if self.operations % _SYNC_EVERY == 0:
            self._timed("fdatasync", lambda: os.fdatasync(self._fd))
        if len(self._handle.node.data) >= _SEGMENT_BYTES:
            self._roll()

    def verify(self) -> None:
        for path in self._model.paths("file"):
            self._compare_stat(path)
            self._compare_whole(path)

    def settle(self) -> None:
        while self._opened:
            os.close(self._opened.pop())

    def _append(self, data: bytes) -> int:
        """Counted twice: by itself the first one of a file, and those that others took the processor from."""
        before, began = _preemptions(), time.perf_counter()
        count = os.write(self._fd, data)
        took_s = time.perf_counter() - began
        which = "preempted" if _preemptions() != before else "further" if self._handle.node.data else "first"
        for kind in ("hot write", f"hot write, {which}"):
            self.stalls.add(self.prefix + kind, took_s)
        return count

    def _begin(self) -> None:
        name = _name(self._number)
        self._note("begin", None, name)
        self._fd = self._timed("metadata", lambda: os.open(self._at(name), _FLAGS, 0o644))
        self._reader = self._timed("metadata", lambda: os.open(self._at(name), os.O_RDONLY))
        self._opened = [self._fd, self._reader]
        self._handle: Handle = self._model.open(name, _FLAGS, 0o644)

    def _look_back(self) -> None:
        wanted = self._handle.node.data
        start = max(0, len(wanted) - _LATEST_BYTES)
        got = self._timed("hot read", lambda: os.pread(self._reader, _LATEST_BYTES + 1, start))
        self._compare("the latest", self._handle.node, start, got, wanted[start:])

    def _roll(self) -> None:
        self.settle()
        self._number += 1
        self._begin()
        if (oldest := _name(self._number - _SEGMENTS_KEPT)) in self._model.nodes:
            self._compare_whole(oldest)
            self._note("unlink", self._model.nodes[oldest], oldest)
            self._timed("metadata", lambda: os.unlink(self._at(oldest)))
            self._model.unlink(oldest)


class Control(Appender):
    """The same in a plain directory beside the mount: what the machine and its disk do to appends by themselves."""

    prefix: ClassVar[str] = "plain "

    def __init__(self, root: Path, seed: str) -> None:
        super().__init__(root.parents[1] / f"plain-{root.name}", seed)

    @classmethod
    def names(cls) -> list[str]:
        return []


def _preemptions() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _name(number: int) -> bytes:
    return b"%08d.log" % (number % _NAMES)
