"""The circuit breaker's decisions: which request passes, and what each outcome makes of the circuit."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.stores.breaker import (
    BreakerRules,
    Circuit,
    Event,
    State,
    plan_event,
    plan_failure,
    plan_request,
    refusal,
)

S = 1_000_000_000
RULES = BreakerRules(failures=3, longest_pause_ns=4 * S)
CLOSED = Circuit(failures=2, trouble="500")
OPEN = Circuit(State.OPEN, failures=3, tries=1, since_ns=10 * S, try_at_ns=11 * S, trouble="500")
HALF_OPEN = replace(OPEN, state=State.HALF_OPEN, try_at_ns=15 * S)


def fail(circuit: Circuit, is_try: bool = False, now_ns: int = 12 * S, jitter: float = 0.0) -> Circuit:
    return plan_failure(circuit, RULES, is_try, now_ns, jitter, "503")


def test_which_request_passes() -> None:
    assert plan_request(CLOSED, RULES, 0) is CLOSED
    assert plan_request(OPEN, RULES, 11 * S - 1) is None
    tried = plan_request(OPEN, RULES, 11 * S)
    assert tried == HALF_OPEN
    assert plan_request(HALF_OPEN, RULES, 15 * S - 1) is None  # one at a time
    assert plan_request(HALF_OPEN, RULES, 15 * S) == replace(HALF_OPEN, try_at_ns=19 * S)  # the one before hangs


@pytest.mark.parametrize(
    ("circuit", "event", "is_try", "expected"),
    [
        (CLOSED, Event.ANSWERED, False, Circuit()),
        (CLOSED, Event.HEARD, False, CLOSED),
        (CLOSED, Event.ABANDONED, False, CLOSED),
        (OPEN, Event.ANSWERED, False, Circuit()),  # begun before it opened
        (OPEN, Event.HEARD, False, Circuit()),
        (OPEN, Event.ABANDONED, False, OPEN),
        (HALF_OPEN, Event.HEARD, True, Circuit()),
        (HALF_OPEN, Event.ANSWERED, True, Circuit()),
        (HALF_OPEN, Event.ANSWERED, False, Circuit()),
        (HALF_OPEN, Event.ABANDONED, False, HALF_OPEN),
        (HALF_OPEN, Event.ABANDONED, True, replace(OPEN, try_at_ns=12 * S)),  # the next one is the try
        (OPEN, Event.ABANDONED, True, OPEN),
    ],
)
def test_what_an_answer_makes_of_it(circuit: Circuit, event: Event, is_try: bool, expected: Circuit) -> None:
    assert plan_event(circuit, event, is_try, 12 * S) == expected


def test_what_a_failure_makes_of_it() -> None:
    assert fail(Circuit()) == Circuit(failures=1, trouble="503")
    opened = fail(CLOSED)
    assert opened == Circuit(State.OPEN, 3, tries=1, since_ns=12 * S, try_at_ns=12 * S + S // 4, trouble="503")
    assert fail(OPEN) == replace(OPEN, failures=4, trouble="503")
    assert fail(HALF_OPEN) == replace(HALF_OPEN, failures=4, trouble="503")
    again = fail(HALF_OPEN, is_try=True)
    assert again == replace(OPEN, failures=4, tries=2, try_at_ns=12 * S + S // 2, trouble="503")
    assert fail(replace(HALF_OPEN, tries=90), is_try=True).try_at_ns == 16 * S
    assert fail(replace(HALF_OPEN, tries=90), is_try=True, jitter=0.5).try_at_ns == 15 * S


def test_zero_failures_never_open() -> None:
    circuit = Circuit()
    for _ in range(100):
        circuit = plan_failure(circuit, BreakerRules(failures=0), False, 0, 0.0, "500")
    assert circuit.state is State.CLOSED


def test_a_refusal_says_since_when_and_when_next() -> None:
    told = refusal(OPEN, 10 * S + S // 2)
    assert "failed 3 times in a row" in told
    assert "since 0.5 s" in told
    assert "next try is in 0.5 s" in told
    assert "500" in told


@given(st.lists(st.tuples(st.sampled_from(["request", "fail", "answer", "abandon"]), st.integers(0, 3 * S))))
def test_a_store_that_heals_is_never_shut_off(steps: list[tuple[str, int]]) -> None:
    """Whatever happened before: after the longest pause a request passes, and its answer closes the circuit."""
    circuit, now_ns, tries = Circuit(), 0, 0
    for step, passed_ns in steps:
        now_ns += passed_ns
        if step == "request":
            admitted = plan_request(circuit, RULES, now_ns)
            tries += admitted is not None and admitted is not circuit
            circuit = admitted or circuit
        elif step == "fail":
            circuit = fail(circuit, tries > 0, now_ns)
        else:
            event = Event.ANSWERED if step == "answer" else Event.ABANDONED
            circuit = plan_event(circuit, event, tries > 0, now_ns)
        assert circuit.try_at_ns <= now_ns + RULES.longest_pause_ns
        assert (circuit.state is State.CLOSED) == (circuit.since_ns == circuit.try_at_ns == circuit.tries == 0)
    admitted = plan_request(circuit, RULES, now_ns + RULES.longest_pause_ns)
    assert admitted
    assert plan_event(admitted, Event.ANSWERED, True, now_ns) == Circuit()
