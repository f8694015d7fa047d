"""A whole run: applications, operators, strikes; then everything is compared, also on the next mount."""

import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.exercise import evidence
from tests.exercise.bursts import bucket_server, plan_of, serving, wait_until_clean
from tests.exercise.command import Progress
from tests.exercise.operators import Operators
from tests.exercise.team import Failure, Team, team
from tests.mounting import Mount, Plan, directory, is_answering
from tests.soak import expect_nothing_found
from tests.storm.process import ROLES
from tests.storm.stalls import Stalls
from tests.storm.strikes import Striker, Target
from tests.t4_mount.modes import wait_until, wait_until_all_is_closed
from tierfs.core.errors import StoreUnavailable, TierfsError

PROCESS = "tests.storm.process"
_BATCH = 50
#: Files go as soon as they rest. Who needs the bucket is patient: what talks to it starts anew with every worker, and
#: takes longer for that than some workers live.
_FLAGS = (
    *("--auto-archive", "--warm-after", "1s", "--cold-after", "3s", "--policy-interval", "500ms"),
    *("--cold-timeout", "10m"),
)
#: Why a file stays hot when nobody has it open: everything else is a file that is counted open for ever.
_MAY_STAY = re.compile(r"it has .* hard links|it is empty|(it is )?not a regular file|it is a (directory|symlink).*")
_PATIENCE_S = 180.0
#: Between two orders of an operator, seconds.
_PAUSE_S = 0.03
#: Descriptors of the supervisor that may come and go.
_FEW = 3


@dataclass(frozen=True, slots=True)
class Storm:
    """What to do. `mode` is that of the exerciser; it lasts until all strikes are done, and at least `seconds`.

    With `is_remounted` everything is compared on a second mount, too.
    """

    strikes: int
    seed: str = "1"
    mode: str = "auto"
    how: str = "kill"
    between_s: float = 2.0
    seconds: float = 0.0
    is_remounted: bool = True
    roles: Sequence[str] = tuple(ROLES)
    keep: Path | None = None
    progress: Progress = field(default=lambda line: None)

    def names(self) -> list[str]:
        """The names of all files that operators may move, relative to the mount."""
        return [f"a{number}/{name}" for number, role in enumerate(self.roles) for name in ROLES[role].names()]


class PersistentOperators(Operators):
    """Operators who ask again when nobody answers: while a worker is replaced, nobody does."""

    def __init__(self) -> None:
        super().__init__()
        self.unanswered = 0

    def _move(self, mount: Mount, names: Sequence[str], chance: Any) -> None:
        time.sleep(_PAUSE_S)
        try:
            if is_answering(mount):
                super()._move(mount, names, chance)
                return
        except TierfsError:
            pass
        self.unanswered += 1


@dataclass(slots=True)
class Result:
    """What was done, and how long what took."""

    storm: Storm
    operators: PersistentOperators
    strikes: Striker
    operations: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    stalls: Stalls = field(default_factory=Stalls)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{self.operations} operations in {self.seconds:.0f} s, mode {self.storm.mode}, "
                f"seed {self.storm.seed}, {self.counts['compared_bytes'] >> 20} MiB compared: "
                "0 errors, 0 mismatches",
                f"strikes: {dict(self.strikes.done)}; operators moved {dict(self.operators.moved)}, "
                f"were not answered {self.operators.unanswered} times",
                self.stalls.table(),
                "take-overs:",
                self.strikes.stalls.table(),
                *self.notes,
            )
        )


def run(storm: Storm) -> Result:
    """Do it. Failure; whatever a mount raises."""
    with directory() as home, bucket_server(home) as server:
        plan = plan_of(home, server, storm.mode, *_FLAGS)
        with (
            evidence.kept(plan, storm.keep),
            team(plan.mountpoint, storm.seed, storm.roles, home / "evidence", PROCESS) as players,
        ):
            return _survived(storm, plan, players)


def _survived(storm: Storm, plan: Plan, players: Team) -> Result:
    with serving(plan, players) as mount:
        players.each("make")
        cold = [name for name in storm.names() if "reader" in storm.roles and _is_of(storm, name, "reader")]
        mount.settled("release", *cold)
        before = _held_by_supervisor(mount)
        result = _struck(storm, mount, players)
        players.each("verify")
        players.each("settle")
        _expect_all_closed(mount)
        _expect_all_can_go(mount)
        players.each("verify")
        _expect_order(mount)
        _expect_nothing_held(mount, before)
        counts = f"{len(before)} at first, {len(_held_by_supervisor(mount))} at the end"
        result.notes.append(f"descriptors of the supervisor: {counts}")
    if storm.is_remounted:
        with serving(plan, players) as mount:
            players.each("verify")
            _expect_order(mount)
    return result


def _struck(storm: Storm, mount: Mount, players: Team) -> Result:
    striker = Striker(Target.of(mount), storm.strikes, storm.how, storm.seed, storm.between_s)
    result = Result(storm, PersistentOperators(), striker)
    began = time.monotonic()

    def is_on() -> bool:
        return striker.error is None and not (striker.is_over and time.monotonic() - began >= storm.seconds)

    def progress() -> None:
        storm.progress(f"{time.monotonic() - began:.0f} s, {players.operations} operations, {dict(striker.done)}")

    try:
        with result.operators.at_work(mount, storm.names(), storm.seed, count=2), striker.at_work():
            players.run_while(is_on, _BATCH, progress)
    finally:
        (mount.plan.home / "evidence" / "strikes").write_text("\n".join(striker.diary))
    result.seconds = time.monotonic() - began
    result.operations, result.counts = players.operations, players.counts()
    result.stalls = Stalls.together([answer["stalls"] for answer in players.answers()])
    result.notes += [f"not moved: {count} x {why}" for why, count in result.operators.refused.most_common()]
    return result


def _is_of(storm: Storm, name: str, role: str) -> bool:
    return name.startswith(f"a{list(storm.roles).index(role)}/")


def _expect_all_closed(mount: Mount) -> None:
    """Nothing is counted as open when nothing is."""
    try:
        wait_until_all_is_closed(mount)
    except AssertionError:
        raise Failure(f"files are counted as open: {mount.status()['fuse']}") from None


def _expect_all_can_go(mount: Mount) -> None:
    """Every file can be archived and released. Failure: the ones that cannot."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        outcomes = mount.outcomes("release", b"", recursive=True)
        stay = [one for one in outcomes if one.result == "failed" and not _MAY_STAY.fullmatch(one.reason)]
        if not stay:
            return
        if time.monotonic() > deadline:
            raise Failure("\n".join(f"{os.fsdecode(one.path)} cannot go: {one.reason}" for one in stay))
        time.sleep(0.1)


def wait_until_the_store_answers(mount: Mount) -> None:
    """After a strike the process that talks to the store is started again, and nobody waits for it."""

    def answers() -> bool:
        try:
            mount.check()
        except StoreUnavailable:
            return False
        return True

    wait_until(answers)


def _expect_order(mount: Mount) -> None:
    """`tierfs check` finds nothing, also deep. Failure.

    rclone answers a listing with nonsense while what it lists is being removed: it is asked again.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            wait_until_clean(mount)
            break
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    wait_until(lambda: mount.status()["errors"]["files"] == {})
    expect_nothing_found(mount)


def _expect_nothing_held(mount: Mount, before: list[str]) -> None:
    """The supervisor lets go of what was kept for the next worker, when nobody needs it. Failure: what it holds."""
    deadline = time.monotonic() + _PATIENCE_S
    while len(held := _held_by_supervisor(mount)) > len(before) + _FEW:
        if time.monotonic() > deadline:
            raise Failure("\n".join(["nothing is open, and the supervisor holds:", *held]))
        time.sleep(0.1)


def _held_by_supervisor(mount: Mount) -> list[str]:
    held = []
    for link in Path(f"/proc/{mount.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            held.append(str(link.readlink()))
    return held
