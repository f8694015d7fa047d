"""Every operation on every kind of file does in a mount what it does in a plain directory, hot, warm and cold."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.mounting import Mount, directory
from tests.t4_mount.children import STRANGER, run_as
from tests.t4_mount.operations import Case, cases, change, look, look_at_times
from tierfs.core.reports import Verb

pytestmark = pytest.mark.mount

USERS = {"root": 0, "a stranger": STRANGER}
VERBS: dict[str, Verb | None] = {"hot": None, "warm": "archive", "cold": "release"}


@dataclass(frozen=True, slots=True)
class Told:
    """What a case returned, and what is there afterwards."""

    result: Any
    after: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """All cases, made in one directory and run in another name of it, as a user."""

    made_in: Path
    seen_in: Path
    uid: int

    def make(self) -> dict[Case, dict[str, dict[str, Any]]]:
        """Make the directories of the cases, and say what inodes and times are in them."""
        self.made_in.mkdir()
        before = {}
        for number, case in enumerate(cases(self.uid == 0)):
            case.make(self.made_in / str(number), self.uid)
            before[case] = look_at_times(self.made_in / str(number))
        return before

    def run(self, before: dict[Case, dict[str, dict[str, Any]]]) -> dict[Case, Told]:
        """Run them, and look at what is there afterwards, as root."""
        places = {case: self.seen_in / str(number) for number, case in enumerate(before)}
        results = run_as(self.uid, lambda: [case.run(place) for case, place in places.items()])
        return {
            case: Told(result, change(before[case], look(place)))
            for (case, place), result in zip(places.items(), results, strict=True)
        }


@pytest.fixture(scope="module")
def expected() -> Iterator[dict[int, dict[Case, Told]]]:
    """What a plain directory on the filesystem of the hot directory does, for each user."""
    require(os.geteuid() == 0, "becoming another user needs root")
    with directory() as home:
        runs = {uid: Run(home / str(uid), home / str(uid), uid) for uid in USERS.values()}
        yield {uid: native.run(native.make()) for uid, native in runs.items()}


# Warm is to a stranger what it is to root.
@pytest.mark.parametrize(
    ("user", "state"),
    [("root", "hot"), ("root", "warm"), ("root", "cold"), ("a stranger", "hot"), ("a stranger", "cold")],
)
def test_every_operation_does_what_a_plain_directory_does(
    mount: Mount, expected: dict[int, dict[Case, Told]], user: str, state: str
) -> None:
    """Results, errnos, and what stat, listings, contents and times say afterwards."""
    uid = USERS[user]
    wanted = expected[uid]
    name = f"{state}-{uid}"
    tried = Run(mount.plan.hot / name, mount.path / name, uid)
    before = tried.make()
    if verb := VERBS[state]:
        mount.outcomes(verb, name, recursive=True)
    got = tried.run(before)
    differences = [
        f"{case}: {difference}" for case in wanted for difference in compare(wanted[case], got[case], state == "cold")
    ]
    assert not differences, f"{len(differences)} differences in {len(wanted)} cases:\n" + "\n".join(differences)


def compare(wanted: Told, got: Told, is_cold: bool) -> Iterator[str]:
    """In words, where two answers differ. Release and restore themselves change ctimes, and nothing else."""
    if wanted.result != got.result:
        yield f"returned {got.result!r}, a plain directory {wanted.result!r}"
    for name in sorted(wanted.after.keys() | got.after.keys()):
        there, here = wanted.after.get(name), got.after.get(name)
        if there is None or here is None:
            yield f"{name!r} {'appeared' if there is None else 'is missing'}"
            continue
        for what in there:
            is_same = there[what] == here.get(what)
            if what == "times" and is_cold and (stat.S_ISDIR(there["stat"][0]) or not any(there[what])):
                is_same = there[what][:1] == here[what][:1]
            if not is_same:
                yield f"{what} of {name!r} is {here.get(what)!r}, in a plain directory {there[what]!r}"
