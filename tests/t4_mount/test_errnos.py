"""Every operation on every kind of file does in a mount what it does in a plain directory, hot, warm and cold."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.mounting import Mount, directory
from tests.t4_mount.children import STRANGER, run_as
from tests.t4_mount.operations import Case, cases, change, look

pytestmark = pytest.mark.mount

STATES = ("hot", "warm", "cold")
USERS = {"root": 0, "a stranger": STRANGER}


@dataclass(frozen=True, slots=True)
class Told:
    """What a case returned, and what is there afterwards."""

    result: Any
    after: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def native() -> Iterator[Path]:
    """A plain directory on the filesystem of the hot directory."""
    with directory() as home:
        yield home


def run_all(root: Path, uid: int, prepare: Any = None) -> dict[Case, Told]:
    """Make all cases, let `prepare` change where their bytes are, run them as a user, and look at the result as root."""
    root.mkdir()
    places = {case: root / str(number) for number, case in enumerate(cases())}
    for case, place in places.items():
        case.make(place, uid)
    if prepare:
        prepare()
    before = {case: look_quietly(place) for case, place in places.items()}
    results = run_as(uid, lambda: [case.run(place) for case, place in places.items()])
    return {
        case: Told(result, change(before[case], look(place)))
        for (case, place), result in zip(places.items(), results, strict=True)
    }


def look_quietly(place: Path) -> dict[str, dict[str, Any]]:
    """Names, inodes and times; the contents would come into the cache."""
    found = {}
    for path in [place, *place.rglob("*")]:
        st = path.lstat()
        found[str(path.relative_to(place))] = {"inode": st.st_ino, "times": (st.st_mtime_ns, st.st_ctime_ns)}
    return found


@pytest.fixture(scope="module", params=USERS.values(), ids=USERS.keys())
def expected(request: pytest.FixtureRequest, native: Path) -> tuple[int, dict[Case, Told]]:
    """What the plain directory does, for a user."""
    require(os.geteuid() == 0, "becoming another user needs root")
    uid: int = request.param
    return uid, run_all(native / str(uid), uid)


@pytest.mark.parametrize("state", STATES)
def test_every_operation_does_what_a_plain_directory_does(
    mount: Mount, expected: tuple[int, dict[Case, Told]], state: str
) -> None:
    """Results, errnos, and what stat, listings, contents and times say afterwards."""
    uid, wanted = expected
    name = f"{state}-{uid}"

    def prepare() -> None:
        if state != "hot":
            mount.outcomes("archive" if state == "warm" else "release", name, recursive=True)

    got = run_all(mount.path / name, uid, prepare)
    differences = [
        f"{case}: {difference}" for case in wanted for difference in compare(wanted[case], got[case])
    ]
    assert not differences, f"{len(differences)} of {len(wanted)} cases differ:\n" + "\n".join(differences)


def compare(wanted: Told, got: Told) -> Iterator[str]:
    """In words, where two answers differ."""
    if wanted.result != got.result:
        yield f"returned {got.result!r}, a plain directory {wanted.result!r}"
    for name in sorted(wanted.after.keys() | got.after.keys()):
        there, here = wanted.after.get(name), got.after.get(name)
        if there is None or here is None:
            yield f"{name!r} {'appeared' if there is None else 'is missing'}"
            continue
        for what in there:
            if there[what] != here.get(what):
                yield f"{what} of {name!r} is {here.get(what)!r}, in a plain directory {there[what]!r}"
