"""Whom a new file belongs to: this process makes it, for somebody else."""

import os
import stat
from typing import Protocol

from tierfs.stores.hot import HotTier, by_fd


class Caller(Protocol):
    """Who asks: the file system's user and group, and the thread; pid 0: none that this host knows."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def pid(self) -> int: ...


def give_to_caller(hot: HotTier, path: bytes, fd: int, mode: int, caller: Caller) -> os.stat_result:
    """Make the caller the owner of what was just made, open as `fd` (O_PATH will do); its stat(2) afterwards."""
    st = os.fstat(fd)
    if (caller.uid, caller.gid) == (st.st_uid, st.st_gid):
        return st
    exact = by_fd(fd)
    os.chown(exact, caller.uid, group_of_new(hot, path, caller))
    if mode & (stat.S_ISUID | stat.S_ISGID):  # chown(2) strips them
        os.chmod(exact, stat.S_IMODE(st.st_mode))
    return os.fstat(fd)


def group_of_new(hot: HotTier, path: bytes, caller: Caller) -> int:
    """The caller's group; -1, to leave it as it is, where a setgid directory hands its own down."""
    directory = hot.lstat(path.rpartition(b"/")[0])
    return -1 if directory.st_mode & stat.S_ISGID else caller.gid
