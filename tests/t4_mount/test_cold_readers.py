"""Readers of all kinds on a cold file: backward, strided, several at different places, and through a mapping."""

import mmap
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mounting import Mount, Plan, directory, mounted

pytestmark = pytest.mark.mount

CHUNK = 64 << 10
SIZE = 40 * CHUNK + 4321
CONTENT = random.Random(SIZE).randbytes(SIZE)
PIECE = 10_000


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    """Chunks of 64 KiB, and some read-ahead."""
    flags = ("--chunk-size", "64KiB", "--read-ahead", "1MiB")
    with directory() as home, mounted(Plan(home, flags=flags)) as made:
        yield made


def expect(fd: int, offset: int, length: int = PIECE) -> None:
    """The right bytes are there."""
    assert os.pread(fd, length, offset) == CONTENT[offset : offset + length]


def forward(fd: int) -> None:
    for offset in range(0, SIZE, PIECE):
        expect(fd, offset)


def backward(fd: int) -> None:
    for offset in range(SIZE - SIZE % PIECE, -1, -PIECE):
        expect(fd, offset)


def strided(fd: int) -> None:
    for offset in range(0, SIZE, 5 * CHUNK // 2):
        expect(fd, offset)


def to_and_fro(fd: int) -> None:
    for offset in range(0, SIZE // 2, PIECE):
        expect(fd, offset)
        expect(fd, SIZE - PIECE - offset)


def mapped(fd: int) -> None:
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
        for offset in (SIZE - 1, 0, 17 * CHUNK - 1, 17 * CHUNK):
            assert memory[offset] == CONTENT[offset]
        assert memory.find(CONTENT[9 * CHUNK - 8 : 9 * CHUNK + 8]) == 9 * CHUNK - 8
        assert memory[:] == CONTENT


def mapped_at_random(fd: int) -> None:
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
        memory.madvise(mmap.MADV_RANDOM)
        for offset in random.Random(3).sample(range(SIZE), 50):
            assert memory[offset] == CONTENT[offset]


PATTERNS = (forward, backward, strided, to_and_fro, mapped, mapped_at_random)


def opened(path: Path, read: Callable[[int], None]) -> None:
    """Read with a handle of its own."""
    fd = os.open(path, os.O_RDONLY)
    try:
        read(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("read", PATTERNS)
def test_one_reader(mount: Mount, read: Callable[[int], None]) -> None:
    """The right bytes, and no chunk comes twice."""
    path = mount.path / read.__name__
    mount.make_cold(path, CONTENT)
    downloaded = mount.downloaded()
    opened(path, read)
    assert mount.downloaded() - downloaded <= SIZE
    assert mount.residency(mount.inside(path)) == "cold"


def test_all_of_them_at_the_same_time(mount: Mount) -> None:
    """Of one file, at different places: each has the right bytes, each chunk comes once."""
    path = mount.path / "together"
    mount.make_cold(path, CONTENT)
    downloaded = mount.downloaded()

    def from_the_middle(fd: int) -> None:
        for offset in range(SIZE // 2, SIZE, PIECE):
            expect(fd, offset)

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(opened, path, read) for read in (*PATTERNS, from_the_middle)]:
            done.result()
    assert mount.downloaded() - downloaded <= SIZE
