"""Histograms of durations: what is counted where, and what can be told of it afterwards."""

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.histogram import BOUNDS_NS, Doublings, Histogram

durations = st.lists(st.integers(0, 2 * BOUNDS_NS[-1]), max_size=50)


def histogram_of(durations_ns: list[int]) -> Histogram:
    histogram = Histogram()
    for duration_ns in durations_ns:
        histogram.observe(duration_ns)
    return histogram


def test_the_bounds_go_from_a_millisecond_to_a_minute_and_rise() -> None:
    assert (BOUNDS_NS[0], BOUNDS_NS[-1]) == (10**6, 60 * 10**9)
    assert list(BOUNDS_NS) == sorted(set(BOUNDS_NS))


def test_a_bound_belongs_to_the_bucket_below_it() -> None:
    histogram = histogram_of([0, 10**6, 10**6 + 1, 60 * 10**9, 60 * 10**9 + 1])
    cumulative = histogram.cumulative()
    assert cumulative[:2] == [(0.001, 2), (0.002, 3)]
    assert cumulative[-3:] == [(30.0, 3), (60.0, 4), (math.inf, 5)]
    assert histogram.total_ns == 2 * 10**6 + 1 + 120 * 10**9 + 1


def test_nothing_has_no_quantile() -> None:
    assert Histogram().quantile_s(0.5) is None
    assert Histogram().count == 0


@pytest.mark.parametrize(
    ("durations_ns", "share", "quantile_s"),
    [
        ([1_500_000], 0.5, 0.0015),  # evenly spread between 1 and 2 ms
        ([1_500_000] * 4, 1.0, 0.002),
        ([500_000, 15_000_000], 0.5, 0.001),
        ([500_000, 15_000_000], 0.75, 0.015),
        ([90 * 10**9], 0.99, 60.0),  # above all bounds
    ],
)
def test_quantiles_are_those_of_prometheus(durations_ns: list[int], share: float, quantile_s: float) -> None:
    assert histogram_of(durations_ns).quantile_s(share) == pytest.approx(quantile_s)


@given(durations, st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_real_one(durations_ns: list[int], share: float) -> None:
    told = histogram_of(durations_ns).quantile_s(share)
    if not durations_ns:
        assert told is None
        return
    real_ns = sorted(durations_ns)[math.ceil(share * len(durations_ns)) - 1]
    upper_ns = next((bound_ns for bound_ns in BOUNDS_NS if real_ns <= bound_ns), BOUNDS_NS[-1])
    lower_ns = max((bound_ns for bound_ns in (0, *BOUNDS_NS) if bound_ns < upper_ns), default=0)
    assert told is not None
    assert lower_ns / 1e9 - 1e-9 <= told <= upper_ns / 1e9 + 1e-9


@given(durations, durations)
def test_a_sum_has_the_durations_of_both(one: list[int], other: list[int]) -> None:
    first, second = histogram_of(one), histogram_of(other)
    assert first.plus(second) == histogram_of(one + other)
    assert (first, second) == (histogram_of(one), histogram_of(other))


@given(durations)
def test_it_travels_between_processes(durations_ns: list[int]) -> None:
    histogram = histogram_of(durations_ns)
    assert pickle.loads(pickle.dumps(histogram)) == histogram


def doublings_of(durations_ns: list[int]) -> Doublings:
    """Counted as its docstring says."""
    doublings = Doublings()
    for duration_ns in durations_ns:
        doublings.cells[duration_ns.bit_length()] += 1
        doublings.cells[-1] += duration_ns
    return doublings


@given(durations)
def test_doublings_say_how_many_were_at_most_so_long(durations_ns: list[int]) -> None:
    doublings = doublings_of(durations_ns)
    assert (doublings.count, doublings.total_ns) == (len(durations_ns), sum(durations_ns))
    for bound_s, count in doublings.cumulative():
        assert count == sum(duration_ns / 1e9 < bound_s for duration_ns in durations_ns)


def test_doublings_hold_every_duration_there_is() -> None:
    longest_ns = (1 << 63) - 1
    doublings = doublings_of([0, longest_ns])
    assert doublings.cumulative()[0][1] == doublings.cumulative()[-2][1] == 1
    assert doublings.cumulative()[-1] == (math.inf, 2)
    assert doublings.total_ns == longest_ns
