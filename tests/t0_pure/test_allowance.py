"""Budgets: what is paid in any time, and whose turn it is."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.allowance import Allowance, FairQueue

SECOND = 10**9


def test_what_is_saved_up_is_there_at_once_and_the_rest_comes_at_its_rate() -> None:
    budget = Allowance.full(100, SECOND, 100, 0)
    assert budget.wait_ns(100) == 0
    budget = budget.paid(100)
    assert budget.left == 0
    assert budget.wait_ns(50) == SECOND // 2
    assert budget.at(SECOND // 2).wait_ns(50) == 0
    assert budget.at(9 * SECOND).left == 100, "no more is saved up"


def test_what_is_larger_than_all_that_is_saved_up_leaves_a_debt() -> None:
    budget = Allowance.full(100, SECOND, 100, 0)
    assert budget.wait_ns(1000) == 0
    assert budget.paid(1000).wait_ns(1) == 9 * SECOND + SECOND // 100


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = Allowance.full(100, SECOND, 100, 5 * SECOND).paid(100)
    assert budget.at(0).at(5 * SECOND).left == 0


@given(
    amount=st.integers(1, 10**9),
    period=st.integers(1, 3600 * SECOND),
    most=st.integers(1, 10**9),
    asked=st.lists(st.tuples(st.integers(0, 10 * SECOND), st.integers(1, 2 * 10**9)), min_size=1, max_size=30),
)
def test_no_more_is_paid_than_was_allowed(amount: int, period: int, most: int, asked: list[tuple[int, int]]) -> None:
    """Whoever waits as long as it is told may pay then; and in all that time, no more than the rate and the savings."""
    now, paid, last = 0, 0, 0
    budget = Allowance.full(amount, period, most, now)
    for pause, size in asked:
        budget = budget.at(now + pause)
        wait = budget.wait_ns(size)
        if wait:
            assert budget.at(now + pause + wait - 1).wait_ns(size) == 1
        now += pause + wait
        budget = budget.at(now)
        assert budget.wait_ns(size) == 0
        budget = budget.paid(size)
        paid, last = paid + size, size
        assert (paid - max(0, last - min(last, most))) * period <= most * period + amount * now


SIZES = st.integers(1, 100)


@given(st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from("xyz"), SIZES), max_size=60), st.data())
def test_all_come_to_their_turn_in_the_order_of_their_own(
    asked: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    """Nobody is forgotten, nobody comes twice, who has gone does not come."""
    queue = FairQueue[int]()
    for number, (group, member, size) in enumerate(asked):
        queue.push((group, member), size, number)
    gone = data.draw(st.sets(st.sampled_from(range(len(asked))))) if asked else set()
    for number in gone:
        queue.remove(asked[number][:2], number)
        queue.remove(asked[number][:2], number)
    served = [queue.pop() for _ in range(len(queue))]
    assert queue.peek() is None
    assert sorted(served) == [number for number in range(len(asked)) if number not in gone]
    for one in {request[:2] for request in asked}:
        mine = [number for number in served if asked[number][:2] == one]
        assert mine == sorted(mine)


@given(st.lists(SIZES, min_size=1, max_size=20), st.lists(SIZES, min_size=1, max_size=20), st.integers(1, 200))
def test_who_asks_for_much_does_not_keep_off_who_asks_for_little(many: list[int], few: list[int], turns: int) -> None:
    """A storm from a hundred places always has something waiting, a consumer one thing at a time: both get the same."""
    queue, had = FairQueue[str](), Counter[str]()
    sizes = {"storm": many, "consumer": few}
    largest = max(*many, *few)

    def push(who: str, turn: int) -> int:
        size = sizes[who][turn % len(sizes[who])]
        queue.push((who, turn % 100 if who == "storm" else 0), size, who)
        return size

    for turn in range(100):
        push("storm", turn)
    push("consumer", 0)
    for turn in range(turns):
        size, who = queue.peek() or (0, "")
        assert queue.pop() == who
        had[who] += size
        push(who, turn)
        assert abs(had["storm"] - had["consumer"]) <= 2 * largest


def test_who_comes_now_and_then_is_served_next() -> None:
    queue = FairQueue[str]()
    for number in range(50):
        queue.push(("grep", number), 8, "storm")
    for _ in range(20):
        assert queue.pop() == "storm"
    queue.push(("java", "segment"), 1, "consumer")
    assert queue.pop() == "consumer"


def test_nobody_saves_up_turns_by_not_asking() -> None:
    queue = FairQueue[str]()
    queue.push(("late", 0), 1, "late")
    for number in range(50):
        queue.push(("steady", 0), 8, f"steady {number}")
    assert queue.pop() == "late"
    for _ in range(30):
        queue.pop()
    for _ in range(50):
        queue.push(("late", 0), 8, "late")
    served = Counter(queue.pop().split()[0] for _ in range(10))
    assert abs(served["late"] - served["steady"]) <= 2


def test_only_who_had_more_than_others_is_remembered() -> None:
    queue = FairQueue[int]()
    queue.push(("steady", 0), 1, -1)
    for number in range(10_000):
        queue.push((f"group {number}", 0), 1, number)
        queue.push(("steady", 0), 1, -1)
        queue.pop()
        queue.pop()
    assert len(queue._root.inner) < 1000


def test_entries_of_a_member_are_served_by_their_order() -> None:
    queue = FairQueue[str]()
    for order, name in ((3, "d"), (1, "b"), (1, "c"), (0, "a"), (4, "e")):
        queue.push(("group", "member"), 1, name, order)
    assert [queue.pop() for _ in range(5)] == list("abcde")
