"""What a real mount costs, by command; and until when its SSD has room, also over workers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mounting import Plan, directory, mounted
from tests.t4_mount.modes import wait_until

pytestmark = pytest.mark.mount

MIB = 1 << 20
PRICES = "ssd_gb_month = 0.1\ndisk_gb_month = 0.01\n"
STEP_NS = 300 * 10**9
#: Bytes in five minutes: no disk has room for that for a day.
FAST = 1 << 44


def told(*arguments: str) -> str:
    """What a command says."""
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


def test_the_bill_and_the_plan_of_a_mount() -> None:
    """A hot and a mirrored MiB, and two that are cold: three MiB of objects at $0.01 a GB are $0.000029296875, four MiB
    of SSD at $0.1 $0.000390625. The mirrored one is old: to release it saves a MiB of SSD, $0.00009765625."""
    with directory() as home:
        table = home / "prices.toml"
        table.write_text(PRICES)
        flags = "--auto-archive", "--policy-interval=1h", "--high-watermark=100%", "--low-watermark=99%"
        with mounted(Plan(home, flags=(*flags, "--prices", str(table)))) as mount:
            wait_until(lambda: mount.status()["policy"]["next_pass_ns"] > 0)  # the next one is in an hour
            for name, size in (("hot", 1), ("warm", 1), ("cold", 2)):
                (mount.path / name).write_bytes(os.urandom(size * MIB))
            mount.archive("warm")
            mount.release("cold")
            os.utime(mount.path / "warm", (1, 1))
            bill: dict[str, Any] = json.loads(told("cost", str(mount.path), "--json"))
            now, all_hot, policy = (bill["month"][name] for name in ("now", "all_hot", "policy"))
            assert (now["objects"], now["object_bytes"], now["store"]) == (2, 3 * MIB, "0.000029296875")
            assert (all_hot["ssd_bytes"], all_hot["total"]) == (4 * MIB, "0.000390625")
            assert (policy["store"], policy["ssd_bytes"]) == (now["store"], now["ssd_bytes"] - MIB)
            assert bill["prices"]["ssd_gb_month"] == "0.1"
            assert bill["day"]["requests"]["PutObject"]["count"] >= 2
            assert (bill["day"]["total"], bill["day"]["bytes_uploaded"] >= 3 * MIB) == ("0", True)
            *_, empty, total = told("plan", str(mount.path)).splitlines()
            assert empty == ""
            assert total.startswith("release         1 files   1.0M         1 requests")
            assert total.endswith("less a month  unchanged for 7d (cold_after)")
            [release] = mount.client.plan()
            assert (release.path, release.dollars, release.month) == (b"warm", "0", "-0.00009765625")


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
            assert "  runway  full in " in told("status", str(mount.path))
            pid = mount.kill_worker()
            mount.wait_taken_over(pid)
            again = mount.status()["runway"]
            assert again["up"]["state"] == "filling"
            assert again["history_s"] >= runway["history_s"]
