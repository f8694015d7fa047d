"""The catalog's tables, and the translation between rows and records. SQL is text here; stores.catalog runs it."""

import json
import sqlite3
from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any, NamedTuple

from tierfs.core.records import Attributes, Identity, Ino, ObjectRef, Record
from tierfs.core.residency import WITHOUT_HOT_BYTES, Residency

# The reference of what is stored. Paths are split into directory and name: listing a directory is one range of the
# primary key. A name is unique in the union: a record with hot bytes describes the hot file of the same path.
SCHEMA = """
CREATE TABLE facts (            -- one row per fact about the catalog itself
    name TEXT PRIMARY KEY,      -- version; store: bucket and prefix that it belongs to; scanned: there was a first scan
                                -- snapshot: the first one that this catalog led to, or was rebuilt from
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
    restored_ns INTEGER NOT NULL, -- when the hot bytes last came back from the bucket, 0 for never
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

COLUMNS = (
    "directory, name, ino, residency, mode, uid, gid, size, atime_ns, mtime_ns, ctime_ns, misplaced, restored_ns,"
    " hot_ino, hot_size, hot_mtime_ns, hot_ctime_ns, key, etag, object_size, version_id, chunk_size, sha256,"
    " xattrs, crcs"
)
PLACES = ", ".join("?" * (COLUMNS.count(",") + 1))
IS_WITHOUT_HOT_BYTES = f"residency IN ({', '.join(sorted(repr(str(r)) for r in WITHOUT_HOT_BYTES))})"


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


IS_BELOW = "(directory = ? OR (directory >= ? AND directory < ?))"


def below(path: bytes) -> tuple[bytes, bytes, bytes]:
    """Values for IS_BELOW: "0" is the byte after "/". The root has every directory below it."""
    return (path, path + b"/", path + b"0") if path else (b"", b"", b"\xff" * 8)


def renamed(record: Record, path: bytes) -> Record:
    """The record of a file that has got another path; its object keeps the key."""
    return replace(record, path=path, misplaced=record.object is not None)


def row_of(record: Record) -> tuple[Any, ...]:
    """A record as values for COLUMNS."""
    directory, _, name = record.path.rpartition(b"/")
    a, i, o = record.attributes, record.identity, record.object
    identity = (i.ino, i.size, i.mtime_ns, i.ctime_ns) if i else (None,) * 4
    stored = (o.key, o.etag, o.size, o.version_id, o.chunk_size, o.sha256) if o else (None,) * 6
    xattrs = json.dumps([[b64encode(x).decode() for x in pair] for pair in a.xattrs]) if a.xattrs else None
    return (
        *(directory, name, record.ino, record.residency.value),
        *(a.mode, a.uid, a.gid, a.size, a.atime_ns, a.mtime_ns, a.ctime_ns),
        *(record.misplaced, record.restored_ns, *identity, *stored, xattrs, o.crcs if o else None),
    )


def record_of(row: tuple[Any, ...]) -> Record:
    """The record in a row of COLUMNS."""
    directory, name, ino, residency, *rest = row
    attributes, (misplaced, restored_ns), identity, stored = rest[:7], rest[7:9], rest[9:13], rest[13:19]
    xattrs, crcs = rest[19:]
    pairs = json.loads(xattrs) if xattrs else ()
    return Record(
        path=directory + b"/" + name if directory else name,
        ino=ino,
        residency=Residency(residency),
        attributes=Attributes(*attributes, tuple((b64decode(k), b64decode(v)) for k, v in pairs)),  # type: ignore[call-arg]
        object=ObjectRef(*stored, crcs) if stored[0] is not None else None,  # type: ignore[call-arg]
        identity=Identity(*identity) if identity[0] is not None else None,
        misplaced=bool(misplaced),
        restored_ns=restored_ns,
    )


_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: What makes a catalog anew.
REBUILD = "`tierfs rebuild STORE MOUNTPOINT --replace-catalog` makes it anew from the bucket and the hot directory"


def why_failed(error: sqlite3.Error) -> str:
    """What SQLite says, and what to do when it says that the file is damaged."""
    is_damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED  # extended codes are in the higher bits
    return f"{error}; {REBUILD}" if is_damaged else str(error)
