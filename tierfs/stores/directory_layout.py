"""Where a cold store in a directory keeps what, and how it reads the filesystem's refusals."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tierfs.core.errors import AccessDenied, ObjectMissing, StoreError, StoreRefused, StoreUnavailable
from tierfs.stores.cold import ObjectInfo

#: The directory, beside the objects, that is not one of them.
RESERVED = b".tierfs-store"
ABOUT = RESERVED + b"/about"
#: Where it keeps what is being written.
NEW = RESERVED + b"/new"

#: What would be sent to a bucket where this is done in a directory.
REQUESTS = {
    "write": "PutObject",
    "read back": "PutObject",
    "read": "GetObject",
    "list": "ListObjectsV2",
    "delete": "DeleteObject",
}

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_KINDS: dict[int, tuple[type[StoreError], str]] = {
    errno.ENOENT: (ObjectMissing, "it does not exist"),
    errno.ENOTDIR: (ObjectMissing, "it does not exist"),
    errno.EACCES: (AccessDenied, "permission denied; check owner and mode of the directory"),
    errno.EPERM: (AccessDenied, "permission denied; check owner and mode of the directory"),
    errno.EROFS: (AccessDenied, "the filesystem is read-only"),
    errno.EISDIR: (StoreRefused, "there is a directory of that name: other objects are below it"),
    errno.ELOOP: (StoreRefused, "there is a symbolic link on the way, which tierfs does not follow"),
    errno.ENAMETOOLONG: (StoreRefused, "a part of the name is longer than the filesystem allows"),
    errno.ENOSPC: (StoreUnavailable, "the filesystem is full; make room"),
    errno.EDQUOT: (StoreUnavailable, "the quota is used up; make room"),
}


def split_key(key: str) -> tuple[bytes, ...]:
    """The parts of the path of a key. StoreRefused when they do not make a path inside the directory."""
    try:
        parts = tuple(key.encode().split(b"/"))
    except UnicodeEncodeError:
        raise StoreRefused(f"the key {key!r} is not Unicode text") from None
    if b"\0" in key.encode() or any(part in (b"", b".", b"..") for part in parts):
        raise StoreRefused(f"the key {key!r} cannot be a file: it has an empty part, '.', '..' or a NUL byte")
    if parts[0] == RESERVED:
        raise StoreRefused(f"the key {key!r} lies where tierfs keeps what it knows about the objects")
    return parts


@dataclass(frozen=True, slots=True)
class About:
    """What is stored beside a body. INVARIANT: `etag` is new with every put."""

    etag: str
    metadata: Mapping[str, str]

    def format(self, key: str) -> bytes:
        """The text of the description of `key`."""
        return json.dumps({"key": key, "etag": self.etag, "metadata": dict(self.metadata)}).encode()

    @classmethod
    def parse(cls, key: str, text: bytes) -> "About | None":
        """What format() wrote; None when it is something else, or about another key."""
        try:
            stored = json.loads(text)
            return cls(str(stored["etag"]), dict(stored["metadata"])) if stored["key"] == key else None
        except (ValueError, KeyError, TypeError):
            return None


def about_path(key: str, body: os.stat_result) -> bytes:
    """Where the description of this body of `key` is, relative to the directory."""
    name = hashlib.sha256(key.encode()).hexdigest()[:40].encode()
    return b"%s/%s/%s-%x-%x" % (ABOUT, name[:2], name, body.st_mtime_ns, body.st_size)


def write_about(root: int, key: str, about: About, body: os.stat_result) -> None:
    """Describe a body that is about to be the object `key`, and make that durable. OSError."""
    path, name = about_path(key, body), b"%s/%s" % (NEW, secrets.token_hex(16).encode())
    directory = os.path.dirname(path)
    if stat_or_none(directory, root) is None:
        make_directory(directory, root)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root)
    try:
        write_all(fd, about.format(key))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(name, path, src_dir_fd=root, dst_dir_fd=root)
    sync_directory(directory, root)


def forget_about(root: int, key: str, body: os.stat_result) -> None:
    """Drop the description of a body that is no object any more. OSError."""
    with suppress(FileNotFoundError):
        os.unlink(about_path(key, body), dir_fd=root)


def explain(error: OSError, writing: bool) -> tuple[type[StoreError], str]:
    """Which error a refusal of the filesystem is, and why in words."""
    if writing and error.errno == errno.ENOTDIR:
        return StoreRefused, "an object has the name of a directory on the way"
    if writing and error.errno == errno.ENOENT:
        return StoreUnavailable, "the directory changed meanwhile"
    known = _KINDS.get(error.errno or 0)
    return known or (StoreUnavailable, os.strerror(error.errno or errno.EIO))


def stat_or_none(path: bytes, fd: int) -> os.stat_result | None:
    """lstat(2) below an open directory; None when there is nothing. OSError."""
    try:
        return os.stat(path, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


@contextmanager
def parent_of(root: int, parts: tuple[bytes, ...], create: bool = False) -> Iterator[int]:
    """The directory of an object, reached part by part, so that no symbolic link leads out. OSError."""
    fd = os.dup(root)
    try:
        for part in parts[:-1]:
            if create and stat_or_none(part, fd) is None:
                make_directory(part, fd)
            fd, last = os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=fd), fd
            os.close(last)
        yield fd
    finally:
        os.close(fd)


def walk_below(fd: int) -> Generator[tuple[bytes, list[bytes], list[bytes], int], None, None]:
    """os.fwalk of an open directory: by descriptors, so that a rename meanwhile cannot lead it elsewhere. OSError."""

    def fail(error: OSError) -> None:
        if error.errno != errno.ENOENT:  # what cannot be read must not look empty, what vanished meanwhile may
            raise error

    yield from os.fwalk(b".", onerror=fail, dir_fd=fd)


def make_directory(path: bytes, fd: int) -> None:
    """A directory that is still there after a crash. OSError."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700, dir_fd=fd)
    sync_directory(os.path.dirname(path) or b".", fd)


def sync_directory(path: bytes, fd: int) -> None:
    """fsync(2) a directory: what was renamed into it stays. OSError."""
    directory = os.open(path, DIRECTORY, dir_fd=fd)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_empty(root: int, parts: tuple[bytes, ...]) -> None:
    """Remove directories that are empty, so that an object may get the name of one: S3 knows no directories."""
    for end in range(len(parts), 0, -1):
        try:
            with parent_of(root, parts[:end]) as parent:
                os.rmdir(parts[end - 1], dir_fd=parent)
        except OSError:
            return  # not empty, most of the time


def remove_leftovers(path: bytes, root: int, before_s: float) -> None:
    """Remove the files of a directory that did not change since `before_s`: a crash left them half-written. OSError."""
    fd = os.open(path, DIRECTORY, dir_fd=root)
    try:
        for name in os.listdir(fd):
            found = stat_or_none(os.fsencode(name), fd)
            if found is not None and found.st_mtime < before_s:
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)


def write_all(fd: int, block: bytes) -> None:
    """Write all of a block at the file's position. OSError."""
    view = memoryview(block)
    while view:
        view = view[os.write(fd, view) :]


class OpenFile:
    """A Source: an open descriptor of a regular file, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)


class Bytes:
    """A Source: bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]


def info_of(key: str, body: os.stat_result, about: About | None) -> ObjectInfo:
    """What a store knows of an object: its body, and its description where it has one."""
    etag = about.etag if about else f"{body.st_size:x}-{body.st_mtime_ns:x}"
    metadata = about.metadata if about else {}
    return ObjectInfo(key, body.st_size, etag, modified_ns=body.st_mtime_ns, metadata=metadata)
