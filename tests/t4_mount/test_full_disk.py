"""A hot tier that is full: ENOSPC, as any disk says it, and nothing lost."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import require
from tests.mounting import Mount, Plan, directory, mounted

pytestmark = pytest.mark.mount

MIB = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def small_disk(path: Path, size_mib: int) -> Iterator[None]:
    """A filesystem of so many mebibytes."""
    require(os.geteuid() == 0, "mounting a small filesystem needs root")
    path.mkdir(exist_ok=True)
    if _libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"size=%dm" % size_mib):
        require(False, f"a tmpfs cannot be mounted: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        assert _libc.umount2(os.fsencode(path), 0) == 0, os.strerror(ctypes.get_errno())


@pytest.fixture
def mount() -> Iterator[Mount]:
    """A mount whose hot directory is on a disk of 32 MiB."""
    with directory() as home, small_disk(home / "hot", 32), mounted(Plan(home)) as made:
        yield made


def fill(path: Path) -> int:
    """Write until the disk is full; how many bytes went in."""
    block, written = b"f" * MIB, 0
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


def test_a_full_hot_tier(mount: Mount) -> None:
    """Writes and restores that do not fit fail with ENOSPC; what is cold stays cold and can be read; room heals it."""
    content = os.urandom(10 * MIB)
    cold = mount.path / "cold"
    mount.make_cold(cold, content)
    assert fill(mount.path / "filler") >= 28 * MIB

    (outcome,) = mount.outcomes("restore", "cold")
    assert (outcome.result, outcome.reason) == ("failed", "No space left on device")
    assert mount.residency("cold") == "cold"
    with cold.open("r+b", buffering=0) as file, pytest.raises(OSError, match="No space left") as full:
        file.write(b"x")
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        os.truncate(cold, 5 * MIB)
    assert cold.read_bytes() == content
    assert os.statvfs(mount.path).f_bavail == os.statvfs(mount.plan.hot).f_bavail < MIB

    os.rename(cold, mount.path / "renamed")
    os.chmod(mount.path / "renamed", 0o600)
    os.rename(mount.path / "renamed", cold)
    assert not mount.check()

    os.unlink(mount.path / "filler")
    with cold.open("r+b", buffering=0) as file:
        file.write(b"x")
    assert cold.read_bytes() == b"x" + content[1:]
    assert mount.residency("cold") == "hot"


def test_release_makes_room(mount: Mount) -> None:
    """More goes through the mount than the disk holds."""
    for number in range(6):
        mount.make_cold(mount.path / f"file-{number}", bytes([number]) * (10 * MIB))
    for number in range(6):
        assert (mount.path / f"file-{number}").read_bytes() == bytes([number]) * (10 * MIB)


def test_a_full_state_directory() -> None:
    """No room for chunks: cold files are read all the same, without the cache."""
    with (
        directory() as home,
        small_disk(home / "state", 4),
        mounted(Plan(home, flags=("--cache-size", "64MiB"))) as mount,
    ):
        content = os.urandom(20 * MIB)
        mount.make_cold(mount.path / "cold", content)
        assert (mount.path / "cold").read_bytes() == content
        assert (mount.path / "cold").read_bytes() == content
        assert mount.status()["errors"]["reads"] == 0
