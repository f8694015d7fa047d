"""More cold reads and restores than there is room for: queues in order, deadlines that count from the beginning."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import pytest
import trio
import trio.testing

from tests.t2_engine.hydration import CHUNK, SETTINGS, Bucket, pass_no_time, pass_time, running
from tierfs.core.errors import DeadlineExceeded
from tierfs.core.records import ObjectRef
from tierfs.engine.flights import Ledger, Recent
from tierfs.engine.hydrate import Hydrator
from tierfs.stores.cache import ChunkCache

DEADLINE_S = 30.0
#: Room for six chunks on their way, and for one restore.
NARROW = replace(SETTINGS, memory_bytes=32, concurrency=2, read_ahead_bytes=0)


class Waits:
    """How long each of several things waited until it failed at its deadline, or was there."""

    def __init__(self) -> None:
        self.failed: list[float] = []
        self.succeeded: list[float] = []

    async def measure(self, call: Callable[[], Awaitable[object]]) -> None:
        began = trio.current_time()
        try:
            await call()
        except DeadlineExceeded:
            self.failed.append(trio.current_time() - began)
        else:
            self.succeeded.append(trio.current_time() - began)


async def consume(hydrator: Hydrator, ref: ObjectRef) -> None:
    """What a restore does."""
    async with aclosing(hydrator.stream(ref)) as stream:
        async for _ in stream:
            pass


def is_past(at: float) -> bool:
    """Whether it is later than that."""
    return trio.current_time() >= at


def has_fetched(hydrator: Hydrator, size: int) -> bool:
    """Whether so many bytes have come from the store."""
    return hydrator.counters.bytes_fetched >= size


async def test_the_time_in_a_queue_counts(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """Each reader fails at its own deadline, wherever it stands, and nothing is fetched for those that went away."""
    ref = bucket.add(100 * CHUNK)
    bucket.hold()
    waits = Waits()

    async def read(index: int) -> None:
        await hydrator.reader(ref).read(index * CHUNK, CHUNK)

    async with running(bucket, cache, NARROW) as hydrator, trio.open_nursery() as nursery:
        for index in range(50):
            nursery.start_soon(waits.measure, partial(read, index))
        await bucket.wait_asked(2)
        began = mock_clock.current_time()
        await pass_time(mock_clock, partial(is_past, began + 10))
        for index in range(50, 100):
            nursery.start_soon(waits.measure, partial(read, index))
        await pass_time(mock_clock, lambda: len(waits.failed) == 100)
        assert all(DEADLINE_S - 1e-6 <= wait < DEADLINE_S + 1 for wait in waits.failed)
        await pass_time(mock_clock, lambda: hydrator._fetcher._ledger.in_flight == 2 * CHUNK, 0.01)
        assert len(bucket.gets) == 2
        bucket.let_go()
        await read(99)
        assert len(bucket.gets) == 3
        mock_clock.rate = 1


async def test_restores_that_wait_for_their_turn_have_a_deadline(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """Not that of those before them added to their own."""
    refs = [bucket.add(5 * CHUNK, f"k{number}") for number in range(9)]
    bucket.hold()
    waits = Waits()
    async with running(bucket, cache, NARROW) as hydrator, trio.open_nursery() as nursery:
        for ref in refs:
            nursery.start_soon(waits.measure, partial(consume, hydrator, ref))
        await pass_time(mock_clock, lambda: len(waits.failed) == len(refs))
        assert all(DEADLINE_S - 1e-6 <= wait < DEADLINE_S + 1 for wait in waits.failed)
        mock_clock.rate = 1


async def test_a_restore_waits_for_those_before_it_while_they_get_on(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """A slow store is not a dead one: the deadline is one for each chunk."""
    refs = [bucket.add(5 * CHUNK, f"k{number}") for number in range(3)]
    bucket.hold()
    waits = Waits()
    async with running(bucket, cache, NARROW) as hydrator, trio.open_nursery() as nursery:
        for ref in refs:
            nursery.start_soon(waits.measure, partial(consume, hydrator, ref))
        await bucket.wait_asked(1)
        for count in range(1, 16):
            began = mock_clock.current_time()
            await pass_time(mock_clock, partial(is_past, began + DEADLINE_S / 8))
            bucket.let_go(1)
            await pass_no_time(partial(has_fetched, hydrator, count * CHUNK))
        await pass_no_time(lambda: len(waits.succeeded) == len(refs))
        assert max(waits.succeeded) > DEADLINE_S
        mock_clock.rate = 1


@pytest.mark.parametrize("leaver", [None, 0, 1, 2])
async def test_memory_goes_to_who_came_first(leaver: int | None) -> None:
    """A large request is not overtaken by small ones, one that is cancelled holds up nobody."""
    ledger, order = Ledger(8, Recent(8)), list[int]()
    sizes = (8, 5, 4, 5)
    assert ledger.take_nowait(6)

    async def take(number: int, scope: trio.CancelScope) -> None:
        with scope:
            await ledger.wait_taken(sizes[number])
            order.append(number)
            ledger.give_back(sizes[number])

    async with trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in sizes]
        for number, scope in enumerate(scopes):
            nursery.start_soon(take, number, scope)
            await trio.testing.wait_all_tasks_blocked()
        assert not ledger.take_nowait(1)
        if leaver is not None:
            scopes[leaver].cancel()
            await trio.testing.wait_all_tasks_blocked()
        ledger.give_back(6)
    assert order == [number for number in range(4) if number != leaver]
    assert ledger.in_flight == 0
