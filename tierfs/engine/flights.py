"""What is on its way, and the memory that it may take. All of it is touched by the trio thread alone."""

import copy
import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import trio

from tierfs.core.access import ANYBODY, Access, Opener
from tierfs.core.extents import Item
from tierfs.core.records import ObjectRef
from tierfs.engine.arena import Slot
from tierfs.engine.budget import Ticket
from tierfs.engine.waits import note

#: Names one chunk of one version of an object: key, ETag, version, chunk size, index.
FlightKey = tuple[str, str, str | None, int, int]

_orders = count()


class Flight:
    """One chunk on its way from the cache or the store to everybody who waits for it.

    `opener` is who wanted it first, or who of those that want it may have most. `interest` counts who wants it now;
    `is_kept` says that it is to be kept, in memory and in the cache, whether or not somebody still waits (false for a
    restore's chunks).

    INVARIANT: once done, it has either data or an error, for ever.
    """

    def __init__(self, item: Item, index: int, is_kept: bool, opener: Opener = ANYBODY) -> None:
        self.item = item
        self.index = index
        self.is_kept = is_kept
        self.opener = opener
        self.began_ns = time.time_ns()
        self.order = next(_orders)  # in which it was asked for: tasks begin in any
        self.ticket: Ticket | None = None  # while it waits for a budget
        self._held_s = 0.0  # how long it waited for budgets, until `_held_at` if that is set
        self._held_at: float | None = None
        self.size = item.size_of(index)
        self.interest = 0
        self.was_waited_for = False
        self.is_charged = False  # the ledger counts its size
        self.strikes = 0  # how often its bytes came damaged
        self.trouble: Exception | None = None  # the last error that was not final
        self.slot: Slot | None = None  # where its bytes are, or will be
        self.queued_with: list[Flight] = []  # those that stand in a queue together with it, while it does
        self._error: Exception | None = None
        self._done = trio.Event()

    @property
    def is_done(self) -> bool:
        """Whether it has landed or failed."""
        return self._done.is_set()

    @property
    def is_wanted(self) -> bool:
        """Whether its bytes are worth fetching."""
        return self.is_kept or self.interest > 0

    @property
    def is_forsaken(self) -> bool:
        """Whether all who waited for it have gone."""
        return self.was_waited_for and not self.interest

    @property
    def is_cached(self) -> bool:
        """Whether the cache is to have it: not what only those want who are limited, nor a restore's."""
        return self.is_kept and self.opener.access is Access.ALLOW

    def hold(self, now_s: float) -> None:
        """It begins to wait for a budget: no deadline counts that."""
        self._held_at = now_s

    def let_go(self, now_s: float) -> None:
        """It waits for the store again."""
        self._held_s, self._held_at = self.held_s(now_s), None

    def held_s(self, now_s: float) -> float:
        """How long it has waited for budgets by now."""
        return self._held_s + (now_s - self._held_at if self._held_at is not None else 0.0)

    def land(self) -> None:
        """Its bytes are in its slot: deliver them to all who wait, now and later."""
        assert not self.is_done
        assert self.slot is not None
        assert self.slot.place.size == self.size
        self._done.set()

    def fail(self, error: Exception) -> None:
        """Deliver an error to all who wait."""
        assert not self.is_done
        self._error = error
        self.slot = None
        self._done.set()

    async def wait_done(self) -> None:
        """Until it has landed or failed."""
        await self._done.wait()

    def result(self) -> memoryview:
        """The bytes of a flight that is done, which stay while somebody has them; raises what it failed with."""
        if self._error is not None:
            raise copy.copy(self._error) from self._error  # each waiter has a traceback of its own
        assert self.slot is not None
        return self.slot.view


class Patience:
    """How long to wait for flights: `deadline_ns` from now, None for ever, and as long as budgets hold them."""

    def __init__(self, flights: list[Flight], deadline_ns: int | None) -> None:
        now_s = trio.current_time()
        self._held_s = [(flight, flight.held_s(now_s)) for flight in flights]
        self._patient_until = math.inf if deadline_ns is None else now_s + deadline_ns / 1e9
        self.ends_at = self._patient_until
        self.is_left = True

    def look_again(self) -> None:
        """Whether there is something to wait for, and until when."""
        now_s = trio.current_time()
        held_s = [flight.held_s(now_s) - before for flight, before in self._held_s if not flight.is_done]
        self.ends_at = self._patient_until + max(held_s, default=0.0)
        self.is_left = bool(held_s) and now_s < self.ends_at


def pending_of(flights: list[Flight]) -> list[Flight]:
    """Those that have neither landed nor failed."""
    return [flight for flight in flights if not flight.is_done]


def lateness(late: Flight, seconds: float) -> str:
    """Why a read is given up, for a person."""
    reason = f"; its last answer was: {late.trouble}" if late.trouble else ""
    return f"{late.item.ref.key}: the store did not answer within {seconds:g} s{reason}"


def waited_ns(flights: list[Flight], began_s: float) -> int:
    """How long a read has waited for flights, since then on trio's clock; noted, in case that it is slow."""
    now_s = trio.current_time()
    total_ns = int((now_s - began_s) * 1e9)
    held_ns = min(total_ns, int(max(flight.held_s(now_s) for flight in flights) * 1e9))
    trouble = next((flight.trouble for flight in flights if flight.trouble), None)
    note("a budget of cold bytes", held_ns)
    note(f"cold bytes ({trouble})" if trouble else "cold bytes", total_ns - held_ns)
    return total_ns


@contextmanager
def queued(flights: list[Flight]) -> Iterator[None]:
    """While they stand in a queue: all of them leave it, or none."""
    for flight in flights:
        flight.queued_with = flights
    try:
        yield
    finally:
        for flight in flights:
            flight.queued_with = []


class Recent:
    """Chunks that landed and are still in memory: the kernel reads one chunk in many pieces.

    INVARIANT: `held_bytes` is the sum of the sizes of the flights in it, and at most `limit_bytes`.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._flights: OrderedDict[FlightKey, Flight] = OrderedDict()

    def get(self, key: FlightKey) -> Flight | None:
        """The landed flight of a chunk, made the last to go."""
        flight = self._flights.get(key)
        if flight is not None:
            self._flights.move_to_end(key)
        return flight

    def add(self, flight: Flight) -> None:
        """Keep a landed flight, dropping others beyond the limit."""
        key = flight.item.key_of(flight.index)
        self.drop(key)
        self._flights[key] = flight
        self.held_bytes += flight.size
        self.shrink(self.limit_bytes)

    def retire(self, key: FlightKey) -> None:
        """Make a chunk the next to go: a sequential reader is through with it."""
        if key in self._flights:
            self._flights.move_to_end(key, last=False)

    def drop(self, key: FlightKey) -> None:
        """Let one chunk go."""
        flight = self._flights.pop(key, None)
        if flight is not None:
            self.held_bytes -= flight.size

    def shrink(self, limit: int) -> None:
        """Let chunks go until at most `limit` bytes are held."""
        while self._flights and self.held_bytes > limit:
            self.drop(next(iter(self._flights)))

    def evict(self, ref: ObjectRef | None) -> None:
        """Let the chunks of one object, or all, go."""
        for key, flight in list(self._flights.items()):
            if ref is None or flight.item.ref == ref:
                self.drop(key)


class Ledger:
    """Memory for chunks that are being fetched; landed ones (`recent`) make room for them.

    INVARIANT: `in_flight` + what `recent` holds is at most `limit_bytes`, except for a single request larger than that.
    INVARIANT: who came first is served first, and nobody else is woken: thousands may wait while a store is away.
    """

    def __init__(self, limit_bytes: int, recent: Recent) -> None:
        self.limit_bytes = limit_bytes
        self.in_flight = 0
        self._recent = recent
        self._waiting: deque[tuple[int, trio.lowlevel.Task]] = deque()

    async def wait_taken(self, size: int) -> None:
        """Take `size` bytes as soon as they are free."""
        if self.take_nowait(size):
            return
        entry = (size, trio.lowlevel.current_task())
        self._waiting.append(entry)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiting.remove(entry)
            self._hand_out()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def take_nowait(self, size: int) -> bool:
        """Take `size` bytes if they are free and nobody waits, letting landed chunks go for them."""
        return not self._waiting and self._take(size)

    def give_back(self, size: int) -> None:
        """Bytes are no longer being fetched: they landed, or failed."""
        self.in_flight -= size
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._take(self._waiting[0][0]):
            trio.lowlevel.reschedule(self._waiting.popleft()[1])

    def _take(self, size: int) -> bool:
        if self.in_flight and self.in_flight + size > self.limit_bytes:
            return False
        self.in_flight += size
        self._recent.shrink(max(0, self.limit_bytes - self.in_flight))
        return True
