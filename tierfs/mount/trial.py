"""Tries whether the kernel passes the files of a directory through: a FUSE connection of a moment, which nobody sees.

It is made in a mount namespace of its own, on a directory that every host has, and goes with the process: run it in
one that ends afterwards. Needs root.
"""

import ctypes
import os
import struct

from tierfs.core.records import Fd
from tierfs.mount import kernel
from tierfs.mount.passthrough import why_not

#: Exists everywhere, and is covered for this process alone.
_SOMEWHERE = "/proc"
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 16384, 1 << 18

# struct fuse_in_header and fuse_init_in, fuse_out_header and fuse_init_out of include/uapi/linux/fuse.h, protocol 7.40
_IN = struct.Struct("=IIQQIIIHH5I")
_OUT = struct.Struct("=IiQ4I2H2I2H2I6I")
_OP_INIT = 26
_INIT_EXT = 1 << 30
_PASSTHROUGH_HIGH = 1 << 5  # bit 37, in the second word of flags
_MOST_REQUEST = 1 << 20


def why_no_passthrough(file: Fd) -> str:
    """Why an open file would not be passed through to the kernel; empty when it would be. OSError.

    The process that calls has no /proc any more afterwards.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        return f"a mount cannot be tried: {os.strerror(ctypes.get_errno())}"
    fuse = kernel.mount(kernel.MountOptions(_SOMEWHERE, "tierfs-doctor"))
    try:
        if not _agree(fuse):
            return "the kernel was built without CONFIG_FUSE_PASSTHROUGH, or is older than 6.9"
        return why_not(kernel.Backing(fuse), file)
    finally:
        os.close(fuse)


def _agree(fuse: int) -> bool:
    """Answer INIT as a daemon does that wants passthrough; whether the kernel offers it."""
    request = os.read(fuse, _MOST_REQUEST)
    _, opcode, unique, *_, major, minor, read_ahead, _, flags2 = _IN.unpack_from(request.ljust(_IN.size, b"\0"))
    assert opcode == _OP_INIT
    offered = flags2 & _PASSTHROUGH_HIGH
    background, congestion, max_write, granularity, max_pages, alignment, depth = 12, 9, 1 << 17, 1, 32, 0, 1
    words = (major, min(minor, 40), read_ahead, _INIT_EXT, background, congestion, max_write, granularity)
    os.write(fuse, _OUT.pack(_OUT.size, 0, unique, *words, max_pages, alignment, offered, depth, *[0] * 6))
    return bool(offered)
