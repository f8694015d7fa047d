"""The directory `.tierfs` at the root of a mount: reachable by its name, in no listing; nothing in it can be changed.

What a file in it says is made when it is opened, and stays the same for that handle, also when another worker takes the
mount over: the supervisor keeps it meanwhile. Its size is said to be 0, as in /proc: readers then read to the end.
The kernel's look-ups are not counted: the numbers here mean the same for ever.
"""

import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, NoReturn

import trio

from tierfs.core.records import Fd, Handle, Ino
from tierfs.engine.numbers import FIRST_MADE, ROOT
from tierfs.engine.stats import ColdStat
from tierfs.engine.tree import Found, Tree
from tierfs.mount.parked import Parked
from tierfs.mount.session import Cell, Kind, Session

log = logging.getLogger(__name__)

NAME = b".tierfs"
#: Makes what a file of the directory says. TierfsError.
Page = Callable[[], Awaitable[bytes]]

_DIRECTORY = FIRST_MADE
#: Another worker, and the kernel, may know a file by its number: none is ever given to another file.
_FILES = {
    b"config": Ino(_DIRECTORY + 1),
    b"errors": Ino(_DIRECTORY + 2),
    b"events": Ino(_DIRECTORY + 3),
    b"plan": Ino(_DIRECTORY + 4),
    b"stats": Ino(_DIRECTORY + 5),
}
_NAMES = {ino: name for name, ino in _FILES.items()}
#: The upper half of a handle is a backing id of the kernel's, the lower half an index of mount/handles.py: small.
_FIRST_HANDLE = Handle(1 << 31)


class _Open(NamedTuple):
    fd: Fd  # of a file in memory
    cell: int  # its place in the session


class ControlDirectory:
    """What tierfs says of itself inside the tree, to root and to the user who runs the mount.

    An entry of the hot directory with the same name wins: then there is no such directory.
    INVARIANT: what is open here has a cell in the session, and is parked.
    """

    def __init__(self, tree: Tree, session: Session) -> None:
        self.parked = Parked()
        self._tree = tree
        self._session = session
        self._pages: Mapping[bytes, Page] = {}
        self._is_offered = trio.Event()
        self._open: dict[Handle, _Open] = {}
        self._next = _FIRST_HANDLE
        self._since_ns = tree.tier.now()
        self._said = False

    def __contains__(self, handle: Handle) -> bool:
        """Whether a handle is on a file in here."""
        return handle in self._open

    def offer(self, pages: Mapping[bytes, Page]) -> None:
        """Have the files say this; who opens one earlier waits until then."""
        assert pages.keys() == _FILES.keys()
        self._pages = pages
        self._is_offered.set()
        self.is_there()

    def close(self) -> None:
        """Close every handle, as the end of the process would."""
        for page in self._open.values():
            os.close(page.fd)
        self._open = {}

    # -- looking -------------------------------------------------------------------------------------------------

    def is_there(self) -> bool:
        """Whether the directory is in the root: it is wanted, and nothing else has its name."""
        if not self._tree.tier.settings.control_directory:
            return False
        if self._tree.find_or_none(NAME) is None:
            return True
        if not self._said:
            self._said = True
            log.warning("the tree has an entry .tierfs of its own: there is no control directory until it is renamed")
        return False

    def lookup(self, parent: Ino, name: bytes) -> Found | None:
        """The directory itself, or a file in it; None for what is not its business. ENOENT."""
        if parent == ROOT:
            return self.stat(_DIRECTORY) if name == NAME and self.is_there() else None
        if parent < FIRST_MADE:
            return None
        if parent != _DIRECTORY or name not in _FILES:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self.stat(_FILES[name])

    def stat(self, ino: Ino) -> Found:
        """stat(2). ESTALE."""
        if ino != _DIRECTORY and ino not in _NAMES:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        mode, links = (stat.S_IFDIR | 0o500, 2) if ino == _DIRECTORY else (stat.S_IFREG | 0o400, 1)
        times = (self._since_ns, self._since_ns, self._since_ns)
        return Found(ino, ColdStat(mode, os.geteuid(), os.getegid(), 0, *times, st_blocks=0, st_nlink=links))

    def names(self) -> Iterator[tuple[bytes, Found]]:
        """What a listing of the directory has, besides its own name and the one above."""
        return ((name, self.stat(ino)) for name, ino in _FILES.items())

    def refuse(self, parent: Ino, name: bytes) -> None:
        """EROFS for who is about to make, remove or rename the directory, or something in it."""
        if parent >= FIRST_MADE or (parent == ROOT and name == NAME and self.is_there()):
            refuse()

    # -- files ---------------------------------------------------------------------------------------------------

    async def open(self, ino: Ino, flags: int) -> Handle:
        """open(2): the file is as of now for this handle. EROFS, ESTALE."""
        self.stat(ino)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            refuse()
        await self._is_offered.wait()
        content = await self._pages[_NAMES[ino]]()
        fd = _in_memory(content)
        handle, self._next = self._next, Handle(self._next + 1)
        self.parked.page(handle, fd)
        self._open[handle] = _Open(fd, self._session.add(Kind.PAGE, ino, 0, handle))
        return handle

    def read(self, handle: Handle, offset: int, size: int) -> bytes:
        """pread(2)."""
        return os.pread(self._open[handle].fd, size, offset)

    def release(self, handle: Handle) -> None:
        """The last close of a handle."""
        page = self._open.pop(handle, None)
        if page:
            os.close(page.fd)
            self._session.drop(page.cell)
            self.parked.page_closed(handle)

    def take_over(self, cells: Iterable[Cell]) -> None:
        """Have the open files of another worker, by its cells, with what was parked of them."""
        told = {Handle(cell.parent): cell.place for cell in cells}
        for handle, fd in self.parked.inherited_pages().items():
            if handle in told:
                self._open[handle] = _Open(Fd(os.dup(fd)), told.pop(handle))
            else:
                self.parked.page_closed(handle)  # it died before it told the kernel
            self._next = max(self._next, Handle(handle + 1))
        for handle, place in told.items():  # the supervisor did not get it
            self._session.drop(place)
            self._next = max(self._next, Handle(handle + 1))


def refuse() -> NoReturn:
    """EROFS: nothing in the control directory can be changed."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _in_memory(content: bytes) -> Fd:
    fd = Fd(os.memfd_create("tierfs-page", os.MFD_CLOEXEC))
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(content)
    except BaseException:
        os.close(fd)
        raise
    return fd
