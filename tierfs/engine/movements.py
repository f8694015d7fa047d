"""The files that go from one tier to the other: those on their way, and what is counted of the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from tierfs.core.errors import NotEligible, TierfsError


@dataclass(slots=True)
class Movement:
    """A file on its way: its size, how many bytes of it are through, and since when (ns since the epoch)."""

    path: bytes
    verb: Literal["archive", "restore", "read"]
    bytes: int
    begun_ns: int
    done_bytes: int = 0

    def reached(self, done_bytes: int) -> None:
        """So many bytes are through by now."""
        self.done_bytes = done_bytes


@dataclass(slots=True)
class Movements:
    """How often one way was gone, whoever wanted it, by what came of it; `bytes` are those of the files that moved.

    `refused`: a rule, or what happened to the file meanwhile, keeps it where it is. What was given up because the
    mount ends is in none of them.
    """

    done: int = 0
    refused: int = 0
    failed: int = 0
    bytes: int = 0

    def moved(self, size: int) -> None:
        """A file of so many bytes is where it was to go."""
        self.done += 1
        self.bytes += size

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the error that ends this block, if one does."""
        try:
            yield
        except (NotEligible, FileNotFoundError):
            self.refused += 1
            raise
        except (TierfsError, OSError):
            self.failed += 1
            raise
