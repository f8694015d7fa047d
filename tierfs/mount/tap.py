"""The native module, loaded so that it stands between pyfuse3 and libfuse. Import this before pyfuse3."""

import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass

from tierfs.core.records import Fd, Ino
from tierfs.mount.kernel import MAX_BACKGROUND


def _load() -> object:
    """Import the module with its symbols visible to the libraries that are loaded after it (dlopen(3), RTLD_GLOBAL)."""
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        from tierfs.mount import _native
    finally:
        sys.setdlopenflags(flags)
    return _native


_load()

from tierfs.mount import _native  # noqa: E402

_log = logging.getLogger(__name__)

#: Read-ahead of the kernel, bytes: cold files are read in chunks of a mebibyte.
_MAX_READAHEAD = 1 << 20
#: How the thread that answers the kernel is scheduled: it needs little, and whoever asked waits.
_NICE, _SLICE_NS = -10, 100_000
#: Replies from this size on, bytes, are not written by the loop.
_LARGE_REPLY = 64 << 10
#: Names of the opcodes that are worth counting (include/uapi/linux/fuse.h).
_OPCODES = {
    1: "lookup",
    2: "forget",
    3: "getattr",
    4: "setattr",
    5: "readlink",
    6: "symlink",
    8: "mknod",
    9: "mkdir",
    10: "unlink",
    11: "rmdir",
    12: "rename",
    13: "link",
    14: "open",
    15: "read",
    16: "write",
    17: "statfs",
    18: "release",
    20: "fsync",
    21: "setxattr",
    22: "getxattr",
    23: "listxattr",
    24: "removexattr",
    25: "flush",
    26: "init",
    27: "opendir",
    28: "readdir",
    29: "releasedir",
    30: "fsyncdir",
    34: "access",
    35: "create",
    36: "interrupt",
    39: "ioctl",
    42: "forget",
    43: "fallocate",
    44: "readdir",
    45: "rename",
    46: "lseek",
    47: "copy_file_range",
    53: "copy_file_range",
}
_AUTO_INVAL_DATA = 1 << 12
_PASSTHROUGH = 1 << 37
_HAS_RESEND = 1 << 39


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a session asks the kernel for; nobody but the mount changes files where it `is_only_writer`.

    With `init_request`, that of the connection, it goes on with an old one, to which so much was `granted`.
    """

    passthrough: bool
    is_only_writer: bool
    init_request: bytes = b""
    granted: int = 0


def configure(wishes: Wishes, cache_s: int) -> None:
    """Say what the next session asks the kernel for, or which one it goes on with."""
    _native.configure(
        passthrough=wishes.passthrough,
        cache_directories=wishes.is_only_writer,
        keep_pages=wishes.is_only_writer and not wishes.granted & _AUTO_INVAL_DATA,
        max_background=MAX_BACKGROUND,
        max_readahead=_MAX_READAHEAD,
        cache_seconds=cache_s,
    )
    if wishes.init_request:
        _native.resume(wishes.init_request)


def init_request() -> bytes:
    """The INIT request of the connection, as the kernel sent it; empty before it did."""
    return _native.init_request()


def granted() -> int:
    """The flags that the kernel offered and was asked for; known once the session has begun."""
    return _native.granted()


def request() -> int:
    """The number of the request that was read last. To be asked before anything is awaited."""
    return _native.request()


def sends_again() -> bool:
    """Whether the kernel can send requests again that were read and not answered (Linux 6.9)."""
    return bool(_native.offered() & _HAS_RESEND)


def write_down_requests(memory: memoryview) -> None:
    """Write the numbers of requests that are not answered yet into this memory, for as long as the process lives."""
    _native.track(memory)


def take_precedence() -> None:
    """Have the kernel run this thread as soon as a request is there, before those that fetch and those that compute.

    What it starts, threads and processes, runs as usual. Without the privilege to be preferred only its time slices
    become short, which lets it interrupt others (Linux 6.12).
    """
    for nice in (_NICE, os.nice(0)):
        with suppress(OSError):
            _native.take_precedence(nice, _SLICE_NS)
            return
    _log.info("the kernel schedules tierfs like any other process")


def is_passthrough(granted: int) -> bool:
    """Whether what was agreed upon has passthrough in it."""
    return bool(granted & _PASSTHROUGH)


def is_in_place() -> bool:
    """Whether the session that was made goes through the tap."""
    return _native.in_place()


def is_readable(fd: int, patience_us: int) -> bool:
    """Whether a request is there, or comes within so many microseconds."""
    return _native.is_readable(fd, patience_us)


def counts() -> dict[str, int]:
    """Requests that reached this process, by name."""
    named: dict[str, int] = {}
    for opcode, count in _native.counts().items():
        name = _OPCODES.get(opcode, f"opcode_{opcode}")
        named[name] = named.get(name, 0) + count
    return named


def bytes_moved() -> tuple[int, int]:
    """Bytes of hot files that were read and written without Python, in this process' time."""
    return _native.bytes_moved()


def reply_with(pieces: list[memoryview]) -> bytes | memoryview:
    """What pyfuse3 is to be given at once for a READ that `pieces` answer: a large reply is sent without a copy."""
    if len(pieces) <= _native.MOST_PIECES and sum(map(len, pieces)) >= _LARGE_REPLY and _native.in_place():
        return _native.reply_with(pieces)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def finish_replies() -> None:
    """Write the replies that still wait: once /dev/fuse is closed, its descriptor's number may be another file's."""
    _native.finish_replies()


class Tap:
    """Keeps the native module informed of what it answers for; `index` is the lower half of a file handle."""

    def attach(self, index: int, ino: Ino, fd: Fd | None, size: int, is_known: bool = True) -> None:
        """A handle of a node was opened on a descriptor, or (None) on a cold file of `size` bytes.

        `is_known`: the kernel has seen its times as they are now.
        """
        _native.attach(index, ino, -1 if fd is None else fd, size, is_known)

    def detach(self, index: int) -> None:
        """A handle was closed."""
        _native.detach(index)

    def keep_directory(self, ino: Ino, fd: Fd) -> None:
        """Answer for a directory whose names are all on disk; `fd` belongs to the native module from now on."""
        _native.keep_directory(ino, fd)

    def drop_directory(self, ino: Ino) -> None:
        """The kernel forgot a node."""
        _native.drop_directory(ino)

    def drop_directories(self) -> None:
        """Some directory has a name now that is not on disk."""
        _native.drop_directories()

    def kills_privileges(self) -> bool:
        """Whether the write that is being answered takes set-user-ID away. To be asked before anything is awaited."""
        return _native.kills_privileges()
