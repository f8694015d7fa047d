"""Worlds, buckets and caches for tests of the engine; in memory where there is a tmpfs: nothing is about the disk."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assembly import World
from tests.t2_engine.hydration import Bucket
from tierfs.stores.cache import ChunkCache

_TMPFS = "/dev/shm"


@pytest.fixture
def swift_path(tmp_path: Path) -> Iterator[Path]:
    """A directory on which fsync costs nothing."""
    if not os.access(_TMPFS, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="tierfs-t-", dir=_TMPFS, ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def world(swift_path: Path) -> World:
    """A hot directory, a state directory and a bucket, all empty."""
    return World(swift_path / "world")


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """A bucket that counts, waits and fails on command; what it holds back is let go at the end."""
    bucket = Bucket()
    yield bucket
    bucket.let_go()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ChunkCache]:
    """A chunk cache of 8 MiB; at the end nothing is reserved in it."""
    cache = ChunkCache(tmp_path / "cache", 8 << 20)
    yield cache
    assert cache._reserved == 0
    cache.close()
