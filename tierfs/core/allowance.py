"""Arithmetic of budgets: bytes that come back at a rate, and whose turn it is to have them.

Pure: the clock is an argument, in nanoseconds.
"""

from bisect import insort
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Allowance:
    """`amount` bytes in each `period_ns`, of which up to `most` are saved up; `level` is what is there, times period.

    What is larger than `most` is affordable when all is saved up, and leaves a debt.

    INVARIANT: level <= most * period_ns. INVARIANT: in any time t not more than most + amount * t / period_ns is paid,
    plus one payment's debt.
    """

    amount: int
    period_ns: int
    most: int
    level: int
    at_ns: int

    @classmethod
    def full(cls, amount: int, period_ns: int, most: int, now_ns: int) -> "Allowance":
        """All of it saved up."""
        return cls(amount, period_ns, most, most * period_ns, now_ns)

    def at(self, now_ns: int) -> "Allowance":
        """The same later; a clock that goes back gives nothing."""
        passed = max(0, now_ns - self.at_ns)
        level = min(self.most * self.period_ns, self.level + passed * self.amount)
        return replace(self, level=level, at_ns=max(now_ns, self.at_ns))

    def wait_ns(self, size: int) -> int:
        """How long until `size` bytes can be paid; 0: now."""
        missing = min(size, self.most) * self.period_ns - self.level
        return max(0, -(-missing // self.amount))

    def paid(self, size: int) -> "Allowance":
        """After a payment. Negative sizes give back."""
        return replace(self, level=min(self.most * self.period_ns, self.level - size * self.period_ns))

    @property
    def left(self) -> int:
        """Bytes that are there; 0 in debt."""
        return max(0, self.level // self.period_ns)


@dataclass(slots=True)
class _Flow(Generic[_T]):
    """One who shares; `served` is what it has had by now, `floor` what who of `inner` was served last had before."""

    served: int = 0
    floor: int = 0
    inner: "dict[Hashable, _Flow[_T]]" = field(default_factory=dict)
    entries: list[tuple[int, int, _T]] = field(default_factory=list)  # order, size
    waiting: int = 0


class FairQueue(Generic[_T]):
    """Entries in the order in which they are served: of all groups the one that had least, in it of all members.

    What one member has asked for is served by its order, and in that as it came. Who comes anew begins with what the
    one who was served last had had: nobody saves up turns by not asking.

    INVARIANT: while two groups (or two members of one) wait, neither is served more than the other by more than the
    largest entry of both. INVARIANT: only who waits is remembered, and who had more than the others.
    """

    def __init__(self) -> None:
        self._root: _Flow[_T] = _Flow()

    def __len__(self) -> int:
        return self._root.waiting

    def push(self, member: tuple[Hashable, Hashable], size: int, entry: _T, order: int = 0) -> None:
        """Wait for a turn as a member, (group, name); entries of one member are served by their order."""
        group, name = member
        above = _entered(self._root, group)
        flow = _entered(above, name)
        insort(flow.entries, (order, size, entry), key=lambda one: one[0])
        for one in (flow, above, self._root):
            one.waiting += 1

    def peek(self) -> tuple[int, _T] | None:
        """Size and entry of who is next."""
        return _least(_least(self._root)).entries[0][1:] if self._root.waiting else None

    def pop(self) -> _T:
        """Serve who is next; there must be one."""
        group = _least(self._root)
        member = _least(group)
        _, size, entry = member.entries.pop(0)
        for flow, above in ((member, group), (group, self._root)):
            above.floor = max(above.floor, flow.served)
            flow.served += size
        self._left(member, group)
        return entry

    def remove(self, member: tuple[Hashable, Hashable], entry: _T) -> None:
        """Who waited has gone, if it waited."""
        group, name = member
        above = self._root.inner.get(group)
        flow = above.inner.get(name) if above else None
        for one in list(flow.entries) if flow and above else ():
            if one[2] is entry and flow and above:
                flow.entries.remove(one)
                self._left(flow, above)

    def _left(self, member: _Flow[_T], group: _Flow[_T]) -> None:
        for one in (member, group, self._root):
            one.waiting -= 1
        for above in (group, self._root):
            if not above.waiting:
                above.inner.clear()
            elif len(above.inner) > 2 * _REMEMBERED:
                _forget(above)


_REMEMBERED = 64


def _entered(above: _Flow[_T], name: Hashable) -> _Flow[_T]:
    """One who begins to wait, or goes on."""
    flow = above.inner.get(name)
    if flow is None:
        flow = above.inner[name] = _Flow(served=above.floor)
    elif not flow.waiting:
        flow.served = max(flow.served, above.floor)
    return flow


def _least(above: _Flow[_T]) -> _Flow[_T]:
    """Of those that wait, the one that was served least."""
    return min((flow for flow in above.inner.values() if flow.waiting), key=lambda flow: flow.served)


def _forget(above: _Flow[_T]) -> None:
    """Who does not wait and would begin anew where the others are."""
    for name in [name for name, flow in above.inner.items() if not flow.waiting and flow.served <= above.floor]:
        del above.inner[name]
