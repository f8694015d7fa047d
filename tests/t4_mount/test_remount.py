"""The tree is the same after every move of bytes and every mount: names, attributes, inode numbers, contents."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.comparison import CHUNK_SIZE
from tests.t4_mount.operations import below, stat_of

pytestmark = pytest.mark.mount

XATTR = "user.own.test"


def plant(root: Path) -> None:
    """A tree with everything in it."""
    for number in range(3):
        (root / f"d{number}" / "deep").mkdir(parents=True)
        for size in (0, 1, 5000, 100_000):
            path = root / f"d{number}" / "deep" / f"file-{size}"
            path.write_bytes(bytes([number]) * size)
            path.chmod(0o600 + number)
            os.setxattr(path, XATTR, b"value %d" % size)
            os.utime(path, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321 + number))
    (root / "link").symlink_to("d0/deep/file-1")
    os.link(root / "d0/deep/file-5000", root / "hard-link")
    os.mkfifo(root / "fifo")
    (root / "empty").mkdir(mode=0o2750)
    (root / os.fsdecode(b"\xff\n%41")).write_bytes(b"odd name")


def seen(root: Path, with_contents: bool = True) -> dict[str, tuple[Any, ...]]:
    """All that stat says but times that nobody set, extended attributes, link targets and contents."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in below(root):
        st = os.lstat(path)
        content: object = None
        if os.path.islink(path):
            content = os.readlink(path)
        elif os.path.isfile(path) and with_contents:
            content = (Path(path).read_bytes(), [(name, os.getxattr(path, name)) for name in os.listxattr(path)])
        found[os.path.relpath(path, root)] = (st.st_ino, st.st_mtime_ns, *stat_of(st), content)
    return found


def test_the_tree_is_the_same_after_everything() -> None:
    """Archive, release, reading, restore and mounts in between: not even an inode number changes."""
    with directory() as home:
        plan = Plan(home, flags=("--chunk-size", CHUNK_SIZE))
        plan.make_directories()
        plant(plan.hot)
        wanted = seen(plan.hot)

        def move(verb: Any) -> Callable[[Mount], object]:
            return lambda mount: mount.settled(verb, "", recursive=True)

        steps: list[Callable[[Mount], object]] = [lambda mount: None]
        steps += [move("archive"), move("release"), lambda mount: mount.evict(), move("restore")]
        steps += [lambda mount: mount.restore("d0", recursive=True), move("release")]
        for step in steps:
            with mounted(plan) as mount:
                assert seen(mount.path) == wanted
                step(mount)
                assert seen(mount.path) == wanted
                assert not mount.check()


def test_a_known_tree_is_mounted_without_asking_the_store() -> None:
    """With the bucket gone everything but the bytes of cold files is there; with the bucket back, those too."""
    with directory() as home:
        plan = Plan(home)
        plan.make_directories()
        plant(plan.hot)
        with mounted(plan) as mount:
            mount.release_all()
            wanted = seen(mount.path)
            names = seen(mount.path, with_contents=False)
            mount.evict()
        away = plan.bucket.rename(plan.bucket.with_name("away"))
        with mounted(replace(plan, flags=("--cold-timeout", "1s"))) as mount:
            assert seen(mount.path, with_contents=False) == names
            assert mount.status()["store_io"]["bytes_downloaded"] == 0
            (mount.path / "d0" / "new").write_bytes(b"hot work goes on")
            assert (mount.path / "d0" / "new").read_bytes() == b"hot work goes on"
            with pytest.raises(OSError, match="Input/output") as failed:
                (mount.path / "d1/deep/file-5000").read_bytes()
            assert failed.value.errno == errno.EIO
            (mount.path / "d0" / "new").unlink()
            os.utime(mount.path / "d0", ns=(0, wanted["d0"][1]))
        away.rename(plan.bucket)
        with mounted(plan) as mount:
            assert seen(mount.path) == wanted


def test_in_place_the_directory_holds_the_hot_files_when_nothing_is_mounted() -> None:
    """Mounted over itself; what is cold is not in it, and comes back with the mount."""
    with directory() as home:
        plan = Plan(home, in_place=True)
        plan.make_directories()
        plant(plan.hot)
        wanted = seen(plan.hot)
        with mounted(plan) as mount:
            assert seen(mount.path) == wanted
            mount.release("d0", "d1", recursive=True)
            (mount.path / "written in the mount").write_bytes(b"plain")
            assert seen(mount.path).keys() == wanted.keys() | {"written in the mount"}
        assert (plan.hot / "written in the mount").read_bytes() == b"plain"
        assert not (plan.hot / "d0/deep/file-100000").exists()
        assert (plan.hot / "d2/deep/file-100000").exists()
        (plan.hot / "written in the mount").unlink()
        with mounted(plan) as mount:
            assert seen(mount.path) == wanted


def test_twenty_thousand_files(
    capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    """They are simply there, and `ls -lR` shows them all. The time to mount is told, not judged."""
    with directory() as home:
        plan = Plan(home, in_place=True)
        plan.make_directories()
        for number in range(200):
            (plan.hot / f"d{number}").mkdir()
            for name in range(100):
                (plan.hot / f"d{number}" / f"f{name}").write_bytes(b"x")
        with mounted(plan) as mount:
            record_property("seconds to mount 20,000 files", round(mount.seconds_to_serve, 3))
            with capsys.disabled():
                print(f" [mounted 20,000 files in {mount.seconds_to_serve:.2f} s]", end="")
            listing = subprocess.run(["ls", "-lR", str(mount.path)], capture_output=True, check=True).stdout
            assert listing.count(b"\n-rw") == 20_000


@pytest.mark.slow
def test_a_block_in_the_middle_of_a_gigabyte() -> None:
    """dd with skip downloads its block and little more."""
    with directory() as home:
        require(shutil.disk_usage(home).free > 4 << 30, "4 GiB of disk space")
        plan = Plan(home)
        plan.make_directories()
        block = os.urandom(1 << 20)
        with (plan.hot / "large").open("wb") as file:
            for number in range(1024):
                file.write(number.to_bytes(8, "big") + block[8:])
        with mounted(plan) as mount:
            mount.release("large")
            before = mount.downloaded()
            command = ["dd", f"if={mount.path / 'large'}", "bs=1M", "skip=700", "count=1", "status=none"]
            assert subprocess.run(command, capture_output=True, check=True).stdout[:8] == (700).to_bytes(8, "big")
            # The first chunk is asked for when a file is opened; dd reads one.
            assert mount.downloaded() - before <= 2 << 20
