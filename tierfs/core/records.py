"""The nouns that the rooms pass to each other: frozen, without behaviour that needs the outside.

Paths are bytes, relative to the root of the tree, without a leading slash; the root itself is b"".
"""

import stat
from dataclasses import dataclass
from typing import NewType

from tierfs.core.residency import Residency

Ino = NewType("Ino", int)  # FUSE node id, which is also the st_ino that applications see
HotIno = NewType("HotIno", int)  # inode number of a file in the hot directory
Handle = NewType("Handle", int)  # FUSE file handle
Fd = NewType("Fd", int)  # descriptor of this process


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells that hot bytes are still the ones that were archived.

    ctime cannot be set by an application, so a write is noticed even when tierfs did not see it.
    """

    ino: HotIno
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat(2) and getxattr(2) say of a regular file; sizes in bytes, times in nanoseconds since the epoch."""

    mode: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


#: Extended attributes that tierfs answers itself (mount/labels.py): never stored, so a file's own of that name are not.
OWN_XATTRS = b"user.tierfs."

_NOBODY = 2**32 - 1  # no user has this number: to chown(2) it means "as it is"
_LONGEST_NAME, _LONGEST_VALUE = 255, 65536  # bytes: XATTR_NAME_MAX, XATTR_SIZE_MAX (linux/limits.h)


def is_number(number: int) -> bool:
    """Whether the catalog can hold a number: it has 64 bits."""
    return -(2**63) <= number < 2**63


def is_mode(mode: int) -> bool:
    """Whether st_mode can be this: a kind of file and its permissions, in 16 bits."""
    return 0 <= mode < 1 << 16


def are_owners(uid: int, gid: int) -> bool:
    """Whether there can be such a user and such a group."""
    return 0 <= uid < _NOBODY and 0 <= gid < _NOBODY


def are_xattrs(xattrs: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Whether a file can have extended attributes of such names and sizes."""
    return all(0 < len(n) <= _LONGEST_NAME and b"\0" not in n and len(v) <= _LONGEST_VALUE for n, v in xattrs)


def is_possible(a: Attributes) -> bool:
    """Whether a regular file can have these attributes: whoever may write to the bucket may have made them up."""
    is_file = is_mode(a.mode) and stat.S_ISREG(a.mode) and a.size >= 0
    are_numbers = all(map(is_number, (a.size, a.atime_ns, a.mtime_ns, a.ctime_ns)))
    return is_file and are_numbers and are_owners(a.uid, a.gid) and are_xattrs(a.xattrs)


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One object in the bucket that holds the bytes of a file.

    `sha256` and `crcs` (CRC-32 of each chunk, 4 bytes little-endian each) are empty for objects of others.
    """

    key: str
    etag: str
    size: int
    version_id: str | None = None
    chunk_size: int = 0
    sha256: bytes = b""
    crcs: bytes = b""

    def crc_of(self, index: int) -> int | None:
        """CRC-32 of chunk `index`, None where it is not known."""
        packed = self.crcs[4 * index : 4 * index + 4]
        return int.from_bytes(packed, "little") if packed else None


@dataclass(frozen=True, slots=True)
class Record:
    """The catalog's truth about one file that is, or was, archived.

    `identity` is that of the hot bytes when last seen; it vouches for the object in ARCHIVING and MIRRORED only.
    `misplaced` says that the object may not have the key that the path asks for; `restored_ns` when the hot bytes last
    came back, in nanoseconds since the epoch, 0 for never.
    INVARIANT: `object` is set in MIRRORED, COLD and RESTORING. An empty ETag (in HOT, ARCHIVING, LOST) says that the
    object under this key, if there is one, does not hold the bytes of the file.
    """

    path: bytes
    ino: Ino
    residency: Residency
    attributes: Attributes
    object: ObjectRef | None = None
    identity: Identity | None = None
    misplaced: bool = False
    restored_ns: int = 0


def believed(record: Record | None, identity: Identity) -> Residency:
    """Where the bytes of a file with hot bytes of this identity are: what a record of others says is not believed."""
    if record is None or record.identity != identity:
        return Residency.HOT
    return record.residency if record.residency in (Residency.ARCHIVING, Residency.MIRRORED) else Residency.HOT


def is_same_upload(started: Record, now: Record) -> bool:
    """Whether `now` still waits for the upload that began with `started`: the same inode, under the same key.

    The upload holds the inode open, so no other file can have got it.
    """
    if now.residency is not Residency.ARCHIVING or not (now.identity and started.identity):
        return False
    keys = {record.object.key if record.object else "" for record in (started, now)}
    return now.identity.ino == started.identity.ino and len(keys) == 1


def why_lost(record: Record) -> str:
    """Why the bytes of a LOST file cannot be had, as the part of a sentence."""
    if record.object is None or not record.object.etag:
        return "its hot bytes went away behind the mount, and the bucket has an older version at best"
    return f"its object {record.object.key} is gone from the bucket"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """An object that the tree no longer names and the bucket still holds."""

    key: str
    since_ns: int
