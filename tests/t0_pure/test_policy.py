"""The policy: who moves, who stays, and the reason for either."""

import stat
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.config import Settings
from tierfs.core.policy import (
    Action,
    Fill,
    HotFile,
    Verb,
    matches,
    next_try_ns,
    plan,
    why_kept,
    why_never,
    why_not_archived,
    why_not_released,
)
from tierfs.core.residency import Residency

S = 1_000_000_000
H = 3600 * S
NOW = 1_000_000 * H
EMPTY = Fill(0, 0, 1000)
SETTINGS = Settings.of(warm_after="1h", cold_after="4h", settle="30s", min_size="10B")

FILE = HotFile(b"d/a.log", stat.S_IFREG | 0o644, 1, 100, NOW - 2 * H, NOW - 2 * H)
WARM = replace(FILE, residency=Residency.MIRRORED)


def settings(**changes: Any) -> Settings:
    return SETTINGS.model_copy(update=changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"mode": stat.S_IFDIR}, "not a regular file"),
        ({"mode": stat.S_IFIFO}, "not a regular file"),
        ({"nlink": 2}, "it has 2 hard links"),
        ({"size": 0}, "it is empty"),
        ({"writers": 1}, "open for writing"),
        ({"readers": 9}, None),
        ({"pinned": True}, "pinned"),
        ({"size": 9}, "smaller than min_size (10)"),
        ({"size": 10}, None),
        ({"mtime_ns": NOW - H + 1}, "changed too recently; eligible in 0s"),
        ({"mtime_ns": NOW - H}, None),
        ({"mtime_ns": NOW - H // 2}, "changed too recently; eligible in 30m"),
        ({"ctime_ns": NOW - 29 * S}, "changed too recently; eligible in 1s"),
        ({"ctime_ns": NOW - 30 * S}, None),
        ({"mtime_ns": NOW + 100 * H}, "changed too recently; eligible in 4d"),
        ({"residency": Residency.ARCHIVING}, "being archived"),
        ({"retry_at_ns": NOW + 90 * S, "failure": "no room"}, "failed (no room); next try in 1m"),
        ({"retry_at_ns": NOW}, None),
    ],
)
def test_why_a_file_is_not_archived(change: dict[str, Any], reason: str | None) -> None:
    assert why_not_archived(replace(FILE, **change), SETTINGS, NOW) == reason
    actions = plan([replace(FILE, **change)], EMPTY, SETTINGS, NOW)
    assert [action.verb for action in actions] == ([Verb.ARCHIVE] if reason is None else [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exclude": ("*.log",)}, "excluded by a pattern"),
        ({"include": ("*.txt",)}, "not included by a pattern"),
        ({"auto_archive": False}, "auto_archive is off"),
        ({"read_only": True}, "the mount is read-only"),
        ({"exclude": ("d",)}, "excluded by a pattern"),
        ({"exclude": ("d/*.log",)}, "excluded by a pattern"),
        ({"exclude": ("e/*.log",)}, None),
    ],
)
def test_why_settings_keep_a_file_hot(change: dict[str, Any], reason: str | None) -> None:
    assert why_not_archived(FILE, settings(**change), NOW) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "younger than cold_after for another 2h"),
        ({"mtime_ns": NOW - 4 * H}, None),
        ({"mtime_ns": NOW - 9 * H, "ctime_ns": NOW}, None),
        ({"mtime_ns": NOW - 9 * H, "restored_ns": NOW - H}, "younger than cold_after for another 3h"),
        ({"mtime_ns": NOW - 9 * H, "restored_ns": NOW - 4 * H}, None),
        ({"mtime_ns": NOW - 4 * H, "pinned": True}, "pinned"),
        ({"mtime_ns": NOW - 4 * H, "readers": 1}, "open"),
        ({"mtime_ns": NOW - 4 * H, "writers": 1}, "open"),
        ({"mtime_ns": NOW - 4 * H, "retry_at_ns": NOW + S, "failure": "x"}, "failed (x); next try in 1s"),
        ({"mtime_ns": NOW - 4 * H, "residency": Residency.HOT}, "not archived"),
    ],
)
def test_why_a_file_is_not_released(change: dict[str, Any], reason: str | None) -> None:
    assert why_not_released(replace(WARM, **change), SETTINGS, NOW) == reason


def test_an_operator_is_refused_only_what_is_never_right() -> None:
    assert why_never(replace(FILE, pinned=True, mtime_ns=NOW, size=1), settings(exclude=("*",))) is None
    assert why_kept(replace(WARM, mtime_ns=NOW)) is None


def test_archives_come_before_releases() -> None:
    old = replace(WARM, path=b"old", mtime_ns=NOW - 5 * H)
    actions = plan([old, FILE], EMPTY, SETTINGS, NOW)
    assert actions == [
        Action(Verb.ARCHIVE, b"d/a.log", 100, "unchanged for 2h"),
        Action(Verb.RELEASE, b"old", 100, "unchanged for 5h"),
    ]


# -- watermarks ------------------------------------------------------------------------------------------------------

files = st.builds(
    HotFile,
    path=st.binary(min_size=1, max_size=3).filter(lambda name: b"/" not in name),
    mode=st.just(stat.S_IFREG | 0o644),
    nlink=st.sampled_from([1, 1, 2]),
    size=st.integers(0, 400),
    mtime_ns=st.integers(NOW - 10 * H, NOW),
    ctime_ns=st.integers(NOW - 10 * H, NOW),
    residency=st.sampled_from([Residency.HOT, Residency.ARCHIVING, Residency.MIRRORED]),
    readers=st.sampled_from([0, 0, 1]),
    writers=st.sampled_from([0, 0, 1]),
    pinned=st.booleans(),
    restored_ns=st.sampled_from([0, NOW - H]),
)
trees = st.lists(files, max_size=12, unique_by=lambda file: file.path)
fills = st.builds(Fill, st.integers(0, 1000), st.integers(0, 1000), st.just(1000))


@given(trees, fills, st.booleans())
def test_a_plan_is_allowed_complete_and_no_more_than_needed(tree: list[HotFile], fill: Fill, in_bytes: bool) -> None:
    marks = {"high_watermark": "600B", "low_watermark": "300B"} if in_bytes else {}
    chosen = Settings.of(**(SETTINGS.model_dump() | marks))
    actions = plan(tree, fill, chosen, NOW)
    by_path = {file.path: file for file in tree}
    assert len({action.path for action in actions}) == len(actions)
    aged = pressed = 0
    for action in actions:
        file = by_path[action.path]
        assert action.size == file.size
        if action.verb is Verb.ARCHIVE:
            assert why_not_archived(file, chosen, NOW) is None
            continue
        assert file.residency is Residency.MIRRORED
        assert why_kept(file) is None
        if why_not_released(file, chosen, NOW) is None:
            aged += file.size
        else:
            pressed += file.size
            last = file.size
    excess = fill.excess_over(chosen.high_watermark) - aged
    if excess <= 0:
        assert pressed == 0
    spare = [
        f
        for f in tree
        if f.residency is Residency.MIRRORED and why_kept(f) is None and why_not_released(f, chosen, NOW) is not None
    ]
    need = fill.excess_over(chosen.low_watermark) - aged
    if excess > 0:
        assert pressed >= need or pressed == sum(file.size for file in spare)
        if pressed:
            assert pressed - last < need
    assert all(
        why_not_archived(file, chosen, NOW) is not None
        for file in tree
        if file.residency is Residency.HOT and file.path not in {action.path for action in actions}
    )


def test_the_watermark_takes_the_oldest_first() -> None:
    warm = [replace(WARM, path=b"%d" % age, mtime_ns=NOW - age * 60 * S, size=100) for age in (1, 3, 2, 4)]
    marks = Settings.of(**(SETTINGS.model_dump() | {"high_watermark": "350B", "low_watermark": "200B"}))
    actions = plan(warm, Fill(400, 400, 1000), marks, NOW)
    assert [action.path for action in actions] == [b"4", b"3"]
    assert all("above 350" in action.reason for action in actions)
    assert plan(warm, Fill(350, 400, 1000), marks, NOW) == []


def test_percent_is_of_the_filesystem_with_all_that_is_on_it() -> None:
    fill = Fill(hot=100, used=950, capacity=1000)
    warm = [replace(WARM, path=b"a", size=60), replace(WARM, path=b"b", size=60, mtime_ns=NOW - 3 * H)]
    assert [action.path for action in plan(warm, fill, SETTINGS, NOW)] == [b"b", b"a"]


# -- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        (b"a.log", "*.log", True),
        (b"d/a.log", "*.log", True),
        (b"d.log/a", "*.log", True),
        (b"d/a.log", "d/*", True),
        (b"d/e/a.log", "d/*", True),
        (b"x/d/a", "d/*", False),
        (b"a", "/a", True),
        (b"\xff", "?", True),
        (b"new\nline", "new*", True),
        (b"[a]", "[[]a]", True),
        (b"ab", "a", False),
    ],
)
def test_patterns(path: bytes, pattern: str, expected: bool) -> None:
    assert matches(path, [pattern]) is expected


def test_back_off_doubles_to_an_hour() -> None:
    waits = [(next_try_ns(failures, NOW) - NOW) // S for failures in range(1, 12)]
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    assert next_try_ns(10_000, NOW) == NOW + 3600 * S
