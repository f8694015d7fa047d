"""Cold reads: readers of all kinds, the cache, restores; the cache is real, chunks are 4 bytes."""

import random
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.t2_engine.hydration import CHUNK, SETTINGS, Bucket, read, running, settled
from tierfs.core.errors import (
    IntegrityError,
)
from tierfs.core.records import ObjectRef
from tierfs.stores.cache import ChunkCache

# -- patterns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 2, 4, 7, 16])
async def test_a_sequential_reader_downloads_each_byte_once_in_long_gets(
    bucket: Bucket, cache: ChunkCache, piece: int
) -> None:
    ref = bucket.add(401)
    async with running(bucket, cache) as hydrator:
        reader = hydrator.reader(ref)
        reader.start()
        parts = [await read(reader, offset, piece) for offset in range(0, 401, piece)]
    assert b"".join(parts) == bucket.objects["k"]
    assert sum(stop - start for start, stop in bucket.gets) == 401
    assert max(stop for _, stop in bucket.gets) == 401
    assert len(bucket.gets) < 60


async def test_random_readers_download_exactly_their_chunks(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(4000)
    offsets = [4 * index + 1 for index in random.Random(1).sample(range(0, 1000, 5), 60)]
    async with running(bucket, cache) as hydrator:
        reader = hydrator.reader(ref)
        for offset in offsets:
            assert await read(reader, offset, 2) == bucket.objects["k"][offset : offset + 2]
        assert hydrator.counters.bytes_fetched == 60 * CHUNK
        assert hydrator.counters.bytes_asked == 60 * 2
    assert sorted(bucket.gets) == sorted((offset - 1, offset + 3) for offset in offsets)


@pytest.mark.parametrize("offsets", [range(396, -1, -4), range(0, 400, 20), range(398, -1, -2)], ids=str)
async def test_backward_and_strided_readers_download_nothing_in_vain(
    bucket: Bucket, cache: ChunkCache, offsets: range
) -> None:
    ref = bucket.add(400)
    async with running(bucket, cache) as hydrator:
        reader = hydrator.reader(ref)
        for offset in offsets:
            assert await read(reader, offset, 2) == bucket.objects["k"][offset : offset + 2]
    touched = {offset // CHUNK for offset in offsets}
    assert sum(stop - start for start, stop in bucket.gets) == len(touched) * CHUNK


async def test_readers_at_different_places_share_what_they_fetch(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(800)
    async with running(bucket, cache, replace(SETTINGS, memory_bytes=256)) as hydrator:

        async def read_from(start: int) -> None:
            reader = hydrator.reader(ref)
            for offset in range(start, 800, 3):
                assert await read(reader, offset, 3) == bucket.objects["k"][offset : offset + 3]

        async with trio.open_nursery() as nursery:
            for start in range(0, 800, 100):
                nursery.start_soon(read_from, start)


async def test_more_readers_than_memory_all_get_their_bytes(bucket: Bucket, cache: ChunkCache) -> None:
    refs = [bucket.add(100, f"k{number}") for number in range(20)]
    async with running(bucket, cache, replace(SETTINGS, memory_bytes=32)) as hydrator:

        async def check(ref: ObjectRef) -> None:
            assert await read(hydrator.reader(ref), 0, 100) == bucket.objects[ref.key]

        async with trio.open_nursery() as nursery:
            for ref in refs:
                nursery.start_soon(check, ref)


# -- the cache ---------------------------------------------------------------------------------------------------


async def test_a_later_hydrator_finds_the_chunks_in_the_cache(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    async with running(bucket, cache) as hydrator:
        await read(hydrator.reader(ref), 0, 64)
        await settled(hydrator)
        assert await hydrator.cached_bytes(ref) == 64
    bucket.gets.clear()
    async with running(bucket, cache) as hydrator:
        assert await read(hydrator.reader(ref), 0, 64) == bucket.objects["k"]
        assert hydrator.counters.cache_hits == 16
    assert bucket.gets == []


async def test_only_what_the_cache_lacks_is_fetched(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    async with running(bucket, cache) as hydrator:
        await read(hydrator.reader(ref), 8, 4)
    async with running(bucket, cache) as hydrator:
        assert await read(hydrator.reader(ref), 0, 20) == bucket.objects["k"][:20]
    assert sorted(bucket.gets) == [(0, 8), (8, 12), (12, 20)]


async def test_evict_makes_the_next_read_fetch(bucket: Bucket, cache: ChunkCache) -> None:
    ref, other = bucket.add(64), bucket.add(64, "other")
    async with running(bucket, cache) as hydrator:
        await read(hydrator.reader(ref), 0, 64)
        await read(hydrator.reader(other), 0, 64)
        await settled(hydrator)
        assert await hydrator.evict(ref) == 16
        bucket.gets.clear()
        await read(hydrator.reader(other), 0, 64)
        assert bucket.gets == []
        await read(hydrator.reader(ref), 0, 4)
        assert bucket.gets == [(0, 4)]
        await hydrator.evict(None)
        assert cache.cached_bytes(other) == 0


async def test_without_a_working_cache_reads_stream(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = ChunkCache(tmp_path / "file" / "cache", 8 << 20)
    ref = bucket.add(401)
    async with running(bucket, broken) as hydrator:
        reader = hydrator.reader(ref)
        parts = [await read(reader, offset, 2) for offset in range(0, 401, 2)]
    assert b"".join(parts) == bucket.objects["k"]
    assert sum(stop - start for start, stop in bucket.gets) == 401  # each chunk once: memory keeps it while it is read


# -- restores ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4, 401])
async def test_a_stream_is_the_object_and_leaves_the_cache_alone(bucket: Bucket, cache: ChunkCache, size: int) -> None:
    ref = bucket.add(size)
    async with running(bucket, cache) as hydrator:
        async with aclosing(hydrator.stream(ref)) as stream:
            assert b"".join([data async for data in stream]) == bucket.objects["k"]
        assert await hydrator.cached_bytes(ref) == 0
    assert sum(stop - start for start, stop in bucket.gets) == size


async def test_a_stream_takes_cached_chunks_from_the_cache(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(64)
    async with running(bucket, cache) as hydrator:
        await read(hydrator.reader(ref), 16, 16)
    async with running(bucket, cache) as hydrator, aclosing(hydrator.stream(ref)) as stream:
        assert b"".join([data async for data in stream]) == bucket.objects["k"]
    assert sum(stop - start for start, stop in bucket.gets) == 64


async def test_a_stream_holds_a_bounded_number_of_chunks(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(4000)
    async with running(bucket, cache) as hydrator, aclosing(hydrator.stream(ref)) as stream:
        async for _ in stream:
            await trio.testing.wait_all_tasks_blocked()
            break
        assert max(stop for _, stop in bucket.gets) <= SETTINGS.stream_bytes + CHUNK


async def test_a_stream_that_is_closed_early_stops_fetching(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(4000)
    bucket.hold()
    async with running(bucket, cache) as hydrator:
        async with trio.open_nursery() as nursery:

            async def restore() -> None:
                async with aclosing(hydrator.stream(ref)) as stream:
                    async for _ in stream:
                        pass

            nursery.start_soon(restore)
            await bucket.wait_asked(SETTINGS.stream_bytes // SETTINGS.fetch_bytes)
            nursery.cancel_scope.cancel()
        bucket.let_go()
    assert len(bucket.gets) < 20


async def test_a_stream_with_a_damaged_chunk_is_an_error(bucket: Bucket, cache: ChunkCache) -> None:
    ref = bucket.add(400)
    bucket.damage[200] = 2
    async with running(bucket, cache) as hydrator, aclosing(hydrator.stream(ref)) as stream:
        parts = [await anext(stream) for _ in range(50)]
        assert b"".join(parts) == bucket.objects["k"][:200]
        with pytest.raises(IntegrityError):
            await anext(stream)


async def test_streams_and_readers_together(bucket: Bucket, cache: ChunkCache) -> None:
    refs = [bucket.add(400, f"k{number}") for number in range(6)]
    async with running(bucket, cache, replace(SETTINGS, memory_bytes=128, concurrency=2)) as hydrator:

        async def restore(ref: ObjectRef) -> None:
            async with aclosing(hydrator.stream(ref)) as stream:
                assert b"".join([data async for data in stream]) == bucket.objects[ref.key]

        async def check(ref: ObjectRef) -> None:
            reader = hydrator.reader(ref)
            for offset in range(0, 400, 7):
                assert await read(reader, offset, 7) == bucket.objects[ref.key][offset : offset + 7]

        async with trio.open_nursery() as nursery:
            for ref in refs:
                nursery.start_soon(restore, ref)
                nursery.start_soon(check, ref)
