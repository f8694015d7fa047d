"""What is counted of the use of files: an addition for each open and each read, looked at by somebody else."""

from collections import defaultdict
from dataclasses import dataclass, field

from tierfs.core.records import Ino


def _zeros() -> defaultdict[Ino, int]:
    return defaultdict(int)


@dataclass(slots=True)
class Uses:
    """Opens, and bytes that were read of objects, by file, until somebody takes them; bytes of hot files in all.

    `hot_read` and `hot_written` are those that went through Python: most go through the native module, or past both.
    """

    opens: defaultdict[Ino, int] = field(default_factory=_zeros)
    cold_bytes: defaultdict[Ino, int] = field(default_factory=_zeros)
    hot_read: int = 0
    hot_written: int = 0

    def take(self) -> tuple[dict[Ino, int], dict[Ino, int]]:
        """Opens and bytes since the last time."""
        taken = self.opens, self.cold_bytes
        self.opens, self.cold_bytes = _zeros(), _zeros()
        return taken
