"""The policy and segments: what belongs together moves together, and whoever waits says for whom."""

import stat
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.config import Settings
from tierfs.core.policy import (
    Fill,
    HotFile,
    Segment,
    Verb,
    matches,
    plan,
    plan_room,
    segments_of,
    why_kept,
    why_not_archived,
    why_not_archived_with,
    why_not_released,
    why_not_released_with,
)
from tierfs.core.residency import Residency
from tierfs.core.segments import SegmentName

S = 1_000_000_000
H = 3600 * S
NOW = 1_000_000 * H
EMPTY = Fill(0, 0, 1000)
FULL = Fill(1000, 1000, 1000)
HOT, MIRRORED = Residency.HOT, Residency.MIRRORED
BASIC: dict[str, Any] = {"warm_after": "1h", "cold_after": "4h", "settle": "30s", "min_size": "10B"}
SETTINGS = Settings.of(**BASIC, segments="*.log,*.index,*.snapshot")
KAFKA = SETTINGS.model_copy(update={"keep_hot": ("*.index", "*.snapshot"), "keep_newest": 1})


def file(name: str, residency: Residency = HOT, age: int = 2 * H, **fields: Any) -> HotFile:
    """A file that was last changed so long ago."""
    then = NOW - age
    known: dict[str, Any] = {"mode": stat.S_IFREG | 0o644, "nlink": 1, "size": 100}
    return HotFile(name.encode(), mtime_ns=then, ctime_ns=then, residency=residency, **(known | fields))


def moves(files: list[HotFile], settings: Settings = SETTINGS, fill: Fill = EMPTY) -> list[tuple[str, str]]:
    """What is planned, in order."""
    return [(action.verb.value, action.path.decode()) for action in plan(files, fill, settings, NOW)]


def segment_with(path: str, files: list[HotFile], settings: Settings = SETTINGS) -> tuple[HotFile, Segment]:
    """A file and its segment."""
    found = [(one, seg) for seg in segments_of(files, settings) for one in seg.members if one.path == path.encode()]
    assert len(found) == 1
    return found[0]


def test_the_files_of_a_segment_stand_together_with_the_data_first() -> None:
    """Also when the walk met them apart: what a crash leaves in the bucket is of use by itself."""
    tree = [file("d/1.index", size=10), file("d/2.log"), file("d/1.log", size=11), file("d/2.index", size=400)]
    tree += [file("d/plain"), file("e/1.log")]
    archived = ["d/1.log", "d/1.index", "d/2.index", "d/2.log", "d/plain", "e/1.log"]
    assert moves(tree) == [("archive", path) for path in archived]
    kept = SETTINGS.model_copy(update={"keep_hot": ("*.index",)})
    archived = ["d/1.log", "d/1.index", "d/2.log", "d/2.index", "d/plain", "e/1.log"]
    assert moves(tree, kept) == [("archive", path) for path in archived]


def test_actions_say_their_segment() -> None:
    actions = plan([file("d/1.log"), file("d/plain")], EMPTY, SETTINGS, NOW)
    assert [action.segment for action in actions] == [SegmentName(b"d", b"1"), None]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mtime_ns": NOW - H // 2}, "its segment waits for 1.index: changed too recently; eligible in 30m"),
        ({"writers": 1}, "its segment waits for 1.index: open for writing"),
        (
            {"retry_at_ns": NOW + 90 * S, "failure": "no room"},
            "its segment waits for 1.index: failed (no room); next try in 1m",
        ),
        ({"residency": Residency.ARCHIVING}, "its segment waits for 1.index: being archived"),
        ({"residency": MIRRORED}, None),
        ({"residency": MIRRORED, "readers": 1}, None),
        ({"size": 9, "writers": 1}, None),
        ({"size": 0}, None),
        ({"pinned": True}, None),
        ({"nlink": 2}, None),
        ({"mode": stat.S_IFIFO}, None),
    ],
)
def test_what_holds_an_archive_back_and_what_does_not(change: dict[str, Any], reason: str | None) -> None:
    """Only what passes: a member that never moves is not waited for."""
    tree = [file("d/1.log"), replace(file("d/1.index"), **change), file("e/1.index", writers=1)]
    assert why_not_archived_with(*segment_with("d/1.log", tree), SETTINGS, NOW) == reason
    assert (("archive", "d/1.log") in moves(tree)) == (reason is None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"mtime_ns": NOW - 3 * H}, "its segment waits for 1.index: younger than cold_after for another 1h"),
        ({"readers": 1}, "its segment waits for 1.index: open"),
        ({"residency": HOT}, "its segment waits for 1.index: not archived"),
        (
            {"residency": HOT, "mtime_ns": NOW},
            "its segment waits for 1.index: changed too recently; eligible in 1h",
        ),
        ({"residency": HOT, "size": 9}, None),
        ({"pinned": True}, None),
    ],
)
def test_what_holds_a_release_back_and_what_does_not(change: dict[str, Any], reason: str | None) -> None:
    tree = [file("1.log", MIRRORED, 9 * H), replace(file("1.index", MIRRORED, 9 * H), **change)]
    assert why_not_released_with(*segment_with("1.log", tree), SETTINGS, NOW) == reason
    assert (("release", "1.log") in moves(tree)) == (reason is None)


def test_what_is_excluded_holds_nobody_back() -> None:
    tree = [file("1.log"), file("1.index", age=0)]
    excluded = SETTINGS.model_copy(update={"exclude": ("*.index",)})
    assert moves(tree, excluded) == [("archive", "1.log")]
    assert moves(tree) == []


def test_what_is_kept_hot_is_archived_and_never_released() -> None:
    """It does not hold the data back either, whatever becomes of it: brokers map their indexes all day."""
    old = file("1.log", MIRRORED, 9 * H)
    later = file("2.log", age=0)
    kept = [file("1.index", age=9 * H), file("1.snapshot", MIRRORED, 9 * H)]
    assert moves([old, *kept, later], KAFKA) == [("archive", "1.index"), ("release", "1.log")]
    assert moves([old, file("1.index", writers=1), later], KAFKA) == [("release", "1.log")]
    assert moves([*kept, later], KAFKA, FULL) == [("archive", "1.index")]
    reason = why_not_released_with(*segment_with("1.snapshot", [old, *kept], KAFKA), KAFKA, NOW)
    assert reason == "kept hot by a pattern"


def test_the_newest_segments_are_left_alone() -> None:
    tree = [file(f"{d}/{n:020}.log", MIRRORED, 9 * H) for d in "de" for n in (0, 99, 100)]
    gone = [("release", f"{d}/{n:020}.log") for d in "de" for n in (0, 99)]
    assert moves(tree, KAFKA) == gone
    assert moves(tree, KAFKA, FULL) == gone
    two = KAFKA.model_copy(update={"keep_newest": 2})
    assert moves(tree, two) == [("release", f"{d}/{0:020}.log") for d in "de"]
    assert moves(tree, KAFKA.model_copy(update={"keep_newest": 3})) == []
    reason = why_not_released_with(*segment_with(f"d/{100:020}.log", tree, KAFKA), KAFKA, NOW)
    assert reason == "one of the newest segments (keep_newest is 1)"


def test_a_side_file_that_is_ahead_of_its_log_is_not_the_newest_segment() -> None:
    """Kafka writes a snapshot for the offset at which the next segment will begin."""
    tree = [file("0.log"), file("5.log"), file("9.snapshot")]
    assert moves(tree, KAFKA) == [("archive", "0.log")]


def test_numbers_are_compared_among_names_of_one_kind() -> None:
    tree = [file("a-1.log"), file("b-7.log"), file("b-8.log"), file("readme.log")]
    assert moves(tree, KAFKA) == [("archive", "b-7.log"), ("archive", "readme.log")]


def test_room_is_made_by_whole_segments_the_oldest_first() -> None:
    """A segment is as old as its youngest member."""
    tree = [file("1.log", MIRRORED, 3 * H), file("1.index", MIRRORED, 1 * H), file("2.log", MIRRORED, 2 * H)]
    tree += [file("3.log", MIRRORED, 3 * H), file("3.index", HOT, 3 * H, writers=1)]
    released = [action.path for action in plan_room(tree, 101, SETTINGS, NOW, "room")]
    assert released == [b"2.log", b"1.index", b"1.log"]
    assert [action.path for action in plan_room(tree, 100, SETTINGS, NOW, "room")] == [b"2.log"]


# -- properties ------------------------------------------------------------------------------------------------------

names = st.builds(
    lambda directory, number, side: f"{directory}{number}{side}".encode(),
    st.sampled_from(["", "d/"]),
    st.integers(0, 12),
    st.sampled_from([".log", ".log", ".index", ".snapshot", ".other"]),
)
files = st.builds(
    HotFile,
    path=names,
    mode=st.just(stat.S_IFREG | 0o644),
    nlink=st.sampled_from([1, 1, 1, 2]),
    size=st.sampled_from([0, 5, 50, 100, 400]),
    mtime_ns=st.sampled_from([NOW, NOW - 2 * H, NOW - 5 * H]),
    ctime_ns=st.just(NOW - H),
    residency=st.sampled_from([HOT, HOT, MIRRORED, MIRRORED, Residency.ARCHIVING]),
    readers=st.sampled_from([0, 0, 0, 1]),
    writers=st.sampled_from([0, 0, 0, 1]),
    pinned=st.sampled_from([False, False, True]),
)
trees = st.lists(files, max_size=16, unique_by=lambda one: one.path)
fills = st.sampled_from([EMPTY, FULL, Fill(880, 920, 1000)])
choices = st.builds(
    lambda hot, newest, exclude: SETTINGS.model_copy(
        update={"keep_hot": hot, "keep_newest": newest, "exclude": exclude}
    ),
    st.sampled_from([(), ("*.index", "*.snapshot")]),
    st.integers(0, 2),
    st.sampled_from([(), ("*.snapshot",)]),
)


@given(trees, choices, fills)
def test_the_plan_and_the_reasons_agree(tree: list[HotFile], settings: Settings, fill: Fill) -> None:
    """What `plan` shows as moving by age has no reason to stay, and everything else has one."""
    actions = {(action.verb, action.path): action for action in plan(tree, fill, settings, NOW)}
    for segment in segments_of(tree, settings):
        for one in segment.members:
            if one.residency is HOT:
                reason = why_not_archived_with(one, segment, settings, NOW)
                assert ((Verb.ARCHIVE, one.path) in actions) == (reason is None)
            reason = why_not_released_with(one, segment, settings, NOW)
            action = actions.get((Verb.RELEASE, one.path))
            assert (action is not None and action.reason.startswith("unchanged")) == (reason is None)


@given(trees, choices, fills)
def test_a_segment_moves_whole_or_not_at_all(tree: list[HotFile], settings: Settings, fill: Fill) -> None:
    """Whole: all of it that may ever move; what stays for good stays."""
    actions = plan(tree, fill, settings, NOW)
    archived = {action.path for action in actions if action.verb is Verb.ARCHIVE}
    released = {action.path for action in actions if action.verb is Verb.RELEASE}
    for segment in segments_of(tree, settings):
        paths = {one.path for one in segment.members}
        if archived & paths:
            assert not segment.is_newest
            waiting = [one for one in segment.members if one.residency is not MIRRORED and one.path not in archived]
            for one in waiting:
                lasting = one.pinned or one.size < 10 or one.nlink > 1 or matches(one.path, settings.exclude)
                assert lasting or matches(one.path, settings.keep_hot)
        if released & paths:
            assert not segment.is_newest
            for one in segment.members:
                is_kept = matches(one.path, settings.keep_hot) or one.pinned
                if one.residency is MIRRORED:
                    assert (one.path in released) == (not is_kept)
                    assert is_kept or why_kept(one) is None
                elif not is_kept:
                    assert one.size < 10 or one.nlink > 1 or matches(one.path, settings.exclude)


@given(trees, choices, fills)
def test_what_is_kept_hot_is_never_released_by_the_policy(tree: list[HotFile], settings: Settings, fill: Fill) -> None:
    actions = [*plan(tree, fill, settings, NOW), *plan_room(tree, 10**6, settings, NOW, "room")]
    released = [action.path for action in actions if action.verb is Verb.RELEASE]
    assert not [path for path in released if matches(path, settings.keep_hot)]


@given(trees, fills)
def test_without_segments_each_file_moves_on_its_own(tree: list[HotFile], fill: Fill) -> None:
    settings = Settings.of(**BASIC)
    for segment in segments_of(tree, settings):
        (one,) = segment.members
        assert why_not_archived_with(one, segment, settings, NOW) == why_not_archived(one, settings, NOW)
        assert why_not_released_with(one, segment, settings, NOW) == why_not_released(one, settings, NOW)


@given(trees, choices, st.integers(0, 2000))
def test_room_takes_no_more_segments_than_it_needs(tree: list[HotFile], settings: Settings, wanted: int) -> None:
    actions = plan_room(tree, wanted, settings, NOW, "room")
    last = actions[-1].segment if actions else None
    before = [a for a in actions if (a.segment or a.path) != (last or actions[-1].path)]
    assert not actions or sum(action.size for action in before) < wanted
