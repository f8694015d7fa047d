"""File locks that are held for long: the kernel's own, which must outlive every worker."""

import errno
import fcntl
import os
import struct
from typing import ClassVar

from tests.storm.player import Player

_FILES = [b"l%d" % number for number in range(3)]
_RANGE = (100, 50)
_FREE = (500, 50)
#: struct flock of a 64-bit Linux: type, whence, start, length, pid, which must be 0 for F_OFD_SETLK (fcntl(2)).
_FLOCK = struct.Struct("hhqqi4x")
#: Of so many steps one takes a lock, or gives it up.
_CHANGE_EVERY = 40


class Locker(Player):
    """Holds flock and POSIX locks through one descriptor, and asks through another one who holds them."""

    pause_s: ClassVar[float] = 0.02

    def make_directories(self) -> None:
        super().make_directories()
        self._pairs: list[tuple[int, int]] = []
        self._flocked: set[int] = set()
        self._ranged: set[int] = set()
        for name in _FILES:
            flags = os.O_CREAT | os.O_RDWR
            self._pairs.append((os.open(self._at(name), flags, 0o644), os.open(self._at(name), flags, 0o644)))
            self._model.open(name, flags, 0o644)

    def _act(self) -> None:
        number = self._random.randrange(len(self._pairs))
        if self._random.randrange(_CHANGE_EVERY) == 0:
            self._change(number)
        else:
            self._look(number)

    def verify(self) -> None:
        for number in range(len(self._pairs)):
            self._look(number)
        for name in _FILES:
            self._compare_stat(name)

    def settle(self) -> None:
        while self._pairs:
            for fd in self._pairs.pop():
                os.close(fd)

    def _change(self, number: int) -> None:
        fd, _ = self._pairs[number]
        is_flock = self._random.random() < 0.5
        held = self._flocked if is_flock else self._ranged
        kind = fcntl.LOCK_UN if number in held else fcntl.LOCK_EX | fcntl.LOCK_NB
        self._note("unlock" if number in held else "lock", None, number, "flock" if is_flock else "fcntl")
        if is_flock:
            self._timed("lock", lambda: fcntl.flock(fd, kind))
        else:
            start, length = _RANGE
            self._timed("lock", lambda: fcntl.lockf(fd, kind, length, start))
        held ^= {number}

    def _look(self, number: int) -> None:
        _, other = self._pairs[number]
        is_free = self._timed("lock", lambda: _flock_is_free(other))
        self._expect(is_free == (number not in self._flocked), None, f"flock of {number} is free: {is_free}")
        is_free = self._timed("lock", lambda: _range_is_free(other, _RANGE))
        self._expect(is_free == (number not in self._ranged), None, f"the range in {number} is free: {is_free}")
        self._expect(_range_is_free(other, _FREE), None, f"somebody locked the rest of {number}")


def _flock_is_free(fd: int) -> bool:
    """Whether it could be locked here; it is not afterwards."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def _range_is_free(fd: int, where: tuple[int, int]) -> bool:
    """The same of a range, by a lock of the open file: POSIX locks of one process never meet each other."""
    start, length = where
    for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK):
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
    return True
