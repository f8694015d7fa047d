"""What is made of counts for a view of what goes on now: files that are used most, samples over a day."""

from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.fill import FillSample, fill_from, fill_json, with_sample
from tierfs.core.histogram import BOUNDS_NS, Histogram
from tierfs.core.hottest import Hottest, busiest
from tierfs.core.records import Ino

SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS
DAY_NS = 24 * 60 * MINUTE_NS
A, B = Ino(5), Ino(6)


def test_old_use_counts_half_after_thirty_seconds() -> None:
    hottest = Hottest().later({A: 8}, {}, 0).later({B: 5}, {}, 30 * SECOND_NS)
    assert [(ino, use.opens) for ino, use in hottest.ordered()] == [(B, 5.0), (A, 4.0)]


def test_what_nobody_uses_is_forgotten() -> None:
    assert Hottest().later({A: 8}, {A: 1 << 20}, 0).later({}, {}, 10 * MINUTE_NS).uses == {}


def test_bytes_count_as_opens_do() -> None:
    hottest = Hottest().later({A: 2}, {B: 3 << 20}, 0)
    assert [ino for ino, _ in hottest.ordered()] == [B, A]


def test_a_clock_that_is_set_back_makes_nothing_hotter() -> None:
    assert Hottest().later({A: 8}, {}, DAY_NS).later({}, {}, 0).uses[A].opens == 8


@given(st.lists(st.tuples(st.integers(2, 5000), st.integers(1, 100)), max_size=1000))
def test_few_files_are_remembered_and_none_of_them_is_used_less(counts: list[tuple[int, int]]) -> None:
    opens = {Ino(ino): count for ino, count in counts}
    hottest = Hottest().later(opens, {}, 1)
    assert len(hottest.uses) == min(100, len(opens))
    left_out = [count for ino, count in opens.items() if ino not in hottest.uses]
    assert max(left_out, default=0) <= min((use.opens for use in hottest.uses.values()), default=0) or not left_out


def test_counts_are_looked_at_a_few_at_a_time() -> None:
    found: dict[Ino, int] = {}
    for first in range(0, 1000, 100):
        found = busiest(found, [(Ino(number), number) for number in range(first, first + 100)])
    assert set(found) == set(range(900, 1000))


def sample(at_ns: int) -> FillSample:
    return FillSample(at_ns, 1, 2, 3, 4)


def test_a_day_of_fill_is_few_samples() -> None:
    samples: tuple[FillSample, ...] = ()
    for minute in range(3 * 24 * 60):
        samples = with_sample(samples, sample(minute * MINUTE_NS))
    ages = [samples[-1].at_ns - one.at_ns for one in samples]
    assert ages == sorted(ages, reverse=True)
    assert ages[0] >= DAY_NS - 20 * MINUTE_NS
    assert ages[0] <= DAY_NS
    assert [age // MINUTE_NS for age in ages[-30:]] == list(range(29, -1, -1))
    assert len(samples) <= 30 + 24 * 6 + 1
    assert fill_from(fill_json(samples)) == samples


def test_samples_that_are_newer_than_now_are_dropped() -> None:
    assert with_sample((sample(5), sample(7)), sample(6)) == (sample(5), sample(6))


@given(st.lists(st.integers(0, 2 * BOUNDS_NS[-1])), st.lists(st.integers(0, 2 * BOUNDS_NS[-1])))
def test_what_came_since_is_a_histogram_as_well(before: list[int], since: list[int]) -> None:
    first, later, both = Histogram(), Histogram(), Histogram()
    for duration in before:
        first.observe(duration)
        both.observe(duration)
    for duration in since:
        later.observe(duration)
        both.observe(duration)
    assert both.minus(first) == later
