"""What touching a cold file costs: which calls download, and how much. Sizes around chunk boundaries."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.modes import wait_until
from tierfs.mount import kernel

pytestmark = pytest.mark.mount

CHUNK = 4096
SIZES = (1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK, 3 * CHUNK + 1, 40 * CHUNK + 7)
XATTR = "user.own.test"


def content_of(size: int) -> bytes:
    """Bytes that are nowhere the same as somewhere else."""
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_chunks(mount: Mount, place: Path, size: int) -> None:
    """The bytes are the same cold, in pieces, and restored."""
    content = content_of(size)
    path = place / "file"
    mount.make_cold(path, content)
    assert path.stat().st_size == size
    assert path.read_bytes() == content
    mount.evict()
    with path.open("rb", buffering=0) as file:
        for offset in (0, 1, CHUNK - 1, CHUNK, size - 1, size, size + 1):
            assert os.pread(file.fileno(), 5000, offset) == content[offset : offset + 5000]
    mount.restore(mount.inside(path))
    assert path.read_bytes() == content


def test_an_open_for_both_asks_for_nothing(mount: Mount, place: Path) -> None:
    """A broker opens all its segments for reading and writing when it starts; who only reads gets the first chunk."""
    both, read = place / "both", place / "read"
    for path in (both, read):
        mount.make_cold(path, content_of(CHUNK))
    before = mount.downloaded()
    opened = [os.open(both, os.O_RDWR | os.O_CREAT), os.open(read, os.O_RDONLY)]
    try:
        wait_until(lambda: mount.downloaded() > before)
        assert mount.downloaded() == before + CHUNK
        assert os.pread(opened[0], CHUNK, 0) == content_of(CHUNK)
        assert mount.downloaded() == before + 2 * CHUNK
    finally:
        for fd in opened:
            os.close(fd)


def test_an_empty_file_stays_hot(mount: Mount, place: Path) -> None:
    """There is nothing to release; it says so."""
    (place / "empty").touch()
    (outcome,) = mount.outcomes("release", mount.inside(place / "empty"))
    assert (outcome.result, outcome.reason) == ("failed", "it is empty")
    assert (place / "empty").read_bytes() == b""


def test_sparse_files(mount: Mount, place: Path) -> None:
    """Holes in the middle and at the end read as zeros in both tiers."""
    path = place / "sparse"
    with path.open("wb") as file:
        file.write(b"begin")
        file.seek(100 * CHUNK)
        file.write(b"middle")
        file.truncate(300 * CHUNK + 5)
    content = path.read_bytes()
    mount.release(mount.inside(path))
    assert path.read_bytes() == content
    mount.restore(mount.inside(path))
    assert path.read_bytes() == content == b"begin".ljust(100 * CHUNK, b"\0") + b"middle".ljust(200 * CHUNK + 5, b"\0")


def change_mode(path: Path) -> None:
    path.chmod(0o600)


def change_owner(path: Path) -> None:
    os.chown(path, os.getuid(), os.getgid())


def change_times(path: Path) -> None:
    os.utime(path, ns=(1, 2))


def set_xattr(path: Path) -> None:
    os.setxattr(path, XATTR, b"value")
    assert os.getxattr(path, XATTR) == b"value"
    os.removexattr(path, XATTR)


def open_and_close(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY))


def look(path: Path) -> None:
    assert path.stat().st_size == 20 * CHUNK
    assert path.name in os.listdir(path.parent)
    os.access(path, os.R_OK)


NO_REQUEST = (change_mode, change_owner, change_times, set_xattr, open_and_close, look)


@pytest.mark.parametrize("call", NO_REQUEST)
def test_calls_that_ask_the_store_for_nothing(mount: Mount, place: Path, call: Callable[[Path], None]) -> None:
    """Metadata of a cold file is in the catalog: not a single request; and the file stays cold."""
    path = place / "file"
    mount.make_cold(path, content_of(20 * CHUNK))
    before = mount.requests()
    call(path)
    assert mount.requests() == before
    assert mount.residency(mount.inside(path)) == "cold"


def rename(path: Path) -> None:
    path.rename(path.with_name("renamed"))


def rename_over(path: Path) -> None:
    path.with_name("other").write_bytes(b"x")
    path.with_name("other").rename(path)


def unlink(path: Path) -> None:
    path.unlink()


def open_to_empty(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.read_bytes() == b""


def truncate_to_nothing(path: Path) -> None:
    os.truncate(path, 0)
    assert path.read_bytes() == b""


def truncate_an_open_file_to_nothing(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)  # one that may read asks for the first chunk
    os.ftruncate(fd, 0)
    os.write(fd, b"new")
    os.close(fd)
    assert path.read_bytes() == b"new"


def overwrite(path: Path) -> None:
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


NO_DOWNLOAD = (
    *(rename, rename_over, unlink, open_to_empty, truncate_to_nothing),
    *(truncate_an_open_file_to_nothing, overwrite),
)


@pytest.mark.parametrize("call", NO_DOWNLOAD)
def test_calls_that_download_nothing(mount: Mount, place: Path, call: Callable[[Path], None]) -> None:
    """The bucket may have to delete or move an object later; no byte of it comes down."""
    path = place / "file"
    mount.make_cold(path, content_of(20 * CHUNK))
    before = mount.downloaded()
    call(path)
    assert mount.downloaded() == before


@pytest.mark.parametrize("size", [1, CHUNK + 3, 20 * CHUNK, 30 * CHUNK])
def test_truncate_to_another_size_restores(mount: Mount, place: Path, size: int) -> None:
    """The bytes before the new end are kept; behind the old end there are zeros."""
    content = content_of(20 * CHUNK)
    path = place / "file"
    mount.make_cold(path, content)
    os.truncate(path, size)
    assert path.read_bytes() == content[:size].ljust(size, b"\0")
    assert mount.residency(mount.inside(path)) == "hot"


def test_a_write_to_a_cold_file_restores_it(mount: Mount, place: Path) -> None:
    """All of it, once, and perhaps the first chunk for the reader; other handles see the write."""
    content = content_of(20 * CHUNK)
    path = place / "file"
    mount.make_cold(path, content)
    before = mount.downloaded()
    reader = os.open(path, os.O_RDONLY)
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"written", 5 * CHUNK - 3)
        os.pwrite(file.fileno(), b"again", 9 * CHUNK)
    expected = bytearray(content)
    expected[5 * CHUNK - 3 : 5 * CHUNK + 4] = b"written"
    expected[9 * CHUNK : 9 * CHUNK + 5] = b"again"
    assert os.pread(reader, 1 << 20, 0) == bytes(expected)
    os.close(reader)
    assert len(content) <= mount.downloaded() - before <= len(content) + CHUNK
    assert mount.residency(mount.inside(path)) == "hot"


def test_small_reads_download_their_chunks_only() -> None:
    """With read-ahead off: one byte is one chunk, also of a file that is read for the second time from the cache."""
    content = content_of(200 * CHUNK)
    with directory() as home, mounted(Plan(home, flags=("--chunk-size", "4KiB", "--read-ahead", "0"))) as mount:
        path = mount.path / "file"
        mount.make_cold(path, content)
        before = mount.downloaded()
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            # The first chunk first: opening a file asks for it after a while, unless something else was read by then.
            for number, index in enumerate((0, 150, 20, 99), 1):
                offset = index * CHUNK + 17
                assert os.pread(file.fileno(), 1, offset) == content[offset : offset + 1]
                assert mount.downloaded() - before <= number * CHUNK
            assert os.pread(file.fileno(), 2, 51 * CHUNK - 1) == content[51 * CHUNK - 1 : 51 * CHUNK + 1]
            assert mount.downloaded() - before <= 6 * CHUNK
        known = mount.downloaded()
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)  # past the cache of the kernel
        assert os.pread(fd, CHUNK, 150 * CHUNK) == content[150 * CHUNK : 151 * CHUNK]
        os.close(fd)
        assert mount.downloaded() == known


def test_read_ahead_is_bounded() -> None:
    """A sequential reader that stops has downloaded what it read and the window, no more."""
    content = content_of(1600 * CHUNK)
    flags = ("--chunk-size", "4KiB", "--read-ahead", "64KiB")
    with directory() as home, mounted(Plan(home, flags=flags)) as mount:
        mount.make_cold(mount.path / "file", content)
        with (mount.path / "file").open("rb", buffering=0) as file:
            read = b"".join(file.read(CHUNK) for _ in range(100))
            assert read == content[: 100 * CHUNK]
        # The kernel reads ahead itself (two windows), and tierfs ahead of that.
        ahead = 2 * (kernel.READ_AHEAD_KIB << 10) + (64 << 10)
        assert mount.downloaded() <= 100 * CHUNK + ahead + CHUNK


def test_several_readers_one_fetch(mount: Mount, place: Path) -> None:
    """Readers that go past the kernel's cache at the same time download every chunk once."""
    content = content_of(50 * CHUNK)
    path = place / "file"
    mount.make_cold(path, content)
    before = mount.downloaded()
    found: list[bytes] = []

    def read() -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            found.append(b"".join(os.pread(fd, CHUNK, offset) for offset in range(0, len(content), CHUNK)))
        finally:
            os.close(fd)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content] * 8
    assert mount.downloaded() - before == len(content)
