"""The same cases in a plain directory and in a mount: how they are run, and where they differ."""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.mounting import Plan, directory, mounted
from tests.t4_mount.children import run_as
from tests.t4_mount.operations import below, stat_of
from tierfs.core.reports import Verb

#: Small enough that a few kilobytes are many chunks, and no smaller than a page of the kernel.
CHUNK_SIZE = "4KiB"
#: What makes all files of a directory hot, warm or cold.
STATES: dict[str, Verb | None] = {"hot": None, "warm": "archive", "cold": "release"}

Seen = dict[str, dict[str, Any]]

_CLOCK_REALTIME_COARSE = 5  # linux/time.h: what the kernel takes for the times of files


class CaseLike(Protocol):
    """One thing to do in a directory of its own; hashable, and str() of it names it."""

    def make(self, directory: Path, owner: int) -> None: ...

    def run(self, directory: Path) -> Any: ...


@dataclass(frozen=True, slots=True)
class Told:
    """What a case returned, and what is there afterwards."""

    result: Any
    after: Seen


@dataclass(frozen=True, slots=True)
class Run:
    """Cases, made in one directory and run in another name of it, as a user."""

    cases: Sequence[CaseLike]
    made_in: Path
    seen_in: Path
    uid: int

    def make(self) -> dict[CaseLike, Seen]:
        """Make the directories of the cases, and say what inodes and times are in them."""
        self.made_in.mkdir()
        before = {}
        for number, case in enumerate(self.cases):
            case.make(self.made_in / str(number), self.uid)
            before[case] = look_at_times(self.made_in / str(number))
        _wait_for_the_next_tick()
        return before

    def run(self, before: dict[CaseLike, Seen]) -> dict[CaseLike, Told]:
        """Run them, and look at what is there afterwards, as root."""
        places = {case: self.seen_in / str(number) for number, case in enumerate(before)}
        results = run_as(self.uid, lambda: [case.run(place) for case, place in places.items()])
        return {
            case: Told(result, change(before[case], look(place)))
            for (case, place), result in zip(places.items(), results, strict=True)
        }


def _wait_for_the_next_tick() -> None:
    """Until what is changed gets a later time: that of files advances in steps of some milliseconds."""
    now = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) == now:
        time.sleep(0.001)


def look_at_times(directory: Path) -> Seen:
    """Names, inodes and times of a case's directory."""
    seen = {}
    for path in [str(directory), *below(directory)]:
        st = os.lstat(path)
        inode = stat.S_IFMT(st.st_mode), st.st_ino  # a number that is free is used again, often for another type
        seen[os.path.relpath(path, directory)] = {"inode": inode, "times": (st.st_mtime_ns, st.st_ctime_ns)}
    return seen


def look(directory: Path) -> Seen:
    """Everything that can be seen of a case's directory: names, attributes, contents; times and inodes on their own."""
    seen = {}
    for path in [str(directory), *below(directory)]:
        st = os.lstat(path)
        what: dict[str, Any] = {"stat": stat_of(st), "times": (st.st_mtime_ns, st.st_ctime_ns)}
        what["inode"] = stat.S_IFMT(st.st_mode), st.st_ino
        if stat.S_ISLNK(st.st_mode):
            what["target"] = os.readlink(path)
        elif stat.S_ISREG(st.st_mode):
            what["content"] = Path(path).read_bytes() if st.st_size < 1 << 20 else b""
            what["xattrs"] = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        seen[os.path.relpath(path, directory)] = what
    return seen


def change(before: Seen, after: Seen) -> Seen:
    """What is there afterwards, with inodes told by the names that they had, and times by whether they changed."""
    names: dict[tuple[int, int], str] = {}
    for name, what in before.items():
        names.setdefault(what["inode"], name)
    told = {}
    for name, what in after.items():
        old = names.get(what["inode"])
        times = before[old]["times"] if old else None
        changed = [new != then for new, then in zip(what["times"], times, strict=True)] if times else []
        told[name] = what | {"inode": old or "new", "times": changed}
    return told


def run_natively(cases: Sequence[CaseLike], uid: int) -> dict[CaseLike, Told]:
    """What a plain directory on the filesystem of the hot directory does."""
    with directory() as home:
        run = Run(cases, home / "native", home / "native", uid)
        return run.run(run.make())


def differences(state: str, expected: dict[CaseLike, Told], uid: int, *flags: str) -> list[str]:
    """Run the cases in a new mount, with files in `state`, and say where they differ from what is expected.

    They are made in the hot directory, so that the kernel knows nothing of them when they run. In a mount that has no
    cold files yet, inode numbers are those of the hot directory, and the comparison holds them to it.
    """
    with directory() as home, mounted(Plan(home, flags=("--chunk-size", CHUNK_SIZE, *flags))) as mount:
        run = Run(list(expected), mount.plan.hot / "cases", mount.path / "cases", uid)
        before = run.make()
        if verb := STATES[state]:
            mount.outcomes(verb, "cases", recursive=True)
        return [
            f"{case}: {difference}"
            for case, told in run.run(before).items()
            for difference in compare(expected[case], told, state == "cold")
        ]


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
