"""A reader that nears the end of a segment has the beginning of the next one brought, if it is asked to."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from tests.t2_engine.hydration import CHUNK, SETTINGS, Bucket, read, running, settled
from tierfs.core.records import ObjectRef
from tierfs.engine.hydrate import HydrateSettings, Hydrator
from tierfs.stores.cache import ChunkCache

SIZE = 100 * CHUNK
#: The longest GET, in bytes: what is brought of the successor.
BEGINNING = SETTINGS.fetch_bytes


class Asked:
    """Says what comes next, and counts how often it was asked."""

    def __init__(self, ref: ObjectRef | None) -> None:
        self.ref, self.times = ref, 0

    def __call__(self) -> ObjectRef | None:
        self.times += 1
        return self.ref


async def read_through(hydrator: Hydrator, ref: ObjectRef, successor: Callable[[], ObjectRef | None] | None) -> None:
    """A whole object in order, as one handle does."""
    reader = hydrator.reader(ref, successor)
    for offset in range(0, ref.size, 2):
        await read(reader, offset, 2)
    await settled(hydrator)


async def test_the_first_read_of_a_warmed_successor_asks_the_store_nothing(bucket: Bucket, cache: ChunkCache) -> None:
    """It was fetched once, although several readers came by; the rest of it was not."""
    first, second = bucket.add(SIZE, "1"), bucket.add(SIZE, "2")
    successors = [Asked(second) for _ in range(3)]
    async with running(bucket, cache) as hydrator:
        async with trio.open_nursery() as nursery:
            for successor in successors:
                nursery.start_soon(read_through, hydrator, first, successor)
        assert hydrator.counters.bytes_fetched == SIZE + BEGINNING
        asked = len(bucket.gets)
        assert await read(hydrator.reader(second), 0, BEGINNING) == bucket.objects["2"][:BEGINNING]
        assert len(bucket.gets) == asked
    assert [successor.times for successor in successors] == [1, 1, 1]


@pytest.mark.parametrize("offsets", [range(0, SIZE // 2, 2), range(SIZE - 2, -1, -2), range(0, SIZE, 5 * CHUNK)])
async def test_other_readers_warm_nothing(bucket: Bucket, cache: ChunkCache, offsets: range) -> None:
    """Those that stop before, and those that are not sequential."""
    successor = Asked(bucket.add(SIZE, "2"))
    ref = bucket.add(SIZE, "1")
    async with running(bucket, cache) as hydrator:
        reader = hydrator.reader(ref, successor)
        for offset in offsets:
            await read(reader, offset, 2)
        await settled(hydrator)
    assert successor.times == 0


@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 1])
async def test_a_small_successor(bucket: Bucket, cache: ChunkCache, size: int) -> None:
    first, second = bucket.add(SIZE, "1"), bucket.add(size, "2")
    async with running(bucket, cache) as hydrator:
        await read_through(hydrator, first, Asked(second))
        asked = len(bucket.gets)
        assert await read(hydrator.reader(second), 0, size) == bucket.objects["2"]
        assert len(bucket.gets) == asked


@pytest.mark.parametrize(
    "settings", [SETTINGS, replace(SETTINGS, memory_bytes=32), replace(SETTINGS, read_ahead_bytes=0)], ids=str
)
async def test_nothing_follows_or_there_is_no_room(
    bucket: Bucket, cache: ChunkCache, settings: HydrateSettings
) -> None:
    """The reader gets its bytes whatever becomes of the successor."""
    first, gone = bucket.add(SIZE, "1"), bucket.add(SIZE, "2")
    bucket.delete("2")
    async with running(bucket, cache, settings) as hydrator:
        for successor in (None, Asked(None), Asked(gone)):
            await read_through(hydrator, first, successor)
