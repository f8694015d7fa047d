"""The database of the chunk cache: which chunk is in which file, how large it is, and when it was used last.

diskcache's tables, with its own way of storing values refused: nothing is ever pickled. Keys are str, values are bytes
in files, and a row that says otherwise is refused.
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import diskcache

from tierfs.core.steps import step
from tierfs.stores.chunkfile import is_value_name

DATABASE_FILES = ("cache.db", "cache.db-wal", "cache.db-shm")
JOURNAL_BYTES = 1 << 20  # what the WAL is cut back to; this much is set aside for it from the start
_BUSY_SECONDS = 5.0  # a database that stays locked for longer counts as broken for this one call
_BATCH = 64  # rows that one transaction of an eviction looks at


class _NotBytes(OSError):
    """A row of the database claims a value that this cache does not write."""


class ChunkFiles(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
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
        raise TypeError("a value enters this cache by CacheDatabase.keep() alone")

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> str:
        """The path of a value's file: who asks for it reads and checks it outside of the database's transaction."""
        if mode != diskcache.core.MODE_BINARY or filename is None or not is_value_name(filename):
            raise _NotBytes("a row of the cache database is not a chunk")
        return os.path.join(self._directory, filename)

    def remove(self, file_path: str) -> None:
        if is_value_name(file_path):
            with suppress(FileNotFoundError), step("cache.unlink"):
                os.unlink(os.path.join(self._directory, file_path))


class Value(NamedTuple):
    """A chunk whose file is on its shelf, and which the database does not know yet."""

    key: str
    tag: str
    size: int
    filename: str


class CacheDatabase(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """diskcache with an eviction that stops as soon as enough is free, and with the sums that a hard cap needs."""

    def totals(self) -> tuple[int, int]:
        """How many chunks there are, and the sum of their bytes."""
        return self.reset("count"), self.reset("size")

    def path_of(self, key: str) -> str | None:
        """Where the file of a chunk is; asks no lock, so it works on a disk that is full or read-only."""
        rows = self._sql("SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (key,)).fetchall()
        return self.disk.fetch(*rows[0], read=True) if rows else None

    def keep(self, values: Iterable[Value]) -> None:
        """Name files that are there already, in one transaction: OSError or a database error, and none is named."""
        with self._transact() as (sql, remove_later):
            for key, tag, size, filename in values:
                for rowid, old in sql("SELECT rowid, filename FROM Cache WHERE key = ?", (key,)).fetchall():
                    sql("DELETE FROM Cache WHERE rowid = ?", (rowid,))
                    remove_later(old)
                columns = (None, tag, size, diskcache.core.MODE_BINARY, filename, None)
                self._row_insert(key, True, time.time(), columns)

    def mark_used(self, keys: Iterable[str]) -> None:
        """Make chunks the most recently used ones."""
        with self._transact() as (sql, _):
            for key in keys:
                sql("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", (time.time(), key))

    def sizes(self) -> list[tuple[str, int]]:
        """Every chunk's name, and how many bytes it has."""
        rows: list[tuple[str, int]] = self._sql("SELECT key, size FROM Cache WHERE raw = 1").fetchall()
        return rows

    def bytes_tagged(self, tag: str) -> int:
        """The sum of the bytes of the chunks that carry `tag`."""
        ((total,),) = self._sql("SELECT COALESCE(SUM(size), 0) FROM Cache WHERE tag = ?", (tag,)).fetchall()
        return int(total)

    def files_tagged(self, tag: str, most: int) -> list[tuple[str, str]]:
        """Keys and files of the chunks that carry `tag`, at most so many."""
        rows = self._sql("SELECT key, filename FROM Cache WHERE tag = ? AND raw = 1 LIMIT ?", (tag, most)).fetchall()
        return [(key, filename) for key, filename in rows if is_value_name(filename)]

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


def open_database(directory: str, limit_bytes: int) -> CacheDatabase:
    """The database in a directory, made where there is none. OSError, or SQLite's error, when it is damaged."""
    database = CacheDatabase(
        directory,
        timeout=_BUSY_SECONDS,
        disk=ChunkFiles,
        eviction_policy="least-recently-used",
        size_limit=limit_bytes,
        cull_limit=0,  # the cache evicts by a rule that holds
        tag_index=1,
        statistics=0,
        disk_min_file_size=0,
        sqlite_cache_size=512,  # pages for each connection, and each thread has one
        sqlite_mmap_size=0,  # a truncated database would be SIGBUS instead of an error
        sqlite_journal_size_limit=JOURNAL_BYTES,
        sqlite_wal_autocheckpoint=64,
    )
    if not database.is_sound():
        database.close()
        raise OSError("its database is damaged")
    return database
