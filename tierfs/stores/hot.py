"""The hot tier: the SSD directory, seen through one descriptor that was opened before the mount covered it.

Every path is relative to that descriptor and every component is opened with O_NOFOLLOW, so no symlink, not even one
that is swapped in at the worst moment, leads out of the directory. Methods raise OSError as the system call gave it.
"""

import ctypes
import errno
import fcntl
import os
import signal
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tierfs.core.records import OWN_XATTRS, Attributes, Fd, HotIno, Identity

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FORGOTTEN_AFTER = 512  # directory descriptors kept; a process has 1024 by default

_IN_MEMORY = (0x01021994, 0x858458F6)  # linux/magic.h: tmpfs, ramfs
_LARGEST_STATFS = 256  # bytes; its first word is the type

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = _libc.renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


def split(path: bytes) -> tuple[bytes, bytes]:
    """The directory and the name of a path; both empty for the root."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def join(directory: bytes, name: bytes) -> bytes:
    """The path of `name` in `directory`."""
    return directory + b"/" + name if directory else name


def directories_above(path: bytes) -> Iterator[bytes]:
    """The directories that a path leads through, the nearest first, without the root."""
    while path := split(path)[0]:
        yield path


def identity_of(st: os.stat_result) -> Identity:
    """The identity of the hot bytes that `st` describes."""
    return Identity(HotIno(st.st_ino), st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def is_in_memory(path: str) -> bool:
    """Whether a directory is on a filesystem that keeps its bytes in memory. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _filesystem_of(fd) in _IN_MEMORY
    finally:
        os.close(fd)


def _filesystem_of(fd: int) -> int:
    """The magic number of a filesystem, 0 where it cannot be had."""
    found = ctypes.create_string_buffer(_LARGEST_STATFS)
    return ctypes.c_long.from_buffer(found).value if _libc.fstatfs(fd, found) == 0 else 0


def by_fd(fd: int, name: bytes = b"") -> bytes:
    """A path that the kernel resolves through an open descriptor, for calls that take no dir_fd."""
    return b"/proc/self/fd/%d/%s" % (fd, name) if name else b"/proc/self/fd/%d" % fd


class HotTier:
    """Owns the descriptor of the hot directory and a bounded set of descriptors below it.

    INVARIANT: with the descriptor of a directory those of the directories above it are kept.
    """

    def __init__(self, root: Fd) -> None:
        self.root = root
        self.device = os.fstat(root).st_dev
        self.is_in_memory = _filesystem_of(root) in _IN_MEMORY
        self.changes = 0  # of names and attributes, made through this object
        self._directories: OrderedDict[bytes, int] = OrderedDict()

    def close(self) -> None:
        """Close every descriptor but the root's, which belongs to the caller."""
        for fd in self._directories.values():
            os.close(fd)
        self._directories.clear()

    def for_thread(self) -> "HotTier":
        """Another view of the same directory, for use in another thread: this object is not thread-safe."""
        return HotTier(self.root)

    # -- directories ---------------------------------------------------------------------------------------------

    def directory(self, path: bytes) -> int:
        """A descriptor (O_PATH) of a directory, good until the next call into this object. ENOENT, ENOTDIR."""
        if not path:
            return self.root
        fd = self._directories.get(path)
        if fd is None:
            if len(self._directories) >= _FORGOTTEN_AFTER:
                self.forget(next(iter(self._directories)))
            above, name = split(path)
            fd = os.open(name, _DIRECTORY, dir_fd=self.directory(above))
            self._directories[path] = fd
        else:
            self._directories.move_to_end(path)
        return fd

    def forget(self, path: bytes) -> None:
        """Drop the descriptors of a directory that was renamed or removed, and of all below it."""
        if path not in self._directories:
            return
        below = path + b"/"
        for known in [p for p in self._directories if p == path or p.startswith(below)]:
            os.close(self._directories.pop(known))

    def at(self, path: bytes) -> tuple[int, bytes]:
        """The directory descriptor and the name with which an *at() call reaches `path`."""
        if not path:
            return self.root, b"."
        above, name = split(path)
        return self.directory(above), name

    def scan(self, path: bytes) -> Iterator[os.DirEntry[str]]:
        """The entries of a directory; os.fsencode() gives their names as bytes."""
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.directory(path))
        try:
            with os.scandir(fd) as entries:
                yield from entries
        finally:
            os.close(fd)

    # -- attributes ----------------------------------------------------------------------------------------------

    def statvfs(self) -> os.statvfs_result:
        """statvfs(3)."""
        return os.fstatvfs(self.root)

    def lstat(self, path: bytes) -> os.stat_result:
        """lstat(2)."""
        fd, name = self.at(path)
        return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def lstat_or_none(self, path: bytes) -> os.stat_result | None:
        """lstat(2); None where there is nothing of that name, or no directory to hold it."""
        try:
            return self.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def pinned(self, path: bytes) -> Iterator[bytes]:
        """A path through /proc that means this very file (a symlink itself, not its target) while the block runs."""
        fd, name = self.at(path)
        pin = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            yield by_fd(pin)
        finally:
            os.close(pin)

    def chmod(self, path: bytes, mode: int) -> None:
        """chmod(2)."""
        self.changes += 1
        with self.pinned(path) as exact:
            os.chmod(exact, mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """lchown(2); -1 leaves an owner as it is."""
        self.changes += 1
        fd, name = self.at(path)
        os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """utimensat(2), not following symlinks."""
        self.changes += 1
        fd, name = self.at(path)
        os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=fd, follow_symlinks=False)

    def truncate(self, path: bytes, size: int) -> None:
        """truncate(2)."""
        fd = self.open(path, os.O_WRONLY)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def listxattr(self, path: bytes) -> list[bytes]:
        """llistxattr(2)."""
        fd, name = self.at(path)
        return [os.fsencode(n) for n in os.listxattr(by_fd(fd, name), follow_symlinks=False)]

    def getxattr(self, path: bytes, attribute: bytes) -> bytes:
        """lgetxattr(2)."""
        fd, name = self.at(path)
        return os.getxattr(by_fd(fd, name), attribute, follow_symlinks=False)

    def setxattr(self, path: bytes, attribute: bytes, value: bytes, flags: int = 0) -> None:
        """lsetxattr(2)."""
        self.changes += 1
        fd, name = self.at(path)
        os.setxattr(by_fd(fd, name), attribute, value, flags, follow_symlinks=False)

    def removexattr(self, path: bytes, attribute: bytes) -> None:
        """lremovexattr(2)."""
        self.changes += 1
        fd, name = self.at(path)
        os.removexattr(by_fd(fd, name), attribute, follow_symlinks=False)

    def attributes(self, path: bytes, st: os.stat_result) -> Attributes:
        """All that a record keeps of a regular file, extended attributes included."""
        try:
            names = self.listxattr(path)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            names = []
        kept = sorted(name for name in names if not name.startswith(OWN_XATTRS))
        xattrs = tuple((name, self.getxattr(path, name)) for name in kept)
        return Attributes(
            st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns, xattrs
        )

    @contextmanager
    def keeping_directory_times(self, path: bytes) -> Iterator[None]:
        """Keep the times of the directory of `path`: that the bytes of a file move is no change of its directory.

        Only the owner of a directory and root may set its times; for others they change.
        """
        fd, _ = self.at(path)
        directory = os.dup(fd)
        try:
            before = os.fstat(directory)
            yield
            with suppress(OSError):  # the file has moved already: nothing of it may fail any more
                os.utime(by_fd(directory), ns=(before.st_atime_ns, before.st_mtime_ns))
        finally:
            os.close(directory)

    def touch_directory(self, path: bytes, now_ns: int) -> None:
        """A name without hot bytes came to, or went from, the directory of `path`: its times say so."""
        fd, _ = self.at(path)
        os.utime(by_fd(fd), ns=(os.fstat(fd).st_atime_ns, now_ns))

    # -- names ---------------------------------------------------------------------------------------------------

    def mkdir(self, path: bytes, mode: int) -> None:
        """mkdir(2)."""
        self.changes += 1
        fd, name = self.at(path)
        os.mkdir(name, mode, dir_fd=fd)

    def make_directories(self, path: bytes) -> None:
        """Make a directory and what is missing above it. FileExistsError where a file is in the way."""
        if not path or self.lstat_or_none(path) is not None:
            if path and not stat.S_ISDIR(self.lstat(path).st_mode):
                raise FileExistsError(errno.EEXIST, "a file is where a directory is needed", os.fsdecode(path))
            return
        self.make_directories(split(path)[0])
        self.mkdir(path, 0o755)

    def rmdir(self, path: bytes) -> None:
        """rmdir(2)."""
        self.changes += 1
        fd, name = self.at(path)
        os.rmdir(name, dir_fd=fd)
        self.forget(path)

    def unlink(self, path: bytes) -> None:
        """unlink(2)."""
        self.changes += 1
        fd, name = self.at(path)
        os.unlink(name, dir_fd=fd)

    def rename(self, source: bytes, target: bytes, flags: int = 0) -> None:
        """renameat2(2)."""
        self.changes += 1
        (source_above, source_name), (target_above, target_name) = split(source), split(target)
        source_fd = target_fd = self.directory(source_above)
        if source_above != target_above:
            source_fd = os.dup(source_fd)  # resolving the target may close it
        try:
            target_fd = self.directory(target_above)
            if _renameat2(source_fd, source_name, target_fd, target_name, flags):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), os.fsdecode(source), None, os.fsdecode(target))
        finally:
            if source_above != target_above:
                os.close(source_fd)
        self.forget(source)
        self.forget(target)

    def link(self, source: bytes, target: bytes) -> None:
        """linkat(2), of the file itself."""
        with self.pinned(source) as exact:
            self._link_descriptor(exact, target)

    def symlink(self, destination: bytes, path: bytes) -> None:
        """symlink(2)."""
        self.changes += 1
        fd, name = self.at(path)
        os.symlink(destination, name, dir_fd=fd)

    def readlink(self, path: bytes) -> bytes:
        """readlink(2)."""
        fd, name = self.at(path)
        return os.readlink(name, dir_fd=fd)

    def mknod(self, path: bytes, mode: int, device: int) -> None:
        """mknod(2)."""
        self.changes += 1
        fd, name = self.at(path)
        os.mknod(name, mode, device, dir_fd=fd)

    # -- files ---------------------------------------------------------------------------------------------------

    def open(self, path: bytes, flags: int, mode: int = 0) -> Fd:
        """open(2), never following a symlink (ELOOP), and never waiting: a file may have become a fifo behind us."""
        self.changes += bool(flags & os.O_CREAT)
        fd, name = self.at(path)
        return Fd(os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=fd))

    def temporary(self, directory: bytes) -> Fd:
        """A nameless file (O_TMPFILE) that link_temporary() gives a name in `directory`."""
        return Fd(os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self.directory(directory)))

    def link_temporary(self, fd: Fd, path: bytes) -> None:
        """Give a nameless file its name. EEXIST when the name is taken."""
        self._link_descriptor(by_fd(fd), path)

    def why_busy(self, path: bytes) -> str:
        """Why the bytes of a file that this process believes closed may still be in use; empty when they cannot.

        A mapping of a file that the kernel passes through outlives its handle: only the kernel knows of it. Without
        the file's inode its stores would be lost, and its loads would be of bytes that others have changed since. A
        write lease is refused while anybody else has the file open or mapped (fcntl(2), F_SETLEASE). Where leases may
        not be used (EACCES, EINVAL) there is no passthrough either.
        """
        fd = self.open(path, os.O_RDONLY)
        try:
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # to an opener in between; SIGIO would end the process
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return "open or mapped" if error.errno == errno.EAGAIN else ""
        finally:
            os.close(fd)
        return ""

    def open_directory(self, path: bytes) -> Fd:
        """A descriptor of a directory that can be read and synced; it belongs to the caller."""
        return Fd(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.directory(path)))

    def sync_directory(self, path: bytes) -> None:
        """fsync(2) of a directory: the names in it are durable."""
        fd = self.open_directory(path)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _link_descriptor(self, exact: bytes, target: bytes) -> None:
        self.changes += 1
        fd, name = self.at(target)
        os.link(exact, name, dst_dir_fd=fd, follow_symlinks=True)


def apply_attributes(fd: Fd, attributes: Attributes, before: Attributes | None = None) -> None:
    """Give an open file the owner, mode, extended attributes and times of a record. The times come last.

    `before` is what it was given before: extended attributes that are gone since are removed.
    """
    os.fchown(fd, attributes.uid, attributes.gid)
    for name in dict(before.xattrs).keys() - dict(attributes.xattrs).keys() if before else ():
        os.removexattr(fd, name)
    for name, value in attributes.xattrs:
        os.setxattr(fd, name, value)
    os.fchmod(fd, stat.S_IMODE(attributes.mode))
    os.utime(fd, ns=(attributes.atime_ns, attributes.mtime_ns))
