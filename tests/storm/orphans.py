"""Files that have no name any more and are used on: removed or replaced while they are open, hot and cold."""

import os
import stat
from collections.abc import Callable
from typing import ClassVar

from tests.exercise.habits import CHUNK
from tests.model import Handle
from tests.storm.player import Player

_SHELF = [b"s%02d" % number for number in range(24)]
_SIZES = (1, 100, 4096, 5000, CHUNK, 40_000)
_LARGEST = 8 * CHUNK
_XATTR = "user.orphan"
_MODES = (0o600, 0o640, 0o644, 0o755)
#: How many are used at the same time; and of so many steps one takes another orphan in, in the place of one.
_MOST = 8
_CHANGE_EVERY = 150


class Orphans(Player):
    """Files on a shelf rest, and may go cold; now and then one loses its name while it is open, and is used on."""

    pause_s: ClassVar[float] = 0.005

    @classmethod
    def names(cls) -> list[str]:
        return [os.fsdecode(name) for name in _SHELF]

    def make_directories(self) -> None:
        super().make_directories()
        self._held: list[tuple[int, Handle]] = []
        for name in _SHELF:
            self._put(name)

    def _act(self) -> None:
        if len(self._held) < _MOST or self._random.randrange(_CHANGE_EVERY) == 0:
            self._take_in()
            return
        fd, handle = self._random.choice(self._held)
        chance = self._random.random()
        if chance < 0.4:
            self._read(fd, handle)
        elif chance < 0.7 and handle.can_write:
            self._write(fd, handle)
        elif chance < 0.8 and handle.can_write:
            self._cut(fd, handle)
        elif chance < 0.95:
            self._look(fd, handle)
        else:
            self._change(fd, handle)

    def verify(self) -> None:
        for fd, handle in self._held:
            self._look(fd, handle)
            self._compare_handle("what an orphan holds", fd, handle)
        for name in _SHELF:
            self._compare_stat(name)
            self._compare_whole(name)

    def settle(self) -> None:
        while self._held:
            fd, _ = self._held.pop()
            os.close(fd)

    # -- names are lost ------------------------------------------------------------------------------------------

    def _put(self, name: bytes) -> None:
        """A new file, where there is none."""
        data, flags = self._data(self._random.randrange(1, _LARGEST)), os.O_CREAT | os.O_EXCL | os.O_RDWR
        fd = self._timed("metadata", lambda: os.open(self._at(name), flags, 0o644))
        try:
            self._write_all(fd, self._model.open(name, flags, 0o644), data)
        finally:
            self._timed("metadata", lambda: os.close(fd))

    def _take_in(self) -> None:
        if len(self._held) >= _MOST:
            fd, handle = self._held.pop(self._random.randrange(_MOST))
            self._compare_handle("what an orphan held", fd, handle)
            self._note("close", handle.node)
            self._timed("metadata", lambda: os.close(fd))
        lose: Callable[[bytes], None] = self._random.choice((self._remove, self._replace, self._never_rested))
        lose(self._random.choice(_SHELF))

    def _hold(self, name: bytes, flags: int) -> None:
        fd = self._timed("metadata", lambda: os.open(self._at(name), flags, 0o644))
        self._held.append((fd, self._model.open(name, flags, 0o644)))
        self._note("hold", self._held[-1][1].node, name, oct(flags))

    def _remove(self, name: bytes) -> None:
        """It is removed, and another one takes its name at once."""
        self._hold(name, self._random.choice((os.O_RDWR, os.O_RDONLY)))
        self._timed("metadata", lambda: os.unlink(self._at(name)))
        self._model.unlink(name)
        self._put(name)

    def _replace(self, name: bytes) -> None:
        """Another one is renamed over it."""
        self._hold(name, self._random.choice((os.O_RDWR, os.O_RDONLY)))
        self._put(b"fresh")
        self._timed("metadata", lambda: os.rename(self._at(b"fresh"), self._at(name)))
        self._model.rename(b"fresh", name, 0)

    def _never_rested(self, _: bytes) -> None:
        """A temporary file: made, opened, removed."""
        self._hold(b"temporary", os.O_CREAT | os.O_EXCL | os.O_RDWR)
        self._timed("metadata", lambda: os.unlink(self._at(b"temporary")))
        self._model.unlink(b"temporary")
        self._write_all(*self._held[-1], self._data(self._random.randrange(1, _LARGEST)))

    # -- descriptors are used on ---------------------------------------------------------------------------------

    def _read(self, fd: int, handle: Handle) -> None:
        wanted = handle.node.data
        offset, size = self._random.randrange(len(wanted) + 1), self._random.choice(_SIZES)
        self._note("read", handle.node, offset, size)
        got = self._timed("orphan", lambda: os.pread(fd, size, offset))
        self._compare("read of an orphan", handle.node, offset, got, wanted[offset : offset + size])

    def _write(self, fd: int, handle: Handle) -> None:
        offset = self._random.randrange(min(len(handle.node.data) + CHUNK, _LARGEST))
        data = self._data(self._random.choice(_SIZES))
        self._note("write", handle.node, offset, len(data))
        count = self._timed("orphan", lambda: os.pwrite(fd, data, offset))
        self._expect(count == len(data), handle, f"{count} of {len(data)} bytes were written")
        handle.write(offset, data)

    def _write_all(self, fd: int, handle: Handle, data: bytes) -> None:
        self._note("write", handle.node, 0, len(data))
        count = self._timed("write", lambda: os.pwrite(fd, data, 0))
        self._expect(count == len(data), handle, f"{count} of {len(data)} bytes were written")
        handle.write(0, data)

    def _cut(self, fd: int, handle: Handle) -> None:
        size = self._random.choice((0, 1, self._random.randrange(_LARGEST)))
        self._note("ftruncate", handle.node, size)
        self._timed("orphan", lambda: os.ftruncate(fd, size))
        handle.truncate(size)

    def _look(self, fd: int, handle: Handle) -> None:
        st = self._timed("orphan", lambda: os.fstat(fd))
        got = (st.st_size, st.st_nlink, oct(stat.S_IMODE(st.st_mode)))
        wanted = (len(handle.node.data), 0, oct(handle.node.mode))
        self._expect(got == wanted, handle, f"fstat of an orphan: got {got}, wanted {wanted}")

    def _change(self, fd: int, handle: Handle) -> None:
        mode, value = self._random.choice(_MODES), self._data(50)
        self._note("fchmod, fsetxattr, fsync", handle.node, oct(mode))
        self._timed("orphan", lambda: os.fchmod(fd, mode))
        handle.node.mode = mode
        self._look(fd, handle)
        self._timed("orphan", lambda: os.setxattr(fd, _XATTR, value))
        got = self._timed("orphan", lambda: os.getxattr(fd, _XATTR))
        self._expect(got == value, handle, f"getxattr of an orphan: got {got!r}, wanted {value!r}")
        self._timed("fsync", lambda: os.fsync(fd))
