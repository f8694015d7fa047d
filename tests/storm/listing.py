"""Directory handles that are held for long and read a little at a time, while the directory changes."""

import ctypes
import os
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from tests.storm.player import Player

_STABLE = {b"stable-%03d" % number for number in range(300)}
_VOLATILE = [b"volatile-%02d" % number for number in range(40)]
_KNOWN = _STABLE | set(_VOLATILE) | {b".", b".."}
_HELD = 3
_MOST_BYTES = 600
#: d_ino, d_off, d_reclen, d_type: getdents(2).
_ENTRY = struct.Struct("=QqHB")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.getdents64.restype = ctypes.c_ssize_t


@dataclass(slots=True)
class _Held:
    """An open directory, and what it has shown since it was at its beginning."""

    fd: int
    seen: Counter[bytes] = field(default_factory=Counter)


class Lister(Player):
    """A name that is there all the time is shown exactly once; one that never was, never (POSIX, readdir)."""

    pause_s: ClassVar[float] = 0.01

    def make_directories(self) -> None:
        super().make_directories()
        self._held: list[_Held] = []
        self._buffer = ctypes.create_string_buffer(_MOST_BYTES)
        for name in sorted(_STABLE):
            self._make(name)

    def _act(self) -> None:
        if len(self._held) < _HELD:
            flags = os.O_RDONLY | os.O_DIRECTORY
            self._held.append(_Held(self._timed("metadata", lambda: os.open(self._root, flags))))
        if self._random.random() < 0.2:
            self._change(self._random.choice(_VOLATILE))
            return
        held = self._random.choice(self._held)
        names = self._timed("list", lambda: self._next_names(held.fd))
        held.seen.update(names)
        if not names:
            self._at_the_end(held)

    def verify(self) -> None:
        for held in self._held:
            while names := self._next_names(held.fd):
                held.seen.update(names)
            self._compare_seen(held)
            self._rewind(held)
        got, wanted = sorted(os.listdir(self._root)), sorted(self._model.paths())
        self._expect(got == wanted, None, f"names: got {got}, wanted {wanted}")

    def settle(self) -> None:
        while self._held:
            os.close(self._held.pop().fd)

    def _make(self, name: bytes) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        fd = self._timed("metadata", lambda: os.open(self._at(name), flags, 0o644))
        self._timed("metadata", lambda: os.close(fd))
        self._model.open(name, flags, 0o644)

    def _change(self, name: bytes) -> None:
        self._note("change", None, name)
        if name in self._model.nodes:
            self._timed("metadata", lambda: os.unlink(self._at(name)))
            self._model.unlink(name)
        else:
            self._make(name)

    def _next_names(self, fd: int) -> list[bytes]:
        """A few more names, none at the end."""
        count = _libc.getdents64(fd, self._buffer, _MOST_BYTES)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), self._root)
        names, offset = [], 0
        while offset < count:
            _, _, length, _ = _ENTRY.unpack_from(self._buffer, offset)
            start = offset + _ENTRY.size
            names.append(self._buffer.raw[start : offset + length].split(b"\0", 1)[0])
            offset += length
        return names

    def _at_the_end(self, held: _Held) -> None:
        self._compare_seen(held)
        if self._random.random() < 0.5:
            self._rewind(held)
        else:
            self._held.remove(held)
            self._timed("metadata", lambda: os.close(held.fd))

    def _rewind(self, held: _Held) -> None:
        os.lseek(held.fd, 0, os.SEEK_SET)
        held.seen.clear()

    def _compare_seen(self, held: _Held) -> None:
        unknown = sorted(set(held.seen) - _KNOWN)
        self._expect(not unknown, None, f"names that were never there: {unknown}")
        wrong = {name: held.seen[name] for name in sorted(_STABLE) if held.seen[name] != 1}
        self._expect(not wrong, None, f"names that were there all the time, and how often they were shown: {wrong}")
