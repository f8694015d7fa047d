"""How long the hot tier has room: rates from samples, and what is said of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.runway import (
    WINDOW_NS,
    Growth,
    Outlook,
    Room,
    Runway,
    Sample,
    growth_of,
    kept,
    runway,
    samples_from,
    samples_json,
    shown_hours,
)

MIB, GIB = 1 << 20, 1 << 30
STEP_NS = 300 * 10**9
FIRST_NS = 10**18


def samples(*series: tuple[int, int, int]) -> list[Sample]:
    """One every five minutes, each (used, released, restored)."""
    return [Sample(FIRST_NS + index * STEP_NS, *one) for index, one in enumerate(series)]


def test_a_hot_tier_that_fills() -> None:
    """An hour of 300 MiB every 300 s, and as much released: a MiB a second net, two that are written. With 10 GiB free
    and 5 GiB mirrored: 15 GiB at 1 MiB/s last 15,360 s, and with the store down 10 GiB at 2 MiB/s last 5,120 s."""
    growth = growth_of(samples(*((index * 300 * MIB, index * 300 * MIB, 0) for index in range(13))))
    assert growth == Growth(up=MIB, down=2 * MIB)
    found = runway(growth, Room(10 * GIB, 5 * GIB), 3600, is_down=False)
    assert found.up == Outlook("filling", MIB, 15_360)
    assert found.down == Outlook("filling", 2 * MIB, 5_120)
    assert found.now == found.up


def test_one_burst_is_not_the_rate() -> None:
    """Ten GiB at once, in the last of 13 samples: 66 of the 78 pairs know nothing of them."""
    series = [(index * 300 * MIB, 0, 0) for index in range(12)]
    assert growth_of(samples(*series, (12 * 300 * MIB + 10 * GIB, 0, 0))) == Growth(MIB, MIB)


def test_what_only_moves_does_not_count_with_the_store_down() -> None:
    """Restores of 300 MiB every 300 s fill it up now; none of them comes while the store is down."""
    growth = growth_of(samples(*((index * 300 * MIB, 0, index * 300 * MIB) for index in range(13))))
    assert growth == Growth(up=MIB, down=0)
    assert runway(growth, Room(GIB, 0), 3600, is_down=True).now == Outlook("steady", 0)


def test_a_hot_tier_that_is_emptied_as_fast_as_it_fills_is_steady() -> None:
    """Six hours of 25 minutes up and 5 down, a MiB a second written: the median is within a fifth of that."""
    series = [(index % 6 * 300 * MIB, index // 6 * 6 * 300 * MIB, 0) for index in range(72)]
    growth = growth_of(samples(*series))
    assert growth
    assert abs(growth.up) < MIB / 5
    assert growth.down == MIB


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_with_too_little_history_nothing_is_said(count: int) -> None:
    """Six samples in 25 minutes are too short a time, five of any length too few."""
    few = samples(*((index * GIB, 0, 0) for index in range(count)))
    assert growth_of(few) is None
    assert growth_of([Sample(FIRST_NS + index * 10**13, index) for index in range(min(count, 5))]) is None
    found = runway(None, Room(GIB, 0), 0, is_down=False)
    assert (found.up, found.down, found.warning()) == (Outlook("unknown"), Outlook("unknown"), "")


def test_a_day_ahead_there_is_a_warning() -> None:
    """86,400 MiB at a MiB a second are a day: not yet. A MiB less is, and with the store down the mirrored ones do not
    count."""
    growth = Growth(MIB, MIB)
    assert runway(growth, Room(86_400 * MIB, 0), 3600, is_down=False).warning() == ""
    assert runway(growth, Room(86_399 * MIB, 0), 3600, is_down=False).warning() == (
        "the hot tier is full in 24.0 hours at the present rate (what may be released is counted in): make room"
    )
    room = Room(3600 * MIB, 86_400 * MIB)
    assert runway(growth, room, 3600, is_down=False).warning() == ""
    assert runway(growth, room, 3600, is_down=True).warning() == (
        "the hot tier is full in 1.0 hours at the present rate (the store is down, so nothing can be released): "
        "make room"
    )


def test_old_samples_are_forgotten_and_those_of_a_future_too() -> None:
    found: tuple[Sample, ...] = ()
    for sample in samples(*((index, 0, 0) for index in range(200))):
        found = kept(found, sample)
    assert len(found) == 73
    assert found[-1].at_ns - found[0].at_ns == WINDOW_NS
    assert kept(found, Sample(FIRST_NS, 0)) == (Sample(FIRST_NS, 0),)


def test_looks_that_come_often_are_not_all_kept() -> None:
    """A worker that ends every ten seconds looks at each start: the last look stands, and the totals go on."""
    found: tuple[Sample, ...] = ()
    for index in range(1000):
        found = kept(found, Sample(FIRST_NS + index * 10 * 10**9, index * 10 * MIB))
    assert found[-1] == Sample(FIRST_NS + 9990 * 10**9, 9990 * MIB)
    assert len(found) <= 9990 // 240 + 2
    assert growth_of(found) == Growth(MIB, MIB)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50)), max_size=30),
    st.integers(0, 1 << 50),
    st.integers(0, 1 << 50),
)
def test_what_holds_for_any_history(series: list[tuple[int, int, int]], free: int, more: int) -> None:
    """More room never lasts shorter, and a file keeps the samples as they are."""
    found = tuple(samples(*series))
    assert samples_from(samples_json(found)) == found
    growth = growth_of(found)
    small, large = (runway(growth, Room(free + extra, 0), 0, is_down=False) for extra in (0, more))
    assert small.up.state == large.up.state
    if small.up.seconds is not None:
        assert large.up.seconds is not None
        assert 0 <= small.up.seconds <= large.up.seconds


@given(st.integers(1, 1 << 30), st.integers(-(1 << 30), 1 << 30))
def test_a_constant_rate_is_found_exactly(step: int, offset: int) -> None:
    growth = growth_of(samples(*((offset + index * step * 300, 0, 0) for index in range(10))))
    assert growth == Growth(step, step)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 minutes"), (1800, "30 minutes"), (9000, "2.5 hours"), (86_400 * 3, "3 days")]
)
def test_times_as_people_plan(seconds: float, text: str) -> None:
    assert shown_hours(seconds) == text


def test_json_has_what_a_script_needs() -> None:
    found = Runway(1, 2, 3.0, Outlook("steady", 0.5), Outlook("filling", 2.0, 0.5))
    assert found.as_json() == {
        "free_bytes": 1,
        "releasable_bytes": 2,
        "history_s": 3.0,
        "up": {"state": "steady", "bytes_per_second": 0.5, "seconds": None},
        "down": {"state": "filling", "bytes_per_second": 2.0, "seconds": 0.5},
        "is_down": False,
    }
