"""The last day in hours: what falls into which, what is forgotten, and what a file keeps of it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.costs import Traffic
from tierfs.core.usage import DAY_NS, HOUR_NS, HOURS, Usage, days_of, minus, plus

NOW_NS = 1000 * DAY_NS + HOUR_NS // 2  # half past midnight
ONE = Traffic({"GetObject": 1}, uploaded=2, downloaded=3)


def test_a_day_is_this_hour_and_the_23_before_it() -> None:
    """Counted every hour for 30 hours, one request each: 24 are known, since half an hour and 23 hours."""
    usage = Usage()
    for hour in range(30):
        usage = usage.counted(ONE, {}, NOW_NS + hour * HOUR_NS)
    watched_ns, day = usage.last_day(NOW_NS + 29 * HOUR_NS)
    assert len(usage.hours) == HOURS
    assert day.traffic == Traffic({"GetObject": 24}, 48, 72)
    assert watched_ns == 23 * HOUR_NS + HOUR_NS // 2


def test_what_was_watched_for_less_than_a_day_says_so() -> None:
    usage = Usage().counted(Traffic(), {}, NOW_NS)
    assert usage.hours == ()
    assert usage.last_day(NOW_NS + 2 * HOUR_NS) == (2 * HOUR_NS, usage.last_day(NOW_NS + 2 * HOUR_NS)[1])
    usage = usage.counted(ONE, {}, NOW_NS + HOUR_NS).counted(ONE, {}, NOW_NS + HOUR_NS + 1)
    [hour] = usage.hours
    assert hour.traffic.requests == {"GetObject": 2}
    assert usage.last_day(NOW_NS + 40 * HOUR_NS)[1].traffic == Traffic()


def test_a_clock_that_is_set_back_drops_its_future() -> None:
    usage = Usage().counted(ONE, {}, NOW_NS + 5 * HOUR_NS).counted(ONE, {}, NOW_NS)
    watched_ns, day = usage.last_day(NOW_NS)
    assert (watched_ns, day.traffic.requests) == (0, {"GetObject": 1})
    assert usage.since_ns == NOW_NS


def test_objects_that_went_are_counted_by_their_days() -> None:
    """Two in this hour within their first day, one in the next, and one after years: with those of 400 days."""
    assert [days_of(age_ns) for age_ns in (-1, 0, DAY_NS - 1, DAY_NS, 2000 * DAY_NS)] == [0, 0, 0, 1, 400]
    usage = Usage().counted(Traffic(), {0: (2, 30), 400: (1, 40)}, NOW_NS)
    usage = usage.counted(Traffic(), {0: (1, 5), 1: (1, 30)}, NOW_NS + HOUR_NS)
    _, day = usage.last_day(NOW_NS + HOUR_NS)
    assert day.gone == {0: (3, 35), 1: (1, 30), 400: (1, 40)}


traffics = st.builds(
    Traffic,
    st.dictionaries(st.sampled_from(["PutObject", "GetObject", "HeadObject"]), st.integers(1, 10**9)),
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 60),
)


@given(st.lists(st.tuples(st.integers(0, 60), traffics), max_size=20))
def test_nothing_is_lost_or_counted_twice(looks: list[tuple[int, Traffic]]) -> None:
    """Whatever the pauses between looks: the day is the sum of what was counted in its hours, and a file keeps it."""
    usage, now_ns, counted = Usage(), NOW_NS, list[tuple[int, Traffic]]()
    for minutes, traffic in looks:
        now_ns += minutes * HOUR_NS // 60
        usage = usage.counted(traffic, {}, now_ns)
        counted.append((now_ns, traffic))
    first_ns = now_ns - now_ns % HOUR_NS - 23 * HOUR_NS
    total = Traffic()
    for at_ns, traffic in counted:
        total = plus(total, traffic) if at_ns >= first_ns else total
    assert usage.last_day(now_ns)[1].traffic == total
    assert Usage.from_json(json.loads(json.dumps(usage.as_json()))) == usage


@given(traffics, traffics)
def test_what_came_since(before: Traffic, more: Traffic) -> None:
    assert minus(plus(before, more), before) == plus(Traffic(), more)
    assert minus(before, plus(before, more)) == Traffic()
