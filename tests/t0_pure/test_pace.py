"""How fast something goes on average, on a clock of the test."""

from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.pace import Pace

SECOND_NS = 10**9


def test_without_a_limit_nobody_waits() -> None:
    pace = Pace(0).spent(10**12, 0)
    assert pace.wait_ns(0) == 0


def test_the_first_one_goes_at_once_and_the_next_one_when_it_is_paid_for() -> None:
    pace = Pace(10).spent(20, 5 * SECOND_NS)
    assert pace.wait_ns(5 * SECOND_NS) == 2 * SECOND_NS
    assert pace.wait_ns(6 * SECOND_NS) == SECOND_NS
    assert pace.wait_ns(7 * SECOND_NS) == 0


def test_nothing_is_saved_up() -> None:
    pace = Pace(10).spent(10, 0).spent(10, 100 * SECOND_NS)
    assert pace.wait_ns(100 * SECOND_NS) == SECOND_NS


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 3 * SECOND_NS)), min_size=1), st.integers(1, 100))
def test_whoever_waits_for_his_turn_never_exceeds_the_pace(turns: list[tuple[int, int]], per_second: int) -> None:
    """What was let through before the last one took at least as long as the pace says."""
    pace, now_ns, sent, began_ns = Pace(per_second), 0, 0, turns[0][1]
    for amount, idle_ns in turns:
        now_ns += idle_ns
        now_ns += pace.wait_ns(now_ns)
        assert sent <= per_second * (now_ns - began_ns) / SECOND_NS + 1e-3
        pace = pace.spent(amount, now_ns)
        sent += amount
