"""The hot directory: nothing leads out of it, descriptors are bounded, errors are the system's."""

import errno
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tierfs.core.records import Attributes, Fd
from tierfs.stores import hot as hot_module
from tierfs.stores.hot import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    HotTier,
    apply_attributes,
    by_fd,
    identity_of,
    join,
    split,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A hot directory, and something outside that must not be touched."""
    (tmp_path / "hot").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    return tmp_path


@pytest.fixture
def hot(home: Path) -> Iterator[HotTier]:
    root = Fd(os.open(home / "hot", os.O_RDONLY | os.O_DIRECTORY))
    hot = HotTier(root)
    yield hot
    hot.close()
    os.close(root)


def fill(home: Path, name: str, body: bytes = b"x") -> Path:
    path = home / "hot" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


@pytest.mark.parametrize(
    "call",
    [
        lambda hot: hot.open(b"link/secret", os.O_RDONLY),
        lambda hot: hot.lstat(b"link/secret"),
        lambda hot: hot.unlink(b"link/secret"),
        lambda hot: hot.mkdir(b"link/new", 0o755),
        lambda hot: hot.make_directories(b"link/new/deep"),
        lambda hot: hot.rename(b"file", b"link/file"),
        lambda hot: hot.rename(b"link/secret", b"file"),
        lambda hot: hot.symlink(b"x", b"link/x"),
        lambda hot: hot.mknod(b"link/x", stat.S_IFREG | 0o600, 0),
        lambda hot: hot.chmod(b"link/secret", 0),
        lambda hot: hot.utime(b"link/secret", 0, 0),
        lambda hot: hot.setxattr(b"link/secret", b"user.x", b""),
        lambda hot: hot.truncate(b"link/secret", 0),
        lambda hot: list(hot.scan(b"link")),
        lambda hot: hot.temporary(b"link"),
        lambda hot: hot.open(b"link", os.O_RDONLY),
    ],
)
def test_a_symlink_leads_nowhere(home: Path, hot: HotTier, call: Callable[[HotTier], object]) -> None:
    fill(home, "file")
    (home / "hot" / "link").symlink_to(home / "outside")
    before = os.stat(home / "outside" / "secret")
    with pytest.raises(OSError) as caught:  # noqa: PT011 (two errnos are right)
        call(hot)
    assert caught.value.errno in (errno.ENOTDIR, errno.ELOOP, errno.EEXIST)
    assert os.stat(home / "outside" / "secret") == before
    assert (home / "outside" / "secret").read_bytes() == b"secret"  # afterwards: reading may change its atime
    assert os.listdir(home / "outside") == ["secret"]


def test_a_directory_that_becomes_a_symlink_while_it_is_known(home: Path, hot: HotTier) -> None:
    """A descriptor means the directory that it was opened for, and its path is not followed again once it is gone."""
    fill(home, "d/secret", b"hot")
    fd = hot.temporary(b"d")
    assert hot.lstat(b"d/secret").st_size == 3
    (home / "hot" / "d").rename(home / "hot" / "moved")
    (home / "hot" / "d").symlink_to(home / "outside")
    opened = hot.open(b"d/secret", os.O_RDONLY)
    assert os.read(opened, 10) == b"hot"
    os.close(opened)
    hot.link_temporary(fd, b"d/new")
    os.close(fd)
    hot.unlink(b"d/secret")
    hot.sync_directory(b"d")
    assert os.listdir(home / "outside") == ["secret"]
    assert os.listdir(home / "hot" / "moved") == ["new"]
    hot.forget(b"d")
    with pytest.raises(NotADirectoryError):
        hot.open(b"d/secret", os.O_RDONLY)
    assert (home / "outside" / "secret").read_bytes() == b"secret"


def test_a_fifo_where_a_file_was_makes_nobody_wait(home: Path, hot: HotTier) -> None:
    """Nobody writes to it: an open that waited would stop the mount."""
    os.mkfifo(home / "hot" / "file")
    with ended_by_a_clock():
        os.close(hot.open(b"file", os.O_RDONLY))
        assert hot.why_busy(b"file") == ""


@contextmanager
def ended_by_a_clock() -> Iterator[None]:
    """A block that would otherwise never end fails."""

    def fail(_number: int, _frame: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_symlink_itself_is_what_is_meant(home: Path, hot: HotTier) -> None:
    (home / "hot" / "link").symlink_to(home / "outside" / "secret")
    hot.chown(b"link", -1, -1)
    hot.utime(b"link", 1, 2)
    assert hot.lstat(b"link").st_mtime_ns == 2
    assert hot.readlink(b"link") == os.fsencode(home / "outside" / "secret")
    hot.link(b"link", b"second")
    assert stat.S_ISLNK(hot.lstat(b"second").st_mode)
    assert hot.listxattr(b"link") == []
    assert (home / "outside" / "secret").stat().st_mtime_ns != 2


def test_descriptors_are_bounded_and_right(home: Path, hot: HotTier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_module, "_FORGOTTEN_AFTER", 4)
    for index in range(12):
        fill(home, f"d{index}/e/f", b"%d" % index)
    before = len(os.listdir("/proc/self/fd"))
    for index in [*range(12), *range(12)]:
        fd = hot.open(b"d%d/e/f" % index, os.O_RDONLY)
        assert os.read(fd, 10) == b"%d" % index
        os.close(fd)
    assert len(os.listdir("/proc/self/fd")) <= before + 5
    hot.rename(b"d0/e/f", b"d11/e/g")
    assert (home / "hot" / "d11" / "e" / "g").read_bytes() == b"0"


def test_a_renamed_directory_is_found_under_its_new_name_only(home: Path, hot: HotTier) -> None:
    fill(home, "d/e/f", b"1")
    assert hot.lstat(b"d/e/f")
    hot.rename(b"d", b"x")
    assert hot.lstat(b"x/e/f")
    with pytest.raises(FileNotFoundError):
        hot.lstat(b"d/e/f")
    fill(home, "d/e/f", b"other")
    assert hot.lstat(b"d/e/f").st_size == 5
    hot.unlink(b"x/e/f")
    hot.rmdir(b"x/e")
    hot.mkdir(b"x/e", 0o755)
    assert hot.lstat_or_none(b"x/e/f") is None


def test_rename_flags(home: Path, hot: HotTier) -> None:
    fill(home, "a", b"a")
    fill(home, "b", b"b")
    with pytest.raises(FileExistsError):
        hot.rename(b"a", b"b", RENAME_NOREPLACE)
    hot.rename(b"a", b"b", RENAME_EXCHANGE)
    assert (home / "hot" / "a").read_bytes() == b"b"
    with pytest.raises(FileNotFoundError):
        hot.rename(b"a", b"missing", RENAME_EXCHANGE)
    hot.rename(b"a", b"missing", RENAME_NOREPLACE)


def test_lstat_or_none(home: Path, hot: HotTier) -> None:
    fill(home, "file")
    assert hot.lstat_or_none(b"missing") is None
    assert hot.lstat_or_none(b"file/below") is None
    assert hot.lstat_or_none(b"missing/below") is None
    assert hot.lstat_or_none(b"file")


def test_directories_are_made_where_they_are_missing(home: Path, hot: HotTier) -> None:
    hot.make_directories(b"")
    hot.make_directories(b"d/e/f")
    hot.make_directories(b"d/e/f")
    assert (home / "hot" / "d" / "e" / "f").is_dir()
    fill(home, "file")
    with pytest.raises(FileExistsError):
        hot.make_directories(b"file")
    with pytest.raises(OSError, match="file"):
        hot.make_directories(b"file/below")


def test_a_nameless_file_gets_its_name_last(home: Path, hot: HotTier) -> None:
    hot.mkdir(b"d", 0o755)
    fd = hot.temporary(b"d")
    os.write(fd, b"content")
    attributes = Attributes(stat.S_IFREG | 0o4750, os.getuid(), os.getgid(), 7, 11, 22, 33, ((b"user.k", b"v"),))
    apply_attributes(fd, attributes)
    assert os.listdir(home / "hot" / "d") == []
    hot.link_temporary(fd, b"d/file")
    st = hot.lstat(b"d/file")
    assert (stat.S_IMODE(st.st_mode), st.st_mtime_ns, st.st_nlink) == (0o4750, 22, 1)
    found = hot.attributes(b"d/file", st)
    assert found.xattrs == ((b"user.k", b"v"),)
    assert os.path.samestat(os.stat(by_fd(fd)), st)
    with pytest.raises(FileExistsError):
        hot.link_temporary(fd, b"d/file")
    os.close(fd)


def test_identity_is_that_of_the_bytes(home: Path, hot: HotTier) -> None:
    path = fill(home, "a", b"12345")
    first = identity_of(hot.lstat(b"a"))
    assert first == identity_of(hot.lstat(b"a"))
    os.chmod(path, 0o600)
    second = identity_of(hot.lstat(b"a"))
    assert (second.ino, second.size, second.mtime_ns) == (first.ino, first.size, first.mtime_ns)
    hot.truncate(b"a", 2)
    assert identity_of(hot.lstat(b"a")).size == 2


def test_another_thread_has_descriptors_of_its_own(home: Path, hot: HotTier) -> None:
    fill(home, "d/a")
    other = hot.for_thread()
    assert other.lstat(b"d/a").st_ino == hot.lstat(b"d/a").st_ino
    assert other.directory(b"d") != hot.directory(b"d")
    other.close()
    assert hot.lstat(b"d/a")


def test_names_are_bytes(hot: HotTier) -> None:
    names = [b"\xff\xfe", b"new\nline", b"a" * 255, "ü".encode()]
    for name in names:
        os.close(hot.open(name, os.O_CREAT | os.O_WRONLY, 0o600))
    assert sorted(os.fsencode(entry.name) for entry in hot.scan(b"")) == sorted(names)
    with pytest.raises(OSError, match="too long"):
        hot.open(b"a" * 256, os.O_CREAT | os.O_WRONLY, 0o600)


def test_paths() -> None:
    assert split(b"") == (b"", b"")
    assert split(b"a") == (b"", b"a")
    assert split(b"a/b/c") == (b"a/b", b"c")
    assert join(b"", b"a") == b"a"
    assert join(b"a/b", b"c") == b"a/b/c"
