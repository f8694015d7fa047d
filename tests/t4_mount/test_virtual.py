"""Files that applications keep open for as long as they run: hot bytes go underneath them, and nobody can tell."""

import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.comparison import CHUNK_SIZE
from tests.t4_mount.modes import MODES, wait_until

pytestmark = pytest.mark.mount

FLAGS = ("--chunk-size", CHUNK_SIZE, "--read-ahead", "0", "--open-files", "idle", "--idle-files", "*.log")
RECORD = bytes(range(256)) * 4
RECORDS = 64


@pytest.fixture(scope="module", params=MODES)
def mount(request: pytest.FixtureRequest) -> Iterator[Mount]:
    with directory() as home, mounted(Plan(home, flags=(*FLAGS, "--passthrough", request.param))) as made:
        yield made


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes what a test has opened."""
    with ExitStack() as stack:
        yield stack


def keep_open(opened: ExitStack, path: Path, flags: int = os.O_RDWR | os.O_CREAT | os.O_APPEND) -> int:
    fd = os.open(path, flags, 0o640)
    opened.callback(os.close, fd)
    return fd


def segment(opened: ExitStack, path: Path) -> int:
    """A log that was written record by record, and is still open."""
    fd = keep_open(opened, path)
    for _ in range(RECORDS):
        os.write(fd, RECORD)
    return fd


def forget_pages(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_log_goes_cold_while_it_is_open(mount: Mount, place: Path, opened: ExitStack) -> None:
    """Readers and the writer go on: with what the kernel has kept, with the object, with the file that came back."""
    path = place / "0.log"
    writer = segment(opened, path)
    reader = keep_open(opened, path, os.O_RDONLY)
    assert os.pread(reader, 1 << 20, 0) == RECORD * RECORDS
    before = mount.downloaded()
    mount.release(mount.inside(path))
    assert not (mount.plan.hot / mount.inside(path).decode()).exists()
    assert os.pread(reader, 1 << 20, 0) == RECORD * RECORDS
    assert mount.downloaded() == before, "the kernel has these pages"
    forget_pages(reader)
    mount.evict()
    assert os.pread(reader, 1 << 20, 0) == os.pread(writer, 1 << 20, 0) == RECORD * RECORDS
    assert mount.downloaded() - before == len(RECORD) * RECORDS
    os.fsync(writer)
    assert mount.residency(mount.inside(path)) == "cold"
    os.write(writer, b"more")
    assert mount.residency(mount.inside(path)) == "hot"
    assert os.pread(reader, 1 << 20, 0) == RECORD * RECORDS + b"more"
    assert os.fstat(reader).st_size == path.stat().st_size == len(RECORD) * RECORDS + 4
    mount.release(mount.inside(path))
    os.ftruncate(writer, 10)
    assert os.pread(reader, 100, 0) == path.read_bytes() == RECORD[:10]


def test_others_do_not(mount: Mount, place: Path, opened: ExitStack) -> None:
    path = place / "0.index"
    segment(opened, path)
    (outcome,) = mount.outcomes("archive", mount.inside(path))
    assert (outcome.result, outcome.reason) == ("failed", "open for writing")


def test_mappings_stay_what_they_are(mount: Mount, place: Path, opened: ExitStack) -> None:
    """Pages that are read for the first time come from the object; stores bring the file back."""
    path = place / "0.log"
    writer = segment(opened, path)
    mapping = opened.enter_context(mmap.mmap(writer, 0))
    assert mapping[:10] == RECORD[:10]
    mount.release(mount.inside(path))
    mapping.madvise(mmap.MADV_DONTNEED)
    forget_pages(writer)
    assert mapping[:] == RECORD * RECORDS
    mapping[5000:5006] = b"stored"
    mapping.flush()
    assert mount.residency(mount.inside(path)) == "hot"
    assert path.read_bytes()[4990:5010] == mapping[4990:5010]


@pytest.mark.parametrize("mode", MODES)
def test_the_next_worker_goes_on(mode: str) -> None:
    """With handles on hot bytes, that then may go, and with handles whose hot bytes have gone."""
    plan_flags = (*FLAGS, "--passthrough", mode)
    with directory() as home, mounted(Plan(home, flags=plan_flags)) as mount, ExitStack() as opened:
        hot, cold = mount.path / "hot.log", mount.path / "cold.log"
        files = [segment(opened, hot), segment(opened, cold)]
        mount.release(mount.inside(cold))
        mount.wait_taken_over(mount.kill_worker())
        for fd, path in zip(files, (hot, cold), strict=True):
            forget_pages(fd)
            assert os.pread(fd, 1 << 20, 0) == RECORD * RECORDS
            mount.release(mount.inside(path))
            forget_pages(fd)
            assert os.pread(fd, 1 << 20, 0) == RECORD * RECORDS
            os.write(fd, b"more")
            assert path.read_bytes() == RECORD * RECORDS + b"more"


def test_a_reader_at_the_tail_asks_for_nothing(mount: Mount, place: Path, opened: ExitStack) -> None:
    """What was appended is in the kernel's cache, and stays there: no byte is read from tierfs."""
    writer = keep_open(opened, place / "0.log")
    reader = keep_open(opened, place / "0.log", os.O_RDONLY)
    block = RECORD * 4  # a page: what is appended in smaller pieces is read once from the hot tier
    os.write(writer, block)
    before = mount.status()["fuse"]["requests"].get("read", 0)
    for number in range(1, 500):
        os.write(writer, block)
        assert os.pread(reader, len(block), number * len(block)) == block
    assert mount.status()["fuse"]["requests"].get("read", 0) - before < 10


def test_an_appender_and_a_reader_while_it_moves_all_the_time(mount: Mount, place: Path, opened: ExitStack) -> None:
    """Every byte is read once and in order, whatever moves meanwhile."""
    path = place / "0.log"
    writer, reader = keep_open(opened, path), keep_open(opened, path, os.O_RDONLY)
    ended = threading.Event()

    def move() -> None:
        while not ended.is_set():
            mount.outcomes("release", mount.inside(path))
            mount.evict()

    mover = threading.Thread(target=move)
    mover.start()
    try:
        offset = 0
        for number in range(2000):
            os.write(writer, b"%08d" % number + RECORD[: number % 1000])
            if number % 7 == 0:
                forget_pages(reader)
            wanted = b"%08d" % number + RECORD[: number % 1000]
            assert os.pread(reader, 2000, offset) == wanted
            offset += len(wanted)
            if number % 200 == 199:
                wait_until(lambda: mount.residency(mount.inside(path)) == "cold")
    finally:
        ended.set()
        mover.join()
    assert len(path.read_bytes()) == offset
