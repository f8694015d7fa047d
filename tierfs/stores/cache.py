"""The chunk cache: diskcache on a local disk, bounded, checked, and never an error for a reader.

A value is one file (stores.chunkfile); the database beside the files knows names, sizes and times of use. Nothing is
ever pickled: keys are str, values are bytes in files, and a row that says otherwise is refused.

Layout of the directory (0700): `cache.db` (SQLite, WAL), and `0` .. `f`, which hold the value files.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import diskcache

from tierfs.core.records import ObjectRef
from tierfs.stores.chunkfile import (
    SHELVES,
    chunk_key,
    is_value_name,
    new_name,
    object_digest,
    read_chunk,
    taken_bytes,
    value_names,
    write_chunk,
)

_log = logging.getLogger(__name__)

_DATABASE_FILES = ("cache.db", "cache.db-wal", "cache.db-shm")
_BATCH = 64  # rows that one transaction of an eviction looks at
_JOURNAL_BYTES = 1 << 20  # what the WAL is cut back to; this much is set aside for it from the start
_BUSY_SECONDS = 5.0  # a database that stays locked for longer counts as broken for this one call


class _NotBytes(OSError):
    """A row of the database claims a value that this cache does not write."""


class _ChunkFiles(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """How diskcache stores a chunk: always as one file. What is not bytes is refused in both directions."""

    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise TypeError(f"cache keys are str, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: bool) -> str:
        if not raw or not isinstance(key, str):
            raise _NotBytes("a key in the cache database is not text")
        return key

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, str, None]:
        raise TypeError("a value enters this cache by _Database.keep() alone")

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> str:
        """The path of a value's file: who asks for it reads and checks it outside of the database's transaction."""
        if mode != diskcache.core.MODE_BINARY or filename is None or not is_value_name(filename):
            raise _NotBytes("a row of the cache database is not a chunk")
        return os.path.join(self._directory, filename)

    def remove(self, file_path: str) -> None:
        if is_value_name(file_path):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, file_path))


class _Database(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """diskcache with an eviction that stops as soon as enough is free, and with the sums that a hard cap needs."""

    def totals(self) -> tuple[int, int]:
        """How many chunks there are, and the sum of their bytes."""
        return self.reset("count"), self.reset("size")

    def path_of(self, key: str) -> str | None:
        """Where the file of a chunk is; asks no lock, so it works on a disk that is full or read-only."""
        rows = self._sql("SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (key,)).fetchall()
        return self.disk.fetch(*rows[0], read=True) if rows else None

    def keep(self, key: str, data: bytes | memoryview, crc: int, tag: str) -> None:
        """Store a chunk. Unlike diskcache's set(), leaves no file behind when the database cannot be written."""
        filename = new_name()
        columns = (None, tag, len(data), diskcache.core.MODE_BINARY, filename, None)
        write_chunk(os.path.join(self.directory, filename), key, data, crc)
        try:
            with self._transact() as (sql, remove_later):
                for rowid, old in sql("SELECT rowid, filename FROM Cache WHERE key = ?", (key,)).fetchall():
                    sql("DELETE FROM Cache WHERE rowid = ?", (rowid,))
                    remove_later(old)
                self._row_insert(key, True, time.time(), columns)
        except BaseException:
            self.disk.remove(filename)
            raise

    def mark_used(self, key: str) -> None:
        """Make a chunk the most recently used one."""
        self._sql("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", (time.time(), key))

    def bytes_tagged(self, tag: str) -> int:
        """The sum of the bytes of the chunks that carry `tag`."""
        ((total,),) = self._sql("SELECT COALESCE(SUM(size), 0) FROM Cache WHERE tag = ?", (tag,)).fetchall()
        return int(total)

    def shrink(self, excess: int, overhead: int) -> int:
        """Drop the least recently used chunks until `excess` bytes are free; each frees its size and `overhead`."""
        freed = 0
        while freed < excess:
            with self._transact() as (sql, remove_later):
                rows = sql(f"SELECT rowid, size, filename FROM Cache ORDER BY access_time LIMIT {_BATCH}").fetchall()
                for rowid, size, filename in rows:
                    if freed >= excess:
                        break
                    sql("DELETE FROM Cache WHERE rowid = ?", (rowid,))
                    remove_later(filename)
                    freed += size + overhead
            if not rows:
                break
        return freed

    def reconcile(self, on_disk: set[str]) -> set[str]:
        """Forget chunks whose files are gone; returns the files that no chunk claims (a crash left them)."""
        claimed = dict(self._sql("SELECT filename, rowid FROM Cache").fetchall())
        with self._transact() as (sql, _):
            for filename in claimed.keys() - on_disk:
                sql("DELETE FROM Cache WHERE rowid = ?", (claimed[filename],))
        return on_disk - claimed.keys()

    def roll_back(self) -> None:
        """End the transaction that this thread's connection was left in, if any, by an error."""
        self._con.rollback()

    def is_sound(self) -> bool:
        """Whether SQLite finds its own pages in order."""
        return bool(self._sql("PRAGMA quick_check(1)").fetchall() == [("ok",)])


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
        self._overhead = 2 * 4096
        self._database: _Database | None = None
        with self._tolerating("open"):
            self._database = self._open()

    def close(self) -> None:
        """Close the connections of all threads; later calls are misses."""
        database, self._database = self._database, None
        if database is not None:
            with self._tolerating("close"):
                database.close()

    def read(self, ref: ObjectRef, chunk_size: int, index: int, target: memoryview) -> bool:
        """Put a chunk into `target`, which has its size, checked against its CRC-32 and identity; False: not here.

        What is in `target` when it is not here means nothing.
        """
        is_here = False
        key = chunk_key(ref, chunk_size, index)
        with self._tolerating("read"):
            is_here = self._load(key, ref.crc_of(index) if ref.chunk_size == chunk_size else None, target)
        with self._counting:
            if is_here:
                self.counters.hits += 1
            else:
                self.counters.misses += 1
        return is_here

    def missing(self, ref: ObjectRef, chunk_size: int, indices: range) -> list[int]:
        """Which of the chunks are not here; does not count as their use."""
        found: set[int] = set()
        with self._tolerating("read"):
            if self._database is not None:
                found.update(index for index in indices if chunk_key(ref, chunk_size, index) in self._database)
        return [index for index in indices if index not in found]

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

    # -- inside --------------------------------------------------------------------------------------------------

    def _open(self) -> _Database:
        os.makedirs(self.directory, 0o700, exist_ok=True)
        os.chmod(self.directory, 0o700)
        self._overhead = 2 * max(4096, os.statvfs(self.directory).f_frsize)
        try:
            database = self._open_database()
        except Exception as error:
            _log.warning("the chunk cache in %s is damaged and starts empty: %s", self.directory, error)
            with suppress(FileNotFoundError):
                for name in _DATABASE_FILES:
                    os.unlink(os.path.join(self.directory, name))
            database = self._open_database()
        for filename in database.reconcile(value_names(self.directory)):
            os.unlink(os.path.join(self.directory, filename))
        self._fit(database, self.limit_bytes)
        return database

    def _open_database(self) -> _Database:
        database = _Database(
            self.directory,
            timeout=_BUSY_SECONDS,
            disk=_ChunkFiles,
            eviction_policy="least-recently-used",
            size_limit=self.limit_bytes,
            cull_limit=0,  # reserve() evicts, by a rule that holds
            tag_index=1,
            statistics=0,
            disk_min_file_size=0,
            sqlite_cache_size=512,  # pages for each connection, and each thread has one
            sqlite_mmap_size=0,  # a truncated database would be SIGBUS instead of an error
            sqlite_journal_size_limit=_JOURNAL_BYTES,
            sqlite_wal_autocheckpoint=64,
        )
        if not database.is_sound():
            database.close()
            raise OSError("its database is damaged")
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
        with self._tolerating("write"):
            if is_good:
                database.mark_used(key)
            else:
                self._note("check", f"{key} was damaged; such chunks are dropped and fetched again")
                database.delete(key)
        return is_good

    def _used(self, database: _Database) -> int:
        count, size = database.totals()
        return int(size) + count * self._overhead + self._measure()

    def _measure(self) -> int:
        """What database and directories take; and what the WAL may grow by."""
        names = (*_DATABASE_FILES, *SHELVES, "")
        return _JOURNAL_BYTES + sum(taken_bytes(os.path.join(self.directory, name)) for name in names)

    def _evict(self, evict: Callable[[_Database], int]) -> int:
        count = 0
        with self._tolerating("evict"):
            if self._database is not None:
                count = evict(self._database)
        return count

    def _make_room(self, cost: int) -> bool:
        database = self._database
        if database is None:
            return False
        room = self.limit_bytes - self._reserved - cost
        return self._measure() <= room and self._fit(database, room)  # else no eviction could ever help

    def _fit(self, database: _Database, room: int) -> bool:
        """Evict until at most `room` bytes are used; in rounds, because an eviction makes the WAL grow."""
        while (excess := self._used(database) - room) > 0:
            if not database.shrink(excess, self._overhead):
                return False
        return True

    def _put(self, ref: ObjectRef, chunk_size: int, index: int, data: bytes | memoryview, crc: int) -> bool:
        is_kept = False
        with self._tolerating("write"):
            if self._database is not None:
                self._database.keep(chunk_key(ref, chunk_size, index), data, crc, object_digest(ref))
                is_kept = True
        return is_kept

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
    """Room in the cache for chunks that are being fetched: a context manager that gives back what was not used."""

    def __init__(self, cache: ChunkCache, cost: int) -> None:
        self._cache = cache
        self._left = cost

    @property
    def granted(self) -> bool:
        """Whether there is room left in it."""
        return self._left > 0

    def put(self, ref: ObjectRef, chunk_size: int, index: int, data: bytes | memoryview, crc: int) -> bool:
        """Keep a chunk, whole and checked by the caller, whose CRC-32 is `crc`; says whether it was kept."""
        cost = len(data) + self._cache._overhead
        if cost > self._left:
            return False
        try:
            return self._cache._put(ref, chunk_size, index, data, crc)
        finally:  # from here on it is counted among the values, or not there
            self._left -= cost
            self._cache._give_back(cost)

    def release(self) -> None:
        """Give back the room that was not used; may be called twice."""
        left, self._left = self._left, 0
        self._cache._give_back(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
