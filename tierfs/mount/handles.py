"""The table of open files: by file handle, and by the file that they are on."""

import errno
import os
from collections.abc import Iterable, Iterator

from tierfs.core.records import Handle, Ino
from tierfs.mount.openfile import OpenFile

_INDEX = 0xFFFFFFFF  # of a handle: the lower half


class Handles:
    """All handles of a mount. A handle is an index, and in its upper 32 bits a backing id of the kernel's.

    INVARIANT: no two open files have the same index; `of` has a node exactly as long as it has handles.
    """

    def __init__(self) -> None:
        self._open: dict[Handle, OpenFile] = {}
        self._of: dict[Ino, list[OpenFile]] = {}
        self._free: list[int] = []
        self._indices = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[OpenFile]:
        return iter(self._open.values())

    def get(self, handle: Handle) -> OpenFile:
        """The open file of a handle. EBADF."""
        try:
            return self._open[handle]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def of(self, ino: Ino) -> Iterable[OpenFile]:
        """All handles on a node."""
        return self._of.get(ino, ())

    def any_of(self, ino: Ino) -> OpenFile | None:
        """Some open file of a node, one on hot bytes if there is one."""
        found = self._of.get(ino)
        return next((file for file in found if file.fd is not None), found[0]) if found else None

    def new_index(self) -> int:
        """An index that no handle has."""
        if self._free:
            return self._free.pop()
        self._indices += 1
        return self._indices

    def add(self, backing_id: int, file: OpenFile) -> Handle:
        """The handle of a file that was opened."""
        handle = Handle(backing_id << 32 | file.index)
        self._open[handle] = file
        self._of.setdefault(file.ino, []).append(file)
        return handle

    def pop(self, handle: Handle) -> OpenFile | None:
        """Take a handle out; None when there is none."""
        file = self._open.pop(handle, None)
        if file:
            of_same = self._of[file.ino]
            of_same.remove(file)
            if not of_same:
                del self._of[file.ino]
            self._free.append(file.index)
        return file

    def handles(self) -> list[Handle]:
        """All handles."""
        return list(self._open)

    def took_over(self) -> None:
        """Handles were added that have their indices from another worker: others may be given from now on."""
        used = {file.index for file in self._open.values()}
        self._indices = max(used, default=0)
        self._free = [index for index in range(1, self._indices + 1) if index not in used]


def parts_of(handle: int) -> tuple[int, int]:
    """The backing id and the index of a handle."""
    return handle >> 32, handle & _INDEX
