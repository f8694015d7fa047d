"""What stat(2) says of a file of either tier."""

import stat
from dataclasses import dataclass
from typing import Protocol

from tierfs.core.records import Attributes
from tierfs.core.reports import Kind


class Stat(Protocol):
    """What os.stat_result and ColdStat have in common."""

    @property
    def st_mode(self) -> int: ...
    @property
    def st_nlink(self) -> int: ...
    @property
    def st_uid(self) -> int: ...
    @property
    def st_gid(self) -> int: ...
    @property
    def st_rdev(self) -> int: ...
    @property
    def st_size(self) -> int: ...
    @property
    def st_blksize(self) -> int: ...
    @property
    def st_blocks(self) -> int: ...
    @property
    def st_atime_ns(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ColdStat:
    """stat(2) of a cold file. Its blocks are those of its bytes: 0 would tell tar and cp that it is one hole."""

    st_mode: int
    st_uid: int
    st_gid: int
    st_size: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_blocks: int
    st_nlink: int = 1
    st_rdev: int = 0
    st_blksize: int = 4096


def cold_stat(a: Attributes) -> ColdStat:
    """stat(2) of a cold file from what is recorded of it."""
    blocks = -(-a.size // 4096) * 8
    return ColdStat(a.mode, a.uid, a.gid, a.size, a.atime_ns, a.mtime_ns, a.ctime_ns, blocks)


def without_privileges(mode: int) -> int:
    """The mode that a regular file keeps when it is given away, or changed by somebody else than root (inode(7)).

    setgid without the group's execute bit stays: it does not give privileges.
    """
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))


def kind_of(mode: int) -> Kind:
    """What a name is, for an operator."""
    kinds: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    return kinds.get(stat.S_IFMT(mode), "other")
