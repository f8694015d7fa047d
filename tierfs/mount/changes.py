"""What setattr is to change, applied to an open file, or to what is recorded of one that has no hot bytes."""

import os
import stat
from dataclasses import dataclass, replace

from tierfs.core.records import Attributes
from tierfs.engine.stats import without_privileges
from tierfs.stores.hot import by_fd


@dataclass(frozen=True, slots=True)
class Changes:
    """What setattr is to change; None leaves a field as it is. Times in nanoseconds since the epoch, size in bytes."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


def change_recorded(a: Attributes, changes: Changes, now_ns: int) -> Attributes:
    """The attributes afterwards; the size is not touched."""
    kept = a.mode if changes.uid is None and changes.gid is None else without_privileges(a.mode)
    return replace(
        a,
        mode=kept if changes.mode is None else stat.S_IFMT(a.mode) | stat.S_IMODE(changes.mode),
        uid=a.uid if changes.uid is None else changes.uid,
        gid=a.gid if changes.gid is None else changes.gid,
        atime_ns=a.atime_ns if changes.atime_ns is None else changes.atime_ns,
        mtime_ns=a.mtime_ns if changes.mtime_ns is None else changes.mtime_ns,
        ctime_ns=now_ns,
    )


def change_open(fd: int, changes: Changes) -> None:
    """Change an open file, whatever it was opened for; the size is not touched."""
    exact, mode = by_fd(fd), changes.mode
    if changes.uid is not None or changes.gid is not None:
        gid = -1 if changes.gid is None else changes.gid
        os.chown(exact, -1 if changes.uid is None else changes.uid, gid)
    if mode is not None:
        os.chmod(exact, stat.S_IMODE(mode))
    if changes.atime_ns is not None or changes.mtime_ns is not None:
        st = os.fstat(fd)
        atime_ns = st.st_atime_ns if changes.atime_ns is None else changes.atime_ns
        os.utime(exact, ns=(atime_ns, st.st_mtime_ns if changes.mtime_ns is None else changes.mtime_ns))
