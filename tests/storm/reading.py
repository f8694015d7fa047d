"""Readers of files that rest: through handles held for long, and through new ones; the bytes may be anywhere."""

import mmap
import os
from typing import ClassVar

from tests.exercise.habits import CHUNK
from tests.model import Handle
from tests.storm.player import Player

_FILES = [b"c%02d" % number for number in range(12)]
_FILE_BYTES = 96 * CHUNK + 77
_SIZES = (1, 4096, CHUNK, 3 * CHUNK, 64 << 10)
_MOST_HELD = 6
_PAGE = 4096


class Reader(Player):
    """Reads at random and in order; what the kernel keeps of the file is dropped before most reads."""

    pause_s: ClassVar[float] = 0.006

    @classmethod
    def names(cls) -> list[str]:
        return [os.fsdecode(name) for name in _FILES]

    def make_directories(self) -> None:
        super().make_directories()
        self._held: list[tuple[int, Handle]] = []
        self._positions: dict[int, int] = {}
        self._buffer = mmap.mmap(-1, 64 << 10)
        for name in _FILES:
            data = self._random.randbytes(_FILE_BYTES)
            with open(self._at(name), "wb", buffering=0) as file:
                self._expect(file.write(data) == len(data), None, f"too little was written to {name!r}")
            self._model.open(name, os.O_CREAT | os.O_RDWR, 0o644).write(0, data)

    def _act(self) -> None:
        if len(self._held) < _MOST_HELD or self._random.random() < 0.02:
            self._open()
            return
        fd, handle = self._random.choice(self._held)
        if self._random.random() < 0.7:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        chance = self._random.random()
        if chance < 0.6:
            self._read(fd, handle, self._random.randrange(_FILE_BYTES + 1))
        elif chance < 0.9:
            start = self._positions[fd]
            self._positions[fd] = (start + self._read(fd, handle, start)) % _FILE_BYTES
        elif chance < 0.97:
            st = self._timed("metadata", lambda: os.fstat(fd))
            self._expect((st.st_size, st.st_nlink) == (_FILE_BYTES, 1), handle, f"fstat: {st}")
        else:
            self._read_directly(self._random.choice(_FILES))

    def verify(self) -> None:
        for fd, handle in self._held:
            self._compare_handle("what is held open", fd, handle)
        for name in _FILES:
            self._compare_stat(name)
            self._compare_whole(name)

    def settle(self) -> None:
        while self._held:
            fd, _ = self._held.pop()
            os.close(fd)

    def _open(self) -> None:
        if len(self._held) >= _MOST_HELD:
            gone, handle = self._held.pop(self._random.randrange(_MOST_HELD))
            self._note("close", handle.node)
            self._timed("metadata", lambda: os.close(gone))
        name = self._random.choice(_FILES)
        fd = self._timed("metadata", lambda: os.open(self._at(name), os.O_RDONLY))
        self._held.append((fd, self._model.open(name, os.O_RDONLY, 0)))
        self._positions[fd] = 0
        self._note("open", self._held[-1][1].node, name)

    def _read(self, fd: int, handle: Handle, offset: int) -> int:
        size = self._random.choice(_SIZES)
        self._note("read", handle.node, offset, size)
        got = self._timed("cold read", lambda: os.pread(fd, size, offset))
        self._compare("read", handle.node, offset, got, handle.node.data[offset : offset + size])
        return len(got)

    def _read_directly(self, name: bytes) -> None:
        node = self._model.nodes[name]
        offset = self._random.randrange(_FILE_BYTES) // _PAGE * _PAGE
        self._note("direct read", node, offset)
        fd = self._timed("metadata", lambda: os.open(self._at(name), os.O_RDONLY | os.O_DIRECT))
        try:
            got = self._timed("cold read", lambda: os.preadv(fd, [self._buffer], offset))
        finally:
            self._timed("metadata", lambda: os.close(fd))
        wanted = node.data[offset : offset + len(self._buffer)]
        self._compare("direct read", node, offset, self._buffer[:got], wanted)
