"""Worlds for tests of the engine: in memory where there is a tmpfs, because nothing here is about the disk."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assembly import World

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
