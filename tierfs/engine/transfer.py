"""Moves bytes between store, cache and memory: blocking functions without state, run in threads by engine.hydrate.

This is the seam behind which the moving may go to other processes: what crosses it are records, indices and bytes.
"""

import zlib
from collections.abc import Generator
from contextlib import ExitStack, closing

from tierfs.core.errors import IntegrityError
from tierfs.core.extents import chunk_extent, cut, lengths_of
from tierfs.engine.flights import Item, Publish
from tierfs.stores.cache import ChunkCache
from tierfs.stores.cold import ColdStore


def load(cache: ChunkCache, item: Item, indices: list[int], publish: Publish) -> None:
    """Publish those chunks that the cache has."""
    for index in indices:
        data = cache.get(item.ref, item.chunk_size, index)
        if data is not None and len(data) == item.size_of(index) and not publish(index, data):
            return


def fetch(store: ColdStore, cache: ChunkCache | None, item: Item, chunks: range, publish: Publish) -> None:
    """Fetch contiguous chunks with one GET, publish each as soon as it is whole and checked, then cache it.

    Room in the cache is reserved before the first byte is asked for; without room, or without `cache`, nothing is
    kept. StoreError; IntegrityError when a chunk does not have its CRC or the body ends early: what was published
    before is good.
    """
    ref = item.ref
    lengths = lengths_of(chunks, ref.size, item.chunk_size)
    start, _ = chunk_extent(chunks[0], ref.size, item.chunk_size)
    arrived = 0
    with ExitStack() as stack:
        room = stack.enter_context(cache.reserve(sum(lengths), len(chunks))) if cache else None
        blocks = store.get(ref.key, start, start + sum(lengths), ref.etag, ref.version_id)
        if isinstance(blocks, Generator):
            stack.enter_context(closing(blocks))  # gives the connection back when the rest is not wanted
        for index, data in zip(chunks, cut(blocks, lengths), strict=False):
            crc = _check(item, index, data)
            arrived += 1
            if not publish(index, data):
                return
            if room:
                room.put(ref, item.chunk_size, index, data, crc)
    if arrived < len(chunks):
        raise IntegrityError(f"{ref.key}: the store sent fewer bytes than it was asked for")


def _check(item: Item, index: int, data: bytes) -> int:
    """The CRC-32 of a chunk. IntegrityError unless it is the one that was recorded when the object was archived."""
    crc = zlib.crc32(data)
    if item.ref.chunk_size == item.chunk_size and item.ref.crc_of(index) not in (None, crc):
        raise IntegrityError(f"{item.ref.key}: the bytes of chunk {index} are not the ones that were archived")
    return crc
