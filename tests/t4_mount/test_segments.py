"""Segments through a mount: a broker's data directory with its profile, from the first file to the last read."""

import mmap
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.modes import wait_until

pytestmark = pytest.mark.mount

CHUNK = 64 << 10
FLAGS = ("--chunk-size", "64KiB", "--read-ahead", "1MiB", "--profile", "kafka", "--keep-newest", "1")
SWIFT = ("--auto-archive", "--policy-interval", "0.1s", "--warm-after", "0s", "--cold-after", "0s", "--settle", "0s")
BASES = (0, 70, 1200)
SIDES = {".log": 6 * CHUNK + 11, ".index": 5000, ".timeindex": 16, ".snapshot": 10}
CHECKPOINT, PROPERTIES = Path("recovery-point-offset-checkpoint"), Path("meta.properties")


def name_of(base: int, side: str) -> Path:
    return Path("orders-0", f"{base:020}{side}")


def content_of(path: Path) -> bytes:
    size = SIDES.get(path.suffix, 6000)
    return random.Random(str(path)).randbytes(size)


def make_partition(mount: Mount) -> list[Path]:
    """Three segments, and what else is in such a directory, as a broker leaves it at night."""
    paths = [name_of(base, side) for base in BASES for side in SIDES]
    paths += [Path("orders-0/leader-epoch-checkpoint"), CHECKPOINT, PROPERTIES]
    (mount.path / "orders-0").mkdir()
    for path in paths:
        (mount.path / path).write_bytes(content_of(path))
        os.utime(mount.path / path, (1_600_000_000, 1_600_000_000))
    return paths


def residencies(mount: Mount, paths: list[Path]) -> dict[Path, str]:
    return {path: mount.residency(os.fspath(path)) for path in paths}


def expected_of(path: Path) -> str:
    if path.suffix not in SIDES or path.stem == f"{BASES[-1]:020}":
        return "hot"
    return "cold" if path.suffix == ".log" else "mirrored"


def names_below(directory: Path) -> set[Path]:
    return {path.relative_to(directory) for path in directory.rglob("*")}


@contextmanager
def held_open(mount: Mount) -> Iterator[dict[Path, int]]:
    """Every log open for reading and writing, every index mapped, as Kafka has them all day; the logs' descriptors."""
    with ExitStack() as held:
        logs = {}
        for base in BASES:
            path = name_of(base, ".log")
            logs[path] = os.open(mount.path / path, os.O_RDWR)
            held.callback(os.close, logs[path])
            with (mount.path / name_of(base, ".index")).open("r+b") as index:
                held.enter_context(mmap.mmap(index.fileno(), 0))
        yield logs


def test_a_partition_cools_down_segment_by_segment() -> None:
    """Only its logs go, only old ones; nothing of tierfs is to be seen; all bytes are there."""
    with directory() as home, mounted(Plan(home, in_place=True, flags=(*FLAGS, *SWIFT))) as mount:
        paths = make_partition(mount)
        expected = {path: expected_of(path) for path in paths}
        with held_open(mount) as logs:
            # An index that was mapped before the policy came by gets its copy later, and its log does not wait for it.
            others = [path for path in paths if path.suffix != ".index"]
            wait_until(lambda: residencies(mount, others).items() <= expected.items())
            read = {path: os.pread(fd, 1 << 20, 0) for path, fd in logs.items()}
            assert read == {path: content_of(path) for path in logs}
        wait_until(lambda: residencies(mount, paths) == expected)
        assert names_below(mount.path) == {*paths, Path("orders-0")}
        assert mount.entry(os.fspath(name_of(0, ".index"))).reason == "kept hot by a pattern"
        assert "newest segments" in mount.entry(os.fspath(name_of(1200, ".log"))).reason
        assert mount.entry(os.fspath(CHECKPOINT)).reason == "not included by a pattern"
        assert {path: (mount.path / path).read_bytes() for path in paths} == {path: content_of(path) for path in paths}
        assert not mount.check()


def test_a_segment_comes_back_whole() -> None:
    """Asked for by an operator; with its indexes, where those were released by name."""
    with directory() as home, mounted(Plan(home, flags=FLAGS)) as mount:
        make_partition(mount)
        segment = [os.fspath(name_of(70, side)) for side in SIDES]
        mount.release(*segment)
        assert {mount.residency(path) for path in segment} == {"cold"}
        mount.restore(segment[1])
        assert {mount.residency(path) for path in segment} == {"mirrored"}
        assert mount.residency(os.fspath(name_of(0, ".log"))) == "hot"


def test_a_write_to_a_log_brings_its_indexes() -> None:
    with directory() as home, mounted(Plan(home, flags=FLAGS)) as mount:
        make_partition(mount)
        segment = [name_of(70, side) for side in SIDES]
        mount.release(*map(os.fspath, segment))
        with (mount.path / segment[0]).open("r+b") as log:
            log.write(b"x")
        wait_until(lambda: all(mount.residency(os.fspath(path)) == "mirrored" for path in segment[1:]))
        assert (mount.path / segment[0]).read_bytes() == b"x" + content_of(segment[0])[1:]


def test_what_follows_a_log_is_the_next_log() -> None:
    """The profile has the beginning of it fetched, and nothing of an index."""
    with directory() as home, mounted(Plan(home, flags=FLAGS)) as mount:
        paths = [path for path in make_partition(mount) if path.suffix in SIDES]
        mount.release(*map(os.fspath, paths))
        first, second = name_of(0, ".log"), name_of(70, ".log")
        with (mount.path / first).open("rb", buffering=0) as file:
            os.posix_fadvise(
                file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED
            )  # what the kernel has kept is read nowhere else
            assert b"".join(iter(lambda: file.read(4096), b"")) == content_of(first)
        wait_until(lambda: mount.entry(os.fspath(second)).cached_bytes >= CHUNK)
        cached = {path for path in paths if mount.entry(os.fspath(path)).cached_bytes}
        assert cached == {first, second}
