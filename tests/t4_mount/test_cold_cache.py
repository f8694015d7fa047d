"""The chunk cache under a mount: a broken disk is nobody's error, a dead worker loses nothing, nobody else may look."""

import ctypes
import os
import random
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.faulty_bucket import read_directly
from tests.t4_mount.modes import wait_until
from tests.t4_mount.test_full_disk import fill, small_disk

pytestmark = pytest.mark.mount

MIB = 1 << 20
CONTENT = random.Random(4).randbytes(8 * MIB + 5)
_MS_RDONLY, _MS_REMOUNT = 1, 32
_MODE_PICKLE = 4  # diskcache's name for a value that is a pickle
_libc = ctypes.CDLL(None, use_errno=True)


def fill_disk(cache: Path) -> None:
    fill(cache / "filler")


def make_read_only(cache: Path) -> None:
    assert _libc.mount(b"tmpfs", os.fsencode(cache), b"tmpfs", _MS_REMOUNT | _MS_RDONLY, None) == 0, ctypes.get_errno()


def leave_some_room(cache: Path) -> None:
    """Less than the file, more than a chunk."""


@pytest.mark.parametrize("spoil", [fill_disk, make_read_only, leave_some_room])
def test_a_cache_disk_that_takes_nothing_is_no_error(spoil: Callable[[Path], None]) -> None:
    """It is full, read-only, or smaller than it should be: reads stream from the store, and hot files never notice."""
    with directory() as home, ExitStack() as exits:
        plan = Plan(home)
        plan.make_directories()
        cache = plan.state / "cache"
        plan.state.mkdir(mode=0o700)
        exits.enter_context(small_disk(cache, 4))
        spoil(cache)
        mount = exits.enter_context(mounted(plan))
        path = mount.path / "file"
        mount.make_cold(path, CONTENT)
        for _ in range(2):
            assert path.read_bytes() == CONTENT
            assert read_directly(path, MIB, MIB) == CONTENT[MIB : 2 * MIB]
        (mount.path / "hot").write_bytes(b"hot")
        assert mount.status()["errors"]["reads"] == 0
        mount.restore("file")
        assert path.read_bytes() == CONTENT


def test_a_cache_that_vanishes_is_no_error() -> None:
    """Somebody removes it below the mount."""
    with directory() as home, mounted(Plan(home)) as mount:
        path = mount.path / "file"
        mount.make_cold(path, CONTENT)
        assert path.read_bytes() == CONTENT
        cache = mount.plan.state / "cache"
        while cache.exists():  # chunks that were read ahead may still arrive in it
            shutil.rmtree(cache, ignore_errors=True)
        assert read_directly(path, 0, len(CONTENT)) == CONTENT
        mount.make_cold(mount.path / "other", CONTENT[::-1])
        assert (mount.path / "other").read_bytes() == CONTENT[::-1]
        assert mount.status()["errors"]["reads"] == 0


def cached(mount: Mount, name: str) -> int:
    return mount.entry(name).cached_bytes


def test_a_worker_that_is_killed_loses_no_chunk() -> None:
    """kill -9; the next worker has the chunks, checks them, and asks the store for none of them; so the next mount."""
    with directory() as home:
        plan = Plan(home)
        with mounted(plan) as mount:
            mount.make_cold(mount.path / "file", CONTENT)
            assert (mount.path / "file").read_bytes() == CONTENT
            wait_until(lambda: cached(mount, "file") == len(CONTENT))
            mount.wait_taken_over(mount.kill_worker())
            is_read_from_the_cache(mount)
            mount.kill_all()
        with mounted(plan) as mount:
            is_read_from_the_cache(mount)


def is_read_from_the_cache(mount: Mount) -> None:
    wait_until(lambda: mount.status()["cold_pid"])
    assert cached(mount, "file") == len(CONTENT)
    before = mount.downloaded()
    assert read_directly(mount.path / "file", 0, len(CONTENT)) == CONTENT
    assert mount.downloaded() == before


def test_evict_empties_it_all_or_for_one_file() -> None:
    """What was evicted is downloaded again, what was not is not."""
    with directory() as home, mounted(Plan(home, flags=("--read-ahead", "0"))) as mount:
        for name in ("one", "two"):
            mount.make_cold(mount.path / name, CONTENT)
            assert (mount.path / name).read_bytes() == CONTENT
        wait_until(lambda: cached(mount, "one") == cached(mount, "two") == len(CONTENT))
        (outcome,) = mount.client.evict([b"one"])
        assert (outcome.result, outcome.bytes) == ("done", len(CONTENT))
        assert (cached(mount, "one"), cached(mount, "two")) == (0, len(CONTENT))
        before = mount.downloaded()
        assert read_directly(mount.path / "two", 0, MIB) == CONTENT[:MIB]
        assert mount.downloaded() == before
        assert read_directly(mount.path / "one", 0, MIB) == CONTENT[:MIB]
        assert mount.downloaded() > before
        wait_until(lambda: cached(mount, "one") == MIB)  # it comes after the reader
        mount.evict()
        assert (cached(mount, "one"), cached(mount, "two")) == (0, 0)
        assert mount.status()["cache"]["bytes"] < 2 * MIB  # what an empty database takes


def test_nobody_else_can_look_into_it_and_it_holds_no_pickles() -> None:
    """Its directory is 0700; every key and value in the database is plain."""
    with directory() as home, mounted(Plan(home)) as mount:
        mount.make_cold(mount.path / "file", CONTENT)
        assert (mount.path / "file").read_bytes() == CONTENT
        wait_until(lambda: cached(mount, "file") == len(CONTENT))
        cache = mount.plan.state / "cache"
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700
        with closing(sqlite3.connect(f"file:{cache / 'cache.db'}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT raw, mode FROM Cache").fetchall()
        assert len(rows) >= 8
        assert all(raw == 1 and mode != _MODE_PICKLE for raw, mode in rows)
