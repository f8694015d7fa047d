"""Disks that are full or fail: what applications are told, what the mount says, and that it heals."""

import errno
import os
from collections.abc import Callable

import pytest

from tests.disks import MIB, failing_disk, fill, read_only, small_disk
from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.modes import wait_until

pytestmark = pytest.mark.mount

#: The policy looks once, at the start: what moves later moves for want of room.
SELDOM = ("--auto-archive", "--policy-interval", "1h", "--warm-after", "1h", "--cold-after", "1h", "--min-size", "1")
OFTEN = ("--auto-archive", "--policy-interval", "300ms", "--warm-after", "0s", "--settle", "0s", "--cold-after", "1h")


def code_of(operation: Callable[[], object]) -> int:
    """The errno that it fails with."""
    try:
        operation()
    except OSError as error:
        return error.errno or 0
    raise AssertionError("it succeeded")


@pytest.mark.parametrize("marks", [(), ("--high-watermark", "1GiB", "--low-watermark", "512MiB")])
def test_mirrored_files_go_as_soon_as_the_hot_tier_is_nearly_full(marks: tuple[str, ...]) -> None:
    """Long before the next pass of the policy, the oldest first, and no more than needed; what is hot stays."""
    with directory() as home, small_disk(home / "hot", 32), mounted(Plan(home, flags=(*SELDOM, *marks))) as mount:
        for name in ("oldest", "older", "young"):
            (mount.path / name).write_bytes(name.encode() * (MIB + 1))
        for name in ("oldest", "older", "young"):
            mount.archive(name)
        os.truncate(mount.path / "young", 6 * MIB)  # the size differs: hot again
        (mount.path / "hot").write_bytes(bytes(32 * MIB - used(mount) - MIB))
        wait_until(lambda: mount.residency("oldest") == "cold")
        assert mount.residency("young") == mount.residency("hot") == "hot"
        assert (mount.path / "oldest").read_bytes() == b"oldest" * (MIB + 1)
        assert "the hot tier is above 9" in mount.log.read_text()
        assert mount.check() == []


def used(mount: Mount) -> int:
    """Bytes that the hot tier's filesystem has in use."""
    filesystem = os.statvfs(mount.plan.hot)
    return (filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_frsize


def test_a_restore_makes_the_room_that_it_needs() -> None:
    """From mirrored files; without any, it fails and leaves nothing."""
    with directory() as home, small_disk(home / "hot", 32), mounted(Plan(home, flags=SELDOM)) as mount:
        content = os.urandom(12 * MIB)
        mount.make_cold(mount.path / "cold", content)
        for name in ("a", "b"):
            (mount.path / name).write_bytes(name.encode() * 12 * MIB)
        (mount.path / "filler").write_bytes(bytes(4 * MIB))  # below the high watermark
        (outcome,) = mount.outcomes("restore", "cold")
        assert (outcome.result, outcome.reason) == ("failed", "No space left on device")
        assert mount.residency("cold") == "cold"
        mount.archive("a", "b")
        with (mount.path / "cold").open("r+b") as file:
            file.write(content[:1])
        assert (mount.path / "cold").read_bytes() == content
        assert sorted(mount.residency(name) for name in ("a", "b")) == ["cold", "mirrored"]
        for name in ("a", "b"):
            assert (mount.path / name).read_bytes() == name.encode() * 12 * MIB
        assert mount.check() == []


def test_a_full_disk_of_the_state_directory() -> None:
    """Hot files are read, written and made; what the catalog would have to know says ENOSPC, and why; room heals it."""
    flags = (*OFTEN, "--min-size", "1", "--cache-size", "0")
    with directory() as home, small_disk(home / "state", 4), mounted(Plan(home, flags=flags)) as mount:
        colds = {name: os.urandom(10_000) for name in ("gone", "old", "short", "back")}
        for name, content in colds.items():
            (mount.path / name).write_bytes(content)
        mount.settled("archive", *colds)
        wait_until(lambda: mount.status()["warm"]["files"] == len(colds))
        mount.release(*colds)
        fill(mount.plan.state / "filler", b"f" * 4096)

        hot = mount.path / "hot"
        hot.write_bytes(b"hot")
        refused: list[Callable[[], object]] = [
            (mount.path / "gone").unlink,
            lambda: (mount.path / "old").rename(mount.path / "new"),
            lambda: os.truncate(mount.path / "short", 0),
            lambda: os.truncate(mount.path / "back", 5),
            lambda: (mount.path / "old").chmod(0o600),
        ]
        assert [code_of(operation) for operation in refused] == [errno.ENOSPC] * len(refused)
        (outcome,) = mount.outcomes("restore", "back")
        assert outcome.result == "failed"
        assert "its disk is full" in outcome.reason
        wait_until(lambda: "its disk is full" in mount.status()["errors"]["files"].get("hot", ""))
        assert sorted(os.listdir(mount.path)) == sorted([*colds, "hot"])
        assert [(mount.path / name).read_bytes() for name in colds] == list(colds.values())
        assert {mount.residency(name) for name in colds} == {"cold"}
        assert hot.read_bytes() == b"hot"

        (mount.plan.state / "filler").unlink()
        (mount.path / "gone").unlink()
        (mount.path / "old").rename(mount.path / "new")
        os.truncate(mount.path / "back", 5)
        assert (mount.path / "back").read_bytes() == colds["back"][:5]
        mount.archive("hot")  # the policy would come to it, after a pause
        wait_until(lambda: mount.status()["queue"] == {"archiving": 0, "restoring": 0, "deletions": 0, "moves": 0})
        assert mount.check() == []


def test_a_hot_tier_that_became_read_only() -> None:
    """As ext4 becomes when it meets an error: all that would write says EROFS; reads go on, and nothing is lost."""
    with directory() as home, small_disk(home / "hot", 32), mounted(Plan(home)) as mount:
        names = ("hot", "warm", "cold")
        for name in names:
            (mount.path / name).write_bytes(name.encode() * 10_000)
        mount.archive("warm")
        mount.release("cold")
        with read_only(mount.plan.hot):
            assert code_of(lambda: (mount.path / "new").write_bytes(b"x")) == errno.EROFS
            assert code_of(lambda: (mount.path / "hot").write_bytes(b"x")) == errno.EROFS
            assert code_of(lambda: os.truncate(mount.path / "cold", 5)) == errno.EROFS
            for verb, name in (("release", "warm"), ("restore", "cold")):
                (outcome,) = mount.outcomes(verb, name)  # type: ignore[arg-type]
                assert (outcome.result, outcome.reason) == ("failed", "Read-only file system")
            assert [mount.residency(name) for name in names] == ["hot", "mirrored", "cold"]
            assert [(mount.path / name).read_bytes() for name in names] == [name.encode() * 10_000 for name in names]
        (mount.path / "hot").write_bytes(b"writable")
        mount.release("warm")
        mount.restore("cold")
        assert [mount.residency(name) for name in names] == ["hot", "cold", "mirrored"]
        assert (mount.path / "warm").read_bytes() == b"warm" * 10_000
        assert mount.check() == []


def test_a_hot_file_that_cannot_be_read_stays_hot() -> None:
    """EIO for who reads it; it is not archived. A mirrored one is whole in the bucket: released, it is read again.

    But not one that was written before this mount: only its bytes could tell whether a power cut gave it others.
    """
    with directory() as home, failing_disk(home / "hot") as disk:
        plan = Plan(home, flags=(*OFTEN, "--pins", "bad"))
        for name in ("older", "bad"):
            (plan.hot / name).write_bytes(name.encode() * 300_000)
        with mounted(plan) as mount:
            (mount.path / "warm").write_bytes(b"warm" * 300_000)
            wait_until(lambda: mount.residency("warm") == mount.residency("older") == "mirrored")
            disk.lose(*(plan.hot / name for name in ("warm", "older", "bad")))
            for name in ("warm", "older", "bad"):
                assert code_of((mount.path / name).read_bytes) == errno.EIO
            for verb, name in (("archive", "bad"), ("release", "older")):
                (outcome,) = mount.settled(verb, name)  # type: ignore[arg-type]
                assert (outcome.result, outcome.reason) == ("failed", "Input/output error")
            assert [mount.residency(name) for name in ("bad", "older")] == ["hot", "mirrored"]
            mount.release("warm")
            assert (mount.path / "warm").read_bytes() == b"warm" * 300_000
            disk.mend()
            (mount.path / "bad").write_bytes(b"written again")
            mount.archive("bad")
            assert mount.check() == []


def test_a_cache_that_is_damaged_while_it_is_used() -> None:
    """Every byte of every chunk and of its database is overwritten: misses, never wrong bytes, never errors."""
    with directory() as home, mounted(Plan(home, flags=("--chunk-size", "64KiB"))) as mount:
        content = os.urandom(MIB)
        mount.make_cold(mount.path / "cold", content)
        assert (mount.path / "cold").read_bytes() == content
        for path in (path for path in (mount.plan.state / "cache").rglob("*") if path.is_file()):
            path.write_bytes(b"\xa5" * path.stat().st_size)
        for _ in range(2):
            fd = os.open(mount.path / "cold", os.O_RDONLY | os.O_DIRECT)
            try:
                assert b"".join(os.pread(fd, 65536, offset) for offset in range(0, MIB, 65536)) == content
            finally:
                os.close(fd)
        assert mount.status()["errors"]["reads"] == 0
        assert mount.check() == []
