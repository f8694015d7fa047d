"""Snapshots of the tree in the bucket: taken, kept in two generations, brought back. Blocking functions.

A snapshot is written to a nameless file in the state directory first, a few lines at a time, and is then one object
with a key of its own: it is there whole, or not at all, and the ones before it are deleted after that. What it says is
described in core.snapshot.
"""

import gzip
import hashlib
import logging
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO

from tierfs.core.errors import IntegrityError, StoreError, StoreRefused
from tierfs.core.records import Fd, Record
from tierfs.core.residency import Residency
from tierfs.core.snapshot import (
    Entry,
    Footer,
    Header,
    Pin,
    footer_line,
    header_line,
    key_of_snapshot,
    line_of,
    parse_header,
    parse_line,
    snapshots_of,
    taken_at,
)
from tierfs.core.steps import step
from tierfs.engine.hotnames import names
from tierfs.stores.catalog_view import CatalogView
from tierfs.stores.cold import ColdStore, ObjectInfo
from tierfs.stores.hot import HotTier

log = logging.getLogger(__name__)

_GENERATIONS = 2
_LINES_AT_ONCE = 200
_LEVEL = 1  # most of a snapshot are digests, which no level makes smaller
_LONGEST_LINE = 64 << 20  # bytes: the CRC-32s of the chunks of 5 TiB, and attributes
_DIGEST = "tierfs-snapshot-sha256"


@dataclass(frozen=True, slots=True)
class Order:
    """What a snapshot is made of: the catalog, the prefix of the keys, and which tierfs takes it.

    `rest` is how long to pause after work, as a share of its duration: 1 is half of a processor.
    """

    catalog: Path
    prefix: str
    by: str
    rest: float = 1.0


@dataclass(frozen=True, slots=True)
class Taken:
    """The newest snapshot: its key and size, its lines. `is_new`: it differs from the one before, and was uploaded."""

    key: str
    bytes: int
    entries: int
    is_new: bool


class _FileSource:
    """A cold.Source over an open file."""

    def __init__(self, fd: int) -> None:
        self.size = os.fstat(fd).st_size
        self._fd = fd

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)


def take(store: ColdStore, root: Fd, order: Order, stop: threading.Event) -> Taken:
    """Put a snapshot of the tree into the bucket, unless the newest one there says the same.

    StoreError, CatalogError, OSError; StoreRefused when `stop` is set.
    """
    with tempfile.TemporaryFile(dir=order.catalog.parent) as spool:
        known = newest_first(store, order.prefix)
        newest_ns = max((taken_at(order.prefix, info.key) or 0 for info in known), default=0)
        taken_ns = max(time.time_ns(), newest_ns + 1)
        footer = _write(spool, Header(taken_ns, order.by), _entries(root, order), order, stop)
        if known and store.head(known[0].key).metadata.get(_DIGEST) == footer.sha256:
            return Taken(known[0].key, known[0].size, footer.count, is_new=False)
        key = key_of_snapshot(order.prefix, taken_ns)
        with step("snapshot.put"):
            info = store.put(key, _FileSource(spool.fileno()), {_DIGEST: footer.sha256}, lambda _size: _check(stop))
    for old in known[_GENERATIONS - 1 :]:
        try:
            with step("snapshot.forget"):
                store.delete(old.key)
        except StoreError as error:
            log.warning("an old snapshot stays in the bucket: %s", error)
    return Taken(key, info.size, footer.count, is_new=True)


def newest_first(store: ColdStore, prefix: str) -> list[ObjectInfo]:
    """The snapshots that are in the bucket. StoreError."""
    found = [info for info in store.list(snapshots_of(prefix)) if taken_at(prefix, info.key) is not None]
    return sorted(found, key=lambda info: info.key, reverse=True)


def download(store: ColdStore, key: str, target: Fd) -> None:
    """Bring an object into an open, empty file. StoreError, OSError."""
    info = store.head(key)
    with open(target, "wb", closefd=False) as file:
        for block in store.get(key, 0, info.size, info.etag, info.version_id):
            file.write(block)


def read(file: IO[bytes], prefix: str) -> Iterator[Header | Entry]:
    """The header, then the entries of a snapshot, from the beginning of a seekable file.

    IntegrityError when it is damaged: at the latest at its end, so read it through before you believe it. CatalogError
    for a format of another version.
    """
    file.seek(0)
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as lines:
            yield parse_header(lines.readline(_LONGEST_LINE))
            digest, count = hashlib.sha256(), 0
            while line := lines.readline(_LONGEST_LINE):
                entry = parse_line(line, prefix)
                if isinstance(entry, Footer):
                    if (entry.count, entry.sha256) != (count, digest.hexdigest()):
                        raise IntegrityError("the snapshot does not have the checksum that it names")
                    if lines.read(1):  # gzip's own checksum, which is at the end, covers the header too
                        raise IntegrityError("the snapshot goes on after its end")
                    return
                digest.update(line)
                count += 1
                yield entry
    except (OSError, EOFError, zlib.error) as error:  # what gzip raises
        raise IntegrityError(f"the snapshot is damaged: {error}") from None
    raise IntegrityError("the snapshot has no end")


def _write(spool: IO[bytes], header: Header, entries: Iterator[Entry], order: Order, stop: threading.Event) -> Footer:
    digest, count = hashlib.sha256(), 0
    with gzip.GzipFile(fileobj=spool, mode="wb", compresslevel=_LEVEL, filename="", mtime=0) as packed:
        packed.write(header_line(header))
        for lines in _paced((line_of(entry, order.prefix) for entry in entries), order.rest, stop):
            block = b"".join(lines)
            digest.update(block)
            count += len(lines)
            packed.write(block)
        footer = Footer(count, digest.hexdigest())
        packed.write(footer_line(footer))
    spool.flush()
    return footer


def _paced(lines: Iterator[bytes], rest: float, stop: threading.Event) -> Iterator[list[bytes]]:
    """Some lines at a time, with pauses: others want this interpreter too."""
    while True:
        began = time.monotonic()
        some = list(islice(lines, _LINES_AT_ONCE))
        if not some:
            return
        yield some
        _check(stop)
        if rest:
            stop.wait((time.monotonic() - began) * rest)


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise StoreRefused("the snapshot was interrupted")


def _entries(root: Fd, order: Order) -> Iterator[Entry]:
    """The catalog as it is at one moment, and the names of the hot directory as they are met."""
    with closing(CatalogView(order.catalog)) as view, closing(HotTier(root)) as hot:
        records = filter(_has_object, view.records())
        yield from chain(names(hot), map(Pin, view.pins()), view.tombstones(), records)


def _has_object(record: Record) -> bool:
    """Whether a rebuild can know anything of the file. One that is HOT may have an older version in the bucket."""
    is_known = record.object is not None and bool(record.object.etag)
    return is_known or record.residency is Residency.LOST
