"""What a real mount costs, by command; and until when its SSD has room, also over workers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.modes import wait_until

pytestmark = pytest.mark.mount

MIB = 1 << 20
PRICES = "ssd_gb_month = 0.1\ndisk_gb_month = 0.01\n"
STEP_NS = 300 * 10**9
#: Bytes in five minutes: no disk has room for that for a day.
FAST = 1 << 44


def told(mount: Mount, *arguments: str) -> str:
    """What a command says of a mount."""
    command = [sys.executable, "-m", "tierfs", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def seed_history(state: Path) -> None:
    """An hour of samples, as a worker before would have left them, up to now."""
    now_ns = time.time_ns()
    samples = [[now_ns - (13 - index) * STEP_NS, index * FAST, 0, 0] for index in range(13)]
    state.mkdir(mode=0o700)
    (state / "history.json").write_text(json.dumps({"usage": {"since_ns": 0, "hours": []}, "samples": samples}))


def test_the_bill_of_a_mount() -> None:
    """A hot and a mirrored MiB, and two that are cold: three MiB of objects at $0.01 a GB are $0.000029296875, four MiB
    of SSD at $0.1 $0.000390625. The plan: to archive one MiB, to release two, for $0 a request."""
    with directory() as home:
        table = home / "prices.toml"
        table.write_text(PRICES)
        with mounted(Plan(home, flags=("--prices", str(table), "--cold-after=1d"))) as mount:
            for name, size in (("hot", 1), ("warm", 1), ("cold", 2)):
                (mount.path / name).write_bytes(os.urandom(size * MIB))
            mount.archive("warm")
            mount.release("cold")
            bill: dict[str, Any] = json.loads(told(mount, "cost", str(mount.path), "--json"))
            now, all_hot = bill["month"]["now"], bill["month"]["all_hot"]
            assert (now["objects"], now["object_bytes"], now["store"]) == (2, 3 * MIB, "0.000029296875")
            assert (all_hot["ssd_bytes"], all_hot["total"]) == (4 * MIB, "0.000390625")
            assert bill["month"]["policy"] == now  # it is off
            assert bill["prices"]["ssd_gb_month"] == "0.1"
            assert bill["day"]["requests"]["PutObject"]["count"] >= 2
            assert bill["day"]["total"] == "0"
            assert bill["day"]["bytes_uploaded"] >= 3 * MIB
            text = told(mount, "cost", str(mount.path), "--prices", str(table))
            assert f"{mount.path}  file://{mount.plan.bucket}" in text
            assert "  all hot       4.0M" in text


def test_the_plan_of_a_mount_in_sums() -> None:
    with directory() as home:
        flags = ("--auto-archive", "--policy-interval=1h", "--high-watermark=100%", "--low-watermark=99%")
        with mounted(Plan(home, flags=(*flags, "--warm-after=1s", "--cold-after=1s", "--settle=0s"))) as mount:
            wait_until(lambda: mount.status()["policy"]["next_pass_ns"] > 0)  # the next one is in an hour
            path = mount.path / "mirrored"
            path.write_bytes(b"x" * MIB)
            mount.archive("mirrored")
            os.utime(path, (1, 1))
            [rule] = json.loads(told(mount, "plan", str(mount.path), "--summary", "--json"))
            known = {"verb": "release", "rule": "unchanged for 1s (cold_after)", "files": 1, "bytes": MIB}
            assert rule == known | {"requests": 1, "dollars": "0", "month": "-0.000078125"}
            *_, empty, total = told(mount, "plan", str(mount.path)).splitlines()
            assert empty == ""
            assert total.startswith("release         1 files   1.0M         1 requests")


def test_the_runway_of_a_mount_outlives_its_worker() -> None:
    with directory() as home:
        plan = Plan(home)
        seed_history(plan.state)
        with mounted(plan) as mount:
            first = mount.status()
            runway = first["runway"]
            assert runway["up"]["state"] == runway["down"]["state"] == "filling"
            assert runway["up"]["bytes_per_second"] == pytest.approx(FAST / 300)
            assert runway["up"]["seconds"] == pytest.approx(runway["free_bytes"] / (FAST / 300))
            assert runway["history_s"] >= 12 * 300
            assert any(warning.startswith("the hot tier is full in ") for warning in first["warnings"])
            assert "  runway  full in " in told(mount, "status", str(mount.path))
            pid = mount.kill_worker()
            mount.wait_taken_over(pid)
            again = mount.status()["runway"]
            assert again["up"]["state"] == "filling"
            assert again["history_s"] >= runway["history_s"]
