"""The catalog: SQLite truth about residency, one record per archived file.

Durability: a commit is in the write-ahead log, and thus safe against a crash of the process, when a method returns. It
is safe against a power cut after sync(), which is what must stand between a commit and anything that cannot be taken
back (dropping hot bytes, deleting objects).
"""

import json
import os
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tierfs.core.errors import CatalogError
from tierfs.core.records import Attributes, HotIno, Identity, Ino, ObjectRef, Record, Tombstone
from tierfs.core.residency import WITHOUT_HOT_BYTES, Residency

VERSION = 1

# The reference of what is stored. Paths are split into directory and name: listing a directory is one range of the
# primary key. A name is unique in the union: a record with hot bytes describes the hot file of the same path.
_SCHEMA = """
CREATE TABLE facts (            -- one row per fact about the catalog itself
    name TEXT PRIMARY KEY,      -- version; store: the bucket and prefix that it belongs to; scanned: first scan was completed
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE records (
    directory BLOB NOT NULL,
    name BLOB NOT NULL,
    ino INTEGER NOT NULL UNIQUE,-- node id; survives release, restore and rename
    residency TEXT NOT NULL,
    mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, size INTEGER NOT NULL,
    atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    misplaced INTEGER NOT NULL, -- 1: renamed since it was archived, the object is still under the old key
    hot_ino INTEGER, hot_size INTEGER, hot_mtime_ns INTEGER, hot_ctime_ns INTEGER, -- identity of the archived hot bytes
    key TEXT, etag TEXT, object_size INTEGER, version_id TEXT, chunk_size INTEGER,
    sha256 BLOB,
    xattrs TEXT,                -- JSON list of [name, value], both base64; NULL for none
    crcs BLOB,                  -- CRC-32 of each chunk, 4 bytes little-endian each
    PRIMARY KEY (directory, name)
) WITHOUT ROWID;
CREATE INDEX records_by_key ON records (key) WHERE key IS NOT NULL;
CREATE INDEX records_by_residency ON records (residency);
CREATE TABLE tombstones (       -- objects that the tree no longer names; deleted later, never shown again
    key TEXT PRIMARY KEY,
    since_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE renames (          -- renames of hot names that carry records: written before, removed after
    source BLOB NOT NULL, target BLOB NOT NULL,
    hot_ino INTEGER NOT NULL,   -- of the source: the rename happened if the target has it
    exchange INTEGER NOT NULL,
    PRIMARY KEY (source, target)
) WITHOUT ROWID;
CREATE TABLE doomed (           -- hot files that a committed rename of a cold file has replaced
    path BLOB PRIMARY KEY,
    hot_ino INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE pins (path BLOB PRIMARY KEY) WITHOUT ROWID;
"""

_COLUMNS = (
    "directory, name, ino, residency, mode, uid, gid, size, atime_ns, mtime_ns, ctime_ns, misplaced,"
    " hot_ino, hot_size, hot_mtime_ns, hot_ctime_ns, key, etag, object_size, version_id, chunk_size, sha256, xattrs, crcs"
)
_PLACES = ", ".join("?" * (_COLUMNS.count(",") + 1))
_WITHOUT_HOT_BYTES = ", ".join(sorted(f"'{residency}'" for residency in WITHOUT_HOT_BYTES))


class Rename(NamedTuple):
    """An intended rename of a hot name that carries records."""

    source: bytes
    target: bytes
    hot_ino: int
    exchange: bool


class Listed(NamedTuple):
    """One cold file in a listing of its directory: all that stat(2) needs, nothing more."""

    name: bytes
    ino: Ino
    attributes: Attributes


class Tally(NamedTuple):
    """How many files there are of one residency, and their bytes."""

    files: int
    bytes: int


class Catalog:
    """The only module that speaks SQL. Not thread-safe but for sync(); methods raise CatalogError.

    INVARIANT: every committed state is one that recovery understands.
    """

    def __init__(self, path: Path, store: str) -> None:
        """Open, or make, the catalog of the tree that is archived in `store` (its URL)."""
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 4000")
            self._prepare(store)
            self._log = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except sqlite3.DatabaseError as error:
            raise CatalogError(f"the catalog {path} cannot be opened: {error}") from error
        os.chmod(path, 0o600)
        self._directories = self._count_directories()

    def close(self) -> None:
        """Checkpoint and close."""
        os.close(self._log)
        self._db.close()

    def sync(self) -> None:
        """Make every commit so far survive a power cut. Blocking; may run in any thread."""
        os.fdatasync(self._log)

    def _prepare(self, store: str) -> None:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        self._db.execute(statement)
                self._db.execute("INSERT INTO facts VALUES ('version', ?), ('store', ?)", (str(VERSION), store))
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        version, known = self.fact("version"), self.fact("store")
        if version != str(VERSION):
            raise CatalogError(f"the catalog {self._path} has version {version}; this tierfs reads version {VERSION}")
        if known != store:
            raise CatalogError(f"the catalog {self._path} belongs to {known}, not to {store}; choose another --state")

    def _count_directories(self) -> dict[bytes, int]:
        rows = self._db.execute("SELECT directory, count(*) FROM records GROUP BY directory")
        return dict(rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            self._directories = self._count_directories()
            raise
        self._db.execute("COMMIT")

    # -- facts ---------------------------------------------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        """A fact about the catalog itself."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def state_fact(self, name: str, value: str) -> None:
        """Record a fact about the catalog itself."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # -- records -------------------------------------------------------------------------------------------------

    def get(self, path: bytes) -> Record | None:
        """The record of the file at `path`."""
        directory, _, name = path.rpartition(b"/")
        if directory not in self._directories:
            return None
        return self._one("directory = ? AND name = ?", (directory, name))

    def get_by_ino(self, ino: Ino) -> Record | None:
        """The record whose file has this node id."""
        return self._one("ino = ?", (ino,))

    def get_by_key(self, key: str) -> Record | None:
        """A record whose bytes are in this object."""
        return self._one("key = ?", (key,))

    def list_cold(self, directory: bytes) -> list[Listed]:
        """The files of a directory that have no hot bytes."""
        if directory not in self._directories:
            return []
        rows = self._db.execute(
            "SELECT name, ino, mode, uid, gid, size, atime_ns, mtime_ns, ctime_ns FROM records"
            f" WHERE directory = ? AND residency IN ({_WITHOUT_HOT_BYTES})",
            (directory,),
        )
        return [Listed(row[0], row[1], Attributes(*row[2:])) for row in rows]

    def has_cold(self, directory: bytes) -> bool:
        """Whether a directory has a file without hot bytes."""
        if directory not in self._directories:
            return False
        query = f"SELECT 1 FROM records WHERE directory = ? AND residency IN ({_WITHOUT_HOT_BYTES}) LIMIT 1"
        return self._db.execute(query, (directory,)).fetchone() is not None

    def records(self, residency: Residency | None = None) -> Iterator[Record]:
        """All records, or those of one residency. Do not change the catalog while iterating."""
        where = "WHERE residency = ?" if residency else ""
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM records {where}", (residency,) if residency else ()):
            yield _record(row)

    def records_below(self, path: bytes) -> list[Record]:
        """The records of all files below a directory."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM records WHERE {_BELOW}", _below(path))
        return [_record(row) for row in rows]

    def has_below(self, path: bytes) -> bool:
        """Whether there is any record below a directory."""
        return self._db.execute(f"SELECT 1 FROM records WHERE {_BELOW} LIMIT 1", _below(path)).fetchone() is not None

    def directories(self) -> list[bytes]:
        """The directories that hold files with records."""
        return list(self._directories)

    def misplaced(self) -> list[Record]:
        """Cold and mirrored files whose object has yet to follow a rename."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM records WHERE misplaced AND residency IN ('cold', 'mirrored')")
        return [_record(row) for row in rows]

    def renumbered(self) -> dict[HotIno, Ino]:
        """The files whose node id is not their inode number in the hot directory."""
        rows = self._db.execute(
            "SELECT hot_ino, ino FROM records WHERE hot_ino IS NOT NULL AND hot_ino != ino"
            f" AND residency NOT IN ({_WITHOUT_HOT_BYTES})"
        )
        return dict(rows)

    def highest_ino(self) -> int:
        """The largest node id in use, 0 for none."""
        (highest,) = self._db.execute("SELECT coalesce(max(ino), 0) FROM records").fetchone()
        return int(highest)

    def tally(self) -> dict[Residency, Tally]:
        """Files and bytes by residency."""
        rows = self._db.execute("SELECT residency, count(*), sum(size) FROM records GROUP BY residency")
        return {Residency(residency): Tally(files, size) for residency, files, size in rows}

    def put(self, record: Record) -> None:
        """Insert or replace the record of a path."""
        with self._transaction():
            self._put(record)

    def put_and_bury(self, record: Record, key: str, now_ns: int) -> None:
        """Replace the record of a path and, in the same commit, give up an object that it named before."""
        with self._transaction():
            self._put(record)
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
        row = self._db.execute(f"SELECT {_COLUMNS} FROM records WHERE {where}", values).fetchone()
        return _record(row) if row else None

    def _put(self, record: Record) -> None:
        self._delete(record.path)
        row = _row(record)
        self._db.execute(f"INSERT INTO records ({_COLUMNS}) VALUES ({_PLACES})", row)
        self._directories[row[0]] = self._directories.get(row[0], 0) + 1

    def _delete(self, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        gone = self._db.execute("DELETE FROM records WHERE directory = ? AND name = ?", (directory, name)).rowcount
        left = self._directories.get(directory, 0) - gone
        if left > 0:
            self._directories[directory] = left
        else:
            self._directories.pop(directory, None)

    def _remove(self, path: bytes, now_ns: int) -> None:
        record = self.get(path)
        if record is None:
            return
        self._delete(path)
        if record.object:
            self._bury(record.object.key, now_ns)

    # -- renames -------------------------------------------------------------------------------------------------

    def intend(self, rename: Rename) -> None:
        """Write down a rename of a hot name before it happens."""
        self._db.execute("INSERT OR REPLACE INTO renames VALUES (?, ?, ?, ?)", rename)

    def intended(self) -> list[Rename]:
        """The renames that were begun and not finished."""
        return [Rename(s, t, ino, bool(x)) for s, t, ino, x in self._db.execute("SELECT * FROM renames")]

    def withdraw(self, rename: Rename) -> None:
        """The rename did not happen."""
        self._db.execute("DELETE FROM renames WHERE source = ? AND target = ?", (rename.source, rename.target))

    def follow(self, rename: Rename, now_ns: int) -> None:
        """The rename happened: move the records of the source, and of all below it, to the target.

        What the target named before goes to the source (exchange) or becomes tombstones.
        """
        with self._transaction():
            self.withdraw(rename)
            moved = self._take(rename.source)
            replaced = self._take(rename.target)
            for record, path in moved:
                self._put(_moved(record, rename.target + path))
            for record, path in replaced:
                if rename.exchange:
                    self._put(_moved(record, rename.source + path))
                elif record.object:
                    self._bury(record.object.key, now_ns)

    def move_cold(self, source: bytes, target: bytes, doomed: HotIno | None, now_ns: int) -> None:
        """Rename a file without hot bytes; `doomed` is the inode of a hot file at the target, to be unlinked next."""
        with self._transaction():
            if doomed is not None:
                self._db.execute("INSERT OR REPLACE INTO doomed VALUES (?, ?)", (target, doomed))
            record = self.get(source)
            if record is None:
                raise CatalogError(f"no record of {os.fsdecode(source)} to rename")
            self._remove(target, now_ns)
            self._delete(source)
            self._put(_moved(record, target))

    def doomed(self) -> list[tuple[bytes, HotIno]]:
        """Hot files that a rename has replaced and that may still be there."""
        return list(self._db.execute("SELECT path, hot_ino FROM doomed"))

    def spare(self, path: bytes) -> None:
        """A doomed hot file is gone."""
        self._db.execute("DELETE FROM doomed WHERE path = ?", (path,))

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
        return [Tombstone(*row) for row in self._db.execute("SELECT key, since_ns FROM tombstones ORDER BY since_ns")]

    def is_buried(self, key: str) -> bool:
        """Whether the tree has given this object up."""
        return self._db.execute("SELECT 1 FROM tombstones WHERE key = ?", (key,)).fetchone() is not None

    def bury(self, key: str, now_ns: int) -> None:
        """Give an object up: it is deleted later."""
        self._bury(key, now_ns)

    def exhume(self, key: str) -> None:
        """The object is gone from the bucket."""
        self._db.execute("DELETE FROM tombstones WHERE key = ?", (key,))

    def _bury(self, key: str, now_ns: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO tombstones VALUES (?, ?)", (key, now_ns))

    # -- pins ----------------------------------------------------------------------------------------------------

    def pins(self) -> set[bytes]:
        """The files and directories that an operator pinned."""
        return {path for (path,) in self._db.execute("SELECT path FROM pins")}

    def pin(self, path: bytes) -> None:
        """Never release what is at or below `path`."""
        self._db.execute("INSERT OR IGNORE INTO pins VALUES (?)", (path,))

    def unpin(self, path: bytes) -> bool:
        """Take a pin away; False if there was none at this very path."""
        return self._db.execute("DELETE FROM pins WHERE path = ?", (path,)).rowcount > 0

    def check_integrity(self) -> list[str]:
        """What SQLite itself finds wrong with the file."""
        return [row for (row,) in self._db.execute("PRAGMA integrity_check") if row != "ok"]


_BELOW = "(directory = ? OR (directory >= ? AND directory < ?))"


def _below(path: bytes) -> tuple[bytes, bytes, bytes]:
    """Values for _BELOW: "0" is the byte after "/". The root has every directory below it."""
    return (path, path + b"/", path + b"0") if path else (b"", b"", b"\xff" * 8)


def _moved(record: Record, path: bytes) -> Record:
    return Record(
        path, record.ino, record.residency, record.attributes, record.object, record.identity, record.object is not None
    )


def _row(record: Record) -> tuple[Any, ...]:
    directory, _, name = record.path.rpartition(b"/")
    a, i, o = record.attributes, record.identity, record.object
    identity = (i.ino, i.size, i.mtime_ns, i.ctime_ns) if i else (None,) * 4
    stored = (o.key, o.etag, o.size, o.version_id, o.chunk_size, o.sha256) if o else (None,) * 6
    xattrs = json.dumps([[b64encode(x).decode() for x in pair] for pair in a.xattrs]) if a.xattrs else None
    return (
        *(directory, name, record.ino, record.residency.value),
        *(a.mode, a.uid, a.gid, a.size, a.atime_ns, a.mtime_ns, a.ctime_ns),
        *(record.misplaced, *identity, *stored, xattrs, o.crcs if o else None),
    )


def _record(row: tuple[Any, ...]) -> Record:
    directory, name, ino, residency, *rest = row
    attributes, misplaced, identity, stored, xattrs, crcs = rest[:7], rest[7], rest[8:12], rest[12:18], *rest[18:20]
    pairs = json.loads(xattrs) if xattrs else ()
    return Record(
        path=directory + b"/" + name if directory else name,
        ino=ino,
        residency=Residency(residency),
        attributes=Attributes(*attributes, tuple((b64decode(k), b64decode(v)) for k, v in pairs)),  # type: ignore[call-arg]
        object=ObjectRef(*stored, crcs) if stored[0] is not None else None,  # type: ignore[call-arg]
        identity=Identity(*identity) if identity[0] is not None else None,
        misplaced=bool(misplaced),
    )
