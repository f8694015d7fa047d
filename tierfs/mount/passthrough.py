"""I/O modes: whether the kernel serves a file from its backing file or asks this process.

The kernel has one I/O mode per inode while it is open: mixing passthrough with cached handles, or two backing ids,
gives EIO. So the first handle decides, and the rest follow until the last one is closed.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from tierfs.core.records import Fd, Ino
from tierfs.mount.uses import Uses

log = logging.getLogger(__name__)

CACHED = 0  # no backing id: the kernel caches pages and asks this process for them

_CAPABILITY = b"security.capability"


class BackingDevice(Protocol):
    """The kernel's side: gives ids to backing files. OSError."""

    def register(self, fd: Fd) -> int: ...

    def unregister(self, backing_id: int) -> None: ...


@dataclass(slots=True)
class _Open:
    backing_id: int
    handles: int = 0


class IoModes:
    """The I/O mode of every open inode. INVARIANT: an inode is here exactly as long as it has handles."""

    def __init__(self) -> None:
        self.device: BackingDevice | None = None
        self._open: dict[Ino, _Open] = {}
        self.opens = {"passthrough": 0, "cached": 0}
        self.uses = Uses()

    def __len__(self) -> int:
        return len(self._open)

    def backing_ids(self) -> int:
        """How many backing ids are held."""
        return sum(1 for inode in self._open.values() if inode.backing_id)

    def backing_id(self, ino: Ino) -> int:
        """What handles on a node that is open have, CACHED also where there are none."""
        inode = self._open.get(ino)
        return inode.backing_id if inode else CACHED

    def is_open(self, ino: Ino) -> bool:
        """Whether there are handles on a node."""
        return ino in self._open

    def taken_over(self, ino: Ino, backing_id: int) -> None:
        """Another worker opened a handle on `ino`, with this backing id."""
        inode = self._open.get(ino)
        if inode is None:
            inode = self._open[ino] = _Open(backing_id)
        inode.handles += 1

    def drop_unknown(self, backing_ids: Iterable[int]) -> None:
        """Give those of these backing ids back that no handle has."""
        known = {inode.backing_id for inode in self._open.values()}
        for backing_id in backing_ids:
            if self.device and backing_id and backing_id not in known:
                with suppress(OSError):  # there is none
                    self.device.unregister(backing_id)

    def opened(self, ino: Ino, fd: Fd | None, st: os.stat_result | None) -> int:
        """The backing id for a new handle on `ino`, or CACHED. `fd` (with its `st`) None: it has no hot bytes now."""
        inode = self._open.get(ino)
        if inode is None:
            inode = self._open[ino] = _Open(self._register(fd, st))
        inode.handles += 1
        self.opens["passthrough" if inode.backing_id else "cached"] += 1
        self.uses.opens[ino] += 1
        return inode.backing_id

    def closed(self, ino: Ino) -> None:
        """A handle on `ino` was closed."""
        inode = self._open[ino]
        inode.handles -= 1
        if inode.handles:
            return
        del self._open[ino]
        if inode.backing_id and self.device:
            self.device.unregister(inode.backing_id)

    def _register(self, fd: Fd | None, st: os.stat_result | None) -> int:
        if self.device is None or fd is None or st is None or may_have_privileges(fd, st.st_mode):
            return CACHED
        try:
            return self.device.register(fd)
        except OSError as error:
            # A single file (of another filesystem below, or one that cannot be opened for writing) is served as ever.
            log.debug("a file is not passed through: %s", os.strerror(error.errno or errno.EIO))
            return CACHED


def why_not(device: BackingDevice, probe: Fd) -> str:
    """Why files cannot be passed through to the kernel on this mount, tried with an open file; empty when they can."""
    try:
        device.unregister(device.register(probe))
    except OSError as error:
        reasons = {
            errno.EPERM: "this process lacks CAP_SYS_ADMIN",
            errno.EOPNOTSUPP: "the kernel does not pass files of this filesystem through",
            errno.ELOOP: "the hot directory is on a stacked filesystem, such as overlayfs",
            errno.ENOTTY: "the kernel is older than 6.9",
        }
        return reasons.get(error.errno or 0, os.strerror(error.errno or errno.EIO))
    return ""


def may_have_privileges(fd: Fd, mode: int) -> bool:
    """Whether a write has to take set-user-ID, set-group-ID or capabilities away: writes must then be seen."""
    if not stat.S_ISREG(mode) or mode & (stat.S_ISUID | stat.S_ISGID):
        return True
    if not mode & 0o111:
        return False
    try:
        return bool(os.getxattr(fd, _CAPABILITY))
    except OSError:
        return False


def drop_privileges(fd: Fd) -> None:
    """Take set-user-ID away, and set-group-ID where the group may execute (inode(7)). Capabilities go with a write."""
    mode = os.fstat(fd).st_mode
    dropped = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    if mode & dropped:
        os.fchmod(fd, stat.S_IMODE(mode & ~dropped))
