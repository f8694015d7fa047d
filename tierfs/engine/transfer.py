"""Chunks from the cache and the store into memory: blocking functions without state."""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing

from tierfs.core.errors import IntegrityError
from tierfs.core.extents import Item, chunk_extent, fill
from tierfs.stores.cache import ChunkCache
from tierfs.stores.chunkfile import running_crcs
from tierfs.stores.cold import ColdStore

#: Says that one chunk is in its place, verified; answers whether the others are still wanted.
Landed = Callable[[int], bool]


def load(cache: ChunkCache, item: Item, targets: Mapping[int, memoryview], landed: Landed) -> None:
    """Bring those chunks that the cache has."""
    with closing(cache.read(item.ref, item.chunk_size, targets)) as found:
        for index in found:
            if not landed(index):
                return


def fetch(
    store: ColdStore, cache: ChunkCache | None, item: Item, targets: Mapping[int, memoryview], landed: Landed
) -> None:
    """Fetch contiguous chunks with one GET, hand over each as soon as it is whole and checked, then cache it.

    Room in the cache is reserved before the first byte is asked for; without room, or without `cache`, nothing is
    kept. StoreError; IntegrityError when a chunk does not have its CRC or the body ends early: what landed before is
    good. ValueError for chunks that do not adjoin: without a CRC nothing else would notice that they get wrong bytes.
    """
    ref = item.ref
    chunks = sorted(targets)
    if chunks[-1] - chunks[0] != len(chunks) - 1:
        raise ValueError(f"{ref.key}: chunks of one GET must adjoin, these do not: {chunks}")
    size = sum(map(len, targets.values()))
    start, _ = chunk_extent(chunks[0], ref.size, item.chunk_size)
    arrived = 0
    with ExitStack() as stack:
        room = stack.enter_context(cache.reserve(size, len(chunks))) if cache else None
        blocks = store.get(ref.key, start, start + size, ref.etag, ref.version_id)
        if isinstance(blocks, Generator):
            stack.enter_context(closing(blocks))  # gives the connection back when the rest is not wanted
        for index in fill(blocks, targets):
            crcs = _check(item, index, targets[index])
            arrived += 1
            if not landed(index):
                return
            if room:
                room.put(ref, item.chunk_size, index, targets[index], crcs)
    if arrived < len(chunks):
        raise IntegrityError(f"{ref.key}: the store sent fewer bytes than it was asked for")


def _check(item: Item, index: int, data: memoryview) -> list[int]:
    """The CRC-32s of a chunk. IntegrityError unless it is the one that was recorded when the object was archived."""
    crcs = running_crcs(data)
    if item.ref.chunk_size == item.chunk_size and item.ref.crc_of(index) not in (None, crcs[-1]):
        raise IntegrityError(f"{item.ref.key}: the bytes of chunk {index} are not the ones that were archived")
    return crcs
