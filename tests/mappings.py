"""Shared mappings that hold no descriptor; Python's own mmap keeps a duplicate, and so the file open."""

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_MS_SYNC = 4
_FAILED = ctypes.c_void_p(-1).value

READ = mmap.PROT_READ
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


class Mapping:
    """The first `length` bytes of an open file. Touching what lies behind its end is SIGBUS, as ever. OSError."""

    def __init__(self, fd: int, length: int, protection: int = READ_WRITE) -> None:
        self.length = length
        self.can_store = bool(protection & mmap.PROT_WRITE)
        address = _libc.mmap(None, length, protection, mmap.MAP_SHARED, fd, 0)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._address: int = address

    def load(self, offset: int, size: int) -> bytes:
        """Read."""
        return ctypes.string_at(self._address + offset, size)

    def store(self, offset: int, data: bytes) -> None:
        """Write."""
        ctypes.memmove(self._address + offset, data, len(data))

    def sync(self) -> None:
        """msync(2). OSError."""
        if _libc.msync(self._address, self.length, _MS_SYNC):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def close(self) -> None:
        """munmap(2)."""
        _libc.munmap(self._address, self.length)
