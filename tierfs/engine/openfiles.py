"""What applications hold open, as far as the tiers care: hot files by inode, objects of cold files by key."""

from collections import Counter
from typing import Any

from tierfs.core.records import HotIno


class OpenFiles:
    """Counts handles. INVARIANT: no count is negative, and none that is zero is kept."""

    def __init__(self) -> None:
        self.readers: Counter[HotIno] = Counter()
        self.writers: Counter[HotIno] = Counter()
        self.objects: Counter[str] = Counter()

    def opened(self, ino: HotIno, is_writer: bool) -> None:
        """A handle on hot bytes was opened."""
        (self.writers if is_writer else self.readers)[ino] += 1

    def closed(self, ino: HotIno, is_writer: bool) -> None:
        """A handle on hot bytes was closed."""
        _decrement(self.writers if is_writer else self.readers, ino)

    def opened_object(self, key: str) -> None:
        """A handle reads from an object."""
        self.objects[key] += 1

    def closed_object(self, key: str) -> None:
        """A handle no longer reads from an object."""
        _decrement(self.objects, key)


def _decrement(counter: "Counter[Any]", item: object) -> None:
    counter[item] -= 1
    if counter[item] <= 0:
        del counter[item]
