"""Memory for chunks, shared with the process that fills it.

A memfd is mapped on both sides; what crosses between them is where in it a chunk lies. A slot of it is free again when
the last view of its bytes is gone: whoever still answers a read from them keeps them.
"""

import ctypes
import mmap
import os
import weakref
from collections import deque
from contextlib import suppress
from typing import NamedTuple

_MADV_POPULATE_WRITE = 23  # include/uapi/asm-generic/mman-common.h
_POPULATED = 8 << 20  # bytes; making memory costs a virtual machine up to three milliseconds for a mebibyte
_SPREAD = 4  # addresses are cheap: room enough that pieces of several sizes always fit somewhere


class Place(NamedTuple):
    """Where in the shared memory a chunk lies, in bytes."""

    start: int
    size: int


class Slot:
    """A piece of the arena: `view` is its memory, which is free again when neither slot nor views are left."""

    def __init__(self, place: Place, memory: mmap.mmap, returned: deque[Place]) -> None:
        self.place = place
        held = (ctypes.c_char * place.size).from_buffer(memory, place.start)
        weakref.finalize(held, returned.append, place).atexit = False
        self.view = memoryview(held).cast("B")


class Arena:
    """Hands out pieces of one shared memory.

    INVARIANT: slots that are alive never overlap. Takes memory from the system only where a slot was: the lowest free
    piece is handed out first.
    """

    def __init__(self, expected_bytes: int) -> None:
        self.fd = os.memfd_create("tierfs-chunks", os.MFD_CLOEXEC)
        self._size = max(mmap.PAGESIZE, expected_bytes * _SPREAD)
        os.ftruncate(self.fd, self._size)
        self._memory = mmap.mmap(self.fd, self._size)
        self._taken = 0
        self._free = [Place(0, self._size)]  # by address; no two adjoin
        self._returned: deque[Place] = deque()  # filled by finalizers, in any thread
        self._high = expected_bytes  # memory beyond this goes back to the system as soon as it is free
        self.view = memoryview(self._memory)

    def take(self, size: int) -> Slot | None:
        """A slot of `size` bytes (> 0); None while no piece is large enough."""
        self._take_back()
        for number, free in enumerate(self._free):
            if free.size >= size:
                rest = Place(free.start + size, free.size - size)
                self._taken += size
                self._free[number : number + 1] = [rest] if rest.size else []
                return Slot(Place(free.start, size), self._memory, self._returned)
        return None

    def taken_bytes(self) -> int:
        """The sum of the sizes of all slots that are alive."""
        self._take_back()
        return self._taken

    def close(self) -> None:
        """Give the descriptor back; the memory goes when nothing refers to it any more."""
        os.close(self.fd)

    def _take_back(self) -> None:
        while self._returned:
            place = self._returned.popleft()
            self._taken -= place.size
            self._free = give_back(self._free, place)
            start = -(-max(place.start, self._high) // mmap.PAGESIZE) * mmap.PAGESIZE
            whole_pages = (place.start + place.size - start) // mmap.PAGESIZE * mmap.PAGESIZE
            if whole_pages > 0:
                self._memory.madvise(mmap.MADV_REMOVE, start, whole_pages)


def give_back(free: list[Place], place: Place) -> list[Place]:
    """The free pieces, by address, with one more: pieces that adjoin become one."""
    joined: list[Place] = []
    for piece in sorted([*free, place]):
        if joined and joined[-1].start + joined[-1].size == piece.start:
            joined[-1] = Place(joined[-1].start, joined[-1].size + piece.size)
        else:
            joined.append(piece)
    return joined


def map_shared(fd: int) -> memoryview:
    """The memory of an arena whose descriptor came from another process; what is used first is there at once."""
    memory = mmap.mmap(fd, os.fstat(fd).st_size)
    with suppress(OSError):  # before Linux 5.14 the first reader waits for it
        memory.madvise(_MADV_POPULATE_WRITE, 0, min(len(memory), _POPULATED))
    return memoryview(memory)
