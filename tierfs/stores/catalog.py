"""The catalog: SQLite truth about residency, one record per archived file.

Durability: a commit is in the write-ahead log, and thus safe against a crash of the process, when a method returns. It
is safe against a power cut after sync(), which is what must stand between a commit and anything that cannot be taken
back (dropping hot bytes, deleting objects).
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tierfs.core.errors import CatalogError, CatalogFull
from tierfs.core.records import Attributes, HotIno, Ino, Record, Tombstone
from tierfs.core.residency import Residency
from tierfs.core.steps import step
from tierfs.stores.catalog_rows import (
    COLUMNS,
    IS_BELOW,
    IS_WITHOUT_HOT_BYTES,
    PLACES,
    SCHEMA,
    Listed,
    Rename,
    Tally,
    below,
    record_of,
    renamed,
    row_of,
    why_failed,
)

VERSION = 1
#: A node id that no record shares these bits with has no record: most new files, known without asking SQLite.
_INO_BITS = (1 << 20) - 1


class Catalog:
    """The only module that speaks SQL. Not thread-safe but for sync(); methods raise CatalogError.

    INVARIANT: every committed state is one that recovery understands.
    """

    def __init__(self, path: Path, store: str) -> None:
        """Open, or make, the catalog of the tree that is archived in `store` (its URL)."""
        self.path = path
        self._log = -1
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
            try:
                self._log = self._open(store)
                self._directories = self._count_directories()
                self._inos = self._mark_inos()
            except BaseException:
                self.close()
                raise
        except sqlite3.DatabaseError as error:
            raise CatalogError(f"the catalog {path} cannot be opened: {why_failed(error)}") from error
        #: Called before a directory that had no records gets one.
        self.on_first_record: Callable[[], None] = lambda: None
        self.on_given_up: Callable[[Record], None] = lambda _record: None  # told whose object is buried with its file

    def _open(self, store: str) -> int:
        """Prepare the database; a descriptor of its write-ahead log."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA wal_autocheckpoint = 4000")
        self._prepare(store)
        os.chmod(self.path, 0o600)
        return os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Checkpoint and close."""
        if self._log >= 0:
            os.close(self._log)
        self._db.close()

    def sync(self) -> None:
        """Make every commit so far survive a power cut. Blocking; may run in any thread."""
        os.fdatasync(self._log)

    def _prepare(self, store: str) -> None:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
            with step("catalog.create"), self._transaction():
                for statement in filter(str.strip, SCHEMA.split(";\n")):
                    self._run(statement)
                self._run("INSERT INTO facts VALUES ('version', ?), ('store', ?)", (str(VERSION), store))
            with step("catalog.checkpoint"):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        version, known = self.fact("version"), self.fact("store")
        if version != str(VERSION):
            raise CatalogError(f"the catalog {self.path} has version {version}; this tierfs reads version {VERSION}")
        if known != store:
            raise CatalogError(f"the catalog {self.path} belongs to {known}, not to {store}; choose another --state")

    def _count_directories(self) -> dict[bytes, int]:
        return dict(self._run("SELECT directory, count(*) FROM records GROUP BY directory"))

    def _mark_inos(self) -> bytearray:
        """A 1 where a record may have a node id with these bits; never taken back."""
        marks = bytearray(_INO_BITS + 1)
        for (ino,) in self._run("SELECT ino FROM records"):
            marks[ino & _INO_BITS] = 1
        return marks

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk ends the transaction by itself
                self._run("ROLLBACK")
            self._directories = self._count_directories()
            raise

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                why = "its disk is full; nothing was changed, make room there"
                raise CatalogFull(f"the catalog {self.path} cannot be written: {why}") from error
            raise CatalogError(f"the catalog {self.path} cannot be used: {why_failed(error)}") from error

    # -- facts ---------------------------------------------------------------------------------------------------

    def changes(self) -> int:
        """How many rows were changed since the catalog was opened: while it stands still, so does what was read."""
        return self._db.total_changes

    def fact(self, name: str) -> str | None:
        """A fact about the catalog itself."""
        row = self._run("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def state_fact(self, name: str, value: str) -> None:
        """Record a fact about the catalog itself."""
        self._run("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # -- records -------------------------------------------------------------------------------------------------

    def get(self, path: bytes) -> Record | None:
        """The record of the file at `path`."""
        directory, _, name = path.rpartition(b"/")
        if directory not in self._directories:
            return None
        return self._one("directory = ? AND name = ?", (directory, name))

    def get_by_ino(self, ino: Ino) -> Record | None:
        """The record whose file has this node id."""
        return self._one("ino = ?", (ino,)) if self._inos[ino & _INO_BITS] else None

    def get_by_key(self, key: str) -> Record | None:
        """A record whose bytes are in this object."""
        return self._one("key = ?", (key,))

    def list_cold(self, directory: bytes) -> list[Listed]:
        """The files of a directory that have no hot bytes."""
        if directory not in self._directories:
            return []
        rows = self._run(
            "SELECT name, ino, mode, uid, gid, size, atime_ns, mtime_ns, ctime_ns FROM records"
            f" WHERE directory = ? AND {IS_WITHOUT_HOT_BYTES}",
            (directory,),
        )
        return [Listed(row[0], row[1], Attributes(*row[2:])) for row in rows]

    def has_records(self, directory: bytes) -> bool:
        """Whether any file of a directory has a record."""
        return directory in self._directories

    def has_cold(self, directory: bytes) -> bool:
        """Whether a directory has a file without hot bytes."""
        if directory not in self._directories:
            return False
        query = f"SELECT 1 FROM records WHERE directory = ? AND {IS_WITHOUT_HOT_BYTES} LIMIT 1"
        return self._run(query, (directory,)).fetchone() is not None

    def records(self, residency: Residency | None = None) -> Iterator[Record]:
        """All records, or those of one residency. Do not change the catalog while iterating."""
        where = "WHERE residency = ?" if residency else ""
        for row in self._run(f"SELECT {COLUMNS} FROM records {where}", (residency,) if residency else ()):
            yield record_of(row)

    def pages(self, size: int = 500) -> Iterator[list[Record]]:
        """All records in the order of their paths, some at a time; the catalog may change between two of them."""
        last, order = (b"", b""), f"ORDER BY directory, name LIMIT {size}"
        while rows := self._run(
            f"SELECT {COLUMNS} FROM records WHERE (directory, name) > (?, ?) {order}", last
        ).fetchall():
            last = rows[-1][:2]
            yield [record_of(row) for row in rows]

    def records_below(self, path: bytes) -> list[Record]:
        """The records of all files below a directory."""
        rows = self._run(f"SELECT {COLUMNS} FROM records WHERE {IS_BELOW}", below(path))
        return [record_of(row) for row in rows]

    def has_below(self, path: bytes) -> bool:
        """Whether there is any record below a directory."""
        return self._run(f"SELECT 1 FROM records WHERE {IS_BELOW} LIMIT 1", below(path)).fetchone() is not None

    def directories(self) -> list[bytes]:
        """The directories that hold files with records."""
        return list(self._directories)

    def misplaced(self) -> list[Record]:
        """Cold and mirrored files whose object has yet to follow a rename."""
        rows = self._run(f"SELECT {COLUMNS} FROM records WHERE misplaced AND residency IN ('cold', 'mirrored')")
        return [record_of(row) for row in rows]

    def renumbered(self) -> dict[HotIno, Ino]:
        """The files whose node id is not their inode number in the hot directory."""
        rows = self._run(
            "SELECT hot_ino, ino FROM records WHERE hot_ino IS NOT NULL AND hot_ino != ino"
            f" AND NOT {IS_WITHOUT_HOT_BYTES}"
        )
        return dict(rows)

    def highest_ino(self) -> int:
        """The largest node id in use, 0 for none."""
        (highest,) = self._run("SELECT coalesce(max(ino), 0) FROM records").fetchone()
        return int(highest)

    def tally(self) -> dict[Residency, Tally]:
        """Files and bytes by residency."""
        rows = self._run("SELECT residency, count(*), sum(size) FROM records GROUP BY residency")
        return {Residency(residency): Tally(files, size) for residency, files, size in rows}

    def count(self, residency: Residency) -> int:
        """How many files are of one residency: the index knows, so it takes no look at their records."""
        ((files,),) = self._run("SELECT count(*) FROM records WHERE residency = ?", (residency,))
        return int(files)

    def put(self, record: Record) -> None:
        """Insert or replace the record of a path."""
        with self._transaction():
            self._put(record)

    def put_all(self, records: Iterable[Record]) -> None:
        """Insert or replace many records in one commit."""
        with self._transaction():
            for record in records:
                self._put(record)

    def put_and_bury(self, record: Record, key: str, now_ns: int) -> None:
        """Replace the record of a path and, in the same commit, give up an object that it named before."""
        with self._transaction():
            self._put(record)
            if record.object:
                self.exhume(record.object.key)
            self._bury(key, now_ns)

    def remove(self, path: bytes, now_ns: int) -> None:
        """Forget a file; its object becomes a tombstone."""
        with self._transaction():
            self._remove(path, now_ns)

    def drop(self, path: bytes) -> None:
        """Forget a record and leave the bucket alone."""
        with self._transaction():
            self._delete(path)

    def _one(self, where: str, values: tuple[Any, ...]) -> Record | None:
        row = self._run(f"SELECT {COLUMNS} FROM records WHERE {where}", values).fetchone()
        return record_of(row) if row else None

    def _put(self, record: Record) -> None:
        self._delete(record.path)
        row = row_of(record)
        if row[0] not in self._directories:
            self.on_first_record()
        self._inos[record.ino & _INO_BITS] = 1
        self._run(f"INSERT INTO records ({COLUMNS}) VALUES ({PLACES})", row)
        self._directories[row[0]] = self._directories.get(row[0], 0) + 1

    def _delete(self, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        gone = self._run("DELETE FROM records WHERE directory = ? AND name = ?", (directory, name)).rowcount
        left = self._directories.get(directory, 0) - gone
        if left > 0:
            self._directories[directory] = left
        else:
            self._directories.pop(directory, None)

    def _remove(self, path: bytes, now_ns: int) -> None:
        if record := self.get(path):
            self._delete(path)
            self._give_up(record, now_ns)

    def _give_up(self, record: Record, now_ns: int) -> None:
        if record.object:
            self.on_given_up(record)
            self._bury(record.object.key, now_ns)

    # -- renames -------------------------------------------------------------------------------------------------

    def intend(self, rename: Rename) -> None:
        """Write down a rename of a hot name before it happens."""
        self._run("INSERT OR REPLACE INTO renames VALUES (?, ?, ?, ?)", rename)

    def intended(self) -> list[Rename]:
        """The renames that were begun and not finished."""
        return [Rename(s, t, ino, bool(x)) for s, t, ino, x in self._run("SELECT * FROM renames")]

    def withdraw(self, rename: Rename) -> None:
        """The rename did not happen."""
        self._run("DELETE FROM renames WHERE source = ? AND target = ?", (rename.source, rename.target))

    def follow(self, rename: Rename, now_ns: int) -> None:
        """The rename happened: move the records of the source, and of all below it, to the target.

        What the target named before goes to the source (exchange) or becomes tombstones.
        """
        with self._transaction():
            self.withdraw(rename)
            moved, replaced = self._take(rename.source), self._take(rename.target)
            for record, rest in moved:
                self._put(renamed(record, rename.target + rest))
            for record, rest in replaced:
                if rename.exchange:
                    self._put(renamed(record, rename.source + rest))
                else:
                    self._give_up(record, now_ns)

    def move_cold(self, source: bytes, target: bytes, doomed: HotIno | None, now_ns: int) -> None:
        """Rename a file without hot bytes; `doomed` is the inode of a hot file at the target, to be unlinked next."""
        with self._transaction():
            if doomed is not None:
                self._run("INSERT OR REPLACE INTO doomed VALUES (?, ?)", (target, doomed))
            record = self.get(source)
            if record is None:
                raise CatalogError(f"no record of {os.fsdecode(source)} to rename")
            self._remove(target, now_ns)
            self._delete(source)
            self._put(renamed(record, target))

    def doomed(self) -> list[tuple[bytes, HotIno]]:
        """Hot files that a rename has replaced and that may still be there."""
        return list(self._run("SELECT path, hot_ino FROM doomed"))

    def spare(self, path: bytes) -> None:
        """A doomed hot file is gone."""
        self._run("DELETE FROM doomed WHERE path = ?", (path,))

    def _take(self, path: bytes) -> list[tuple[Record, bytes]]:
        """Remove the records at and below a path; each with the rest of its path."""
        at = self.get(path)
        records = ([at] if at else []) + self.records_below(path)
        for record in records:
            self._delete(record.path)
        return [(record, record.path[len(path) :]) for record in records]

    # -- tombstones ----------------------------------------------------------------------------------------------

    def tombstones(self) -> list[Tombstone]:
        """The objects that have yet to be deleted, oldest first."""
        return [Tombstone(*row) for row in self._run("SELECT key, since_ns FROM tombstones ORDER BY since_ns")]

    def tombstone(self, key: str) -> Tombstone | None:
        """Since when the tree has given this object up, if it has."""
        row = self._run("SELECT key, since_ns FROM tombstones WHERE key = ?", (key,)).fetchone()
        return Tombstone(*row) if row else None

    def is_buried(self, key: str) -> bool:
        """Whether the tree has given this object up."""
        return self.tombstone(key) is not None

    def bury(self, key: str, now_ns: int) -> None:
        """Give an object up: it is deleted later."""
        self._bury(key, now_ns)

    def exhume(self, *keys: str) -> None:
        """The objects are gone from the bucket, or files of the tree have them again: one commit."""
        self._run(f"DELETE FROM tombstones WHERE key IN ({', '.join('?' * len(keys))})", keys)

    def _bury(self, key: str, now_ns: int) -> None:
        self._run("INSERT OR IGNORE INTO tombstones VALUES (?, ?)", (key, now_ns))

    # -- pins ----------------------------------------------------------------------------------------------------

    def pins(self) -> set[bytes]:
        """The files and directories that an operator pinned."""
        return {path for (path,) in self._run("SELECT path FROM pins")}

    def change_pins(self, removed: Iterable[bytes], added: Iterable[bytes]) -> None:
        """Take pins away and set others, in one commit."""
        with self._transaction():
            for path in removed:
                self._run("DELETE FROM pins WHERE path = ?", (path,))
            for path in added:
                self._run("INSERT OR IGNORE INTO pins VALUES (?)", (path,))

    def check_integrity(self) -> list[str]:
        """What SQLite itself finds wrong with the file."""
        return [row for (row,) in self._run("PRAGMA integrity_check") if row != "ok"]
