"""The lease of a cold store in a directory: a file that is replaced under flock(2)."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tierfs.core.errors import AccessDenied, BucketMissing, ObjectChanged, StoreUnavailable
from tierfs.core.lease import KEY, Found, Lease
from tierfs.stores.directory_layout import (
    DIRECTORY,
    RESERVED,
    explain,
    make_directory,
    stat_or_none,
    sync_directory,
    write_all,
)

_LEASE = RESERVED + b"/" + KEY.encode()
_FRESH = _LEASE + b".new"
_LOCK = _LEASE + b".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_LONGEST = 1 << 16


class DirectoryLeasePlace:
    """LeasePlace in a directory. `is_known`: objects were written there, so an empty one is a disk that is missing."""

    def __init__(self, directory: str, is_known: bool) -> None:
        self.name = f"directory {directory}"
        self._directory = directory
        self._is_known = is_known
        self._has_locks = True

    def read(self) -> Found | None:
        """See LeasePlace. The age is between two times of the filesystem."""
        with self._opened() as root, self._locked(root) as lock:
            return _read(root, lock)

    def write(self, text: str, tag: str | None) -> str:
        """See LeasePlace. The tag is the text."""
        with self._opened() as root, self._locked(root) as lock:
            found = _read(root, lock)
            if (found.tag if found else None) != tag:
                raise ObjectChanged(f"{self.name}: somebody else wrote the lease")
            with suppress(FileNotFoundError):
                os.unlink(_FRESH, dir_fd=root)
            fd = os.open(_FRESH, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root)
            try:
                write_all(fd, text.encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(_FRESH, _LEASE, src_dir_fd=root, dst_dir_fd=root)
            sync_directory(RESERVED, root)
        return text

    def is_exact(self, text: str) -> bool:
        """See LeasePlace: whether the filesystem has locks."""
        return self._has_locks

    def close(self) -> None:
        """Nothing stays open."""

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            root = os.open(self._directory, DIRECTORY)
        except OSError as error:
            raise BucketMissing(f"cannot open the {self.name}: {error.strerror}") from error
        try:
            if stat_or_none(RESERVED, root) is None:
                if self._is_known:
                    raise BucketMissing(f"the {self.name} is not the store that it was: is its disk mounted?")
                make_directory(RESERVED, root)
            yield root
        except OSError as error:
            kind, why = explain(error, writing=True)
            raise (kind if kind is AccessDenied else StoreUnavailable)(
                f"cannot use the lease in the {self.name}: {why}"
            ) from error
        finally:
            os.close(root)

    @contextmanager
    def _locked(self, root: int) -> Iterator[int]:
        lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=root)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                self._has_locks = False
            yield lock
        finally:
            os.close(lock)


def _read(root: int, lock: int) -> Found | None:
    try:
        fd = os.open(_LEASE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        return None
    try:
        text = os.read(fd, _LONGEST).decode(errors="replace")
        os.utime(lock)
        age_ns = os.fstat(lock).st_mtime_ns - os.fstat(fd).st_mtime_ns
        return Found(Lease.parse(text), text, max(0, age_ns))
    finally:
        os.close(fd)
