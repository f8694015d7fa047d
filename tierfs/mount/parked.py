"""What has no name any more and is still open: kept by the supervisor, because the next worker could not find it.

Parked before the name goes. Three kinds, by the number of the node: `hot-N` is a descriptor of a removed hot file,
`dir-N` of a removed directory, `cold-N` of a file in memory with the record of a removed cold file. And `page-N`, by
the number of the handle: what an open file of the control directory says.
"""

import os
from collections.abc import Callable
from dataclasses import replace

from tierfs.core.records import Fd, Handle, Ino, Record
from tierfs.core.snapshot import line_of, parse_line

#: Tells the supervisor to keep a descriptor under a name, or (None) to let go of it.
Park = Callable[[str, int | None], None]


class Parked:
    """What is parked, by name; `inherited` is what was parked before this worker began, and is closed by close()."""

    def __init__(self, park: Park | None = None, inherited: dict[str, Fd] | None = None) -> None:
        self._park = park
        self._inherited = inherited or {}
        self._names = set(self._inherited)

    def file(self, ino: Ino, fd: Fd) -> None:
        """The name of an open hot file is about to go."""
        self._keep(f"hot-{ino}", fd)

    def directory(self, ino: Ino, fd: Fd) -> None:
        """The name of a directory is about to go."""
        self._keep(f"dir-{ino}", fd)

    def record(self, ino: Ino, record: Record) -> None:
        """The name of an open cold file is about to go, or the attributes of one without a name have changed."""
        if not self._park:
            return
        fd = os.memfd_create(f"cold-{ino}", os.MFD_CLOEXEC)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(line_of(record, ""))
            self._keep(f"cold-{ino}", Fd(fd))
        finally:
            os.close(fd)

    def page(self, handle: Handle, fd: Fd) -> None:
        """A file of the control directory is about to be open."""
        self._keep(f"page-{handle}", fd)

    def page_closed(self, handle: Handle) -> None:
        """A file of the control directory was closed, or never open."""
        self._let_go(f"page-{handle}")

    def inherited_pages(self) -> dict[Handle, Fd]:
        """What an earlier worker parked of the control directory; the caller does not close it."""
        pages = {name: fd for name, fd in self._inherited.items() if name.startswith("page-")}
        return {Handle(int(name.removeprefix("page-"))): fd for name, fd in pages.items()}

    def closed(self, ino: Ino) -> None:
        """The last handle on a file was closed."""
        for name in (f"hot-{ino}", f"cold-{ino}") if self._names else ():
            self._let_go(name)

    def forgotten(self, ino: Ino) -> None:
        """The kernel forgot a node without a name."""
        self._let_go(f"dir-{ino}")

    def inherited_fd(self, kind: str, ino: Ino) -> Fd | None:
        """What an earlier worker parked as `kind`-N, if it did; the caller does not close it."""
        return self._inherited.get(f"{kind}-{ino}")

    def inherited_record(self, ino: Ino) -> Record | None:
        """The record of a removed cold file that an earlier worker parked."""
        fd = self.inherited_fd("cold", ino)
        if fd is None:
            return None
        record = parse_line(os.pread(fd, os.fstat(fd).st_size, 0), "")
        assert isinstance(record, Record)
        return replace(record, ino=ino)

    def close(self) -> None:
        """Close what was inherited: what is in use was opened again."""
        for fd in self._inherited.values():
            os.close(fd)
        self._inherited = {}

    def _keep(self, name: str, fd: Fd) -> None:
        if self._park:
            self._park(name, fd)
            self._names.add(name)

    def _let_go(self, name: str) -> None:
        if name in self._names and self._park:
            self._names.discard(name)
            self._park(name, None)
