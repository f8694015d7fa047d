"""The command line: what it prints, what it exits with, and what it says when something is wrong."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from tierfs.admin import registry
from tierfs.admin.control import serve
from tierfs.cli import main as command_line
from tierfs.cli.exits import MEANINGS, Exit, exit_of
from tierfs.cli.mounting import default_state, request_of
from tierfs.cli.rendering import ls_json, ls_line, shown_age, shown_duration, shown_near, shown_path, shown_size
from tierfs.cli.sources import Gathered, gather, read_environment, read_file, sample
from tierfs.core import errors
from tierfs.core.config import MountRequest, Settings
from tierfs.core.errors import ConfigError, MountError, TierfsError
from tierfs.core.prices import price_table
from tierfs.core.reports import (
    CheckOrder,
    Entry,
    EventReport,
    Finding,
    JobReport,
    Outcome,
    PlannedAction,
    Total,
    Verb,
)
from tierfs.core.residency import Residency, Tier
from tierfs.engine.measures import Measures

ROOT = Path(__file__).parents[2]
STATUS = {
    "mountpoint": "/srv/data",
    "store": "s3://bucket",
    "hot_directory": "/srv/data",
    "state_directory": "/state",
    "version": "1",
    "hot": {"files": 3, "bytes": 3 << 20},
    "warm": {"files": 2, "bytes": 2 << 10},
    "cold": {"files": 1, "bytes": 1 << 40},
    "cold_reads": {
        "reads": 40,
        "waits": {"count": 9, "p50_s": 0.0004, "p99_s": 1.25},
        "deadline_misses": 2,
    },
    "cache": {"bytes": 5 << 20, "limit_bytes": 10 << 30, "hits": 3, "misses": 1},
    "store_io": {"bytes_uploaded": 7 << 20, "bytes_downloaded": 0, "requests": 7, "first_byte": {"count": 0}},
    "runway": {
        "free_bytes": 36 << 30,
        "releasable_bytes": 0,
        "history_s": 7200.0,
        "up": {"state": "steady", "bytes_per_second": 0.0, "seconds": None},
        "down": {"state": "filling", "bytes_per_second": float(1 << 20), "seconds": 36864.0},
        "is_down": False,
    },
    "queue": {"archiving": 1, "restoring": 0, "deletions": 4},
    "errors": {"reads": 2, "policy": 0, "files": {"a/b": "the bucket cannot be reached"}},
    "passthrough": "off",
    "worker_pid": 11,
    "supervisor_pid": 10,
    "cold_pid": 11,
    "read_only": False,
    "policy": {"last_pass_ns": 5, "next_pass_ns": None, "planned": 3},
    "warnings": ["the store does not check checksums"],
}

COSTS: dict[str, object] = {
    "prices": {"storage_class": "STANDARD_IA", "date": "2025-09", "source": "a list", "ssd_gb_month": "0.08"},
    "month": {
        "now": {"ssd": "0.08", "store": "0.025", "total": "0.105", "ssd_bytes": 1 << 30, "objects": 2}
        | {"object_bytes": 2 << 30, "billed_bytes": 2 << 30},
        "all_hot": {"ssd": "0.24", "store": "0", "total": "0.24", "ssd_bytes": 3 << 30, "objects": 0}
        | {"object_bytes": 0, "billed_bytes": 0},
        "policy": {"ssd": "0", "store": "0", "total": "0", "ssd_bytes": 0, "objects": 0}
        | {"object_bytes": 0, "billed_bytes": 0},
    },
    "day": {
        "seconds": 7200,
        "requests": {"GetObject": {"count": 12, "dollars": "0.000123"}},
        "bytes_uploaded": 5 << 20,
        "bytes_downloaded": 1 << 30,
        "retrieval": "0.01",
        "egress": "1.24",
        "total": "1.250123",
    },
    "warnings": ["nothing is for free"],
}


class Ledger:
    """A mount that holds three names and answers as it is told."""

    findings: Sequence[Finding] = ()
    planned: Sequence[PlannedAction] = ()
    prices: str | None = None
    costing = COSTS
    cold = 1
    refusal = ""
    order = CheckOrder()

    async def status(self, is_quick: bool = False) -> dict[str, object]:
        return {**STATUS, "cold": {"files": self.cold, "bytes": self.cold << 40}}

    async def activity(self) -> dict[str, object]:
        return {"since_ns": 5, "transfers": []}

    async def measure(self) -> Measures:
        return Measures("/srv/data", "1", operation_errors={"FileLost": 2})

    async def list_entries(self, paths: Sequence[bytes], recursive: bool) -> AsyncIterator[Entry | Outcome]:
        for path in paths:
            if path == b"gone":
                yield Outcome(path, "failed", "no such file or directory")
            elif path == b"":
                yield Entry(b"new\nline\xff", Residency.HOT, Tier.HOT, 10, 0, reason="younger than warm_after")
                yield Entry(
                    b"old", Residency.COLD, Tier.COLD, 1536, 1_700_000_000_250_000_000, "p/old", 512, pinned=True
                )
            else:
                yield Entry(path, Residency.HOT, Tier.HOT, 1, 0)

    async def move(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> AsyncIterator[Total | Outcome]:
        yield Total(len(paths), 100)
        for path in paths:
            if path == b"hold":
                await trio.sleep_forever()
            if path == b"outage":
                raise errors.StoreUnavailable("the bucket cannot be reached")
            yield (
                Outcome(path, "failed", "it is open for writing") if path == b"busy" else Outcome(path, "done", "", 50)
            )

    async def leave(self) -> AsyncIterator[Total | Outcome]:
        if self.refusal:
            raise errors.NotEligible(self.refusal)
        yield Total(1, 50)
        yield Outcome(b"old", "done", "", 50)

    async def pin(self, paths: Sequence[bytes]) -> AsyncIterator[Outcome]:
        for path in paths:
            yield Outcome(path, "unchanged", "pinned already")

    unpin = pin

    async def evict(self, paths: Sequence[bytes] | None) -> Sequence[Outcome]:
        return [Outcome(b"old", "done", "", 512)]

    async def plan(self) -> Sequence[PlannedAction]:
        return self.planned

    async def events(self, after: int, follow: bool) -> AsyncIterator[EventReport]:
        at_ns = time.time_ns()
        yield EventReport(7, at_ns - 3600 * 10**9, "residency", b"old", "mirrored", "cold", "why", 1536, 250_000_000)
        yield EventReport(8, at_ns, "breaker", before="closed", after="open", reason="reads: it\nfails")

    async def start_job(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> JobReport:
        return JobReport("0123abcd", verb, "running", 5)

    async def jobs(self) -> Sequence[JobReport]:
        return [await self.job("0123abcd")]

    async def job(self, job_id: str) -> JobReport:
        return JobReport(job_id, "archive", "failed", time.time_ns(), 6, 4, 30, 1, 1536, 2, "2 failed")

    async def job_failures(self, job_id: str) -> Sequence[Outcome]:
        return [Outcome(b"busy", "failed", "it is open")]

    async def cancel_job(self, job_id: str) -> JobReport:
        return replace(await self.job(job_id), state="running", reason="it is being cancelled")

    async def costs(self, own: str | None) -> dict[str, object]:
        if self.refusal:
            raise ConfigError(self.refusal)
        self.prices = own
        return self.costing

    async def check(self, order: CheckOrder) -> AsyncIterator[Finding | Total | Outcome]:
        self.order = order
        if order.is_deep:
            yield Total(1, 50)
            yield Outcome(b"a", "done", bytes=50)
        for finding in self.findings:
            yield replace(finding, repaired="mended") if order.is_repairing else finding


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIERFS_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def ledger(runtime: Path) -> Iterator[Ledger]:
    """A registered mount at /srv/data, whose control API is served in another thread."""
    service, is_serving = Ledger(), threading.Event()
    mount = registry.Mount("/srv/data", "s3://bucket", "/srv/data", "/state", os.getpid(), os.getpid(), "1")
    slot = registry.register(mount)
    stop: list[Any] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            stop.extend((trio.lowlevel.current_trio_token(), nursery.cancel_scope.cancel))
            await nursery.start(serve, service, slot / registry.SOCKET_NAME)
            is_serving.set()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    is_serving.wait()
    yield service
    token, cancel = stop
    token.run_sync_soon(cancel)
    thread.join()


def run(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    return command_line._run(list(arguments))


def test_help_teaches_with_examples_and_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert "tierfs mount s3://" in text
    for name in command_line._COMMANDS:
        assert f"  {name} " in text
    for code, meaning in MEANINGS.items():
        assert f"{code:<4}{meaning}" in text


@pytest.mark.parametrize("name", [name for name in command_line._COMMANDS if name != "demo"])
def test_help_of_every_command_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert f"\n  tierfs {name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["--help", "--version"])
def test_help_imports_nothing_that_is_slow(arguments: str) -> None:
    probe = (
        "import sys; from tierfs.cli.main import _run; _run(sys.argv[1:]);"
        "print({'pydantic', 'httpx', 'trio', 'boto3', 'rich', 'starlette', 'sqlite3'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_mount_has_a_flag_for_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    run("mount", "--help")
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert str(field.description).split(";")[0].replace("/", "") in text.replace("/", "").replace("- ", "-")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["mout"], Exit.USAGE, "there is no command 'mout', did you mean mount?"),
        (["ls"], Exit.USAGE, "Missing argument 'PATH...'"),
        (["mount"], Exit.USAGE, "STORE is missing"),
        (["mount", "s3://bucket"], Exit.USAGE, "MOUNTPOINT is missing"),
        (["mount", "--warm-aftr", "1d"], Exit.USAGE, "'--warm-aftr'"),
        (["mount", "--warm-after", "soon"], Exit.SETTINGS, "--warm-after: 'soon' is not an age"),
        (["mount", "ftp://x", "/"], Exit.SETTINGS, "'ftp://x' is not a store"),
        (["mount", "s3://bucket", "/no/such"], Exit.MOUNT, "the mountpoint '/no/such' does not exist"),
        (["mount", "s3://bucket", "/dev/null"], Exit.MOUNT, "the mountpoint '/dev/null' is not a directory"),
        (["mount", "--config", "/no/such.toml"], Exit.SETTINGS, "the settings file '/no/such.toml' cannot be read"),
        (["status", "/no/mount"], Exit.NOT_RUNNING, "'/no/mount' is not in a tierfs mount of this host"),
        (["umount", "/no/mount"], Exit.NOT_RUNNING, "'/no/mount' is not in a tierfs mount of this host"),
        (["ls", "/no/mount"], Exit.NOT_RUNNING, "'/no/mount' is not in a tierfs mount of this host"),
        (["check"], Exit.USAGE, "name a MOUNTPOINT, or a state directory with --state"),
        (["check", "/srv/data", "--hot", "/hot"], Exit.USAGE, "--hot goes with --state"),
        (["check", "--state", "/no/state"], Exit.SETTINGS, "/no/state is not the state directory of a mount"),
        (["rebuild"], Exit.USAGE, "STORE is missing"),
        (["doctor", "s3://bucket"], Exit.USAGE, "name the MOUNTPOINT, too"),
        (["doctor", "/no/mount"], Exit.USAGE, "nothing is mounted at /no/mount"),
        (["completion", "csh"], Exit.USAGE, "'csh' is not one of 'bash', 'zsh', 'fish'"),
        (["rebuild", "s3://bucket", "/no/such"], Exit.MOUNT, "the mountpoint '/no/such' does not exist"),
    ],
)
@pytest.mark.usefixtures("runtime")
def test_every_error_is_one_sentence_and_an_exit_code(
    arguments: list[str], code: Exit, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == code
    said = capsys.readouterr().err
    assert said.startswith("tierfs: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_every_error_of_the_tree_has_an_exit_code_and_only_defects_and_files_share_one() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TierfsError)]
    for kind in kinds:
        of_files = (TierfsError, errors.NotEligible, errors.FileLost, errors.ReadDenied, errors.OverBudget)
        is_about_a_file = kind in of_files
        assert (exit_of(kind("x")) is Exit.SOME_FAILED) == is_about_a_file, kind
    assert set(MEANINGS) == set(Exit)


def test_status_of_one_mount_and_of_all(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "/srv/data", "--json") == 0
    assert json.loads(capsys.readouterr().out) == STATUS
    assert run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [STATUS]
    assert run("status") == 0
    text = capsys.readouterr().out
    for part in ("/srv/data  s3://bucket", "in place", "3 files", "75% hits", "7 requests", "warning: the store does"):
        assert part in text
    assert "reads   9 of 40 cold reads waited: p50 0.4ms, p99 1.2s, 2 in vain; first byte of the store: none" in text
    assert "runway  not filling; with the store down: full in 10.2 hours at 3.5G an hour" in text
    assert "queue   1 archiving, 4 deletions; errors 2 reads" in text
    assert "error: a/b: the bucket cannot be reached" in text
    assert "3 planned" in text


def test_events_as_lines_and_as_json(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("events") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first[19:].strip() == "mirrored > cold         /srv/data/old  (1.5K, 250ms)  why"
    assert second[19:].strip() == "breaker open            reads: it?fails"
    assert run("events", "/srv/data", "--since", "10m", "--json") == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["number"], line["kind"], line["path"]) == (8, "breaker", "")
    assert (line["from"], line["to"], line["reason"]) == ("closed", "open", "reads: it\nfails")
    assert run("events", "--since", "soon") == Exit.SETTINGS
    assert "--since: 'soon' is not an age" in capsys.readouterr().err


def test_events_of_one_mount_alone(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    registry.register(registry.Mount("/srv/more", "s3://b", "/srv/more", "/s", os.getpid(), os.getpid(), "1"))
    assert run("events") == Exit.NOT_RUNNING
    assert "name one of the mounts of this host: /srv/data, /srv/more" in capsys.readouterr().err


def test_jobs_are_begun_shown_and_cancelled(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("archive", "--background", "/srv/data/a") == 0
    assert capsys.readouterr().out == "0123abcd\n"
    assert run("jobs") == 0
    head, line, reason = capsys.readouterr().out.splitlines()
    assert head.split() == ["JOB", "VERB", "STATE", "FILES", "SIZE", "FAILED", "BEGAN"]
    assert line.split()[:8] == ["0123abcd", "archive", "failed", "3", "of", "4", "1.5K", "2"]
    assert reason == "  2 failed"
    assert run("jobs", "--json") == 0
    (job,) = json.loads(capsys.readouterr().out)
    assert (job["mountpoint"], job["id"], job["state"], job["failed"]) == ("/srv/data", "0123abcd", "failed", 2)
    assert run("jobs", "0123abcd") == Exit.SOME_FAILED
    assert capsys.readouterr().out.splitlines()[3:] == ["  /srv/data/busy: it is open", "  and 1 more"]
    assert run("jobs", "0123abcd", "--json") == Exit.SOME_FAILED
    assert json.loads(capsys.readouterr().out)["failures"] == [{"path": "/srv/data/busy", "reason": "it is open"}]
    assert run("jobs", "--cancel", "0123abcd") == 0
    assert "it is being cancelled" in capsys.readouterr().out
    assert run("jobs", "none") == Exit.NOT_RUNNING
    assert "no mount of this host has a job 'none'" in capsys.readouterr().err
    assert run("restore", "-r", "--all", "--background", "/srv/data") == Exit.USAGE


def test_status_without_mounts(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status") == 0
    assert capsys.readouterr().out == "no tierfs mount on this host\n"
    assert run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_status_says_which_mount_does_not_answer(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    registry.register(registry.Mount("/gone", "s3://b", "/gone", "/s", process.pid, process.pid, "1"))
    assert run("status", "--json") == Exit.NOT_RUNNING
    [one] = json.loads(capsys.readouterr().out)
    assert one["mountpoint"] == "/gone"
    assert f"pid {process.pid}) is gone" in one["unreachable"]


def test_metrics_of_one_mount_and_of_all(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("metrics", "/srv/data") == 0
    one = capsys.readouterr().out
    assert 'tiered_storage_operation_errors_total{mountpoint="/srv/data",reason="FileLost"} 2.0\n' in one
    assert run("metrics") == 0
    assert capsys.readouterr().out == one


def test_metrics_say_which_mount_does_not_answer(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    registry.register(registry.Mount("/gone", "s3://b", "/gone", "/s", process.pid, process.pid, "1"))
    assert run("metrics") == Exit.NOT_RUNNING
    said = capsys.readouterr()
    assert f"pid {process.pid}) is gone" in said.err
    assert 'tiered_storage_operation_errors_total{mountpoint="/srv/data",reason="FileLost"} 2.0\n' in said.out


def test_metrics_without_mounts_are_an_empty_text(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("metrics") == 0
    assert capsys.readouterr().out == ""


def test_ls_in_a_pipe_is_lines(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", "/srv/data") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("hot ")
    assert first.endswith(r"$'/srv/data/new\x0aline\xff'  (younger than warm_after)")
    assert second.split()[:2] == ["cold", "1.5K"]
    assert second.endswith("/srv/data/old  (pinned; key p/old)")


def test_ls_json_has_the_documented_schema(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", "-r", "/srv/data", "/srv/data/gone", "--json") == Exit.SOME_FAILED
    said = capsys.readouterr()
    assert said.err == "tierfs: /srv/data/gone: no such file or directory\n"
    odd, old = json.loads(said.out)
    assert os.fsencode(odd["path"]) == b"/srv/data/new\nline\xff"
    assert old == {
        "path": "/srv/data/old",
        "kind": "file",
        "residency": "cold",
        "tier": "cold",
        "size": 1536,
        "mtime": 1_700_000_000.25,
        "key": "p/old",
        "cached_bytes": 512,
        "pinned": True,
        "reason": "",
    }


@pytest.mark.parametrize(("verb", "done"), [("archive", "archived"), ("release", "released"), ("restore", "restored")])
def test_moves_in_a_pipe_are_lines(ledger: Ledger, capsys: pytest.CaptureFixture[str], verb: str, done: str) -> None:
    assert run(verb, "/srv/data/a", "/srv/data/busy") == Exit.SOME_FAILED
    said = capsys.readouterr()
    assert said.out == f"{done} /srv/data/a (50)\n1 {done} (50), 1 failed\n"
    assert said.err == "tierfs: /srv/data/busy: it is open for writing\n"


def test_an_outage_in_the_middle_of_a_move(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("archive", "/srv/data/a", "/srv/data/outage") == Exit.STORE
    said = capsys.readouterr()
    assert said.out == "archived /srv/data/a (50)\n"
    assert said.err == "tierfs: the bucket cannot be reached\n"


def test_pins_and_eviction(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pin", "/srv/data/a") == 0
    assert capsys.readouterr().out == "unchanged /srv/data/a: pinned already\n0 pinned, 1 unchanged\n"
    assert run("unpin", "/srv/data/a") == 0
    capsys.readouterr()
    assert run("evict") == 0
    assert capsys.readouterr().out == "evicted /srv/data/old (512)\n1 evicted (512)\n"


def test_leaving(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.cold = 0
    assert run("restore", "-r", "--all", "/srv/data") == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "/srv/data is pinned until `tierfs unpin /srv/data`",
        "restored /srv/data/old (50)",
        "1 restored (50)",
        "all files are in /srv/data: the mount is not needed any more",
        "`tierfs umount /srv/data` takes it away, when nobody has files of it open",
        "after that, nobody needs /state and the objects of s3://bucket",
    ]
    ledger.cold = 3
    assert run("restore", "--all", "/srv/data") == Exit.SOME_FAILED
    assert "3 files are still cold; call it again to go on" in capsys.readouterr().err
    ledger.refusal = "5 cold files take 9GiB, and the hot tier has 1GiB free"
    assert run("restore", "--all", "/srv/data") != 0
    told = capsys.readouterr()
    assert "hot tier has 1GiB free" in told.err
    assert "pinned" not in told.out
    assert run("restore", "--all", "/srv/data", "/srv/data") == Exit.USAGE
    assert "one MOUNTPOINT" in capsys.readouterr().err


def test_a_plan_before_the_first_mount(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No mount, no store, no state: only names and attributes are read."""
    data = tmp_path / "data"
    (data / "topic-0").mkdir(parents=True)
    for name, age_s in (("topic-0/1.log", 30 * 86_400), ("topic-0/2.log", 3 * 86_400), ("fresh", 0)):
        (data / name).write_bytes(b"x" * 8192)
        os.utime(data / name, (1, time.time() - age_s))
    what = ("plan", "s3://nowhere/p", str(data), "--state", str(tmp_path / "state"), "--settle=0s", "--archive-rate=1")
    monkeypatch.delenv("TIERFS_CONFIG", raising=False)
    before = sorted(tmp_path.rglob("*"))
    assert run(*what) == 0
    text = capsys.readouterr().out
    assert "2 files    16K  would be archived" in text
    assert "1 files   8.0K  of these would then be released" in text
    assert "1 files   8.0K  stay hot: changed too recently" in text
    assert "archive         2 files    16K         4 requests  <$0.0001, then" in text
    assert "release         1 files   8.0K         1 requests" in text
    assert "takes at least 2 minutes at archive_rate 1 files per minute" in text
    assert run(*what, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["files"], told["archive"], told["release"]["files"]) == (3, {"files": 2, "bytes": 16384}, 1)
    assert [one["path"] for one in told["directories"]] == [f"{data}/topic-0"]
    assert sorted(tmp_path.rglob("*")) == before


def test_plan(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "/srv/data") == 0
    assert capsys.readouterr().out == "nothing to do\n"
    ledger.planned = [PlannedAction(b"a", "release", 2048, "older than cold_after")]
    assert run("plan", "/srv/data") == 0
    first, _, *sums = capsys.readouterr().out.splitlines()
    assert first == "release     2.0K  /srv/data/a  (older than cold_after)"
    assert sums == [
        "release         1 files   2.0K         0 requests  (no prices: `tierfs cost` says why)  older than cold_after"
    ]
    assert run("plan", "/srv/data", "--json") == 0
    [action] = json.loads(capsys.readouterr().out)
    known = {"path": "/srv/data/a", "verb": "release", "size": 2048, "reason": "older than cold_after"}
    assert action == known | {"rule": "", "requests": 0, "dollars": "", "month": ""}


def test_a_plan_in_sums(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """Two archives for $0.25 each, which cost $0.10 a month each; a release that saves $1.50 a month."""
    ledger.planned = [
        PlannedAction(b"a", "archive", 1024, "unchanged for 2d", "unchanged for 1d (warm_after)", 2, "0.25", "0.1"),
        PlannedAction(b"b", "archive", 2048, "unchanged for 3d", "unchanged for 1d (warm_after)", 4, "0.25", "0.1"),
        PlannedAction(b"c", "release", 4096, "unchanged for 9d", "unchanged for 7d (cold_after)", 1, "0.00", "-1.5"),
    ]
    assert run("plan", "/srv/data", "--summary", "--json") == 0
    archives, releases = json.loads(capsys.readouterr().out)
    assert archives == {
        "verb": "archive",
        "rule": "unchanged for 1d (warm_after)",
        "files": 2,
        "bytes": 3072,
        "requests": 6,
        "dollars": "0.5",
        "month": "0.2",
    }
    assert (releases["files"], releases["dollars"], releases["month"]) == (1, "0", "-1.5")
    assert run("plan", "/srv/data", "--summary") == 0
    one, other = capsys.readouterr().out.splitlines()
    assert one.endswith("6 requests   $0.5000, then $0.2000 more a month  unchanged for 1d (warm_after)")
    assert other.endswith("1 requests     $0.00, then $1.50 less a month    unchanged for 7d (cold_after)")


def test_cost(ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("cost", "/srv/data", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"mountpoint": "/srv/data", "store": "s3://bucket", **ledger.costing}
    assert ledger.prices is None
    own = tmp_path / "prices.toml"
    own.write_text("ssd_gb_month = 1")
    assert run("cost", "--prices", str(own)) == 0
    assert ledger.prices == "ssd_gb_month = 1"
    text = capsys.readouterr().out
    for part in (
        "/srv/data  s3://bucket, STANDARD_IA",
        "  now           1.0G   $0.0800           2     2.0G   $0.0250     $0.1050",
        "  all hot       3.0G   $0.2400           0        0     $0.00     $0.2400",
        "last day $1.25 (of which 2.0 hours were watched): 5.0M up, 1.0G down; retrieval $0.0100, egress $1.24",
        "    GetObject                       12     $0.0001",
        "the SSD at $0.08 a GB and month",
        "warning: nothing is for free",
    ):
        assert part in text
    assert run("cost", "/srv/data", "--prices", str(tmp_path / "missing")) == Exit.SETTINGS
    assert "missing cannot be read: No such file or directory" in capsys.readouterr().err
    ledger.refusal = "nobody knows the prices"
    assert run("cost") == Exit.SETTINGS
    assert capsys.readouterr().err == "tierfs: nobody knows the prices\n"


def test_the_prices_that_come_with_tierfs_can_be_printed_and_given_back(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cost", "--print-prices") == 0
    printed = capsys.readouterr().out
    assert price_table(printed, printed) == price_table(printed)
    assert run("cost") == 0
    assert capsys.readouterr().out == "no tierfs mount on this host\n"


def test_check_exits_7_when_something_disagrees(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "/srv/data") == 0
    assert capsys.readouterr().out == "catalog, hot directory, bucket and cache agree\n"
    ledger.findings = [Finding("object-missing", b"a", "the bytes are gone", "bring it back")]
    assert run("check", "/srv/data") == Exit.DISAGREEMENT
    said = capsys.readouterr().out
    assert said == "object-missing  /srv/data/a\n    the bytes are gone\n    to do: bring it back\n1 disagreements\n"
    assert run("check", "--state", "/state", "--json") == Exit.DISAGREEMENT
    one = {"what": "object-missing", "path": "/srv/data/a", "meaning": "the bytes are gone", "remedy": "bring it back"}
    assert json.loads(capsys.readouterr().out) == [one | {"repaired": ""}]


def test_check_exits_9_when_all_was_repaired(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.findings = [Finding("object-missing", b"a", "the bytes are gone", "bring it back")]
    assert run("check", "/srv/data", "--repair", "--deep", "--rate", "1MiB") == Exit.REPAIRED
    assert ledger.order == CheckOrder(is_deep=True, is_repairing=True, bytes_per_second=1 << 20)
    said = capsys.readouterr().out
    assert "    repaired: mended\n1 disagreements, 1 repaired; 1 objects read back\n" in said
    assert run("check", "/srv/data", "--rate", "fast") == Exit.USAGE
    assert "'fast' is not a size" in capsys.readouterr().err


def test_an_interrupt_during_a_long_move_exits_130_without_a_traceback(ledger: Ledger) -> None:
    command = [sys.executable, "-m", "tierfs", "archive", "/srv/data/a", "/srv/data/hold"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "archived /srv/data/a (50)\n"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == Exit.INTERRUPTED
    assert said.split("\n", 1)[-1].strip() or said
    assert "Traceback" not in said
    assert "tierfs: interrupted" in said


def test_a_file_then_the_environment_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('store = "s3://bucket"\nwarm_after = "1h"\npool_size = 7\ntimeout = "5s"\ninclude = ["a,b"]\n')
    environment = {"TIERFS_WARM_AFTER": "2h", "TIERFS_POOL_SIZE": "8", "TIERFS_EXCLUDE": "*.tmp,*.swp", "PATH": "/bin"}
    gathered = gather(str(file), environment, {"warm_after": "3h", "read_only": None, "include": ()})
    assert str(gathered.settings.warm_after) == "3h"
    assert gathered.settings.pool_size == 8
    assert str(gathered.settings.timeout) == "5s"
    assert gathered.settings.include == ("a,b",)
    assert gathered.settings.exclude == ("*.tmp", "*.swp")
    assert gathered.given["warm_after"].source == "--warm-after"
    assert gathered.where["store"].value == "s3://bucket"
    assert gather(None, {"TIERFS_CONFIG": str(file)}, {}).settings.pool_size == 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("warm_afer = 1", "warm_afer in {}, line 1 is not a setting, did you mean warm_after?"),
        ('warm-after = "1d"', "warm-after in {}, line 1 is not a setting, did you mean warm_after?"),
        ("[policy]\nwarm_after = 1", "policy in {}, line 1 is a section, and the settings file has none"),
        ("warm_after = ", "the settings file '{}' is not TOML: "),
        ("store = 5", "store in {}, line 1 is text in quotes, not 5"),
    ],
)
def test_a_settings_file_that_is_wrong(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_file(str(file))
    assert str(caught.value).startswith(sentence.format(file))


def test_a_settings_file_that_is_binary_or_a_directory(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "binary"):
        with pytest.raises(ConfigError, match="the settings file"):
            read_file(str(path))


def test_an_unknown_variable_is_an_error_and_others_are_none_of_our_business() -> None:
    with pytest.raises(ConfigError, match="TIERFS_WARM_AFER is not a setting, did you mean TIERFS_WARM_AFTER"):
        read_environment({"TIERFS_WARM_AFER": "1d"})
    assert read_environment({"TIERFS_CONFIG": "/x", "TIERFS_RUNTIME_DIR": "/r", "HOME": "/"}) == {}


def test_the_sample_file_is_the_settings(tmp_path: Path) -> None:
    assert (ROOT / "docs" / "tierfs.sample.toml").read_text() == sample(), "run `tierfs config sample` again"
    (tmp_path / "t.toml").write_text(sample())
    assert read_file(str(tmp_path / "t.toml")) == {}
    active = "\n".join(line[1:] for line in sample().splitlines() if line.startswith("#") and not line.startswith("# "))
    (tmp_path / "t.toml").write_text(active)
    gathered = gather(str(tmp_path / "t.toml"), {}, {})
    assert gathered.settings == Settings()
    assert set(gathered.given) == {*Settings.model_fields, "store", "mountpoint", "hot", "state"}


def test_patterns_of_a_flag_may_have_commas_between_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "show", "--idle-files", "*.log, *.swap", "--idle-files", "*.blk") == 0
    assert 'idle_files = ["*.log", "*.swap", "*.blk"]' in capsys.readouterr().out


def test_config_show_prints_a_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "show", "--warm-after", "2h", "--exclude", 'a"\\b', "--no-path-style") == 0
    text = capsys.readouterr().out
    assert 'warm_after = "2h"  # --warm-after' in text
    (tmp_path / "t.toml").write_text(text)
    again = gather(str(tmp_path / "t.toml"), {}, {}).settings
    assert again == Settings.of(warm_after="2h", exclude=['a"\\b'], path_style=False)
    assert run("config", "show", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cold_after"] == "7d"


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_config_show_shows_no_password(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "show", "--endpoint-url", "https://me:hunter22@localhost:1/x", *flags) == 0
    text = capsys.readouterr().out
    assert "https://***@localhost:1/x" in text
    assert "hunter22" not in text


def test_config_check_says_every_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.toml"
    file.write_text('pool_size = 0\n# a remark\nchunk_size = "3"\nwarm_afer = "1d"\nstore = 5\n')
    assert run("config", "check", str(file)) == Exit.SETTINGS
    assert sorted(line.partition(" in ")[0] for line in capsys.readouterr().err.splitlines()) == [
        "tierfs: chunk_size",
        "tierfs: pool_size",
        "tierfs: store",
        "tierfs: warm_afer",
    ]
    file.write_text('low_watermark = "95%"\n')
    assert run("config", "check", str(file)) == Exit.SETTINGS
    assert f"low_watermark in {file}, line 1 (95%)" in capsys.readouterr().err
    file.write_text("pool_size = 1\n")
    assert run("config", "check", str(file)) == 0


def test_config_check_knows_the_disks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "t.toml"
    where = f'store = "s3://b"\nmountpoint = "{tmp_path}/m"\nstate = "{tmp_path}/s"\n'
    file.write_text(f'{where}cache_size = "1000000TiB"\nhigh_watermark = "2000000TiB"\nlow_watermark = "1TiB"\n')
    assert run("config", "check", str(file)) == Exit.SETTINGS
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("tierfs: cache_size (1000000 TiB) is larger than the whole disk of the state directory")
    assert said[1].startswith("tierfs: high_watermark (2000000TiB) is more than the whole disk of the hot directory")
    file.write_text(f'{where}cache_size = "1MiB"\n')
    monkeypatch.setenv("TIERFS_CONFIG", str(file))
    assert run("config", "check") == 0
    assert capsys.readouterr().out == f"{file}: ok\n"


@pytest.fixture
def requested(tmp_path: Path, runtime: Path) -> Any:
    (tmp_path / "m").mkdir()
    (tmp_path / "hot").mkdir()

    def request(**where: str) -> MountRequest:
        where = {"store": "s3://bucket", "mountpoint": str(tmp_path / "m"), "state": str(tmp_path / "state"), **where}
        return request_of(gather(None, {}, where), foreground=False)

    return request


def test_a_mount_is_in_place_unless_a_hot_directory_is_named(requested: Any, tmp_path: Path) -> None:
    assert requested() == MountRequest(
        "s3://bucket", str(tmp_path / "m"), str(tmp_path / "m"), str(tmp_path / "state"), Settings()
    )
    assert requested(hot=str(tmp_path / "hot")).hot == str(tmp_path / "hot")
    assert not requested(hot=str(tmp_path / "hot")).in_place


def test_a_mountpoint_behind_a_link_is_known_by_its_real_name(requested: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("m")
    assert requested(mountpoint=str(tmp_path / "link")).mountpoint == str(tmp_path / "m")


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({"state": "m/state"}, "the state directory '{}/m/state' lies inside the hot directory '{}/m'"),
        ({"state": "m"}, "lies inside the hot directory"),
        ({"state": "."}, "contains the hot directory"),
        ({"hot": "m/hot"}, "the hot directory '{}/m/hot' does not exist"),
        ({"hot": "."}, "lie in each other"),
        ({"store": "file://{}/m/store"}, "lies inside the hot directory"),
        ({"store": "file://{}/state"}, "the store 'file://{}/state' lies inside"),
        ({"store": "file://{}"}, "contains the hot directory"),
    ],
)
def test_state_store_and_tree_do_not_lie_in_each_other(
    requested: Any, tmp_path: Path, where: dict[str, str], sentence: str
) -> None:
    there = {n: v.replace("{}", str(tmp_path)) if n == "store" else str(tmp_path / v) for n, v in where.items()}
    with pytest.raises((ConfigError, MountError)) as caught:
        requested(**there)
    assert sentence.replace("{}", str(tmp_path)) in str(caught.value)


def test_a_directory_that_is_mounted_already(requested: Any, tmp_path: Path) -> None:
    place = str(tmp_path / "m")
    registry.register(registry.Mount(place, "s3://b", place, "/s", os.getpid(), os.getpid(), "1"))
    with pytest.raises(MountError, match="is mounted already"):
        requested()


def test_the_state_of_a_mount_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state("/srv/data") == str(tmp_path / "tierfs" / "srv-data")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state("/srv/my-data") == r"/var/lib/tierfs/srv-my\x2ddata"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/a b/ü", "/a b/ü"),
        ("/a\nb", r"$'/a\x0ab'"),
        ("/a\udcffb'\\", r"$'/a\xffb\'\\'"),
        ("/a\u200bb", r"$'/a\xe2\x80\x8bb'"),
        ("", ""),
    ],
)
def test_paths_are_shown_on_one_line_as_the_shell_reads_them(path: str, shown: str) -> None:
    assert shown_path(path) == shown
    if shown.startswith("$'"):
        read = subprocess.run(["bash", "-c", f"printf %s {shown}"], capture_output=True, check=True).stdout
        assert read == os.fsencode(path)


def test_sizes_and_ages_are_shown_in_three_digits() -> None:
    sizes = [0, 1023, 1024, 1536, 10 << 10, 1023 << 10, (1 << 20) - 1, 1 << 20, 10 << 30, 1 << 63]
    assert [shown_size(size) for size in sizes] == [
        "0",
        "1023",
        "1.0K",
        "1.5K",
        "10K",
        "1023K",
        "1.0M",
        "1.0M",
        "10G",
        "8.0E",
    ]
    ages = [-5, 0, 59, 60, 3600, 86_400, 69 * 86_400, 70 * 86_400]
    assert [shown_age(age) for age in ages] == ["0s", "0s", "59s", "1m", "1h", "1d", "69d", "10w"]


def test_durations_are_shown_in_two_digits_or_more() -> None:
    shown = [shown_duration(s) for s in (0, 0.0004, 0.00994, 0.00996, 0.0123, 0.994, 0.996, 1.25, 9.94, 9.96, 60)]
    assert shown == ["0.0ms", "0.4ms", "9.9ms", "10ms", "12ms", "994ms", "1.0s", "1.2s", "9.9s", "10s", "60s"]


def test_paths_below_the_current_directory_are_shown_relative() -> None:
    assert shown_near("/srv/data/a", "/srv/data") == "a"
    assert shown_near("/srv/data", "/srv/data") == "/srv/data"
    assert shown_near("/srv/database", "/srv/data") == "/srv/database"
    assert shown_near("/a", "/") == "a"


def test_a_table_has_aligned_columns_and_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(b"a", Residency.MIRRORED, Tier.WARM, 10 << 30, 0, "k")
    plain = ls_line(entry, "a", 86_400 * 3)
    assert plain == "mirrored        10G    3d        -  a  (key k)"
    monkeypatch.setattr("sys.stdout", _Terminal())
    assert click.unstyle(ls_line(entry, "a", 86_400 * 3)) == plain
    assert ls_line(replace(entry, kind="directory"), "d", 0.0).endswith("  d/")


class _Terminal:
    def isatty(self) -> bool:
        return True


def test_json_is_ascii_and_names_come_back() -> None:
    text = json.dumps(ls_json(Entry(b"\xff", Residency.HOT, Tier.HOT, 0, 0), os.fsdecode(b"/m/\xff")))
    assert text.isascii()
    assert os.fsencode(json.loads(text)["path"]) == b"/m/\xff"


def test_gathered_is_valid_or_not_at_all() -> None:
    assert isinstance(gather(None, {}, {}), Gathered)
