"""Files and directories that are removed, replaced or renamed while they are open: stories, told to both."""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.t4_mount.comparison import CaseLike, Told, differences, run_natively
from tests.t4_mount.operations import EXCHANGE, rename2, stat_of

pytestmark = pytest.mark.mount

CONTENT = bytes(range(256)) * 50  # a few chunks, the last one short
OTHER = b"other" * 2000
XATTR = "user.own.test"


class Teller:
    """Collects what each step of a story returned, or its errno; closes what it opened."""

    def __init__(self, directory: Path) -> None:
        self.a, self.b, self.d = directory / "a", directory / "b", directory / "d"
        self.told: list[Any] = []
        self._open: list[int] = []

    def step(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Make a call and write down what came of it."""
        try:
            value = call(*arguments, **keywords)
        except OSError as error:
            self.told.append((call.__name__, errno.errorcode[error.errno or 0]))
            return None
        shown = stat_of(value) if isinstance(value, os.stat_result) else value
        self.told.append((call.__name__, shown))
        return value

    def open(self, path: Path | str, flags: int) -> int:
        """Open, and close at the end of the story."""
        fd = os.open(path, flags, 0o640)
        self._open.append(fd)
        return fd

    def look(self, fd: int) -> None:
        """What fstat and a read of everything say."""
        self.step(os.fstat, fd)
        self.step(os.pread, fd, 1 << 20, 0)

    def close(self) -> None:
        """Close what the story opened."""
        for fd in self._open:
            os.close(fd)


def read_after_unlink(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDONLY)
    t.step(os.unlink, t.a)
    t.look(fd)
    t.step(os.pread, fd, 100, 5000)
    t.step(os.pread, fd, 100, len(CONTENT))
    t.step(os.stat, t.a)
    t.step(os.write, fd, b"x")


def write_after_unlink(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDWR)
    t.step(os.unlink, t.a)
    t.step(os.pwrite, fd, b"new", 4095)
    t.look(fd)
    t.step(os.fsync, fd)


def write_only_after_unlink(t: Teller) -> None:
    reader, writer = t.open(t.a, os.O_RDONLY), t.open(t.a, os.O_WRONLY | os.O_APPEND)
    t.step(os.unlink, t.a)
    t.step(os.write, writer, b"end")
    t.look(reader)


def write_before_and_after_unlink(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDWR)
    t.step(os.pwrite, fd, b"one", 0)
    t.step(os.unlink, t.a)
    t.step(os.pwrite, fd, b"two", 10)
    t.look(fd)


def truncate_after_unlink(t: Teller) -> None:
    fd, reader = t.open(t.a, os.O_RDWR), t.open(t.a, os.O_RDONLY)
    t.step(os.unlink, t.a)
    for size in (9000, 0, 20):
        t.step(os.ftruncate, fd, size)
        t.look(reader)
    t.step(os.ftruncate, reader, 0)


def empty_after_unlink(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDWR)
    t.step(os.unlink, t.a)
    t.step(os.ftruncate, fd, 0)
    t.step(os.pwrite, fd, b"abc", 2)
    t.look(fd)


def attributes_after_unlink(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDWR)
    os.setxattr(t.a, XATTR, b"before")
    t.step(os.unlink, t.a)
    t.step(os.fchmod, fd, 0o4711)
    t.step(os.fstat, fd)
    t.step(os.fchown, fd, os.getuid(), os.getgid())
    t.step(os.utime, fd, ns=(1_000_000_001, 2_000_000_002))
    t.step(lambda: os.fstat(fd).st_mtime_ns)
    t.step(os.getxattr, fd, XATTR)
    t.step(os.listxattr, fd)
    t.step(os.setxattr, fd, XATTR, b"after")
    t.step(os.getxattr, fd, XATTR)
    t.step(os.removexattr, fd, XATTR)
    t.step(os.getxattr, fd, XATTR)
    t.look(fd)


def link_back(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDWR)
    t.step(os.unlink, t.a)
    t.step(os.link, f"/proc/self/fd/{fd}", t.b, follow_symlinks=True)


def open_again(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDONLY)
    t.step(os.unlink, t.a)
    t.step(os.stat, f"/proc/self/fd/{fd}")
    again = t.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    t.look(again)
    t.step(os.pwrite, again, b"xyz", 1)
    t.look(fd)
    t.step(os.truncate, f"/proc/self/fd/{fd}", 3)
    t.look(fd)


def open_again_to_empty(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDONLY)
    t.step(os.unlink, t.a)
    t.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC)
    t.look(fd)


def a_new_file_of_that_name(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDWR)
    t.step(os.unlink, t.a)
    fresh = t.open(t.a, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    t.step(os.write, fresh, b"fresh")
    t.step(os.pwrite, fd, b"stale", 0)
    t.look(fd)
    t.look(fresh)
    t.step(lambda: os.fstat(fd).st_ino == os.fstat(fresh).st_ino)


def rename_over_an_open_file(t: Teller) -> None:
    reader, writer, moved = t.open(t.a, os.O_RDONLY), t.open(t.a, os.O_RDWR), t.open(t.b, os.O_RDWR)
    t.step(os.rename, t.b, t.a)
    t.step(os.pwrite, moved, b"moved", 3)
    t.step(os.pwrite, writer, b"gone", 7)
    for fd in (reader, writer, moved):
        t.look(fd)
    t.step(lambda: os.fstat(moved).st_ino == os.stat(t.a).st_ino)
    t.step(os.stat, t.b)


def exchange_open_files(t: Teller) -> None:
    first, second = t.open(t.a, os.O_RDWR), t.open(t.b, os.O_RDWR)
    t.step(rename2, str(t.a), str(t.b), EXCHANGE)
    t.step(os.pwrite, first, b"first", 0)
    t.step(os.pwrite, second, b"second", 0)
    t.look(first)
    t.look(second)
    t.step(Path.read_bytes, t.a)
    t.step(Path.read_bytes, t.b)


def rename_an_open_file(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDWR)
    t.step(os.rename, t.a, t.d / "c")
    t.step(os.pwrite, fd, b"later", 4094)
    t.look(fd)
    t.step(Path.read_bytes, t.d / "c")


def rename_the_directory_of_an_open_file(t: Teller) -> None:
    fd = t.open(t.d / "x", os.O_RDWR)
    t.step(os.rename, t.d, t.d.with_name("e"))
    t.step(os.pwrite, fd, b"later", 4094)
    t.look(fd)
    t.step(Path.read_bytes, t.d.with_name("e") / "x")
    t.step(os.stat, t.d)


def unlink_one_of_two_names(t: Teller) -> None:
    os.link(t.a, t.d / "second")
    fd = t.open(t.a, os.O_RDWR)
    t.step(os.unlink, t.a)
    t.step(os.pwrite, fd, b"both", 0)
    t.look(fd)
    t.step(Path.read_bytes, t.d / "second")
    t.step(os.unlink, t.d / "second")
    t.look(fd)


def map_after_unlink(t: Teller) -> None:
    fd = t.open(t.a, os.O_RDWR)
    with mmap.mmap(fd, 0) as view:
        t.step(os.unlink, t.a)
        t.step(view.__getitem__, slice(5000, 5010))
        t.step(view.__setitem__, slice(5000, 5003), b"abc")
        t.step(view.flush)
    t.look(fd)


def temporary_file(t: Teller) -> None:
    fd = t.open(t.d / "tmp", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    t.step(os.unlink, t.d / "tmp")
    t.step(os.write, fd, OTHER)
    t.step(os.lseek, fd, 0, os.SEEK_END)
    t.step(os.ftruncate, fd, 100)
    t.look(fd)
    t.step(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    t.step(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_an_open_directory(t: Teller) -> None:
    fd = t.open(t.d, os.O_RDONLY | os.O_DIRECTORY)
    t.step(os.rmdir, t.d)
    t.step(os.unlink, t.d / "x")
    t.step(os.rmdir, t.d)
    t.step(os.listdir, fd)
    t.step(os.fstat, fd)
    t.step(os.fchmod, fd, 0o711)
    t.step(os.fsync, fd)
    t.step(os.stat, "x", dir_fd=fd)
    t.step(os.open, "new", os.O_CREAT | os.O_RDWR, dir_fd=fd)
    t.step(os.mkdir, "new", dir_fd=fd)
    t.step(os.symlink, "x", "new", dir_fd=fd)
    t.step(os.rename, t.a, "new", dst_dir_fd=fd)
    t.step(os.link, t.a, "new", dst_dir_fd=fd)
    t.step(os.mkdir, t.d)
    t.step(lambda: os.fstat(fd).st_ino == os.stat(t.d).st_ino)


def remove_the_working_directory(t: Teller) -> None:
    os.unlink(t.d / "x")
    os.chdir(t.d)
    t.step(os.rmdir, t.d)
    t.step(os.getcwd)
    t.step(os.listdir, ".")
    t.step(os.stat, ".")
    t.step(os.stat, "x")
    t.step(os.mkdir, "new")
    t.step(lambda: os.stat("..").st_ino == os.stat(t.d.parent).st_ino)
    t.step(os.chdir, "..")
    t.step(lambda: os.getcwd() == os.fspath(t.d.parent))
    os.chdir("/")


def rename_over_an_open_directory(t: Teller) -> None:
    os.mkdir(t.d.with_name("e"))
    fd = t.open(t.d.with_name("e"), os.O_RDONLY | os.O_DIRECTORY)
    t.step(os.rename, t.d, t.d.with_name("e"))
    t.step(os.listdir, fd)
    t.step(os.fstat, fd)
    t.step(os.listdir, t.d.with_name("e"))


def replace_and_read_on(t: Teller) -> None:
    reader = t.open(t.a, os.O_RDONLY)
    t.step(os.read, reader, 10)
    writer = t.open(t.a, os.O_WRONLY | os.O_TRUNC)
    t.step(os.read, reader, 10)
    t.step(os.write, writer, OTHER)
    t.step(os.pread, reader, 10, 100)
    t.look(reader)


STORIES = [value for value in list(globals().values()) if getattr(value, "__annotations__", {}).get("t") is Teller]


@dataclass(frozen=True, slots=True)
class Story:
    """A story, in a directory with the files a and b and the directory d, which holds x."""

    tell: Callable[[Teller], None]

    def __str__(self) -> str:
        return self.tell.__name__

    def make(self, directory: Path, owner: int) -> None:
        """The scene."""
        directory.mkdir()
        (directory / "d").mkdir()
        for name, content in (("a", CONTENT), ("b", OTHER), ("d/x", CONTENT)):
            (directory / name).write_bytes(content)

    def run(self, directory: Path) -> Any:
        """What each step returned."""
        return self.told_by(Teller(directory))

    def told_by(self, teller: Teller) -> Any:
        """What each step returned to this teller."""
        try:
            self.tell(teller)
        except OSError as error:
            teller.told.append(errno.errorcode[error.errno or 0])
        finally:
            teller.close()
        return teller.told


@pytest.fixture(scope="module")
def expected() -> dict[CaseLike, Told]:
    """How the host tells them."""
    return run_natively([Story(tell) for tell in STORIES], os.geteuid())


@pytest.mark.parametrize("passthrough", ["auto", "off"])
@pytest.mark.parametrize("state", ["hot", "warm", "cold"])
def test_stories_end_as_in_a_plain_directory(expected: dict[CaseLike, Told], state: str, passthrough: str) -> None:
    """Every step, and what is there afterwards."""
    found = differences(state, expected, os.geteuid(), "--passthrough", passthrough)
    assert len(expected) == len(STORIES) > 20
    assert not found, f"{len(found)} differences:\n" + "\n".join(found)
