"""Cold reads behind a circuit breaker, on a clock that the test moves: deadlines hold, readers wait, it heals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.t2_engine.hydration import Bucket, has_threads, in_background, read, running
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
