"""A whole run: bursts of operations, each on a mount of its own over the same tree."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.exercise import evidence
from tests.exercise.command import Progress
from tests.exercise.habits import CHUNK, HABITS
from tests.exercise.operators import Operators
from tests.exercise.team import Failure, Team, team
from tests.mounting import Mount, Plan, directory, mounted
from tests.servers import S3Server, rclone

BUCKET = "exercise"
HABIT = "everything"
#: How long, in seconds, deletions and renames may take to reach the bucket.
_PATIENCE_S = 120.0
#: Small chunks, so that there are boundaries; a cache that is too small for all; sweeps as often as can be.
FLAGS = (
    *("--chunk-size", str(CHUNK), "--read-ahead", str(4 * CHUNK), "--cache-size", "4MiB"),
    *("--min-size", "1", "--settle", "0s", "--policy-interval", "200ms", "--max-retries", "2"),
)

#: The mode in which some files are virtual.
VIRTUAL = "virtual"


@dataclass(frozen=True, slots=True)
class Exercise:
    """What to do. `mode` is a value of --passthrough, or VIRTUAL.

    What a failed run leaves goes to `keep`, which must not exist.
    """

    operations: int
    seed: str
    mode: str = "auto"
    burst: int = 50_000
    applications: int = 4
    keep: Path | None = None
    progress: Progress = field(default=lambda line: None)


@dataclass(slots=True)
class Result:
    """What was done."""

    exercise: Exercise
    operations: int = 0
    seconds: float = 0.0
    mounts: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    operators: Operators = field(default_factory=Operators)

    def __str__(self) -> str:
        moved = ", ".join(f"{count} x {verb}" for verb, count in sorted(self.operators.moved.items()))
        rate = self.operations / max(self.seconds, 0.001)
        return (
            f"{self.operations} operations in {self.seconds:.0f} s ({rate:.0f}/s), "
            f"mode {self.exercise.mode}, seed {self.exercise.seed}: {moved}, {self.mounts} mounts, "
            f"{self.counts['compared_bytes'] >> 20} MiB compared"
        )


@contextmanager
def bucket_server(home: Path) -> Iterator[S3Server]:
    """A server with the bucket, whose objects are files in home/server. ServerMissing."""
    with rclone(home / "server") as server:
        server.create_bucket(BUCKET)
        yield server


def flags_of(mode: str) -> tuple[str, ...]:
    """What a mode means: a value of --passthrough, or some files virtual and others passed through, by their names."""
    if mode == VIRTUAL:
        return "--passthrough=required", "--open-files=idle", "--idle-files=*[0-4a-m]"
    return (f"--passthrough={mode}",)


def plan_of(home: Path, server: S3Server, mode: str, *flags: str) -> Plan:
    """The mount; what it needs is made, and a directory for evidence."""
    flags = (*FLAGS, "--endpoint-url", server.endpoint_url, *flags_of(mode), *flags)
    plan = Plan(home, f"s3://{BUCKET}", flags=flags, environment=server.environment)
    plan.make_directories()
    (home / "evidence").mkdir()
    return plan


def run(exercise: Exercise) -> Result:
    """Do it. Failure; whatever a mount raises."""
    with directory() as home, bucket_server(home) as server:
        plan = plan_of(home, server, exercise.mode)
        habits = [HABIT] * exercise.applications
        with (
            evidence.kept(plan, exercise.keep),
            team(plan.mountpoint, exercise.seed, habits, home / "evidence") as players,
        ):
            return _bursts(exercise, plan, players)


def _bursts(exercise: Exercise, plan: Plan, players: Team) -> Result:
    result = Result(exercise)
    names = names_of([HABIT] * exercise.applications)
    began = time.monotonic()

    def progress() -> None:
        result.seconds = time.monotonic() - began
        result.operations, result.counts = players.operations, players.counts()
        exercise.progress(str(result))

    while result.operations < exercise.operations:
        with serving(plan, players) as mount:
            players.each("verify" if result.mounts else "make")
            result.mounts += 1
            with result.operators.at_work(mount, names, f"{exercise.seed}/{result.mounts}"):
                players.run(min(exercise.operations - result.operations, exercise.burst), progress)
            players.each("settle")
            # With nothing open most of it goes: the next mount begins with cold files.
            result.operators.note("release", mount.outcomes("release", *names[result.mounts % 3 :: 3]))
            _expect_nothing_unusual(mount, result.operators)
    with serving(plan, players) as mount:
        players.each("verify")
        wait_until_clean(mount)
    progress()
    return result


def names_of(habits: Sequence[str]) -> list[str]:
    """The names of all files that applications with these habits may have, relative to the mount."""
    return [f"a{number}/{name}" for number, habit in enumerate(habits) for name in HABITS[habit].names()]


@contextmanager
def serving(plan: Plan, players: Team) -> Iterator[Mount]:
    """A mount; what it says is kept when the block fails."""
    with mounted(plan) as mount, players.ended_on_failure(), evidence.looked_at(mount, plan.home / "evidence"):
        yield mount


def _expect_nothing_unusual(mount: Mount, operators: Operators) -> None:
    if operators.unusual:
        raise Failure("\n".join(operators.unusual))
    errors = mount.status()["errors"]
    if errors["reads"] or errors["files"]:
        raise Failure(f"the mount counted errors: {errors}")


def wait_until_clean(mount: Mount) -> None:
    """Until `tierfs check` finds nothing: what the bucket is owed is brought to it by and by. Failure."""
    deadline = time.monotonic() + _PATIENCE_S
    while findings := mount.check():
        if time.monotonic() > deadline:
            raise Failure("\n".join(map(str, findings)))
        time.sleep(0.1)
