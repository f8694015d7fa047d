"""Cold reads: right bytes, single flight, failures, deadlines; the cache is real, chunks are 4 bytes."""

import math
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.fakes import PATIENCE_S
from tests.t2_engine.hydration import SETTINGS, Bucket, hydrator_of, in_background, pass_time, read, running, settled
from tierfs.core.errors import (
    AccessDenied,
    DeadlineExceeded,
    IntegrityError,
    ObjectChanged,
    ObjectMissing,
    StoreUnavailable,
)
from tierfs.stores.cache import ChunkCache

# -- bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 21])
@pytest.mark.parametrize("with_crcs", [True, False])
async def test_every_extent_is_right(bucket: Bucket, cache: ChunkCache, size: int, with_crcs: bool) -> None:
    ref = bucket.add(size, with_crcs=with_crcs)
    async with running(bucket, cache) as hydrator:
        for offset in range(size + 2):
            for length in range(size + 3 - offset):
                reader = hydrator.reader(ref)
                assert await read(reader, offset, length) == bucket.objects["k"][offset : offset + length]
    assert sum(stop - start for start, stop in bucket.gets) == size


async def test_an_empty_object_is_not_asked_for(bucket: Bucket, cache: ChunkCache) -> None:
    async with running(bucket, cache) as hydrator:
        reader = hydrator.reader(bucket.add(0))
        reader.start()
        assert await read(reader, 0, 100) == b""
    assert bucket.gets == []


async def test_the_chunk_size_of_the_record_is_used(bucket: Bucket, cache: ChunkCache) -> None:
    async with running(bucket, cache) as hydrator:
        ref = bucket.add(64, chunk_size=8)
        assert await read(hydrator.reader(ref), 17, 2) == bucket.objects["k"][17:19]
    assert bucket.gets == [(16, 24)]


async def test_open_starts_the_first_chunk_and_read_finds_it(bucket: Bucket, cache: ChunkCache) -> None:
    async with running(bucket, cache) as hydrator:
        reader = hydrator.reader(bucket.add(64))
        reader.start()
        await bucket.wait_asked(1)
        assert await read(reader, 0, 2) == bucket.objects["k"][:2]
    assert bucket.gets == [(0, 4)]


async def test_a_short_answer_is_an_error_and_never_zeros(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64, with_crcs=False)
    bucket.cut_at = 42
    async with running(bucket, cache) as hydrator:
        assert await read(hydrator.reader(ref), 36, 4) == bucket.objects["k"][36:40]
        with pytest.raises(IntegrityError, match="fewer bytes"):
            await read(hydrator.reader(ref), 38, 6)
        bucket.cut_at = None
        assert await read(hydrator.reader(ref), 38, 6) == bucket.objects["k"][38:44]


async def test_damaged_bytes_are_fetched_once_more(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    bucket.damage[8] = 1
    async with running(bucket, cache) as hydrator:
        assert await read(hydrator.reader(ref), 0, 16) == bucket.objects["k"][:16]
        assert hydrator.counters.corrupt_chunks == 1
    assert bucket.gets == [(0, 16), (8, 16)]  # what was good is not fetched again


async def test_bytes_that_stay_damaged_are_an_error_and_are_not_kept(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    bucket.damage[8] = 2
    async with running(bucket, cache) as hydrator:
        with pytest.raises(IntegrityError, match="chunk 2"):
            await read(hydrator.reader(ref), 0, 16)
        assert await read(hydrator.reader(ref), 0, 16) == bucket.objects["k"][:16]


# -- single flight -----------------------------------------------------------------------------------------------


async def test_many_readers_cause_one_fetch(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    bucket.hold()
    results: list[Any] = []
    async with running(bucket, cache) as hydrator, trio.open_nursery() as nursery:
        for _ in range(10):
            in_background(nursery, lambda: read(hydrator.reader(ref), 4, 4), results)
        await bucket.wait_asked(1)
        await trio.testing.wait_all_tasks_blocked()
        bucket.let_go()
    assert results == [bucket.objects["k"][4:8]] * 10
    assert bucket.gets == [(4, 8)]


async def test_a_fetch_whose_reader_went_away_is_kept(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    bucket.hold()
    async with running(bucket, cache) as hydrator:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hydrator.reader(ref).read, 4, 4)
            await bucket.wait_asked(1)
            nursery.cancel_scope.cancel()
        bucket.let_go()
        assert await read(hydrator.reader(ref), 4, 4) == bucket.objects["k"][4:8]
    assert bucket.gets == [(4, 8)]


async def test_a_chunk_is_served_before_the_rest_of_its_get_has_arrived(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    bucket.hold()
    first: list[Any] = []
    both: list[Any] = []
    async with running(bucket, cache) as hydrator, trio.open_nursery() as nursery:
        in_background(nursery, lambda: read(hydrator.reader(ref), 0, 8), both)
        await bucket.wait_asked(1)
        bucket.let_go(1)
        in_background(nursery, lambda: read(hydrator.reader(ref), 0, 4), first)
        with trio.fail_after(PATIENCE_S):
            while not first:
                await trio.sleep(0.001)
        assert first == [bucket.objects["k"][:4]]
        assert both == []
        bucket.let_go()
    assert both == [bucket.objects["k"][:8]]
    assert bucket.gets == [(0, 8)]


async def test_a_failure_goes_to_all_who_wait_and_is_forgotten(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    bucket.faults = [AccessDenied("no")]
    results: list[Any] = []
    async with running(bucket, cache) as hydrator:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                in_background(nursery, lambda: read(hydrator.reader(ref), 0, 4), results)
        assert [type(result) for result in results] == [AccessDenied] * 3
        assert len({id(result) for result in results}) == 3
        assert await read(hydrator.reader(ref), 0, 4) == bucket.objects["k"][:4]
    assert len(bucket.gets) == 2


@pytest.mark.parametrize("kind", [ObjectMissing, ObjectChanged, AccessDenied, ValueError])
async def test_what_no_retry_mends_comes_at_once(bucket: Bucket, cache: ChunkCache, kind: type[Exception]) -> None:
    ref = bucket.add(64)
    bucket.faults = [kind()]
    async with running(bucket, cache) as hydrator:
        with pytest.raises(kind):
            await read(hydrator.reader(ref), 0, 8)
    assert len(bucket.gets) == 1


# -- time --------------------------------------------------------------------------------------------------------


async def test_the_deadline_ends_a_read_and_the_next_one_works(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    ref = bucket.add(64)
    bucket.hold()
    results: list[Any] = []
    async with running(bucket, cache) as hydrator, trio.open_nursery() as nursery:
        in_background(nursery, lambda: read(hydrator.reader(ref), 4, 4), results)
        await bucket.wait_asked(1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(29)
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        mock_clock.jump(2)
        await trio.testing.wait_all_tasks_blocked()
        (error,) = results
        assert isinstance(error, DeadlineExceeded)
        assert hydrator.counters.deadline_misses == 1
        bucket.let_go()
        assert await read(hydrator.reader(ref), 4, 4) == bucket.objects["k"][4:8]
        mock_clock.rate = 1
    assert bucket.gets == [(4, 8)]


async def test_what_reads_waited_is_counted(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """From the read to its bytes, or to its error; what is in memory was not waited for, and restores are no reads."""
    ref = bucket.add(64)
    bucket.hold()
    results: list[Any] = []
    settings = replace(SETTINGS, read_ahead_bytes=0)
    async with running(bucket, cache, settings) as hydrator, trio.open_nursery() as nursery:
        reader = hydrator.reader(ref)
        for offset in (0, 32):
            in_background(nursery, partial(read, reader, offset, 4), results)
        await bucket.wait_asked(2)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3)
        bucket.let_go(2)
        while len(results) < 2:
            await trio.testing.wait_all_tasks_blocked()
        assert await read(reader, 1, 2) == bucket.objects["k"][1:3]
        waited = hydrator.counters.waited
        assert (hydrator.counters.reads, waited.count, waited.total_ns) == (3, 2, 6 * 10**9)
        assert waited.cumulative()[-5:] == [(5.0, 2), (10.0, 2), (30.0, 2), (60.0, 2), (math.inf, 2)]
        assert waited.cumulative()[-6] == (2.0, 0)
        bucket.let_go()
        async with aclosing(hydrator.stream(ref)) as stream:
            assert b"".join([bytes(chunk) async for chunk in stream]) == bucket.objects["k"]
        assert (hydrator.counters.reads, waited.count) == (3, 2)
        bucket.hold()
        in_background(nursery, partial(read, hydrator.reader(bucket.add(4, "late")), 0, 4), results)
        await bucket.wait_asked(len(bucket.gets) + 1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(31)
        while len(results) < 3:
            await trio.testing.wait_all_tasks_blocked()
        assert isinstance(results[2], DeadlineExceeded)
        assert (waited.count, waited.total_ns) == (3, 37 * 10**9)
        bucket.let_go()
        mock_clock.rate = 1


async def test_a_read_that_the_kernel_repeats_does_not_wait_again(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """What could not be read ahead the kernel asks for a second time: the application waits for one deadline."""
    ref = bucket.add(64)
    bucket.hold()
    results: list[Any] = []
    async with running(bucket, cache) as hydrator, trio.open_nursery() as nursery:
        reader = hydrator.reader(ref)
        in_background(nursery, lambda: reader.read(4, 8), results)
        await bucket.wait_asked(1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(31)
        await trio.testing.wait_all_tasks_blocked()
        in_background(nursery, lambda: reader.read(8, 4), results)
        await trio.testing.wait_all_tasks_blocked()
        assert [type(error) for error in results] == [DeadlineExceeded] * 2
        in_background(nursery, lambda: reader.read(4, 4), results)
        await trio.testing.wait_all_tasks_blocked()
        assert len(results) == 2  # whoever reads after that waits
        bucket.let_go()
        mock_clock.rate = 1
    assert b"".join(results[2]) == bucket.objects["k"][4:8]


async def test_an_unavailable_store_is_asked_again(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    ref = bucket.add(64)
    bucket.faults = [StoreUnavailable("503") for _ in range(8)]
    results: list[Any] = []
    async with running(bucket, cache, replace(SETTINGS, deadline_ns=None)) as hydrator, trio.open_nursery() as nursery:
        in_background(nursery, lambda: read(hydrator.reader(ref), 0, 8), results)
        await pass_time(mock_clock, lambda: bool(results))
        assert results == [bucket.objects["k"][:8]]
        assert hydrator.counters.retries == 8
        mock_clock.rate = 1


async def test_a_store_that_stays_unavailable_ends_with_its_last_answer(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    ref = bucket.add(64)
    bucket.faults = [StoreUnavailable("503 Slow Down")] * 10_000
    results: list[Any] = []
    async with running(bucket, cache) as hydrator, trio.open_nursery() as nursery:
        in_background(nursery, lambda: read(hydrator.reader(ref), 0, 8), results)
        await pass_time(mock_clock, lambda: hydrator.counters.retries > 0, 0.0)
        await pass_time(mock_clock, lambda: bool(results))
        (error,) = results
        assert isinstance(error, DeadlineExceeded)
        assert "503 Slow Down" in str(error)
        await pass_time(mock_clock, lambda: not hydrator._fetcher._flights)  # nobody waits: it gives up
        mock_clock.rate = 1
        bucket.faults = []


async def test_a_fetch_that_nobody_waits_for_is_not_repeated(bucket: Bucket, cache: ChunkCache) -> None:
    bucket.faults = [StoreUnavailable("503")]
    async with running(bucket, cache) as hydrator:
        reader = hydrator.reader(bucket.add(64))
        reader.start()
        await bucket.wait_asked(1)
        await settled(hydrator)
        assert len(bucket.gets) == 1
        assert await read(reader, 0, 4) == bucket.objects["k"][:4]


async def test_readers_do_not_hang_when_the_mount_goes_away(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    bucket.hold()
    results: list[Any] = []
    hydrator = hydrator_of(bucket, cache)
    async with trio.open_nursery() as readers, trio.open_nursery() as nursery:
        await nursery.start(hydrator.run)
        in_background(readers, lambda: read(hydrator.reader(ref), 0, 8), results)
        await bucket.wait_asked(1)
        nursery.cancel_scope.cancel()
    assert [type(result) for result in results] == [StoreUnavailable]
    with pytest.raises(StoreUnavailable):
        await read(hydrator.reader(ref), 8, 4)
    bucket.let_go(1)  # the thread that was left behind ends at its next block
    await settled(hydrator)


@pytest.mark.parametrize("with_crcs", [True, False])
async def test_a_failed_get_around_a_cached_chunk_is_repeated_around_it(
    bucket: Bucket, cache: ChunkCache, with_crcs: bool
) -> None:
    """What is missing is two ranges then: neither is taken for the other one."""
    ref = bucket.add(16, with_crcs=with_crcs)
    async with running(bucket, cache) as hydrator:
        await read(hydrator.reader(ref), 4, 4)
    bucket.faults = [StoreUnavailable("503")]
    bucket.gets.clear()
    async with running(bucket, cache) as hydrator:
        assert await read(hydrator.reader(ref), 0, 16) == bucket.objects["k"]
    assert sorted(set(bucket.gets)) == [(0, 4), (8, 16)]
