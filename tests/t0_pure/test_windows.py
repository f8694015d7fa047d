"""Windows of the day: what is written, what is inside, and when the next one opens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.config import Settings
from tierfs.core.errors import ConfigError
from tierfs.core.windows import is_open, open_minutes, opens_at, parse_windows, why_held

minutes = st.integers(0, 24 * 60 - 1)


def at(text: str) -> int:
    hours, _, rest = text.partition(":")
    return int(hours) * 60 + int(rest)


@pytest.mark.parametrize(
    ("windows", "inside", "outside"),
    [
        ("", ["00:00", "12:00", "23:59"], []),
        ("08:00-09:30", ["08:00", "09:29"], ["07:59", "09:30", "00:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "21:59", "12:00"]),
        ("22:00-24:00, 0:00-6:00", ["22:00", "00:00", "05:59"], ["06:00", "21:59"]),
        ("00:00-24:00", ["00:00", "23:59"], []),
        ("12:00-13:00,18:00-18:01", ["12:30", "18:00"], ["13:00", "18:01"]),
    ],
)
def test_what_is_inside(windows: str, inside: list[str], outside: list[str]) -> None:
    parsed = parse_windows(windows)
    assert all(is_open(parsed, at(time)) for time in inside)
    assert not any(is_open(parsed, at(time)) for time in outside)


@pytest.mark.parametrize(
    "text", ["22", "22:00", "22:00-", "25:00-06:00", "22:60-06:00", "24:00-06:00", "1:00-1:00", "x"]
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a window|begins when it ends"):
        parse_windows(text)
    with pytest.raises(ConfigError, match="archive_window"):
        Settings.of(archive_window=text)


def test_the_setting_is_read_back_as_it_was_written() -> None:
    settings = Settings.of(archive_window=["22:00-6:00", "12:00-13:00"])
    assert settings.archive_window == "22:00-06:00, 12:00-13:00"
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@given(minutes, minutes, minutes)
def test_the_next_one_opens_after_now_and_a_day_has_so_many_minutes(start: int, stop: int, now: int) -> None:
    if start == stop:
        return
    windows = parse_windows(f"{start // 60}:{start % 60:02d}-{stop // 60}:{stop % 60:02d}")
    assert opens_at(windows, now) == start
    assert open_minutes(windows) == (stop - start) % (24 * 60)


def test_the_next_of_several() -> None:
    windows = parse_windows("12:00-13:00, 22:00-06:00")
    assert [opens_at(windows, at(now)) for now in ("11:00", "14:00", "23:00")] == [
        at("12:00"),
        at("22:00"),
        at("12:00"),
    ]


def test_room_goes_before_calm() -> None:
    windows = parse_windows("22:00-06:00")
    assert why_held(windows, at("12:00"), is_above_high=False) == "waits for archive_window, which opens at 22:00"
    assert why_held(windows, at("12:00"), is_above_high=True) is None
    assert why_held(windows, at("23:00"), is_above_high=False) is None
    assert why_held((), at("12:00"), is_above_high=False) is None
