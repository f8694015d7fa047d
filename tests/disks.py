"""Disks that are small, full or read-only, as the real thing: a tmpfs of their own. They need root."""

import ctypes
import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import require

MIB = 1 << 20
_MS_RDONLY, _MS_REMOUNT = 1, 32  # mount(2)
_FS_IOC_FIEMAP = 0xC020660B  # linux/fs.h
_IMAGE_BYTES = 32 * MIB
_MNT_DETACH = 2  # umount2(2)
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def small_disk(path: Path, size_mib: int, detached: bool = False) -> Iterator[None]:
    """A filesystem of so many mebibytes; `detached`: it may go although this process still has files of it open."""
    require(os.geteuid() == 0, "mounting a small filesystem needs root")
    path.mkdir(exist_ok=True)
    if _libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"size=%dm" % size_mib):
        require(False, f"a tmpfs cannot be mounted: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        assert _libc.umount2(os.fsencode(path), _MNT_DETACH if detached else 0) == 0, os.strerror(ctypes.get_errno())


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Make the filesystem at `path` read-only, as the kernel does by itself with one that is damaged."""
    _remount(path, _MS_RDONLY)
    try:
        yield
    finally:
        _remount(path, 0)


def _remount(path: Path, flags: int) -> None:
    if _libc.mount(b"none", os.fsencode(path), None, _MS_REMOUNT | flags, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))


class FailingDisk:
    """An ext4 filesystem in a file, by way of a loop device, that can lose blocks: reading them is EIO."""

    def __init__(self, image: Path) -> None:
        self._image = image

    def lose(self, *paths: Path) -> None:
        """Let the bytes of these files, and all behind them on the disk, be unreadable from now on."""
        self._cut(min(_place_of(path) for path in paths))

    def mend(self) -> None:
        """Everything can be read again; what was lost is zeros."""
        self._cut(_IMAGE_BYTES)

    def _cut(self, size: int) -> None:
        os.truncate(self._image, size)


@contextmanager
def failing_disk(path: Path) -> Iterator[FailingDisk]:
    """Mount one at `path`; the test is skipped where there are no loop devices."""
    image = path.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    path.mkdir(exist_ok=True)
    make = ["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", str(image)]
    try:
        subprocess.run(make, check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 on a loop device here: {error}")
    disk = FailingDisk(image)
    try:
        yield disk
    finally:
        disk.mend()
        subprocess.run(["umount", str(path)], check=True)


def _place_of(path: Path) -> int:
    """Where on its disk a file begins, in bytes; nothing of it is in memory afterwards."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        # struct fiemap of linux/fiemap.h: start, length, flags, mapped, count, reserved, and one extent
        request = bytearray(struct.pack("=QQLLLL", 0, 1 << 62, 0, 0, 1, 0) + bytes(56))
        fcntl.ioctl(file.fileno(), _FS_IOC_FIEMAP, request)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    (physical,) = struct.unpack_from("=Q", request, 32 + 8)
    return int(physical)


def fill(path: Path, block: bytes = b"f" * MIB) -> int:
    """Write blocks until the disk is full; how many bytes went in."""
    written = 0
    with path.open("wb", buffering=0) as file:
        while (count := _write(file.fileno(), block)) > 0:
            written += count
    return written


def _write(fd: int, block: bytes) -> int:
    """write(2), 0 for ENOSPC."""
    try:
        return os.write(fd, block)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0
