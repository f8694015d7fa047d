"""Budgets of bytes: who wants to spend waits for its turn. All of it is touched by the trio thread alone."""

import math
from collections.abc import Hashable

import trio

from tierfs.core.allowance import Allowance, FairQueue

_SECOND_NS = 10**9
#: Clocks are floats: a little more than the wait, rather than once more.
_ROUNDING_S = 1e-6


class Ticket:
    """One payment of `size` bytes that waits; it may stand in the queues of several who want the same bytes.

    `order` is when it was asked for, among those of one member.
    """

    def __init__(self, size: int, order: int = 0) -> None:
        self.size = size
        self.order = order
        self.is_through = self.is_paid = False
        self.budget: Budget | None = None  # that it waits for
        self.places: list[tuple[Hashable, Hashable]] = []
        self.woken = trio.Event()

    def join(self, group: Hashable, member: Hashable) -> None:
        """Somebody else wants the same: whoever's turn comes first pays."""
        if self.budget and (group, member) not in self.places:
            self.budget.enter(self, group, member)

    def let_through(self) -> None:
        """Go on at once, without a payment."""
        self.is_through = True
        self.woken.set()
        if self.budget:
            self.budget.forget(self)


class Budget:
    """`amount` bytes in `period_ns`, of which up to `most` are saved up.

    INVARIANT: who is next leaves the queue as soon as there is enough for it, and nobody else is woken: one of those
    who wait looks at the clock for all. INVARIANT: who is through stands in no queue.
    """

    def __init__(self, amount: int, period_ns: int, most: int) -> None:
        self.amount = amount
        self.waited_ns = 0  # of all who paid or gave up, since the start
        self._full = (amount, period_ns, most)
        self._allowance: Allowance | None = None
        self._queue: FairQueue[Ticket] = FairQueue()
        self._watch: Ticket | None = None

    @classmethod
    def per_second(cls, rate: int) -> "Budget | None":
        """A rate, of which one second is saved up; None for no limit."""
        return cls(rate, _SECOND_NS, rate) if rate else None

    @classmethod
    def per_hour(cls, amount: int) -> "Budget | None":
        """So many bytes at once or over an hour; None for no limit."""
        return cls(amount, 3600 * _SECOND_NS, amount) if amount else None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def left(self) -> int:
        """Bytes that can be spent now."""
        return self._now().left

    def wait_s(self, size: int) -> float:
        """Seconds until so many bytes can be spent, if nobody else comes."""
        return self._now().wait_ns(size) / 1e9

    async def pay(self, ticket: Ticket, group: Hashable, member: Hashable) -> None:
        """Wait until a ticket is through. Members of a group share its turns, groups share the budget."""
        began_s = trio.current_time()
        ticket.budget = self
        self.enter(ticket, group, member)
        try:
            while not ticket.is_through:
                ticket.woken = trio.Event()
                self._watch = self._watch or ticket
                with trio.move_on_after(self._seconds_to_next() if self._watch is ticket else math.inf):
                    await ticket.woken.wait()
                self._settle()
        finally:
            self.waited_ns += int((trio.current_time() - began_s) * 1e9)
            self._leave(ticket)

    def give_back(self, size: int) -> None:
        """What was paid for did not happen."""
        self._allowance = self._now().paid(-size)
        self._settle()

    def enter(self, ticket: Ticket, group: Hashable, member: Hashable) -> None:
        """Stand in one more queue."""
        ticket.places.append((group, member))
        self._queue.push((group, member), ticket.size, ticket, ticket.order)
        self._settle()
        head = self._queue.peek()
        if self._watch and head and head[1] is ticket:
            self._watch.woken.set()  # it looked at another one's time

    def _now(self) -> Allowance:
        now_ns = int(trio.current_time() * 1e9)
        if self._allowance is None:
            self._allowance = Allowance.full(*self._full, now_ns)
        self._allowance = self._allowance.at(now_ns)
        return self._allowance

    def _settle(self) -> None:
        """Let through who is next, as long as there is enough."""
        allowance = self._now()
        while (head := self._queue.peek()) and not allowance.wait_ns(head[0]):
            ticket = self._queue.pop()
            allowance = self._allowance = allowance.paid(ticket.size)
            ticket.is_paid = True
            ticket.let_through()

    def _seconds_to_next(self) -> float:
        head = self._queue.peek()
        return self._now().wait_ns(head[0]) / 1e9 + _ROUNDING_S if head else math.inf

    def _leave(self, ticket: Ticket) -> None:
        self.forget(ticket)
        ticket.budget = None
        if self._watch is ticket:
            self._watch = None
        if self._watch is None and (head := self._queue.peek()):
            head[1].woken.set()

    def forget(self, ticket: Ticket) -> None:
        """It does not stand in any queue any more."""
        for member in ticket.places:
            self._queue.remove(member, ticket)
        ticket.places = []
