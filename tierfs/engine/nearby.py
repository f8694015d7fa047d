"""Chunks that the cache has, read by who answers the kernel: no other process is asked, and no disk for bytes.

The cache belongs to the cold process. What is known of it here is in which files the chunks of some objects were: one
that is gone or damaged, or whose bytes the kernel does not have in memory, is left to the cold process.
"""

import errno
import os
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from tierfs.core.extents import Item, slice_of_chunk
from tierfs.engine.arena import Arena
from tierfs.engine.coldtier import ColdTier
from tierfs.stores.chunkfile import PIECE, key_prefix, read_pieces
from tierfs.stores.hot import is_in_memory

_MOST_FILES = 1 << 15  # whose names are kept: some megabytes of memory, and 32 GiB of the usual chunks
_MOST_OBJECTS = 1 << 10
_SMALL = 32 << 10  # bytes of a read that is copied from where its pieces are checked
_PAUSE_S = 1.0  # between two questions to the cold process


@dataclass(slots=True)
class _Known:
    """What is known of one object: the files of its chunks, and which of them were used of late."""

    item: Item
    prefix: str
    files: dict[int, str] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    is_asked_for: bool = True


class Nearby:
    """Reads pieces of cached chunks into memory of the arena, of which all chunks together may have `limit_bytes`.

    INVARIANT: bytes are given only after their CRC-32 was checked.
    """

    def __init__(self, cold: ColdTier, arena: Arena, limit_bytes: int) -> None:
        self._cold = cold
        self._arena = arena
        self._limit_bytes = limit_bytes
        self._known: OrderedDict[tuple[str, str, str | None, int], _Known] = OrderedDict()
        self._has_news = trio.Event()
        self._scratch = memoryview(bytearray(_SMALL + 2 * PIECE))
        self._flags: int | None = os.RWF_NOWAIT  # None: the filesystem of the cache cannot be read without waiting

    async def run(self) -> None:
        """Ask the cold process where chunks are, and tell it which were used, until cancelled."""
        while True:
            await self._has_news.wait()
            self._has_news = trio.Event()
            for known in list(self._known.values()):
                used, known.used = known.used, set()
                if used:
                    await self._cold.mark_used(known.item, used)
                if known.is_asked_for:
                    known.is_asked_for = False
                    known.files = await self._cold.cached_files(known.item, _MOST_FILES)
            self._forget()
            await trio.sleep(_PAUSE_S)

    def found(self, item: Item, index: int) -> None:
        """The cold process found a chunk in the cache: it may have others of the object, too."""
        name = _name_of(item)
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = _Known(item, key_prefix(item.ref, item.chunk_size))
        self._known.move_to_end(name)
        if index not in known.files:
            known.is_asked_for = True
            self._has_news.set()

    def knows(self, item: Item, index: int) -> bool:
        """Whether a chunk is likely to be read from its file."""
        known = self._known.get(_name_of(item))
        return known is not None and index in known.files

    def read(self, item: Item, indices: range, offset: int, length: int) -> list[memoryview] | None:
        """The bytes [offset, offset + length) of an object, which lie in chunks `indices`; None unless all are here."""
        known = self._known.get(_name_of(item))
        if known is None or self._flags is None:
            return None
        pieces = []
        for index in indices:
            wanted = slice_of_chunk(index, item.chunk_size, offset, length)
            piece = self._read(known, index, slice(wanted.start, min(wanted.stop, item.size_of(index))))
            if piece is None:
                return None
            pieces.append(piece)
        self._known.move_to_end(_name_of(item))
        known.used.update(indices)
        self._has_news.set()
        return pieces

    def _read(self, known: _Known, index: int, wanted: slice) -> memoryview | None:
        path, item = known.files.get(index), known.item
        size = item.size_of(index)
        start, stop = wanted.start // PIECE * PIECE, min(-(-wanted.stop // PIECE) * PIECE, size)
        is_small = wanted.stop - wanted.start <= _SMALL
        target = self._scratch[: stop - start] if is_small else self._memory(stop - start)
        if path is None or target is None:
            return None
        crc = item.ref.crc_of(index) if item.ref.chunk_size == item.chunk_size else None
        try:
            is_here = read_pieces(path, f"{known.prefix}{index}", crc, (start, size), target, self._flags or 0)
        except OSError as error:
            is_here = False
            self._has_failed(known, index, error)
        if not is_here:
            return None
        found = target[wanted.start - start : wanted.stop - start]
        return memoryview(bytes(found)) if is_small else found

    def _memory(self, size: int) -> memoryview | None:
        """Memory that is free again when nobody has a view of it any more."""
        slot = self._arena.take(size) if self._arena.taken_bytes() + size <= self._limit_bytes else None
        return slot.view if slot else None

    def _has_failed(self, known: _Known, index: int, error: OSError) -> None:
        if error.errno == errno.EOPNOTSUPP:
            self._flags = None
            with suppress(OSError):
                self._flags = 0 if is_in_memory(os.path.dirname(known.files[index])) else None
        elif error.errno != errno.EAGAIN:
            del known.files[index]

    def _forget(self) -> None:
        """Keep the names of the objects that were used last."""
        while len(self._known) > _MOST_OBJECTS or sum(len(one.files) for one in self._known.values()) > _MOST_FILES:
            self._known.popitem(last=False)


def _name_of(item: Item) -> tuple[str, str, str | None, int]:
    return (item.ref.key, item.ref.etag, item.ref.version_id, item.chunk_size)
