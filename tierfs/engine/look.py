"""What a look at all hot files found: sums, made while the files are looked at."""

import time
from dataclasses import dataclass

from tierfs.core.policy import HotFile
from tierfs.core.residency import Residency


@dataclass(slots=True)
class Look:
    """The hot directory at `at_ns` (since the epoch): its regular files and their bytes, and those that are mirrored.

    `held` is what they take on the disk. `brought` is what had been moved to the hot tier until then, less what had
    been released, in files and bytes, since the worker began: with what it is later, sums can be kept up. `cpu_ns` is
    what the look cost: time of the processor, since elapsed time says more about the rest of the machine.
    """

    at_ns: int
    brought: tuple[int, int] = (0, 0)
    files: int = 0
    bytes: int = 0
    warm_files: int = 0
    warm_bytes: int = 0
    held: int = 0
    cpu_ns: int = 0

    def add(self, file: HotFile) -> None:
        """One of its files."""
        self.files += 1
        self.bytes += file.size
        self.held += file.size - file.holes
        if file.residency is Residency.MIRRORED:
            self.warm_files += 1
            self.warm_bytes += file.size


class Stopwatch:
    """Time that the processor spent on this thread, without the pauses."""

    def __init__(self) -> None:
        self._since_ns = time.thread_time_ns()
        self.spent_ns = 0

    def pause(self) -> None:
        """Something else is going to be done."""
        self.spent_ns += time.thread_time_ns() - self._since_ns

    def go_on(self) -> None:
        """It was."""
        self._since_ns = time.thread_time_ns()
