"""Cached chunks that are read from their files, without the cold process: what is given, and what is left to it."""

import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.fakes import PATIENCE_S
from tests.t2_engine.hydration import SETTINGS, Bucket, read, running, settled
from tierfs.core.records import ObjectRef
from tierfs.engine.calls import Call, InThreads
from tierfs.engine.hydrate import Hydrator
from tierfs.stores.cache import ChunkCache
from tierfs.stores.chunkfile import PIECE

CHUNK = 4 * PIECE
SIZE = 5 * CHUNK + PIECE + 77
LARGE = replace(SETTINGS, chunk_size=CHUNK, read_ahead_bytes=0, fetch_bytes=2 * CHUNK, memory_bytes=16 * CHUNK)


@pytest.fixture
def bucket() -> Bucket:
    bucket = Bucket()
    bucket.block_size = PIECE
    return bucket


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[ChunkCache]:
    cache = ChunkCache(tmp_path / "chunks", 64 << 20)
    yield cache
    cache.close()


class Calls:
    """The names of the calls that went to the cold side."""

    def __init__(self, hydrator: Hydrator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        run = InThreads.run

        async def noted(calls: InThreads, call: Call) -> Any:
            self.names.append(call.name)
            return await run(calls, call)

        monkeypatch.setattr(InThreads, "run", noted)

    @property
    def of_chunks(self) -> list[str]:
        return [name for name in self.names if name in ("bring", "load", "fetch")]


@asynccontextmanager
async def cached(
    bucket: Bucket, cache: ChunkCache, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Hydrator, ObjectRef, Calls]]:
    """An object all of whose chunks are cached, none is in memory, and their files are known."""
    ref = bucket.add(SIZE, chunk_size=CHUNK)
    async with running(bucket, cache, LARGE) as hydrator:
        item = hydrator.item(ref)
        for index in range(6):
            assert await read(hydrator.reader(ref), index * CHUNK, 1)
        await settled(hydrator)
        hydrator._fetcher.recent.evict(None)
        calls = Calls(hydrator, monkeypatch)
        assert await read(hydrator.reader(ref), 0, 1) == bucket.objects["k"][:1]  # from the cache: which has more
        with trio.fail_after(PATIENCE_S):
            while not all(hydrator.nearby.knows(item, index) for index in range(6)):
                await trio.sleep(0.001)
        hydrator._fetcher.recent.evict(None)
        calls.names.clear()
        yield hydrator, ref, calls


def files_of(cache: ChunkCache, ref: ObjectRef) -> dict[int, Path]:
    return {index: Path(name) for index, name in cache.files(ref, CHUNK, 100).items()}


async def test_reads_of_all_kinds_come_from_the_files(
    bucket: Bucket, roomy: ChunkCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cached(bucket, roomy, monkeypatch) as (hydrator, ref, calls):
        data, reader, drawn = bucket.objects["k"], hydrator.reader(ref), random.Random(1)
        edges = [0, 1, PIECE - 1, PIECE, CHUNK - 1, CHUNK, 5 * CHUNK + PIECE, SIZE - 1]
        starts = edges + [drawn.randrange(SIZE) for _ in range(100)]
        for start in starts:
            length = drawn.choice([1, 4096, PIECE, PIECE + 1, CHUNK, 3 * CHUNK])
            assert await read(reader, start, length) == data[start : start + length]
        assert calls.of_chunks == []
        assert len(bucket.gets) == 6


async def test_damage_is_never_given(bucket: Bucket, roomy: ChunkCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is checked, piece by piece; a damaged chunk is fetched again."""
    async with cached(bucket, roomy, monkeypatch) as (hydrator, ref, calls):
        data, path = bucket.objects["k"], files_of(roomy, ref)[2]
        header = path.stat().st_size - CHUNK
        with path.open("r+b") as file:
            file.seek(header + 2 * PIECE + 5)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        reader = hydrator.reader(ref)
        assert await read(reader, 2 * CHUNK, 4096) == data[2 * CHUNK : 2 * CHUNK + 4096]
        assert calls.of_chunks == []  # its piece is whole
        start = 2 * CHUNK + 2 * PIECE
        assert await read(reader, start, 4096) == data[start : start + 4096]
        assert len(bucket.gets) == 7


@pytest.mark.parametrize("spoil", [b"", b"other", b"\0" * 4096], ids=["empty", "short", "zeros"])
async def test_a_file_that_is_no_chunk_is_not_believed(
    bucket: Bucket, roomy: ChunkCache, monkeypatch: pytest.MonkeyPatch, spoil: bytes
) -> None:
    async with cached(bucket, roomy, monkeypatch) as (hydrator, ref, _):
        files_of(roomy, ref)[1].write_bytes(spoil)
        assert await read(hydrator.reader(ref), CHUNK, 10) == bucket.objects["k"][CHUNK : CHUNK + 10]
        assert len(bucket.gets) == 7


async def test_the_file_of_another_chunk_is_not_believed(
    bucket: Bucket, roomy: ChunkCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cached(bucket, roomy, monkeypatch) as (hydrator, ref, _):
        files = files_of(roomy, ref)
        files[1].write_bytes(files[2].read_bytes())
        assert await read(hydrator.reader(ref), CHUNK, 10) == bucket.objects["k"][CHUNK : CHUNK + 10]


async def test_what_was_evicted_is_fetched_again(
    bucket: Bucket, roomy: ChunkCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cached(bucket, roomy, monkeypatch) as (hydrator, ref, _):
        assert await hydrator.evict(ref) == 6
        assert await read(hydrator.reader(ref), CHUNK, 10) == bucket.objects["k"][CHUNK : CHUNK + 10]
        assert len(bucket.gets) == 7


async def test_what_is_not_in_memory_is_left_to_the_cold_process(
    bucket: Bucket, roomy: ChunkCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who answers the kernel does not wait for the disk of the cache."""
    async with cached(bucket, roomy, monkeypatch) as (hydrator, ref, calls):
        fd = os.open(files_of(roomy, ref)[3], os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(fd, [bytearray(1)], CHUNK // 2, os.RWF_NOWAIT)
        except BlockingIOError:
            is_dropped = True
        else:
            is_dropped = False
        os.close(fd)
        start = 3 * CHUNK + CHUNK // 2
        assert await read(hydrator.reader(ref), start, 10) == bucket.objects["k"][start : start + 10]
        assert calls.of_chunks == (["bring"] if is_dropped else [])
        assert len(bucket.gets) == 6


async def test_memory_that_readers_hold_is_bounded(
    bucket: Bucket, roomy: ChunkCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies that were not written yet keep their memory: what has none left takes the other way."""
    async with cached(bucket, roomy, monkeypatch) as (hydrator, ref, calls):
        held, item = [], hydrator.item(ref)
        while (pieces := hydrator.nearby.read(item, range(1), 0, CHUNK)) is not None:
            held += pieces
            assert len(held) <= LARGE.memory_bytes // CHUNK
        assert len(held) >= LARGE.memory_bytes // CHUNK // 2
        held.clear()
        assert hydrator.nearby.read(item, range(1), 0, CHUNK) is not None
        assert calls.of_chunks == []


async def test_what_is_read_from_its_file_stays_in_the_cache(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least recently used chunks go first, and those are used that no call asked for."""
    cache = ChunkCache(tmp_path / "small", 32 * CHUNK)
    async with cached(bucket, cache, monkeypatch) as (hydrator, ref, calls):
        hits = cache.counters.hits
        assert await read(hydrator.reader(ref), CHUNK, 10) == bucket.objects["k"][CHUNK : CHUNK + 10]
        with trio.fail_after(PATIENCE_S):
            while cache.counters.hits == hits:
                await trio.sleep(0.01)
        assert set(calls.names) <= {"mark_used", "cached_files"}
        other = bucket.add(32 * CHUNK, "other", chunk_size=CHUNK)
        for index in range(32):
            assert await read(hydrator.reader(other), index * CHUNK, 1)
            await settled(hydrator)
            if 2 not in (kept := files_of(cache, ref)):
                break
        assert 2 not in kept
        assert 1 in kept
    cache.close()


async def test_a_sequential_reader_needs_nothing_brought(
    bucket: Bucket, roomy: ChunkCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read-ahead brings what is not in the cache, and only that."""
    async with cached(bucket, roomy, monkeypatch) as (hydrator, ref, calls):
        object.__setattr__(hydrator.settings, "read_ahead_bytes", 4 * CHUNK)
        reader, data = hydrator.reader(ref), bucket.objects["k"]
        for start in range(0, SIZE, PIECE):
            assert await read(reader, start, PIECE) == data[start : start + PIECE]
        assert calls.of_chunks == []
        files_of(roomy, ref)[4].unlink()
        reader = hydrator.reader(ref)
        for start in range(0, SIZE, PIECE):
            assert await read(reader, start, PIECE) == data[start : start + PIECE]
        assert bucket.gets[6:] == [(4 * CHUNK, 5 * CHUNK)]
