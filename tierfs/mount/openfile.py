"""One open file, and what it needs of others: a reader of its object, a place in the native module."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tierfs.core.access import Opener
from tierfs.core.records import Fd, HotIno, Ino, ObjectRef

#: The bytes of one answer, in order.
Pieces = list[memoryview]


class Reader(Protocol):
    """Reads one object for one handle."""

    async def read(self, offset: int, length: int) -> Pieces: ...

    def start(self) -> None: ...


class Attachments(Protocol):
    """Told what stands behind node ids and the lower halves of file handles (see mount.tap)."""

    def attach(self, index: int, ino: Ino, fd: Fd | None, size: int, is_known: bool = True) -> None: ...

    def detach(self, index: int) -> None: ...

    def keep_directory(self, ino: Ino, fd: Fd) -> None: ...

    def drop_directory(self, ino: Ino) -> None: ...

    def drop_directories(self) -> None: ...

    def kills_privileges(self) -> bool: ...


class Readers(Protocol):
    """Gives readers of objects: the hydrator."""

    def reader(
        self, ref: ObjectRef, successor: Callable[[], ObjectRef | None] | None, opener: Callable[[], Opener]
    ) -> Reader: ...

    async def expect_at_hand(self, ref: ObjectRef, opener: Opener) -> None: ...


@dataclass(slots=True)
class OpenFile:
    """One handle; `cell` is its place in the session, `flags` are more than open(2)'s (see mount.access).

    A virtual one lets go of `fd` while it has no `users`.

    INVARIANT: `fd` or `reader` is set, or the file is gone behind the mount; `stored` is the object of `reader`.
    """

    ino: Ino
    index: int
    flags: int
    fd: Fd | None = None
    hot_ino: HotIno | None = None
    reader: Reader | None = None
    stored: ObjectRef | None = None
    cell: int = 0
    is_virtual: bool = False
    users: int = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Somebody else than the loop works with `fd` in this block: it is not closed meanwhile."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    @property
    def is_writer(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY
