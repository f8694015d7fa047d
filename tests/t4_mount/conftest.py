"""Mounts that tests share: one mount for a module, a fresh directory in it for each test."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.comparison import CHUNK_SIZE

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    """A mount of its own for each module: hot directory beside it, store in a directory, small chunks, policy off."""
    with directory() as home, mounted(Plan(home, flags=("--chunk-size", CHUNK_SIZE))) as made:
        yield made


@pytest.fixture
def place(mount: Mount) -> Path:
    """A fresh directory in the shared mount."""
    path = mount.path / f"t{next(_numbers)}"
    path.mkdir()
    return path
