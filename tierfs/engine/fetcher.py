"""The owner of all flights: brings chunks from the cache or the store, once for all who want them.

Everything here runs in the trio thread; the cold side moves the bytes. Flights belong to the fetcher, not to whom they
are for: they go on when a reader has gone.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from weakref import WeakMethod

import trio

from tierfs.core.access import ANYBODY, Opener
from tierfs.core.errors import (
    DeadlineExceeded,
    IntegrityError,
    StoreError,
    StoreRefused,
    StoreSpared,
    StoreUnavailable,
    TierfsError,
)
from tierfs.core.extents import Item, runs
from tierfs.engine.arena import Arena, Slot
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.flights import Flight, FlightKey, Ledger, Patience, Recent, lateness, pending_of, queued, waited_ns
from tierfs.engine.guard import Guard
from tierfs.engine.nearby import Nearby
from tierfs.engine.reading import HydrateCounters, HydrateSettings
from tierfs.engine.truce import Truce

_log = logging.getLogger(__name__)

_STRIKES = 2  # damaged bytes are fetched once more
_FIRST_PAUSE_NS = 100_000_000
_LONGEST_PAUSE_NS = 5_000_000_000


def plan_pause(attempt: int, jitter: float) -> int:
    """Nanoseconds to wait after failure `attempt` (from 1): doubles to 5 s; `jitter` in [0, 1) takes up to half."""
    return int(min(_LONGEST_PAUSE_NS, _FIRST_PAUSE_NS << min(attempt - 1, 16)) * (1 - jitter / 2))


class Fetcher:
    """Brings chunks.

    INVARIANT: a chunk is in `_flights` from the moment somebody wants it until it lands or fails, and at most one GET
    carries it. INVARIANT: bytes land only after their CRC-32 was checked, where one is recorded.
    """

    def __init__(self, cold: ColdTier, arena: Arena, nearby: Nearby, settings: HydrateSettings) -> None:
        self.settings = settings
        self.counters = HydrateCounters()
        self.recent = Recent(settings.recent_bytes)
        self._cold = cold
        self._arena = arena
        self._nearby = nearby
        self._flights: dict[FlightKey, Flight] = {}
        self._ledger = Ledger(settings.flight_bytes, self.recent)
        self._nursery: trio.Nursery | None = None
        self._truce = Truce()
        self.guard = Guard(settings)
        self._gets = trio.CapacityLimiter(settings.concurrency)
        # Read-ahead and restores leave some GETs free for a reader that waits.
        self._background_gets = trio.CapacityLimiter(max(1, settings.concurrency * 3 // 4))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks that fetch, until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self.give_up()

    def give_up(self) -> None:
        """Nobody waits any more: end what is under way."""
        for flight in list(self._flights.values()):
            self._fail(flight, StoreUnavailable("the mount is going away"))
            if flight.ticket:
                flight.ticket.let_through()

    def want(self, item: Item, chunks: range, opener: Opener = ANYBODY, is_kept: bool = True) -> list[Flight]:
        """The flights that carry `chunks`; those that nobody asked for yet are started. Does not wait."""
        found = [self._find(item, index) for index in chunks]
        for known in found:
            if known and not known.is_done:
                self.guard.joined(known, opener)
        flights = [flight or Flight(item, index, is_kept, opener) for index, flight in zip(chunks, found, strict=True)]
        new = [flight for flight, known in zip(flights, found, strict=True) if known is None]
        if new:
            self._spawn(self._obtain, item, new)
            self._register(new)
        return flights

    def has_any(self, item: Item, chunks: range) -> bool:
        """Whether one of them is in memory or on its way."""
        return any(self._find(item, index) for index in chunks)

    def on_their_way(self) -> Iterable[Flight]:
        """The chunks that have neither landed nor failed."""
        return self._flights.values()

    def later(self, seconds: float, method: "WeakMethod[Callable[[], None]]") -> None:
        """Call a method after a while, unless its object or the mount goes away before."""
        self._spawn(_call_later, seconds, method)

    def want_ahead(self, item: Item, chunks: Iterable[int], opener: Opener = ANYBODY) -> None:
        """Start to bring chunks that a sequential reader will ask for, as far as memory is free. Does not wait."""
        new: list[Flight] = []
        for index in chunks:
            if self._find(item, index) is None:
                if not self._ledger.take_nowait(item.size_of(index)):
                    break
                new.append(Flight(item, index, is_kept=True, opener=opener))
                new[-1].is_charged = True
        if new:
            self._spawn(self._obtain_ahead, item, new)
            self._register(new)

    async def wait_for_read(self, flights: list[Flight]) -> list[memoryview]:
        """As wait_for, for the read of an application: how long it waited is counted."""
        if not pending_of(flights):
            return await self.wait_for(flights)
        began_s = trio.current_time()
        try:
            return await self.wait_for(flights)
        finally:
            self.counters.waited.observe(waited_ns(flights, began_s))

    async def wait_for(self, flights: list[Flight]) -> list[memoryview]:
        """The bytes of flights. DeadlineExceeded when they are not all here in time, StoreError.

        Whatever they waited for budgets is not counted: that is not the store's.
        """
        deadline_ns = self.settings.deadline_ns
        patience = Patience(flights, deadline_ns)
        for flight in flights:
            flight.interest += 1
            flight.was_waited_for = True
        try:
            while patience.is_left:
                with trio.move_on_at(patience.ends_at):
                    for flight in flights:
                        await flight.wait_done()
                        flight.result()  # an error need not wait for the others
                patience.look_again()
        finally:
            late = pending_of(flights)
            for flight in flights:
                flight.interest -= 1
            for flight in late:
                self._leave_queue(flight)
        if not late:
            return [flight.result() for flight in flights]
        self.counters.deadline_misses += 1
        raise DeadlineExceeded(lateness(late[0], (deadline_ns or 0) / 1e9))

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def _obtain(self, item: Item, flights: list[Flight]) -> None:
        """Bring chunks that somebody waits for: from the cache, or else from the store."""
        with self._delivering_errors(flights):
            is_kept = flights[0].is_kept  # a restore has its own memory
            if is_kept:
                size = sum(flight.size for flight in flights)
                with queued(flights):
                    await self._ledger.wait_taken(size)
                if not pending_of(flights):
                    self._ledger.give_back(size)
                    return
                for flight in flights:
                    flight.is_charged = True
            self._give_slots(flights)
            is_short = len(flights) <= self._longest(item) and _adjoin(flights)
            if is_kept and is_short and self._gets.available_tokens and not self.guard.is_concerned(flights[0]):
                await self._carry(item, flights, is_urgent=True, looks_first=True)
            else:
                await self._load(item, flights)
                self._launch(item, pending_of(flights), is_urgent=is_kept)

    async def _obtain_ahead(self, item: Item, flights: list[Flight]) -> None:
        """Bring chunks before somebody waits for them, in memory that the ledger has allowed."""
        with self._delivering_errors(flights):
            self._give_slots(flights)
            await self._load(item, flights)
            self._launch(item, pending_of(flights), is_urgent=False)

    def _give_slots(self, flights: list[Flight]) -> None:
        """Memory for the bytes of flights that the ledger has allowed. StoreRefused for absurd chunks."""
        for flight in flights:
            flight.slot = self._arena.take(flight.size)
            if flight.slot is None:
                raise StoreRefused(f"{flight.item.ref.key}: a chunk of {flight.size} bytes does not fit into memory")

    async def _load(self, item: Item, flights: list[Flight]) -> None:
        by_index = {flight.index: flight for flight in flights}
        await self._cold.load(item, _slots_of(flights), lambda index: self._found(by_index[index]))
        self.counters.cache_misses += len(pending_of(flights))

    def _launch(self, item: Item, flights: list[Flight], is_urgent: bool) -> None:
        """Start a task for each GET that the flights make."""
        for flight, error in self.guard.refused(flights):
            self._fail(flight, error)
        by_index = {flight.index: flight for flight in pending_of(flights)}
        is_limited = any(self.guard.is_concerned(flight) for flight in by_index.values())
        longest = self._longest(item)
        if is_limited:
            longest = max(1, self.guard.longest(flights[0]) // item.chunk_size)
        carry = self._carry_in_turn if is_limited else self._carry
        for run in runs(sorted(by_index), longest):
            self._spawn(carry, item, [by_index[index] for index in run], is_urgent)

    async def _carry_in_turn(self, item: Item, flights: list[Flight], is_urgent: bool) -> None:
        """_carry, when the budgets allow it. Who waits for them has no memory that others could use."""
        with self._delivering_errors(flights):
            for flight in flights:
                self._discharge(flight)
                flight.slot = None if flight.is_kept else flight.slot  # a restore has its own memory
            with queued(flights):
                await self.guard.wait_affordable(flights)
                pending = pending_of(flights)
                size = sum(flight.size for flight in pending if flight.is_kept)
                if size:
                    await self._ledger.wait_taken(size)
            for flight in pending:
                flight.is_charged = flight.is_kept and not flight.is_done
            self._ledger.give_back(sum(flight.size for flight in pending if flight.is_kept and flight.is_done))
            self._give_slots([flight for flight in pending_of(pending) if flight.slot is None])
        await self._carry(item, flights, is_urgent)

    async def _carry(self, item: Item, flights: list[Flight], is_urgent: bool, looks_first: bool = False) -> None:
        """Fetch contiguous chunks until each has landed, failed, or is wanted by nobody.

        `looks_first` says that the cache was not asked yet.
        """
        attempt = 0
        with self._delivering_errors(flights):
            while pending := pending_of(flights):
                try:
                    # What the cache had may lie between what is missing: only bring() takes that for what it is.
                    await self._get(item, pending, is_urgent, looks_first and not (attempt and _adjoin(pending)))
                except IntegrityError as error:
                    self._strike(pending_of(flights)[0], error)
                except StoreUnavailable as error:
                    pending = pending_of(flights)
                    if not any(flight.interest for flight in pending):
                        raise  # forgotten: the next read tries again
                    for flight in pending:
                        flight.trouble = error
                    attempt += 1
                    self.counters.retries += not isinstance(error, StoreSpared)
                    with queued(pending):
                        await self._pause(attempt, error, pending)
                else:
                    pending = pending_of(flights)
                    if pending and not any(flight.is_wanted for flight in pending):
                        raise StoreUnavailable(f"{item.ref.key}: the fetch was given up, nobody waited for it")

    async def _pause(self, attempt: int, error: StoreUnavailable, flights: list[Flight]) -> None:
        """Wait before the next attempt: until the breaker's next try, if there is one."""
        if error.wait_ns is None:
            await trio.sleep(plan_pause(attempt, random.random()) / 1e9)
        else:
            await self._truce.wait(error.wait_ns, lambda: bool(pending_of(flights)))

    async def _get(self, item: Item, flights: list[Flight], is_urgent: bool, looks_first: bool) -> None:
        by_index = {flight.index: flight for flight in flights}

        def landed(index: int) -> bool:
            self._truce.answered()
            self.counters.bytes_fetched += by_index[index].size
            self.guard.fetched(by_index[index])
            self._land(by_index[index])
            return any(flight.is_wanted for flight in flights)

        async with AsyncExitStack() as limits:
            if all(flight.is_forsaken for flight in flights):
                raise StoreUnavailable(f"{item.ref.key}: nobody waits for it any more")
            with queued(flights):
                if not is_urgent:
                    await limits.enter_async_context(self._background_gets)
                await limits.enter_async_context(self._gets)
            if not pending_of(flights):
                return
            found: list[int] = []
            is_sent = True
            try:
                if looks_first:
                    await self._cold.bring(
                        item, _slots_of(flights), lambda index: self._found(by_index[index], found), landed
                    )
                else:
                    await self._cold.fetch(
                        item, _slots_of(flights), landed, is_kept=any(flight.is_cached for flight in flights)
                    )
            except StoreUnavailable as error:
                is_sent = not isinstance(error, StoreSpared)
                raise
            except StoreError:
                self._truce.answered()
                raise
            finally:
                self.counters.cache_misses += len(flights) - len(found) if looks_first else 0
                self.counters.gets += is_sent and len(found) < len(flights)

    def _longest(self, item: Item) -> int:
        """How many chunks one GET may have."""
        return max(1, self.settings.fetch_bytes // item.chunk_size)

    # -- changes of state: synchronous ---------------------------------------------------------------------------

    def _find(self, item: Item, index: int) -> Flight | None:
        key = item.key_of(index)
        return self.recent.get(key) or self._flights.get(key)

    def _register(self, flights: list[Flight]) -> None:
        for flight in flights:
            self._flights[flight.item.key_of(flight.index)] = flight

    def _land(self, flight: Flight) -> None:
        if not flight.is_done:
            self._unregister(flight)
            flight.land()
            if flight.is_kept:
                self.recent.add(flight)

    def _found(self, flight: Flight, found: list[int] | None = None) -> bool:
        self.counters.cache_hits += 1
        self.counters.bytes_cached += flight.size
        self._nearby.found(flight.item, flight.index)
        if found is not None:
            found.append(flight.index)
        self._land(flight)
        return True

    def _fail(self, flight: Flight, error: Exception) -> None:
        if not flight.is_done:
            self._unregister(flight)
            flight.fail(error)

    def _leave_queue(self, flight: Flight) -> None:
        """Who waited has gone: what still stands in a queue, and nobody else waits for, makes room for others."""
        if flight.queued_with and not any(one.interest for one in flight.queued_with):
            for one in pending_of(flight.queued_with):
                self._fail(one, StoreUnavailable(f"{one.item.ref.key}: nobody waits for it any more"))
                if one.ticket:
                    one.ticket.let_through()

    def _unregister(self, flight: Flight) -> None:
        del self._flights[flight.item.key_of(flight.index)]
        self._discharge(flight)

    def _discharge(self, flight: Flight) -> None:
        if flight.is_charged:
            flight.is_charged = False
            self._ledger.give_back(flight.size)

    def _strike(self, flight: Flight, error: IntegrityError) -> None:
        flight.strikes += 1
        self.counters.corrupt_chunks += 1
        if flight.strikes >= _STRIKES:
            self._fail(flight, error)

    @contextmanager
    def _delivering_errors(self, flights: list[Flight]) -> Iterator[None]:
        """Give an error to all who wait for the flights; a task of the hydrator never fails by itself."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, TierfsError):
                _log.exception("a fetch of %s met a defect of tierfs", flights[0].item.ref.key)
            for flight in flights:
                self._fail(flight, error)

    def _spawn(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        if self._nursery is None:
            raise StoreUnavailable("cold files cannot be read: the mount is going away, or not there yet")
        self._nursery.start_soon(task, *args)


async def _call_later(seconds: float, method: "WeakMethod[Callable[[], None]]") -> None:
    await trio.sleep(seconds)
    call = method()
    if call:
        call()


def _adjoin(flights: list[Flight]) -> bool:
    """Whether the chunks are one range."""
    return flights[-1].index - flights[0].index == len(flights) - 1


def _slots_of(flights: list[Flight]) -> dict[int, Slot]:
    return {flight.index: flight.slot for flight in flights if flight.slot is not None}
