"""Moving in and out: a directory that is there gets a mount over it, and is whole again without it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mounting import Plan, directory, mounted

pytestmark = pytest.mark.mount


def picture(top: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, mtime and content of every file."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_file():
            st = path.stat()
            found[str(path.relative_to(top))] = (st.st_mode, st.st_mtime_ns, path.read_bytes())
    return found


def test_a_directory_is_mounted_in_place_and_left_whole() -> None:
    with directory() as home:
        plan = Plan(home, in_place=True)
        plan.make_directories()
        for number in range(20):
            path = plan.hot / f"topic-{number % 4}" / f"{number:020d}.log"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"%d" % number * 1000)
            path.chmod(0o640)
            os.utime(path, ns=(1, 1_600_000_000_000_000_000 + number))
        before = picture(plan.hot)
        with mounted(plan) as mount:
            assert picture(mount.path) == before
            mount.release_all()
            assert mount.status()["cold"]["files"] == 20
            mount.evict()
            assert picture(mount.path) == before
            done = subprocess.run(
                [sys.executable, "-m", "tierfs", "restore", "-r", "--all", str(mount.path)],
                check=False,
                capture_output=True,
                text=True,
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert "the mount is not needed any more" in done.stdout
            assert {outcome.result for outcome in mount.outcomes("release", b"", recursive=True)} == {"unchanged"}
        assert picture(plan.hot) == before


def test_a_topic_that_is_deleted_is_not_copied_before() -> None:
    """As Kafka does it: the directory is renamed, its files are removed one by one."""
    with directory() as home:
        plan = Plan(home, flags=("--transient=*-delete", "--policy-interval=100ms", "--snapshot-interval=0s"))
        plan.make_directories()
        with mounted(plan) as mount:
            (mount.path / "topic-0").mkdir()
            for number in range(50):
                (mount.path / "topic-0" / f"{number:020d}.log").write_bytes(b"%d" % number * 1000)
            mount.release_all()
            (mount.path / "topic-0").rename(mount.path / "topic-0.77-delete")
            for path in sorted((mount.path / "topic-0.77-delete").iterdir()):
                path.unlink()
            (mount.path / "topic-0.77-delete").rmdir()
            while mount.status()["queue"]["deletions"]:
                time.sleep(0.005)
            requests = mount.status()["store_io"]["requests_by_operation"]
            assert requests.get("CopyObject", 0) == 0
            assert not [path for path in plan.bucket.rglob("*.log") if path.is_file()]
            assert os.listdir(mount.path) == []
