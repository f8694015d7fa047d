"""Cold reads behind a circuit breaker, on a clock that the test moves: deadlines hold, readers wait, it heals."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.t2_engine.hydration import SETTINGS, Bucket, has_threads, in_background, read, running
from tierfs.core.errors import DeadlineExceeded, StoreUnavailable
from tierfs.engine.hydrate import Hydrator
from tierfs.stores.breaker import Breaker, BreakerRules, BreakerStore
from tierfs.stores.cache import ChunkCache

RULES = BreakerRules(failures=3, longest_pause_ns=5 * 10**9)


@pytest.fixture
def store(bucket: Bucket, mock_clock: trio.testing.MockClock) -> BreakerStore:
    """The bucket behind a breaker, which has the clock of the test."""
    store = BreakerStore(bucket, RULES)
    store.reads = Breaker("reads", RULES, lambda: int(mock_clock.current_time() * 1e9))
    return store


@asynccontextmanager
async def refused(bucket: Bucket, store: BreakerStore, cache: ChunkCache) -> AsyncIterator[Hydrator]:
    """A hydrator without read-ahead, over a store that serves nothing until its faults are taken back."""
    bucket.faults = [StoreUnavailable("503")] * 10_000
    async with running(store, cache, replace(SETTINGS, read_ahead_bytes=0)) as hydrator:
        yield hydrator


async def pass_time(hydrator: Hydrator, clock: trio.testing.MockClock, until: Callable[[], bool]) -> None:
    """Let virtual time pass while nothing is done: never while a thread works."""
    while not until():
        await trio.testing.wait_all_tasks_blocked()
        if not has_threads(hydrator._fetcher) and not until():
            clock.jump(0.05)


async def test_readers_wait_until_an_open_breaker_heals(
    bucket: Bucket, store: BreakerStore, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """Readers of many chunks, begun before it opened and after: all get their bytes inside their deadline."""
    ref = bucket.add(64)
    bucket.faults = [StoreUnavailable("503")] * 8
    results: list[Any] = []
    async with running(store, cache) as hydrator, trio.open_nursery() as nursery:
        for offset in (0, 16, 32):
            in_background(nursery, partial(read, hydrator.reader(ref), offset, 4), results)
        await pass_time(hydrator, mock_clock, lambda: store.health()["reads"].state == "open")
        in_background(nursery, lambda: read(hydrator.reader(ref), 48, 4), results)
        await pass_time(hydrator, mock_clock, lambda: len(results) == 4)
        assert sorted(results) == sorted(bucket.objects["k"][offset : offset + 4] for offset in (0, 16, 32, 48))
        assert hydrator.counters.deadline_misses == 0
        assert len(bucket.gets) == 8 + 4
        assert store.health()["reads"].state == "closed"
        mock_clock.rate = 1


async def test_an_open_breaker_shortens_no_deadline_and_spares_the_store(
    bucket: Bucket, store: BreakerStore, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """The error comes at the deadline, not before, and says what the store said; few requests were made."""
    ref = bucket.add(64)
    bucket.faults = [StoreUnavailable("503 Slow Down")] * 10_000
    results: list[Any] = []
    async with running(store, cache) as hydrator, trio.open_nursery() as nursery:
        began = mock_clock.current_time()
        for offset in range(0, 64, 16):
            in_background(nursery, partial(read, hydrator.reader(ref), offset, 4), results)
        await pass_time(hydrator, mock_clock, lambda: len(results) == 4)
        assert mock_clock.current_time() - began >= 30 - 1e-6
        assert all(isinstance(error, DeadlineExceeded) and "503 Slow Down" in str(error) for error in results)
        # Without a breaker: four readers, each at least every five seconds and more often at first, 40 and more.
        assert len(bucket.gets) < 25
        await pass_time(hydrator, mock_clock, lambda: not hydrator._fetcher._flights)
        bucket.faults = []
        mock_clock.jump(RULES.longest_pause_ns / 1e9)
        assert await read(hydrator.reader(ref), 0, 4) == bucket.objects["k"][:4]
        mock_clock.rate = 1


async def test_a_spared_store_is_asked_when_its_next_try_is_due(
    bucket: Bucket, store: BreakerStore, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """By one reader; refusals are neither GETs nor retries, and all get their bytes with the first try that works."""
    ref = bucket.add(200)
    results: list[Any] = []
    async with refused(bucket, store, cache) as hydrator, trio.open_nursery() as nursery:
        for offset in range(0, 200, 8):
            in_background(nursery, partial(read, hydrator.reader(ref), offset, 4), results)
        await pass_time(hydrator, mock_clock, lambda: mock_clock.current_time() > 15)
        asked = len(bucket.gets)
        assert asked < 20
        assert hydrator.counters.retries == hydrator.counters.gets == asked
        assert store.health()["reads"].refused < 25 + 3 * asked
        bucket.faults = []
        health = store.health()["reads"]
        due = mock_clock.current_time() + (health.next_try_ns - time.time_ns()) / 1e9
        await pass_time(hydrator, mock_clock, lambda: len(results) == 25)
        assert mock_clock.current_time() < due + 0.2
        assert sorted(map(bytes, results)) == sorted(bucket.objects["k"][at : at + 4] for at in range(0, 200, 8))
        assert len(bucket.gets) == asked + 25
        mock_clock.rate = 1


async def test_a_try_whose_reader_goes_away_is_taken_over(
    bucket: Bucket, store: BreakerStore, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """Readers that came at other times take turns; none of them waits for one that is gone."""
    ref = bucket.add(200)
    results: list[Any] = []
    async with refused(bucket, store, cache) as hydrator, trio.open_nursery() as nursery:
        for number in range(10):
            in_background(nursery, partial(read, hydrator.reader(ref), 20 * number, 4), results)
            came = mock_clock.current_time()
            await pass_time(hydrator, mock_clock, partial(is_past, came + 6))
        # Half a second after one deadline and 5.5 before the next: the try that heals comes within 5 in any case.
        await pass_time(hydrator, mock_clock, partial(is_past, mock_clock.current_time() + 0.5))
        assert results
        assert all(isinstance(result, DeadlineExceeded) for result in results)
        gone = len(results)
        bucket.faults = []
        await pass_time(hydrator, mock_clock, partial(is_past, mock_clock.current_time() + 5.2))
        assert len(results) == 10
        assert sum(isinstance(result, DeadlineExceeded) for result in results) == gone
        mock_clock.rate = 1


def is_past(at: float) -> bool:
    """Whether it is later than that."""
    return trio.current_time() >= at
