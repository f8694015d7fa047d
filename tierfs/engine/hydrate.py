"""Reads cold files: readers with read-ahead, and restores.

How a read goes: its chunks are looked up among the recent ones and those on their way; what is neither gets a flight
(engine.fetcher), and a task that asks the cache and then the store. The reader waits for its own chunks only, with a
deadline.
"""

import math
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property

import trio

from tierfs.core.access import ANYBODY, Access, Opener
from tierfs.core.errors import DeadlineExceeded, ReadDenied
from tierfs.core.extents import (
    Item,
    Window,
    chunk_indices,
    count_chunks,
    is_near_end,
    plan_read_ahead,
    plan_window,
    slice_of_chunk,
)
from tierfs.core.records import ObjectRef
from tierfs.engine.arena import Arena
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.fetcher import Fetcher
from tierfs.engine.flights import Flight, pending_of
from tierfs.engine.guard import Guard
from tierfs.engine.movements import Movement
from tierfs.engine.nearby import Nearby
from tierfs.engine.reading import HydrateCounters, HydrateSettings

__all__ = ["HydrateCounters", "HydrateSettings", "Hydrator", "Reader"]


#: A reader that goes elsewhere does so at once; what only looks at a file closes it at once.
_START_AFTER_S = 0.005
#: What could not be read ahead the kernel asks for once more, at once, before the application gets its error.
_ECHO_S = 1.0


class Hydrator:
    """Reads the bytes of cold files, for applications and for restores.

    INVARIANT: no byte is given that the store or the cache did not give; fewer than asked for is an error.
    """

    def __init__(self, cold: ColdTier, arena: Arena, settings: HydrateSettings) -> None:
        self.settings = settings
        self._cold = cold
        self.nearby = Nearby(cold, arena, settings.memory_bytes)
        self._fetcher = Fetcher(cold, arena, self.nearby, settings)
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()  # those that read ahead
        self._streams = trio.Semaphore(settings.streams)
        self._streamed_at = -math.inf  # when a chunk last came for one of them, on trio's clock

    @property
    def guard(self) -> Guard:
        """Who may have bytes fetched, how fast, and who has how many."""
        return self._fetcher.guard

    @property
    def counters(self) -> HydrateCounters:
        """Running totals since the start."""
        return self._fetcher.counters

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks that fetch, until cancelled; `await nursery.start(hydrator.run)` before the first read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.nearby.run)
            await self._fetcher.run(task_status)

    def give_up(self) -> None:
        """The mount is gone: whoever waits for bytes, however long its budgets would hold it up, need not."""
        self._fetcher.give_up()

    def reader(
        self,
        ref: ObjectRef,
        successor: Callable[[], ObjectRef | None] | None = None,
        opener: Callable[[], Opener] = lambda: ANYBODY,
    ) -> "Reader":
        """What one handle reads an object with; `successor` is asked once for what is likely to be read after it.

        `opener` is asked once, too, as soon as bytes are wanted: who they are for.
        """
        reader = Reader(self, self._fetcher, self.item(ref), opener)
        reader.successor = successor
        return reader

    async def evict(self, ref: ObjectRef | None) -> int:
        """Drop the chunks of one object, or of all, from memory and from the cache; returns how many the cache had."""
        self._fetcher.recent.evict(ref)
        return await self._cold.evict(ref)

    async def cached_bytes(self, ref: ObjectRef) -> int:
        """How many bytes of an object are in the cache."""
        return await self._cold.cached_bytes(ref)

    def fetching(self) -> list[tuple[str, Movement]]:
        """The objects of which chunks are on their way to readers, by key: what is on its way, none of it here yet.

        Of one that is read in order: all of it, and how far it was read.
        """
        found: dict[str, Movement] = {}
        for flight in self._fetcher.on_their_way():
            if flight.is_kept:
                key = flight.item.ref.key
                movement = found.setdefault(key, Movement(b"", "read", 0, flight.began_ns))
                movement.bytes += flight.size
        for reader in self._readers:
            whole = reader.item.ref
            known = found.get(whole.key)
            if known:
                done = max(known.done_bytes, min(reader.window.expected, whole.size))
                known.bytes, known.done_bytes = whole.size, done
                known.begun_ns = min(known.begun_ns, reader.began_ns)
        return list(found.items())

    async def expect_at_hand(self, ref: ObjectRef, opener: Opener) -> None:
        """Nothing of an object would have to be fetched now. ReadDenied."""
        if await self.cached_bytes(ref) < ref.size:
            self.guard.deny(opener, ref.key)
            raise ReadDenied(f"{ref.key}: not all of it is cached, and nothing is fetched for {opener.command}")

    async def stream(self, ref: ObjectRef, opener: Opener = ANYBODY) -> AsyncGenerator[memoryview, None]:
        """The whole object in order, chunk by chunk, by parallel GETs in bounded memory; close it with aclosing().

        Chunks that are cached are taken from there, others do not enter the cache. Each has the deadline of a read,
        and so has the wait for those that came before: it ends when nothing comes for them either. DeadlineExceeded,
        StoreError.
        """
        item = self.item(ref)
        total = count_chunks(ref.size, item.chunk_size)
        window = max(1, self.settings.stream_bytes // item.chunk_size)
        step = max(1, min(window // 4, self.settings.fetch_bytes // item.chunk_size))
        held: deque[Flight] = deque()
        async with self._turn(ref):
            try:
                front = 0
                while front < total or held:
                    while front < total and (not held or len(held) + step <= window):
                        chunks = range(front, min(front + step, total))
                        held.extend(_hold(self._fetcher.want(item, chunks, opener, is_kept=False)))
                        front = chunks.stop
                    (data,) = await self._fetcher.wait_for([held[0]])
                    held.popleft().interest -= 1
                    self._streamed_at = trio.current_time()
                    yield data
            finally:
                for flight in held:
                    flight.interest -= 1

    @asynccontextmanager
    async def _turn(self, ref: ObjectRef) -> AsyncIterator[None]:
        """Memory for one stream, as soon as it is free. DeadlineExceeded."""
        deadline_ns = self.settings.deadline_ns
        patience_s = math.inf if deadline_ns is None else deadline_ns / 1e9
        patience_s += self.guard.slowest_s(ref.chunk_size or self.settings.chunk_size)
        began, has_turn = trio.current_time(), False
        while not has_turn:
            ends_at = max(began, self._streamed_at) + patience_s
            if trio.current_time() >= ends_at:
                raise DeadlineExceeded(f"{ref.key}: the store did not answer those before it for {patience_s:g} s")
            with trio.move_on_at(ends_at):
                await self._streams.acquire()
                has_turn = True
        try:
            yield
        finally:
            self._streams.release()

    def read_ahead_share(self, reader: "Reader") -> int:
        """The longest window that one of the readers may have now: together they keep within what memory holds."""
        self._readers.add(reader)
        return min(self.settings.read_ahead_bytes, self._fetcher.recent.limit_bytes // len(self._readers))

    def no_read_ahead(self, reader: "Reader") -> None:
        """A reader is not sequential any more: its share is the others'."""
        self._readers.discard(reader)

    def item(self, ref: ObjectRef) -> Item:
        """An object with the size of the chunks that it is fetched in."""
        return Item(ref, ref.chunk_size or self.settings.chunk_size)


class Reader:
    """Reads one object for one handle; keeps the handle's read-ahead window.

    A read that missed its deadline is answered the same way, without waiting, when the kernel repeats it. Nothing is
    fetched ahead for those whom rules limit or refuse.
    """

    def __init__(self, hydrator: Hydrator, fetcher: Fetcher, item: Item, find_opener: Callable[[], Opener]) -> None:
        self._find_opener = find_opener
        self.window = Window()
        self._hydrator = hydrator
        self._fetcher = fetcher
        self.item = item
        self.began_ns = time.time_ns()
        self._is_nearby = True  # what is known to be in the cache could be read from there, so far
        self._missed: list[tuple[range, float]] = []  # extents, and until when their repetition is expected
        self.successor: Callable[[], ObjectRef | None] | None = None

    @cached_property
    def _opener(self) -> Opener:
        return self._find_opener()

    def start(self) -> None:
        """Begin to fetch the first chunk, unless something else is read or the handle closed at once; does not wait."""
        if self.item.ref.size:
            self._fetcher.later(_START_AFTER_S, weakref.WeakMethod(self.start_now))

    def start_now(self) -> None:
        """Begin to fetch the first chunk if nothing was read yet."""
        if self.window.expected == 0 and self._opener.access is Access.ALLOW:
            self._fetcher.want(self.item, range(1), self._opener)

    async def read(self, offset: int, length: int) -> list[memoryview]:
        """The bytes [offset, offset + length), clipped to the object's size, in pieces, as soon as they are here.

        DeadlineExceeded; ReadDenied; ObjectMissing, ObjectChanged (the file is lost); IntegrityError, other StoreError.
        """
        item = self.item
        indices = chunk_indices(offset, length, item.ref.size, item.chunk_size)
        if not indices:
            return []
        length = min(length, item.ref.size - offset)
        self._hydrator.counters.reads += 1
        self._hydrator.counters.bytes_asked += length
        if not self._fetcher.has_any(item, indices) and self._hydrator.nearby.knows(item, indices[0]):
            near = self._hydrator.nearby.read(item, indices, offset, length)
            self._is_nearby = near is not None
            if near is not None:
                self._hydrator.counters.cache_hits += len(indices)
                self._hydrator.counters.bytes_cached += length
                self._read_ahead(offset, length)
                return near
        flights = self._fetcher.want(item, indices, self._opener)
        self._read_ahead(offset, length)
        self._fail_repetition(offset, flights)
        try:
            chunks = await self._fetcher.wait_for_read(flights)
        except DeadlineExceeded:
            self._missed.append((range(offset, offset + length), trio.current_time() + _ECHO_S))
            raise
        if self.window.ahead and offset + length == min(indices.stop * item.chunk_size, item.ref.size):
            self._fetcher.recent.retire(item.key_of(indices[-1]))
        return [
            chunk[slice_of_chunk(index, item.chunk_size, offset, length)]
            for index, chunk in zip(indices, chunks, strict=True)
        ]

    def _fail_repetition(self, offset: int, flights: list[Flight]) -> None:
        """Each missed deadline answers one repetition. DeadlineExceeded."""
        now = trio.current_time()
        self._missed = [(extent, until) for extent, until in self._missed if now < until]
        for missed in self._missed:
            if offset in missed[0] and pending_of(flights):
                self._missed.remove(missed)
                raise DeadlineExceeded(f"{self.item.ref.key}: the store did not answer the read before this one")

    def _read_ahead(self, offset: int, length: int) -> None:
        item, hydrator = self.item, self._hydrator
        if not hydrator.settings.read_ahead_bytes or self._opener.access is not Access.ALLOW:
            self.window = replace(self.window, expected=offset + length)
            return
        cap = hydrator.read_ahead_share(self)
        window = plan_window(self.window, offset, length, item.chunk_size, cap)
        longest = max(1, hydrator.settings.fetch_bytes // item.chunk_size)
        chunks = plan_read_ahead(window, item.ref.size, item.chunk_size, longest)
        self.window = replace(window, front=chunks.stop) if chunks else window
        if not window.ahead:
            hydrator.no_read_ahead(self)
        elif chunks:
            # What can be read from its file when it is asked for need not be brought before.
            nearby = hydrator.nearby if self._is_nearby else None
            self._fetcher.want_ahead(
                item, [one for one in chunks if not (nearby and nearby.knows(item, one))], self._opener
            )
        if self.successor and is_near_end(window, item.ref.size, item.chunk_size):
            self._warm(self.successor(), window)

    def _warm(self, ref: ObjectRef | None, window: Window) -> None:
        """Bring the beginning of what is likely to be read next: as much as the window has, at most one GET."""
        self.successor = None  # once for each reader
        if ref:
            item = self._hydrator.item(ref)
            longest = min(self._hydrator.settings.fetch_bytes, window.ahead) // item.chunk_size
            chunks = range(min(max(1, longest), count_chunks(ref.size, item.chunk_size)))
            self._fetcher.want_ahead(item, chunks, self._opener)


def _hold(flights: list[Flight]) -> list[Flight]:
    for flight in flights:
        flight.interest += 1
    return flights
