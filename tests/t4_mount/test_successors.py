"""Segments that are read one after the other: with warm_successor, the next one is on its way before it is opened."""

import random
from pathlib import Path

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.modes import wait_until

pytestmark = pytest.mark.mount

CHUNK = 64 << 10
FLAGS = ("--chunk-size", "64KiB", "--read-ahead", "1MiB")


def segment(mount: Mount, base: int) -> tuple[Path, bytes]:
    """A cold segment."""
    path, content = mount.path / f"{base:020}.log", random.Random(base).randbytes(6 * CHUNK + 11)
    mount.make_cold(path, content)
    return path, content


def read_on(path: Path) -> bytes:
    """A whole file, piece by piece."""
    with path.open("rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(4096), b""))


def test_the_first_read_of_the_successor_asks_the_store_nothing() -> None:
    """The store may even be away; a file of another kind is let be."""
    with directory() as home, mounted(Plan(home, flags=(*FLAGS, "--warm-successor"))) as mount:
        side = mount.path / f"{50:020}.index"
        mount.make_cold(side, b"index" * CHUNK)
        (first, content), (second, other), _ = (segment(mount, base) for base in (0, 70, 1200))
        downloaded = mount.downloaded()
        assert read_on(first) == content
        wait_until(lambda: mount.downloaded() >= downloaded + len(content) + CHUNK)
        bucket, aside = mount.plan.bucket, home / "aside"
        bucket.rename(aside)
        try:
            with second.open("rb", buffering=0) as file:
                assert file.read(4096) == other[:4096]
        finally:
            aside.rename(bucket)
        assert read_on(second) == other
        assert mount.entry(mount.inside(side)).cached_bytes == 0


def test_a_successor_that_is_hot_is_read_from_the_hot_tier() -> None:
    """Nothing is fetched for it, and it says what it says."""
    with directory() as home, mounted(Plan(home, flags=(*FLAGS, "--warm-successor"))) as mount:
        (first, content), (second, other), (third, _) = (segment(mount, base) for base in (0, 70, 1200))
        mount.restore(mount.inside(second))
        downloaded = mount.downloaded()
        assert read_on(first) == content
        assert read_on(second) == other
        assert mount.downloaded() == downloaded + len(content)
        assert mount.entry(mount.inside(third)).cached_bytes == 0


def test_nothing_is_warmed_unless_asked_for() -> None:
    """What was not read is not downloaded."""
    with directory() as home, mounted(Plan(home, flags=FLAGS)) as mount:
        (first, content), (second, other) = segment(mount, 0), segment(mount, 70)
        downloaded = mount.downloaded()
        assert read_on(first) == content
        assert mount.downloaded() == downloaded + len(content)
        assert read_on(second) == other
        assert mount.downloaded() == downloaded + len(content) + len(other)
