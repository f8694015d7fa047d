"""A soak: applications at work for minutes on a mount whose store fails now and then, with the policy moving bytes.

    python -m tests.soak --minutes 10 --faults 1

Writers, readers and those who rename and unlink compare all that they read with what they wrote. At the end every byte
is compared, on this mount and on the next one, `tierfs check` must find nothing, and the mount's processes must be no
larger than they were after a fifth of the time: memory, descriptors, threads.
"""

import argparse
import secrets
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.processes import proportional_memory
from tests.exercise import evidence
from tests.exercise.bursts import bucket_server, names_of, plan_of, serving, wait_until_clean
from tests.exercise.command import Progress, verdict
from tests.exercise.operators import Operators
from tests.exercise.team import Failure, Team, team
from tests.faults import Fault, Kind
from tests.mounting import Mount, directory
from tests.proxy import Counts, Proxy, in_front_of
from tests.t4_mount.modes import wait_until_all_is_closed

HABITS = ("writer", "reader", "reader", "renamer")
_BATCH = 250
#: What may go wrong with a request; each with the same share of all faults.
_KINDS = (
    *(Fault.refusal(500, "InternalError"), Fault.slow_down(), Fault(Kind.RESET), Fault(Kind.RESET_IN_BODY)),
    *(Fault(Kind.TRUNCATE), Fault(Kind.SHORTEN), Fault(Kind.CORRUPT), Fault(Kind.STALL), Fault(Kind.BLACK_HOLE)),
)
#: Files go as soon as they rest; little fits; requests end soon, but readers are patient.
_FLAGS = (
    *("--auto-archive", "--warm-after", "500ms", "--cold-after", "1s", "--policy-interval", "200ms"),
    *("--archive-concurrency", "16", "--high-watermark", "2MiB", "--low-watermark", "1MiB", "--pool-size", "8"),
    *("--timeout", "3s", "--max-retries", "5", "--cold-timeout", "2m"),
)
#: When the mount is measured first: before, it still fills what it keeps anyway.
_WARM_SHARE = 0.2
#: Growth is judged when there was this much time to grow, in minutes.
_JUDGED_AFTER = 3.0
#: A connection, a thread or an open file more or less is chance; a leak of one in a hundred requests is hundreds.
_MOST_MORE = 12
_MOST_MORE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the processes of a mount hold while no application has a file open: bytes (PSS), descriptors, threads."""

    bytes: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, mount: Mount) -> "Footprint":
        """Now."""
        wait_until_all_is_closed(mount)
        status = mount.status()
        pids = [Path(f"/proc/{status[name]}") for name in ("supervisor_pid", "worker_pid", "cold_pid")]
        held = [len(list((pid / name).iterdir())) for name in ("fd", "task") for pid in pids]
        return cls(proportional_memory(mount.process.pid), sum(held[:3]), sum(held[3:]))

    def __str__(self) -> str:
        return f"{self.bytes / (1 << 20):.1f} MiB, {self.descriptors} descriptors, {self.threads} threads"

    def growth_to(self, later: "Footprint") -> str:
        """What grew more than chance explains; empty when nothing did."""
        grown = [
            (later.bytes - self.bytes > _MOST_MORE_BYTES, "memory"),
            (later.descriptors - self.descriptors > _MOST_MORE, "descriptors"),
            (later.threads - self.threads > _MOST_MORE, "threads"),
        ]
        return ", ".join(what for is_so, what in grown if is_so)


@dataclass(frozen=True, slots=True)
class Soak:
    """What to do: for how long, how many of a hundred requests meet a fault, where the evidence of a failure goes."""

    minutes: float
    percent: float = 1.0
    seed: str = "1"
    mode: str = "auto"
    keep: Path | None = None
    progress: Progress = field(default=lambda line: None)


@dataclass(slots=True)
class Result:
    """What was done, and what the mount held after a fifth of the time and at the end."""

    soak: Soak
    operations: int
    counts: Counter[str]
    seen: Counts
    status: dict[str, Any]
    operators: Operators
    first: Footprint
    last: Footprint

    def __str__(self) -> str:
        io, errors = self.status["store_io"], self.status["errors"]
        return "\n".join(
            (
                f"{self.operations} operations in {self.soak.minutes:g} minutes, seed {self.soak.seed}, "
                f"{self.counts['compared_bytes'] >> 20} MiB compared, no difference",
                f"store: {sum(self.seen.requests.values())} requests, "
                f"{sum(self.seen.faults.values())} faults {self.seen.faults}, "
                f"{io['bytes_uploaded'] >> 20} MiB up, {io['bytes_downloaded'] >> 20} MiB down",
                f"operators: {dict(self.operators.moved)}; now cold {self.status['cold']['files']}, "
                f"hot {self.status['hot']['files']}, warm {self.status['warm']['files']} files",
                f"errors: applications {self.counts['errors']} (EIO), short reads {self.counts['short_reads']}, "
                f"reads {errors['reads']}, policy {errors['policy']}",
                f"after {self.soak.minutes * _WARM_SHARE:g} minutes: {self.first}",
                f"at the end: {self.last}",
            )
        )


def faults_of(percent: float) -> list[Fault]:
    """Faults that together strike so many of a hundred requests."""
    return [replace(kind, probability=percent / 100 / len(_KINDS)) for kind in _KINDS]


def run(soak: Soak) -> Result:
    """Do it. Failure; whatever a mount raises."""
    with directory() as home, bucket_server(home) as server, in_front_of(server, seed=0) as proxy:
        plan = plan_of(home, proxy.server, soak.mode, *_FLAGS)
        with (
            evidence.kept(plan, soak.keep),
            team(plan.mountpoint, soak.seed, HABITS, home / "evidence") as players,
        ):
            with serving(plan, players) as mount:
                result = _soaked(soak, mount, proxy, players)
            with serving(plan, players) as mount:
                players.each("verify")
                players.each("settle")
                wait_until_clean(mount)
                expect_nothing_found(mount)
        return result


def _soaked(soak: Soak, mount: Mount, proxy: Proxy, players: Team) -> Result:
    operators = Operators()
    players.each("make")
    proxy.order(*faults_of(soak.percent))
    began = time.monotonic()
    footprints = []
    for number, share in enumerate((_WARM_SHARE, 1.0)):
        with operators.at_work(mount, names_of(HABITS), f"{soak.seed}/{number}", count=2):
            _play_until(soak, players, began, began + soak.minutes * 60 * share)
        footprints.append(Footprint.of(mount))
    result = Result(soak, players.operations, players.counts(), proxy.counts(), mount.status(), operators, *footprints)
    proxy.heal()
    players.each("verify")
    wait_until_clean(mount)
    _expect_no_growth(result)
    return result


def _expect_no_growth(result: Result) -> None:
    """Failure."""
    if restarts := result.status["cold_restarts"]:
        raise Failure(f"the cold process ended {restarts} times")
    if result.soak.minutes >= _JUDGED_AFTER and (grown := result.first.growth_to(result.last)):
        raise Failure(f"{grown} grew: {result}")


def _play_until(soak: Soak, players: Team, began: float, end: float) -> None:
    def progress() -> None:
        soak.progress(f"{time.monotonic() - began:.0f} s, {players.operations} operations, {dict(players.counts())}")

    players.run_while(lambda: time.monotonic() < end, _BATCH, progress)
    players.each("settle")


def expect_nothing_found(mount: Mount) -> None:
    """`tierfs check` as an operator runs it, with a look into the objects where it has one. Failure."""
    command = [sys.executable, "-m", "tierfs", "check"]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    deep = ["--deep"] if "--deep" in told else []
    done = subprocess.run([*command, *deep, str(mount.path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"tierfs check {deep} ended with {done.returncode}: {done.stdout}{done.stderr}")


def main() -> int:
    """0: no difference, nothing grew. 1: something failed; what was found is said and kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Work on a store that fails at times.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--faults", type=float, default=1.0, help="requests of a hundred that meet a fault")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what the applications do follows from it")
    parser.add_argument("--mode", choices=("auto", "required", "off"), default="auto", help="as --passthrough")
    given = parser.parse_args()

    def work(progress: Progress, keep: Path) -> str:
        return str(run(Soak(given.minutes, given.faults, given.seed, given.mode, keep, progress)))

    return verdict(given.seed, work)


if __name__ == "__main__":
    sys.exit(main())
