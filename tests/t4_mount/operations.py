"""Every system call on files, times every kind of file: what is done, and what it looks like afterwards.

A case is one operation in a fresh directory that holds what the operation works on. The same cases run in a plain
directory and in a mount; nothing in what they return depends on where they ran.
"""

import ctypes
import errno
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

CONTENT = b"0123456789" * 3
XATTR = b"user.own.test"
NOREPLACE, EXCHANGE = 1, 2
_PAST_NS = 1_600_000_000_123_456_789

_libc = ctypes.CDLL(None, use_errno=True)
_libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


def below(directory: Path | str) -> list[str]:
    """All names below a directory, each before what is in it."""
    found = []
    for entry in sorted(os.scandir(directory), key=lambda one: one.name):
        found.append(entry.path)
        if entry.is_dir(follow_symlinks=False):
            found += below(entry.path)
    return found


def rename2(source: str, target: str, flags: int) -> None:
    """renameat2(2)."""
    if _libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# -- what the operations work on ---------------------------------------------------------------------------------------


def _file(path: Path, mode: int = 0o644, content: bytes = CONTENT) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def _full(path: Path) -> None:
    path.mkdir()
    _file(path / "x")


def _linked(path: Path) -> None:
    _file(path)
    os.link(path, path.with_name(path.name + ".other"))


def _link_to(path: Path, make: Callable[[Path], object]) -> None:
    target = path.with_name(path.name + ".target")
    make(target)
    path.symlink_to(target.name)


def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o644)


def _with_xattr(path: Path) -> None:
    _file(path)
    os.setxattr(path, XATTR, b"value")


def _directory(path: Path, mode: int) -> None:
    _full(path)
    path.chmod(mode)


@dataclass(frozen=True, slots=True)
class Object:
    """A kind of file. The operation is given its name and `suffix`; `owner_is_root` leaves it to root in any case."""

    make: Callable[[Path], object]
    suffix: str = ""
    owner_is_root: bool = False


OBJECTS: dict[str, Object] = {
    "missing": Object(lambda path: None),
    "file": Object(_file),
    "empty": Object(lambda path: _file(path, content=b"")),
    "mode 0": Object(lambda path: _file(path, 0)),
    "setuid": Object(lambda path: _file(path, 0o6755)),
    "xattr": Object(_with_xattr),
    "hard-linked": Object(_linked),
    "directory": Object(lambda path: path.mkdir()),
    "full directory": Object(_full),
    "link to a file": Object(lambda path: _link_to(path, _file)),
    "link to a directory": Object(lambda path: _link_to(path, _full)),
    "dangling link": Object(lambda path: path.symlink_to("nowhere")),
    "loop": Object(lambda path: path.symlink_to(path.name)),
    "fifo": Object(os.mkfifo),
    "socket": Object(_socket),
    "below a file": Object(_file, "/x"),
    "below nothing": Object(lambda path: None, "/x"),
    "in a directory": Object(_full, "/x"),
    "file/": Object(_file, "/"),
    "directory/": Object(_full, "/"),
    "root's file": Object(_file, owner_is_root=True),
    "root's closed file": Object(lambda path: _file(path, 0o600), owner_is_root=True),
    "in root's directory": Object(_full, "/x", owner_is_root=True),
    "new in root's directory": Object(_full, "/new", owner_is_root=True),
    "in a sticky directory": Object(lambda path: _directory(path, 0o1777), "/x", owner_is_root=True),
    "in a closed directory": Object(lambda path: _directory(path, 0o700), "/x", owner_is_root=True),
    "new in a setgid directory": Object(lambda path: _directory(path, 0o2777), "/new", owner_is_root=True),
}

#: Kinds that differ from each other when they meet a second name.
PAIRED = (
    *("missing", "file", "empty", "hard-linked", "directory", "full directory", "link to a file", "dangling link"),
    *("fifo", "in a directory", "below a file"),
)
#: Kinds without a file that can go cold: what is done to them alone is the same in all states.
ALWAYS_HOT = frozenset(
    {"missing", "empty", "hard-linked", "directory", "dangling link", "loop", "fifo", "socket", "below nothing"}
)
#: Kinds that differ in what a stranger may do to two names.
PAIRED_FOR_STRANGERS = ("missing", "file", "directory", "root's file", "in root's directory", "in a sticky directory")


def _give(path: str, owner: int) -> None:
    mode = os.lstat(path).st_mode
    os.lchown(path, owner, owner)
    if stat.S_ISREG(mode):
        os.chmod(path, stat.S_IMODE(mode))  # chown(2) takes setuid away


# -- what is done ------------------------------------------------------------------------------------------------------


def stat_of(st: os.stat_result) -> tuple[int, ...]:
    """What stat(2) says that does not depend on where and when."""
    return st.st_mode, st.st_nlink, st.st_uid, st.st_gid, 0 if stat.S_ISDIR(st.st_mode) else st.st_size


def _opened(path: str, flags: int, use: Callable[[int], Any] = lambda fd: None) -> Any:
    fd = os.open(path, flags | os.O_NONBLOCK, 0o640)
    try:
        return use(fd)
    finally:
        os.close(fd)


def _bind(path: str) -> None:
    # Addresses of Unix sockets are short: through a descriptor of the directory.
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


def _used_after_unlink(path: str) -> Any:
    fd = os.open(path, os.O_RDWR)
    try:
        os.unlink(path)
        os.pwrite(fd, b"xyz", 3)
        os.ftruncate(fd, 12)
        os.fchmod(fd, 0o600)
        return os.pread(fd, 100, 0), stat_of(os.fstat(fd))
    finally:
        os.close(fd)


SINGLE: dict[str, Callable[[str], Any]] = {
    "stat": lambda p: stat_of(os.stat(p)),
    "lstat": lambda p: stat_of(os.lstat(p)),
    "access": lambda p: [os.access(p, mode) for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK, 7)],
    "readlink": os.readlink,
    "listdir": lambda p: sorted(os.listdir(p)),
    "chdir": os.chdir,
    "statvfs": lambda p: os.statvfs(p).f_namemax,
    "read": lambda p: _opened(p, os.O_RDONLY, lambda fd: os.read(fd, 100)),
    "write": lambda p: _opened(p, os.O_WRONLY, lambda fd: os.write(fd, b"abc")),
    "append": lambda p: _opened(p, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"abc")),
    "read and write": lambda p: _opened(p, os.O_RDWR, lambda fd: (os.pwrite(fd, b"abc", 2), os.pread(fd, 9, 0))),
    "write far behind the end": lambda p: _opened(p, os.O_WRONLY, lambda fd: os.pwrite(fd, b"abc", 1000)),
    "create": lambda p: _opened(p, os.O_WRONLY | os.O_CREAT, lambda fd: stat_of(os.fstat(fd))),
    "create anew": lambda p: _opened(p, os.O_RDWR | os.O_CREAT | os.O_EXCL, lambda fd: os.write(fd, b"abc")),
    "create and empty": lambda p: _opened(p, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    "open to empty": lambda p: _opened(p, os.O_WRONLY | os.O_TRUNC),
    "open O_PATH": lambda p: _opened(p, os.O_PATH | os.O_NOFOLLOW, lambda fd: stat_of(os.fstat(fd))),
    "open O_DIRECTORY": lambda p: _opened(p, os.O_RDONLY | os.O_DIRECTORY),
    "fsync": lambda p: _opened(p, os.O_RDONLY, os.fsync),
    "fdatasync": lambda p: _opened(p, os.O_RDONLY, os.fdatasync),
    "fchmod": lambda p: _opened(p, os.O_RDONLY, lambda fd: os.fchmod(fd, 0o700)),
    "ftruncate": lambda p: _opened(p, os.O_RDWR, lambda fd: os.ftruncate(fd, 7)),
    "read beyond the end": lambda p: _opened(p, os.O_RDONLY, lambda fd: os.pread(fd, 10, 1 << 40)),
    "read at a negative offset": lambda p: _opened(p, os.O_RDONLY, lambda fd: os.pread(fd, 10, -1)),
    "lseek to the end": lambda p: _opened(p, os.O_RDWR, lambda fd: os.lseek(fd, 0, os.SEEK_END)),
    "use after unlink": _used_after_unlink,
    "truncate to nothing": lambda p: os.truncate(p, 0),
    "truncate shorter": lambda p: os.truncate(p, 5),
    "truncate longer": lambda p: os.truncate(p, 50),
    "truncate the same": lambda p: os.truncate(p, len(CONTENT)),
    "truncate below nothing": lambda p: os.truncate(p, -1),
    "truncate beyond all sizes": lambda p: os.truncate(p, (1 << 63) - 1),
    "chmod": lambda p: os.chmod(p, 0o600),
    "chmod setuid": lambda p: os.chmod(p, 0o6711),
    "chown to myself": lambda p: os.chown(p, os.getuid(), os.getgid()),
    "chown nothing": lambda p: os.chown(p, -1, -1),
    "chown to another": lambda p: os.chown(p, 7, -1),
    "chgrp to another": lambda p: os.chown(p, -1, 7),
    "lchown": lambda p: os.lchown(p, 7, 8),
    "utime now": os.utime,
    "utime": lambda p: os.utime(p, ns=(1_500_000_000_000_000_001, 1_500_000_000_000_000_002)),
    "utime before 1970": lambda p: os.utime(p, ns=(-1_500_000_001, -2_500_000_002)),
    "utime of the link": lambda p: os.utime(p, ns=(1, 2), follow_symlinks=False),
    "mkdir": lambda p: os.mkdir(p, 0o750),
    "mkdir setgid": lambda p: os.mkdir(p, 0o2777),
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "mkfifo": lambda p: os.mkfifo(p, 0o640),
    "mknod file": lambda p: os.mknod(p, stat.S_IFREG | 0o666),
    "mknod device": lambda p: os.mknod(p, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "bind": _bind,
    "symlink": lambda p: os.symlink("somewhere", p),
    "symlink to nothing": lambda p: os.symlink("", p),
    "link": lambda p: os.link(p, os.path.join(os.path.dirname(p.rstrip("/")), "new"), follow_symlinks=False),
    "rename": lambda p: os.rename(p, os.path.join(os.path.dirname(p.rstrip("/")), "new")),
    "rename to itself": lambda p: os.rename(p, p),
    "rename into itself": lambda p: os.rename(p, p + "/new"),
    "rename over what is above": lambda p: os.rename(p, os.path.dirname(p.rstrip("/"))),
    "rename to a dot": lambda p: os.rename(p, os.path.dirname(p.rstrip("/")) + "/."),
    "rename with a bad flag": lambda p: rename2(p, p + ".new", 64),
    "exchange with itself": lambda p: rename2(p, p, EXCHANGE),
    "getxattr": lambda p: os.getxattr(p, XATTR),
    "listxattr": lambda p: sorted(name for name in os.listxattr(p) if not name.startswith("security.")),
    "setxattr": lambda p: os.setxattr(p, XATTR, b"abc"),
    "setxattr create": lambda p: os.setxattr(p, XATTR, b"abc", os.XATTR_CREATE),
    "setxattr replace": lambda p: os.setxattr(p, XATTR, b"abc", os.XATTR_REPLACE),
    "setxattr empty": lambda p: os.setxattr(p, XATTR, b""),
    "setxattr trusted": lambda p: os.setxattr(p, b"trusted.tierfs", b"abc"),
    "setxattr of no namespace": lambda p: os.setxattr(p, b"nonsense", b"abc"),
    "setxattr too large": lambda p: os.setxattr(p, XATTR, b"x" * 65537),
    "setxattr of the link": lambda p: os.setxattr(p, XATTR, b"abc", follow_symlinks=False),
    "removexattr": lambda p: os.removexattr(p, XATTR),
}

DOUBLE: dict[str, Callable[[str, str], Any]] = {
    "rename": os.rename,
    "rename, no replace": lambda a, b: rename2(a, b, NOREPLACE),
    "exchange": lambda a, b: rename2(a, b, EXCHANGE),
    "exchange, no replace": lambda a, b: rename2(a, b, EXCHANGE | NOREPLACE),
    "link": lambda a, b: os.link(a, b, follow_symlinks=False),
    "rename below": lambda a, b: os.rename(a, b + "/new"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One operation on one or two kinds of files."""

    operation: str
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.operation}({', '.join(self.kinds)})"

    @property
    def is_about_owners(self) -> bool:
        """Whether it may matter who does it."""
        return any(kind in ("file", "mode 0") or OBJECTS[kind].owner_is_root for kind in self.kinds)

    @property
    def is_always_hot(self) -> bool:
        """Whether it needs no cold file."""
        return ALWAYS_HOT.issuperset(self.kinds)

    def make(self, directory: Path, owner: int) -> None:
        """Make the directory of the case and what is in it; everything has old times."""
        directory.mkdir()
        for name, kind in zip("ab", self.kinds, strict=False):
            OBJECTS[kind].make(directory / name)
            if owner and not OBJECTS[kind].owner_is_root:
                for path in below(directory):
                    if os.path.relpath(path, directory)[0] == name:
                        _give(path, owner)
        for path in [*below(directory), str(directory)]:
            os.utime(path, ns=(_PAST_NS, _PAST_NS), follow_symlinks=False)
        os.chown(directory, owner, owner)

    def run(self, directory: Path) -> Any:
        """What the operation returns, or the name of its errno."""
        paths = [f"{directory}/{name}{OBJECTS[kind].suffix}" for name, kind in zip("ab", self.kinds, strict=False)]
        try:
            if len(paths) == 1:
                return SINGLE[self.operation](paths[0])
            return DOUBLE[self.operation](*paths)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, error)


def cases(is_root: bool) -> list[Case]:
    """All of them; for root, root's own files are like any others."""
    kinds = [kind for kind in OBJECTS if not (is_root and OBJECTS[kind].owner_is_root)]
    paired = PAIRED if is_root else PAIRED_FOR_STRANGERS
    single = [Case(operation, (kind,)) for operation, kind in product(SINGLE, kinds)]
    return single + [Case(operation, (first, second)) for operation, first, second in product(DOUBLE, paired, paired)]
