"""Events, jobs and the log of a mount that serves: what happens is told to whoever asks, follows, or reads the log."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Fault, Kind
from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.faulty_bucket import CHUNK, Stage, bucket_server, read_directly, staged
from tests.t4_mount.modes import wait_until

pytestmark = pytest.mark.mount

_PATIENCE_S = 120


def tierfs(*arguments: str, status: int = 0) -> str:
    """What a command of a shell prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tierfs", *arguments], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def events_of(mount: Mount) -> list[dict[str, Any]]:
    """`tierfs events --json`."""
    return [json.loads(line) for line in tierfs("events", str(mount.path), "--json").splitlines()]


def reasons(mount: Mount) -> list[str]:
    """What is said of the events, asked for without a process for it."""
    return [event.reason for event in mount.client.events()]


def changes(found: list[dict[str, Any]], path: Path | str) -> list[tuple[str, str]]:
    return [(one["from"], one["to"]) for one in found if one["kind"] == "residency" and one["path"] == str(path)]


def logged(mount: Mount) -> list[dict[str, Any]]:
    """The log, which is JSON; the supervisor and the shell say things of their own."""
    lines = mount.log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


class Follower:
    """`tierfs events -f --json` in a process of its own."""

    def __init__(self, mount: Mount) -> None:
        command = [sys.executable, "-m", "tierfs", "events", "-f", "--json", str(mount.path)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.found: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.found.append(json.loads(line))

    def end(self) -> int:
        """Wait until it has ended by itself; its exit status."""
        status = self.process.wait(_PATIENCE_S)
        self._thread.join()
        return status

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._thread.join()
        assert self.process.stdout
        self.process.stdout.close()


@contextmanager
def following(mount: Mount) -> Iterator[Follower]:
    """Who follows, in this block."""
    follower = Follower(mount)
    try:
        yield follower
    finally:
        follower.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with bucket_server() as server, staged("--slow-operation", "200ms", "--log-format", "json", server=server) as made:
        yield made


def test_what_happens_is_told_and_logged_with_its_fields(stage: Stage) -> None:
    mount, path = stage.mount, stage.mount.path / "told"
    mount.make_cold(path, b"12345")
    with path.open("ab") as file:
        file.write(b"6")
    wait_until(lambda: "it was written to" in reasons(mount))
    found = events_of(mount)
    assert changes(found, path) == [
        ("hot", "archiving"),
        ("archiving", "mirrored"),
        ("mirrored", "cold"),
        ("cold", "restoring"),
        ("restoring", "mirrored"),
        ("mirrored", "hot"),
    ]
    assert [one["number"] for one in found] == sorted({one["number"] for one in found})
    archived = next(one for one in found if (one["path"], one["to"]) == (str(path), "mirrored"))
    assert (archived["bytes"], archived["reason"]) == (5, "an operator asks")
    assert archived["duration"] > 0
    assert [one["to"] for one in found if one["kind"] == "mount"][:1] == ["serving"]

    def lines() -> list[dict[str, Any]]:
        return [line for line in logged(mount) if (line.get("kind"), line.get("path")) == ("residency", "told")]

    wait_until(lambda: len(lines()) == 6)
    fields = ("from", "to", "reason", "bytes", "duration")
    told = [{name: one[name] for name in fields} for one in found if one["path"] == str(path)]
    assert [{name: line[name] for name in fields} for line in lines()] == told


def test_who_follows_is_told_as_it_happens_over_a_take_over_until_the_mount_is_gone() -> None:
    """So is systemd's journal, with priorities and without times of its own; and jobs end with their worker."""
    with directory() as home, journaled(home) as mount, following(mount) as follower:
        wait_until(lambda: follower.found)
        mount.make_cold(mount.path / "one", b"1")
        wait_until(lambda: changes(follower.found, mount.path / "one")[-1:] == [("mirrored", "cold")])
        mount.make_cold(mount.path / "large", bytes(4 * CHUNK))
        held = mount.client.start_job("restore", [b"large"], recursive=False)  # one chunk comes, the others in an hour
        mount.wait_taken_over(mount.kill_worker())
        (job,) = mount.client.jobs()
        assert (job.id, job.state, job.verb) == (held.id, "cancelled", "restore")
        assert "its worker ended before it did" in job.reason
        mount.make_cold(mount.path / "two", b"2")
        wait_until(lambda: changes(follower.found, mount.path / "two")[-1:] == [("mirrored", "cold")])
        assert "take-over" in [one["kind"] for one in follower.found]
        numbers = [one["number"] for one in follower.found]
        assert numbers == sorted(set(numbers))
        subprocess.run([sys.executable, "-m", "tierfs", "umount", str(mount.path)], timeout=_PATIENCE_S, check=True)
        assert follower.end() == 0
        assert "<6>one: mirrored to cold, 1 bytes: an operator asks" in mount.log.read_text().splitlines()


@contextmanager
def journaled(home: Path) -> Iterator[Mount]:
    """A mount whose standard error is what systemd reads for its journal: systemd.exec(5); restores take long."""
    log = home / "mount.log"
    log.touch()
    st = log.stat()
    environment = {"JOURNAL_STREAM": f"{st.st_dev}:{st.st_ino}"}
    with mounted(Plan(home, flags=("--restore-rate", "1KiB"), environment=environment)) as mount:
        yield mount


def test_jobs_run_fail_and_are_cancelled(stage: Stage) -> None:
    mount = stage.mount
    (mount.path / "done").write_bytes(b"12345")
    job_id = tierfs("archive", "--background", str(mount.path / "done"), str(mount.path / "gone")).strip()

    def state(job_id: str) -> str:
        return mount.client.job(job_id)[0].state

    wait_until(lambda: state(job_id) != "running")
    told = json.loads(tierfs("jobs", job_id, "--json", status=1))
    assert (told["state"], told["files"], told["failed"] > 0) == ("failed", 1, True)
    assert {"path": f"{mount.path}/gone", "reason": "no such file"} in told["failures"]

    stage.proxy.order(Fault(Kind.BLACK_HOLE, method="PUT"))
    (mount.path / "held").write_bytes(b"x")
    held = tierfs("archive", "--background", str(mount.path / "held")).strip()
    tierfs("jobs", "--cancel", held)
    wait_until(lambda: state(held) != "running")
    assert state(held) in ("cancelled", "failed")  # an upload that fails at that moment fails
    stage.proxy.heal()


def test_a_read_that_waits_for_the_bucket_is_slow_and_says_so(stage: Stage) -> None:
    content = os.urandom(CHUNK)
    path = stage.cold("file", content)
    stage.spoil("file", Fault.latency(0.4))
    assert read_directly(path, 0, CHUNK) == content
    stage.proxy.heal()

    said = "slow: read of file took"
    wait_until(lambda: any(reason.startswith(said) for reason in reasons(stage.mount)))
    slow = [one for one in events_of(stage.mount) if one["kind"] == "slow"]
    read = next(one for one in slow if one["reason"].startswith(said))
    assert "for cold bytes" in read["reason"]
    assert read["path"] == str(path)
    assert read["duration"] >= 0.4
    assert any("slow: GET of" in one["reason"] and "for the store" in one["reason"] for one in slow)
