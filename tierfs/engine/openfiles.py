"""What applications hold open, as far as the tiers care: hot files by inode, objects of cold files by key."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tierfs.core.records import HotIno, Ino, Record


class OpenFiles:
    """Counts handles. INVARIANT: no count is negative, and none that is zero is kept.

    `readers` and `writers` keep the hot bytes where they are. Virtual ones do not: they go over to the object when
    those go, which `let_go` is told (NotEligible: not now), and come back with them, which `come_back` is.
    """

    def __init__(self) -> None:
        self.readers: Counter[HotIno] = Counter()
        self.writers: Counter[HotIno] = Counter()
        self.virtual_readers: Counter[HotIno] = Counter()
        self.virtual_writers: Counter[HotIno] = Counter()
        self.objects: Counter[str] = Counter()
        self.let_go: Callable[[Record], None] = lambda _record: None
        self.come_back: Callable[[Ino], None] = lambda _ino: None

    def opened(self, ino: HotIno, is_writer: bool, is_virtual: bool = False) -> None:
        """A handle on hot bytes was opened."""
        self._handles(is_writer, is_virtual)[ino] += 1

    def closed(self, ino: HotIno, is_writer: bool, is_virtual: bool = False) -> None:
        """A handle on hot bytes was closed."""
        _decrement(self._handles(is_writer, is_virtual), ino)

    def is_virtual(self, ino: int) -> bool:
        """Whether there are virtual handles on the hot bytes of this inode: this process itself has it open then."""
        return bool(self.virtual_readers[HotIno(ino)] or self.virtual_writers[HotIno(ino)])

    def is_written(self, ino: int) -> bool:
        """Whether there is any handle that may write to the hot bytes of this inode."""
        return bool(self.writers[HotIno(ino)] or self.virtual_writers[HotIno(ino)])

    @contextmanager
    def letting_go(self, record: Record) -> Iterator[None]:
        """Hot bytes go in this block: virtual handles go over to the object, and back if it fails. NotEligible."""
        self.let_go(record)
        try:
            yield
        except BaseException:
            self.come_back(record.ino)
            raise

    def opened_object(self, key: str) -> None:
        """A handle reads from an object."""
        self.objects[key] += 1

    def closed_object(self, key: str) -> None:
        """A handle no longer reads from an object."""
        _decrement(self.objects, key)

    def _handles(self, is_writer: bool, is_virtual: bool) -> Counter[HotIno]:
        if is_virtual:
            return self.virtual_writers if is_writer else self.virtual_readers
        return self.writers if is_writer else self.readers


def _decrement(counter: "Counter[Any]", item: object) -> None:
    counter[item] -= 1
    if counter[item] <= 0:
        del counter[item]
