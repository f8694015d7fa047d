"""A bucket that takes requests and never answers: a problem for cold reads alone, and none once it is back."""

import errno
import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import require
from tests.faults import Fault, Kind
from tests.mounting import Mount, MountFailed
from tests.servers import S3Server
from tests.t4_mount.asynchronous import reading
from tests.t4_mount.faulty_bucket import Readers, Stage, bucket_server, staged
from tests.t4_mount.modes import MODES, wait_until
from tierfs.mount import kernel

pytestmark = [pytest.mark.mount, pytest.mark.slow]

READERS = 200
CHUNK = 64 << 10
CONTENT = random.Random(200).randbytes(READERS * CHUNK)
OFFSETS = range(0, READERS * CHUNK, CHUNK)
#: More than the kernel's background requests, or pyfuse3's tasks, are as a rule.
MANY = 2500
PAGE = 4096
PAGES = random.Random(2500).randbytes(MANY * PAGE)
#: Requests that hang do so for longer than their readers wait, and than an unmount may take.
HANG = ("--chunk-size", "64KiB", "--timeout", "10m")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with bucket_server() as server:
        yield server


@contextmanager
def staged_in_mode(mode: str, *flags: str, server: S3Server) -> Iterator[Stage]:
    with ExitStack() as exits:
        try:
            stage = exits.enter_context(staged(*HANG, f"--passthrough={mode}", *flags, server=server))
        except MountFailed as failure:
            require("passed through" not in failure.output, f"no kernel passthrough here: {failure.output}")
            raise
        yield stage


def reads_seen(mount: Mount) -> int:
    """READ requests that the kernel sent."""
    return int(mount.status()["fuse"]["requests"].get("read", 0))


def stall(stage: Stage) -> Readers:
    """Readers, each of another chunk, all of which wait."""
    path = stage.cold("cold", CONTENT)
    before = reads_seen(stage.mount)
    stage.proxy.order(Fault(Kind.BLACK_HOLE))
    readers = Readers(path, OFFSETS, CHUNK)
    wait_until(lambda: reads_seen(stage.mount) >= before + READERS)
    return readers


def use_hot_files(mount: Mount, round_number: int, cold_size: int = len(CONTENT)) -> None:
    """What applications do to hot files, and to the metadata of cold ones."""
    path = mount.path / f"hot{round_number}"
    with path.open("wb", buffering=0) as file:
        file.write(b"hot " * 50_000)
        os.fsync(file.fileno())
    with path.open("r+b", buffering=0) as file:
        file.seek(100_001)
        file.write(b"changed")
    with path.open("ab", buffering=0) as file:
        file.write(b"end")
    assert path.stat().st_size == 200_003
    assert path.read_bytes() == (b"hot " * 50_000)[:100_001] + b"changed" + (b"hot " * 50_000)[100_008:] + b"end"
    other = path.rename(mount.path / "other")
    assert {"cold", "other"} <= set(os.listdir(mount.path))
    other.unlink()
    assert (mount.path / "cold").stat().st_size == cold_size
    (mount.path / "cold").chmod(0o640)


@pytest.mark.parametrize("mode", MODES)
def test_stalled_readers_disturb_nobody(server: S3Server, mode: str) -> None:
    """200 readers wait, for ever if need be; hot files are written and read as ever; then all get their bytes."""
    with staged_in_mode(mode, "--cold-errors", "block", server=server) as stage:
        readers = stall(stage)
        for round_number in range(50):
            use_hot_files(stage.mount, round_number)
        assert readers.results == []
        assert stage.mount.entry("cold").residency == "cold"
        stage.proxy.heal()
        assert sorted(map(hash, readers.join())) == sorted(hash(CONTENT[at : at + CHUNK]) for at in OFFSETS)
        wait_until(lambda: stage.mount.status()["breaker"]["reads"]["state"] == "closed")


@pytest.mark.parametrize("mode", MODES)
def test_stalled_readers_get_an_error_at_the_deadline(server: S3Server, mode: str) -> None:
    """EIO for each, counted; once the bucket is back, reads work."""
    with staged_in_mode(mode, "--cold-timeout", "5s", server=server) as stage:
        readers = stall(stage)
        assert readers.join() == [errno.EIO] * READERS
        assert stage.read_errors() == READERS
        said = stage.log().count("the store did not answer within 5 s")
        assert said >= min(READERS, 100)  # lines that are alike are counted after the first hundred of ten seconds
        use_hot_files(stage.mount, 0)
        stage.proxy.heal()
        path = stage.mount.path / "cold"
        wait_until(lambda: Readers(path, [7 * CHUNK], CHUNK).join() == [CONTENT[7 * CHUNK : 8 * CHUNK]])


@pytest.mark.parametrize("mode", MODES)
def test_thousands_of_stalled_readers_disturb_nobody(server: S3Server, mode: str) -> None:
    """They and writers wait, for ever if need be; nothing that hot files need is used up; then all get through."""
    flags = ("--chunk-size", "4KiB", "--cold-errors", "block")
    with staged_in_mode(mode, *flags, server=server) as stage, ThreadPoolExecutor(8) as pool:
        path = stage.cold("cold", PAGES)
        others = [stage.cold(f"other{number}", b"other" * 1000) for number in range(8)]
        before = reads_seen(stage.mount)
        stage.proxy.order(Fault(Kind.BLACK_HOLE))
        with reading(path, range(0, len(PAGES), PAGE), PAGE) as reads:
            wait_until(lambda: reads_seen(stage.mount) >= before + MANY)
            writers = [pool.submit(append, other) for other in others]
            wait_until(lambda: stage.mount.status()["queue"]["restoring"] == len(others))
            for round_number in range(20):
                use_hot_files(stage.mount, round_number, len(PAGES))
                read_past_the_cache(stage.mount)
            assert reads.done() == 0
            assert not any(writer.done() for writer in writers)
            stage.proxy.heal()
            assert reads.results() == [PAGES[at : at + PAGE] for at in range(0, len(PAGES), PAGE)]
        assert [writer.result() for writer in writers] == [None] * len(others)
        assert {other.read_bytes() for other in others} == {b"other" * 1000 + b"end"}


def test_thousands_of_stalled_readers_get_an_error_at_the_deadline(server: S3Server) -> None:
    """Each of them, counted, wherever it stood in a queue; nothing is fetched for those that went away."""
    with staged_in_mode("off", "--chunk-size", "4KiB", "--cold-timeout", "10s", server=server) as stage:
        path = stage.cold("cold", PAGES)
        downloaded = stage.mount.downloaded()
        stage.proxy.order(Fault(Kind.BLACK_HOLE))
        with reading(path, range(0, len(PAGES), PAGE), PAGE) as reads:
            assert reads.results() == [errno.EIO] * MANY
        assert stage.read_errors() == MANY
        use_hot_files(stage.mount, 0, len(PAGES))
        stage.proxy.heal()
        wait_until(lambda: Readers(path, [7 * PAGE], PAGE).join() == [PAGES[7 * PAGE : 8 * PAGE]])
        assert stage.mount.downloaded() - downloaded < len(PAGES) // 10


def append(path: Path) -> None:
    """What makes a cold file hot again."""
    with path.open("ab", buffering=0) as file:
        file.write(b"end")


def read_past_the_cache(mount: Mount) -> None:
    """Reads of hot files that the kernel has to ask for, where it is not passed through."""
    path = mount.path / "forgotten"
    path.write_bytes(b"hot " * 100_000)
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == b"hot " * 100_000


def test_a_mount_goes_although_its_bucket_hangs(server: S3Server) -> None:
    """After the readers have gone, requests still hang: unmounting waits for none, and no connection stays."""
    with staged_in_mode("off", "--cold-timeout", "1s", server=server) as stage:
        assert stall(stage).join() == [errno.EIO] * READERS
        assert stage.proxy.counts().open > 0
        kernel.unmount(str(stage.mount.path))
        wait_until(lambda: stage.mount.process.poll() is not None)
        assert stage.mount.process.returncode == 0
        wait_until(lambda: stage.proxy.counts().open == 0)


def test_a_mount_that_is_taken_out_of_the_tree_ends_with_its_last_reader(server: S3Server) -> None:
    """Lazily, while all wait: they get their EIO, then the mount ends by itself."""
    with staged_in_mode("off", "--cold-timeout", "5s", server=server) as stage:
        readers = stall(stage)
        kernel.unmount(str(stage.mount.path), lazy=True)
        assert readers.join() == [errno.EIO] * READERS
        wait_until(lambda: stage.mount.process.poll() is not None)
        assert stage.mount.process.returncode == 0
        wait_until(lambda: stage.proxy.counts().open == 0)


def test_a_mount_goes_although_an_upload_hangs(server: S3Server) -> None:
    """The file stays as it was: hot, and the upload is given up."""
    with staged_in_mode("off", server=server) as stage:
        path = stage.mount.path / "hot"
        path.write_bytes(CONTENT)
        stage.proxy.order(Fault(Kind.BLACK_HOLE, method="PUT"))
        with ThreadPoolExecutor(1) as pool:
            archiving = pool.submit(stage.mount.outcomes, "archive", "hot")
            wait_until(lambda: stage.mount.status()["queue"]["archiving"] == 1)
            kernel.unmount(str(stage.mount.path))
            wait_until(lambda: stage.mount.process.poll() is not None)
            assert stage.mount.process.returncode == 0
            archiving.exception()
        assert (stage.mount.plan.hot / "hot").read_bytes() == CONTENT


@pytest.mark.parametrize("mode", MODES)
def test_the_cold_process_may_be_killed_under_its_readers(server: S3Server, mode: str) -> None:
    """Their reads wait for the next one, within their deadline; no byte is wrong, and hot files notice nothing."""
    with staged_in_mode(mode, server=server) as stage:
        readers = stall(stage)
        before = stage.mount.status()["cold_pid"]
        os.kill(before, signal.SIGKILL)
        stage.proxy.heal()
        use_hot_files(stage.mount, 1)
        expected = [CONTENT[offset : offset + CHUNK] for offset in OFFSETS]
        assert set(readers.join()) == set(expected)
        assert stage.mount.status()["cold_pid"] != before
        assert "is started again" in stage.log()
