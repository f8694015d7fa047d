"""One large cold file, read in every way that programs read: each gives the bytes that went in."""

import mmap
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounting import Mount
from tests.t5_apps.conftest import MakeMount, run

_SIZE = (48 << 20) + 12_345
_READS = 400


@dataclass(frozen=True, slots=True)
class Large:
    """A cold file, and its bytes."""

    mount: Mount
    path: Path
    data: bytes


@pytest.fixture(scope="module")
def released(make_mount: MakeMount) -> Iterator[Large]:
    with make_mount("patterns", "--cache-size", "16MiB") as mount:  # a third of the file: chunks are dropped meanwhile
        data = random.Random(1).randbytes(_SIZE)
        path = mount.path / "large"
        path.write_bytes(data)
        mount.release("large")
        yield Large(mount, path, data)
        assert mount.residency("large") == "cold"


@pytest.fixture
def large(released: Large) -> Large:
    """Nothing of it is cached, neither by tierfs nor by the kernel."""
    released.mount.evict()
    fd = os.open(released.path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    return released


def _spots(seed: int, longest: int) -> Iterator[tuple[int, int]]:
    """Offsets and sizes all over the file, many of them at the borders of chunks and at its end."""
    chooser = random.Random(seed)
    for _ in range(_READS):
        border = chooser.randrange(0, _SIZE >> 20) << 20
        offset = chooser.choice((chooser.randrange(_SIZE), max(0, border - chooser.randrange(9)), border, _SIZE - 7))
        yield offset, chooser.randrange(1, longest)


def _pread(fd: int, size: int, offset: int) -> bytes:
    return os.pread(fd, size, offset)


def _preadv(fd: int, size: int, offset: int) -> bytes:
    parts = [bytearray(size // 3), bytearray(size - size // 3)]
    got = os.preadv(fd, [part for part in parts if part], offset)
    return b"".join(parts)[:got]


def _seek_and_read(fd: int, size: int, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, size)


@pytest.mark.parametrize("read", [_pread, _preadv, _seek_and_read])
def test_random_reads(large: Large, read: Callable[[int, int, int], bytes]) -> None:
    fd = os.open(large.path, os.O_RDONLY)
    try:
        for offset, size in _spots(2, 70_000):
            assert read(fd, size, offset) == large.data[offset : offset + size], (offset, size)
    finally:
        os.close(fd)


def test_mapped_reads(large: Large) -> None:
    with large.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        for offset, size in _spots(3, 70_000):
            assert mapped[offset : offset + size] == large.data[offset : offset + size], (offset, size)
        mapped.madvise(mmap.MADV_SEQUENTIAL)
        assert mapped[:] == large.data


def test_private_map_is_written_and_the_file_is_not(large: Large) -> None:
    with large.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[5 << 20 : (5 << 20) + 4] = b"mine"
        assert mapped[(5 << 20) + 4 : 6 << 20] == large.data[(5 << 20) + 4 : 6 << 20]
    assert large.mount.residency("large") == "cold"


def test_backwards(large: Large) -> None:
    fd = os.open(large.path, os.O_RDONLY)
    try:
        block, end = 300_007, _SIZE
        while end > 0:
            start = max(0, end - block)
            assert os.pread(fd, end - start, start) == large.data[start:end]
            end = start
    finally:
        os.close(fd)


def test_interleaved_sequential_readers(large: Large) -> None:
    fds = [os.open(large.path, os.O_RDONLY) for _ in range(4)]
    try:
        for number, fd in enumerate(fds):
            os.lseek(fd, number * (_SIZE // 4), os.SEEK_SET)
        for _ in range(_SIZE // 4 // 500_000):
            for fd in fds:
                at = os.lseek(fd, 0, os.SEEK_CUR)
                assert os.read(fd, 500_000) == large.data[at : at + 500_000]
    finally:
        for fd in fds:
            os.close(fd)


def test_threads_share_a_descriptor(large: Large) -> None:
    wrong: list[tuple[int, int]] = []
    fd = os.open(large.path, os.O_RDONLY)

    def read(seed: int) -> None:
        for offset, size in _spots(seed, 20_000):
            if os.pread(fd, size, offset) != large.data[offset : offset + size]:
                wrong.append((offset, size))

    try:
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(10, 18)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.close(fd)
    assert wrong == []


def test_copies_inside_the_kernel(large: Large, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with large.path.open("rb") as source, copy.open("wb") as target:
        left = _SIZE
        while left:
            left -= os.sendfile(target.fileno(), source.fileno(), None, left)
    assert copy.read_bytes() == large.data
    within = large.mount.path / "copy"  # from a cold file to a hot one: only then copy_file_range(2) is possible
    with large.path.open("rb") as source, within.open("wb") as target:
        left = _SIZE
        while left:
            left -= os.copy_file_range(source.fileno(), target.fileno(), left)
    assert within.read_bytes() == large.data
    within.unlink()


def test_direct_reads(large: Large) -> None:
    fd = os.open(large.path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 1 << 20) as aligned:
            for offset in (0, 4096, 10 << 20, (_SIZE >> 20) << 20):
                got = os.preadv(fd, [aligned], offset)
                assert aligned[:got] == large.data[offset : offset + got]
                assert got == min(1 << 20, _SIZE - offset)
    finally:
        os.close(fd)


@pytest.mark.parametrize("block", ["4K", "1000003", "8M"])
def test_dd(large: Large, block: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run("dd", f"if={large.path}", f"of={copy}", f"bs={block}", "status=none")
    assert copy.read_bytes() == large.data
