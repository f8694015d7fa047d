"""A hot tier that is full: ENOSPC, as any disk says it, and nothing lost."""

import errno
import os
from collections.abc import Iterator

import pytest

from tests.disks import MIB, fill, small_disk
from tests.mounting import Mount, Plan, directory, mounted

pytestmark = pytest.mark.mount


@pytest.fixture
def mount() -> Iterator[Mount]:
    """A mount whose hot directory is on a disk of 32 MiB."""
    with directory() as home, small_disk(home / "hot", 32), mounted(Plan(home)) as made:
        yield made


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
