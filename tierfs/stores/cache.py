"""The chunk cache: diskcache on a local disk, bounded, checked, and never an error for a reader.

A value is one file (stores.chunkfile); the database beside the files (stores.cache_database) knows names, sizes and
times of use.

Layout of the directory (0700): `cache.db` (SQLite, WAL), and `0` .. `f`, which hold the value files.
"""

import logging
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tierfs.core.records import ObjectRef
from tierfs.core.steps import step
from tierfs.stores.cache_database import DATABASE_FILES, JOURNAL_BYTES, CacheDatabase, Value, open_database
from tierfs.stores.chunkfile import (
    SHELVES,
    chunk_key,
    has_size,
    key_prefix,
    new_name,
    object_digest,
    read_chunk,
    taken_bytes,
    value_names,
    write_chunk,
)

_log = logging.getLogger(__name__)

_SPARE = 64  # an eviction frees this part of the limit beyond what is needed, so that it is seldom


@dataclass(slots=True)
class CacheCounters:
    """Running totals since the cache was opened; a chunk that was found damaged is a miss.

    `bypassed` counts reservations that were not granted, `errors` what failed, by what was tried ("check": chunks that
    were damaged).
    """

    hits: int = 0
    misses: int = 0
    bypassed: int = 0
    errors: dict[str, int] = field(default_factory=dict)


class ChunkCache:
    """A bounded, persistent cache of chunks; blocking, and safe to call from several threads.

    No method raises because of the cache's disk: a read becomes a miss, a put is dropped, the error is counted and
    logged once for each kind.

    INVARIANT: values, database, WAL and directories together stay within `limit_bytes`; bytes enter only through a
    reservation, which is made before they are fetched.
    """

    def __init__(self, directory: str | os.PathLike[str], limit_bytes: int) -> None:
        self.directory = os.fspath(directory)
        self.limit_bytes = limit_bytes
        self.counters = CacheCounters()
        self._fitting = threading.Lock()  # one decision at a time what fits
        self._counting = threading.Lock()
        self._reserved = 0
        self._at_most = limit_bytes  # the cache, with what is reserved, takes no more: often spares a look at the disk
        self._overhead = 2 * 4096
        self._database: CacheDatabase | None = None
        with self._tolerating("open"):
            self._database = self._open()

    def close(self) -> None:
        """Close the connections of all threads; later calls are misses."""
        database, self._database = self._database, None
        if database is not None:
            with self._tolerating("close"):
                database.close()

    def read(self, ref: ObjectRef, chunk_size: int, targets: Mapping[int, memoryview]) -> Generator[int, None, None]:
        """Put chunks into their targets, each of its chunk's size, checked against CRC-32 and identity.

        Yields the index of each that is here; what is in the targets of others means nothing. Closed before its end,
        it leaves those that follow alone.
        """
        used: list[str] = []
        asked = 0
        try:
            for index, target in targets.items():
                asked += 1
                key = chunk_key(ref, chunk_size, index)
                crc = ref.crc_of(index) if ref.chunk_size == chunk_size else None
                is_here = False
                with self._tolerating("read"):
                    is_here = self._load(key, crc, target)
                if is_here:
                    used.append(key)
                    yield index
        finally:
            with self._counting:
                self.counters.hits += len(used)
                self.counters.misses += asked - len(used)
            self._mark_used(used)

    def files(self, ref: ObjectRef, chunk_size: int, most: int) -> dict[int, str]:
        """In which files chunks of an object are, by index; at most so many. See stores.chunkfile."""
        found: dict[int, str] = {}
        prefix = key_prefix(ref, chunk_size)
        with self._tolerating("read"):
            if self._database is not None:
                for key, filename in self._database.files_tagged(object_digest(ref), most):
                    if key.startswith(prefix):
                        found[int(key.removeprefix(prefix))] = os.path.join(self.directory, filename)
        return found

    def used(self, ref: ObjectRef, chunk_size: int, indices: Iterable[int]) -> None:
        """Somebody read chunks from their files."""
        keys = [chunk_key(ref, chunk_size, index) for index in indices]
        self._mark_used(keys)
        with self._counting:
            self.counters.hits += len(keys)

    def cached_bytes(self, ref: ObjectRef) -> int:
        """How many bytes of an object are here."""
        total = 0
        with self._tolerating("read"):
            if self._database is not None:
                total = self._database.bytes_tagged(object_digest(ref))
        return total

    def volume(self) -> int:
        """Bytes that the cache takes from its disk: values rounded up to blocks, database, WAL, directories."""
        used = 0
        with self._tolerating("read"):
            if self._database is not None:
                used = self._used(self._database)
        return used

    def reserve(self, size: int, chunks: int = 1) -> "Reservation":
        """Make room for `size` bytes in `chunks` chunks, evicting the least recently used; never waits.

        The reservation is not granted when they do not fit beside what others have reserved, or the disk is broken:
        its puts do nothing then, and the reader streams without the cache.
        """
        cost = size + chunks * self._overhead
        granted = False
        with self._tolerating("write"), self._fitting:
            granted = self._make_room(cost)
            if granted:
                self._reserved += cost
        if not granted:
            with self._counting:
                self.counters.bypassed += 1
        return Reservation(self, cost if granted else 0)

    def evict_object(self, ref: ObjectRef) -> int:
        """Drop all chunks of an object; returns how many there were."""
        return self._evict(lambda database: int(database.evict(object_digest(ref))))

    def evict_all(self) -> int:
        """Drop everything; returns how many chunks there were."""
        return self._evict(lambda database: int(database.clear()))

    def damaged(self, is_deep: bool) -> list[str]:
        """The names of chunks whose files are gone or too short; `is_deep`: or hold other bytes than were kept."""
        found: list[str] = []
        with self._tolerating("read"):
            for key, size in self._database.sizes() if self._database is not None else ():
                if self._is_damaged(key, size, is_deep):
                    found.append(key)
        return found

    def drop(self, keys: Iterable[str]) -> None:
        """Drop chunks by their names: always harmless."""
        with self._tolerating("write"):
            for key in keys:
                if self._database is not None:
                    self._database.delete(key)

    # -- inside --------------------------------------------------------------------------------------------------

    def _is_damaged(self, key: str, size: int, is_deep: bool) -> bool:
        path = self._database.path_of(key) if self._database is not None else None
        if self._database is None or path is None:
            return False  # evicted a moment ago
        try:
            is_whole = read_chunk(path, key, None, memoryview(bytearray(size))) if is_deep else has_size(path, size)
        except OSError:
            is_whole = False
        return not is_whole and self._database.path_of(key) == path

    def _open(self) -> CacheDatabase:
        # Not what it is in: a cold process may still come up when its mount, and the state directory, are gone.
        Path(self.directory).mkdir(mode=0o700, exist_ok=True)
        os.chmod(self.directory, 0o700)
        self._overhead = 2 * max(4096, os.statvfs(self.directory).f_frsize)
        try:
            database = open_database(self.directory, self.limit_bytes)
        except Exception as error:
            _log.warning("the chunk cache in %s is damaged and starts empty: %s", self.directory, error)
            with suppress(FileNotFoundError):
                for name in DATABASE_FILES:
                    os.unlink(os.path.join(self.directory, name))
            database = open_database(self.directory, self.limit_bytes)
        for filename in database.reconcile(value_names(self.directory)):
            os.unlink(os.path.join(self.directory, filename))
        self._fit(database, self.limit_bytes)
        return database

    def _load(self, key: str, crc: int | None, target: memoryview) -> bool:
        database = self._database
        path = database.path_of(key) if database is not None else None
        if database is None or path is None:
            return False
        try:
            is_good = read_chunk(path, key, crc, target)
        except FileNotFoundError:
            return False  # evicted a moment ago
        if not is_good:
            self._note("check", f"{key} was damaged; such chunks are dropped and fetched again")
            with self._tolerating("write"):
                database.delete(key)
        return is_good

    def _mark_used(self, keys: list[str]) -> None:
        with self._tolerating("write"):
            if keys and self._database is not None:
                self._database.mark_used(keys)

    def _used(self, database: CacheDatabase) -> int:
        count, size = database.totals()
        return int(size) + count * self._overhead + self._measure()

    def _measure(self) -> int:
        """What database and directories take; and what the WAL may grow by."""
        names = (*DATABASE_FILES, *SHELVES, "")
        return JOURNAL_BYTES + sum(taken_bytes(os.path.join(self.directory, name)) for name in names)

    def _evict(self, evict: Callable[[CacheDatabase], int]) -> int:
        count = 0
        with self._tolerating("evict"):
            if self._database is not None:
                with step("cache.evict"):
                    count = evict(self._database)
        return count

    def _make_room(self, cost: int) -> bool:
        database = self._database
        if database is None:
            return False
        if self._at_most + cost > self.limit_bytes:
            room = self.limit_bytes - self._reserved - cost
            if self._measure() > room:
                return False  # no eviction could ever help
            if (used := self._used(database)) > room:
                self._fit(database, room - self.limit_bytes // _SPARE)
                used = self._used(database)
            if used > room:
                return False
            self._at_most = used + self._reserved
        self._at_most += cost
        return True

    def _fit(self, database: CacheDatabase, room: int) -> None:
        """Evict until at most `room` bytes are used, or nothing is left; in rounds: an eviction makes the WAL grow."""
        while (excess := self._used(database) - room) > 0:
            if not database.shrink(excess, self._overhead):
                return

    def _keep(self, values: list[Value]) -> None:
        """Name files, or remove them."""
        is_kept = False
        with self._tolerating("write"):
            if self._database is not None:
                with step("cache.keep"):
                    self._database.keep(values)
                is_kept = True
        if not is_kept:
            for value in values:
                with suppress(OSError):
                    os.unlink(os.path.join(self.directory, value.filename))

    def _give_back(self, cost: int) -> None:
        with self._fitting:
            self._reserved -= cost

    @contextmanager
    def _tolerating(self, kind: str) -> Iterator[None]:
        """The one place where the cache's disk may fail; no failure of a cache is a reason not to read."""
        try:
            yield
        except Exception as error:
            self._note(kind, error)
            with suppress(Exception):  # a connection with a half-done transaction would refuse the next one
                if self._database is not None:
                    self._database.roll_back()

    def _note(self, kind: str, reason: object) -> None:
        with self._counting:
            self.counters.errors[kind] = self.counters.errors.get(kind, 0) + 1
            is_first = self.counters.errors[kind] == 1
        if is_first:
            _log.warning("the chunk cache in %s failed to %s: %r; reads go on without it", self.directory, kind, reason)


class Reservation:
    """Room in the cache for chunks that are being fetched: a context manager, at whose end the cache has them.

    One transaction for all: the database is asked once for each GET, not for each chunk.
    """

    def __init__(self, cache: ChunkCache, cost: int) -> None:
        self._cache = cache
        self._cost = cost
        self._left = cost
        self._written: list[Value] = []

    @property
    def granted(self) -> bool:
        """Whether there is room left in it."""
        return self._left > 0

    def put(self, ref: ObjectRef, chunk_size: int, index: int, data: memoryview, crcs: list[int]) -> bool:
        """Write a chunk, whole and checked by the caller, with its running_crcs(); says whether the disk took it."""
        cache, cost = self._cache, len(data) + self._cache._overhead
        if cost > self._left:
            return False
        value = Value(chunk_key(ref, chunk_size, index), object_digest(ref), len(data), new_name())
        with cache._tolerating("write"):
            with step("cache.write"):
                write_chunk(os.path.join(cache.directory, value.filename), value.key, data, crcs)
            self._left -= cost
            self._written.append(value)
        return bool(self._written) and self._written[-1] is value

    def release(self) -> None:
        """Let the cache have what was written, and give back the room; may be called twice."""
        if self._written:
            self._cache._keep(self._written)
            self._written = []
        cost, self._cost, self._left = self._cost, 0, 0
        self._cache._give_back(cost)  # from here on it is counted among the values, or not there

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
