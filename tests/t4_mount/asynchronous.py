"""Thousands of reads at the same time without a thread for each: the kernel's asynchronous I/O (io_submit(2))."""

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import require

#: Numbers of io_setup, io_destroy, io_getevents and io_submit; the C library has no functions for them.
_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
_REQUEST = struct.Struct("<QIIHhIQQqQII")  # struct iocb (include/uapi/linux/aio_abi.h), little-endian
_EVENT = struct.Struct("<QQqq")  # struct io_event
_READ = 0  # IOCB_CMD_PREAD
_AT_ONCE = 256

_libc = ctypes.CDLL(None, use_errno=True)


class Reads:
    """Reads of `size` bytes (whole blocks) at each of the offsets, past the page cache, all under way at once."""

    def __init__(self, context: ctypes.c_ulong, fd: int, offsets: Sequence[int], size: int) -> None:
        self._context, self._size, self._count = context, size, len(offsets)
        self._results: dict[int, int] = {}  # bytes that were read, or a negative errno
        self._memory = mmap.mmap(-1, len(offsets) * size)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._requests = [
            ctypes.create_string_buffer(
                _REQUEST.pack(number, 0, 0, _READ, 0, fd, start + number * size, size, offset, 0, 0, 0)
            )
            for number, offset in enumerate(offsets)
        ]
        _, _, _, submit = _calls()
        for request in self._requests:
            _checked(_libc.syscall(submit, context, 1, (ctypes.c_void_p * 1)(ctypes.addressof(request))))

    def done(self) -> int:
        """How many are over by now."""
        self._collect(at_least=0)
        return len(self._results)

    def results(self) -> list[bytes | int]:
        """What each of them got in the end: bytes, or an errno."""
        while len(self._results) < self._count:
            self._collect(at_least=1)
        found = ((number, self._results[number]) for number in range(self._count))
        return [-got if got < 0 else self._memory[n * self._size : n * self._size + got] for n, got in found]

    def _collect(self, at_least: int) -> None:
        _, _, getevents, _ = _calls()
        events = ctypes.create_string_buffer(_AT_ONCE * _EVENT.size)
        now = struct.pack("@ll", 0, 0)
        while True:
            timeout = None if at_least else now
            count = _checked(_libc.syscall(getevents, self._context, at_least, _AT_ONCE, events, timeout))
            for index in range(count):
                number, _, result, _ = _EVENT.unpack_from(events, index * _EVENT.size)
                self._results[number] = result
            if count < _AT_ONCE:
                return
            at_least = 0


@contextmanager
def reading(path: Path, offsets: Sequence[int], size: int) -> Iterator[Reads]:
    """Begin the reads; at the end of the block they are waited for."""
    require(platform.machine() in _CALLS, "the numbers of the system calls are not known here")
    setup, destroy, _, _ = _calls()
    context = ctypes.c_ulong(0)
    made = _libc.syscall(setup, len(offsets), ctypes.byref(context))
    require(made == 0, f"no asynchronous I/O here: {os.strerror(ctypes.get_errno())}")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        yield Reads(context, fd, offsets, size)
    finally:
        _libc.syscall(destroy, context)
        os.close(fd)


def _calls() -> tuple[int, int, int, int]:
    return _CALLS[platform.machine()]


def _checked(result: int) -> int:
    number = ctypes.get_errno()
    if result < 0 and number != errno.EINTR:
        raise OSError(number, os.strerror(number))
    return max(result, 0)
