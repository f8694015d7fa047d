"""What all applications of a storm have in common: a directory, a model of it, a seed, a stopwatch."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

from tests.exercise.witness import Witness
from tests.model import Handle
from tests.storm.stalls import Stalls

_T = TypeVar("_T")

_POOL_BYTES = 1 << 20


class Player(Witness):
    """An application below `root`, which it makes. What it does follows from `seed` alone.

    INVARIANT: between two steps the directory, and all that the application holds open, is as the model says.
    """

    #: Between two steps, seconds.
    pause_s: ClassVar[float] = 0.004

    #: Before each kind of call.
    prefix: ClassVar[str] = ""

    def __init__(self, root: Path, seed: str) -> None:
        super().__init__(root, is_patient=False)
        self.stalls = Stalls()
        self._random = random.Random(seed)
        self._pool = self._random.randbytes(_POOL_BYTES)

    @classmethod
    def names(cls) -> list[str]:
        """Names below its directory of files that operators may move."""
        return []

    def make_directories(self) -> None:
        """Before anything else."""
        os.mkdir(self._root)

    def step(self) -> None:
        """A few calls that belong together. Mismatch; OSError that a local filesystem does not give."""
        self.operations += 1
        self._act()

    def _act(self) -> None:
        raise NotImplementedError

    def verify(self) -> None:
        """Compare everything: what has a name, and what is held open. Mismatch, OSError."""
        raise NotImplementedError

    def settle(self) -> None:
        """Close everything."""
        raise NotImplementedError

    def _data(self, size: int) -> bytes:
        """Bytes that are nowhere the same; they begin with the number of the operation."""
        start = self._random.randrange(len(self._pool) - size)
        return (self.operations.to_bytes(8, "little") + self._pool[start + 8 : start + size])[:size]

    def _timed(self, kind: str, call: Callable[[], _T]) -> _T:
        with self.stalls.timed(self.prefix + kind):
            return call()

    def _compare_handle(self, what: str, fd: int, handle: Handle) -> None:
        """All bytes of an open file, through its descriptor."""
        wanted = handle.node.data
        self._compare(what, handle.node, 0, os.pread(fd, len(wanted) + 1, 0), wanted)

    def _expect(self, is_so: bool, handle: Handle | None, what: str) -> None:
        if not is_so:
            self._differs(handle.node if handle else None, what)
