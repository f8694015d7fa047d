"""A bucket that counts, waits, fails and damages on command, and a running hydrator over it; chunks are 4 bytes."""

import random
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from tests.fakes import PATIENCE_S, BytesSource, MemoryStore, no_progress
from tierfs.core.records import ObjectRef
from tierfs.engine.arena import Arena
from tierfs.engine.calls import InThreads
from tierfs.engine.coldside import ColdSide
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.fetcher import Fetcher
from tierfs.engine.hydrate import HydrateSettings, Hydrator, Reader
from tierfs.stores.cache import ChunkCache
from tierfs.stores.cold import ColdStore

CHUNK = 4
SETTINGS = HydrateSettings(
    chunk_size=CHUNK, read_ahead_bytes=64, deadline_ns=30 * 10**9, concurrency=8, fetch_bytes=16, memory_bytes=1024
)


class Bucket(MemoryStore):
    """The memory store, which notes each range that is asked for, and holds back, fails or damages its answers."""

    def __init__(self) -> None:
        super().__init__(block_size=4)
        self.gets: list[tuple[int, int]] = []
        self.faults: list[Exception] = []  # for the next GETs, in order
        self.damage: dict[int, int] = {}  # offset of a byte: how many more times it comes wrong
        self.cut_at: int | None = None  # bodies end here
        self.permits: threading.Semaphore | None = None  # one for each block of 4 bytes, when held
        self._asked = threading.Condition()

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        with self._asked:
            self.gets.append((start, stop))
            fault = self.faults.pop(0) if self.faults else None
            self._asked.notify_all()
        if fault:
            raise fault
        return self._answer(super().get(key, start, stop, etag, version_id), start)

    def _answer(self, blocks: Iterator[bytes], offset: int) -> Iterator[bytes]:
        for block in blocks:
            if self.permits:
                self.permits.acquire()
            if self.damage.get(offset, 0) > 0:
                self.damage[offset] -= 1
                block = bytes([block[0] ^ 1]) + block[1:]
            if self.cut_at is not None and offset + len(block) > self.cut_at:
                yield block[: max(0, self.cut_at - offset)]
                return
            yield block
            offset += len(block)

    def add(self, size: int, key: str = "k", *, with_crcs: bool = True, chunk_size: int = CHUNK) -> ObjectRef:
        data = random.Random(key).randbytes(size)
        info = self.put(key, BytesSource(data), {}, no_progress)
        if not with_crcs:
            return ObjectRef(key, info.etag, size)
        chunks = (data[start : start + chunk_size] for start in range(0, size, chunk_size))
        crcs = b"".join(zlib.crc32(chunk).to_bytes(4, "little") for chunk in chunks)
        return ObjectRef(key, info.etag, size, chunk_size=chunk_size, crcs=crcs)

    def hold(self) -> None:
        self.permits = threading.Semaphore(0)

    def let_go(self, blocks: int = 10_000) -> None:
        if self.permits:
            self.permits.release(blocks)

    async def wait_asked(self, count: int) -> None:
        """Until `count` GETs have arrived, since ever."""

        def wait() -> None:
            with self._asked:
                assert self._asked.wait_for(lambda: len(self.gets) >= count, timeout=PATIENCE_S)

        await trio.to_thread.run_sync(wait)


def hydrator_of(bucket: Bucket, cache: ChunkCache, settings: HydrateSettings = SETTINGS) -> Hydrator:
    """A hydrator over a bucket, whose calls run in threads."""
    arena = Arena(settings.memory_bytes)
    return Hydrator(ColdTier(InThreads(ColdSide(bucket, cache, arena.view))), arena, settings)


async def read(reader: Reader, offset: int, length: int) -> bytes:
    """What a reader gives, in one piece."""
    return b"".join(await reader.read(offset, length))


async def settled(hydrator: Hydrator) -> None:
    """Until nothing is on its way, and what arrived is in the cache (which has it after the reader)."""
    with trio.fail_after(PATIENCE_S):
        while _is_busy(hydrator._fetcher):
            await trio.sleep(0.001)


def _is_busy(fetcher: Fetcher) -> bool:
    """Whether a chunk is on its way, a task has yet to begin or end, or a thread still runs, perhaps for nobody."""
    tasks = fetcher._nursery.child_tasks if fetcher._nursery else ()
    return bool(tasks or fetcher._flights or has_threads(fetcher))


def has_threads(fetcher: Fetcher) -> bool:
    """Whether a call runs."""
    calls = fetcher._cold._calls
    assert isinstance(calls, InThreads)
    return bool(calls._of_the_cache.borrowed_tokens or calls._others.borrowed_tokens)


@asynccontextmanager
async def running(
    bucket: ColdStore, cache: ChunkCache, settings: HydrateSettings = SETTINGS
) -> AsyncIterator[Hydrator]:
    """A hydrator that has nothing on its way any more when the block ends."""
    hydrator = hydrator_of(bucket, cache, settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(hydrator.run)
        yield hydrator
        if isinstance(bucket, Bucket):
            bucket.let_go()
        await settled(hydrator)
        assert hydrator._fetcher._ledger.in_flight == 0
        recent = hydrator._fetcher.recent
        assert recent.held_bytes == sum(flight.size for flight in recent._flights.values()) <= recent.limit_bytes
        nursery.cancel_scope.cancel()


def in_background(nursery: trio.Nursery, call: Callable[[], Awaitable[Any]], results: list[Any]) -> None:
    """Run `call`; its result, or its error, is appended to `results`."""

    async def run() -> None:
        try:
            results.append(await call())
        except Exception as error:
            results.append(error)

    nursery.start_soon(run)


async def pass_no_time(until: Callable[[], bool]) -> None:
    """Let threads work while the virtual clock stands still."""
    with trio.fail_after(PATIENCE_S):
        while not until():
            await trio.to_thread.run_sync(time.sleep, 0.001)


async def pass_time(clock: trio.testing.MockClock, until: Callable[[], bool], seconds: float = 0.25) -> None:
    """Let virtual seconds pass, while threads work in real time."""
    while not until():
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(seconds)
