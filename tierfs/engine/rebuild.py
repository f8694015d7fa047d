"""Rebuild: a new catalog from the newest snapshot in the bucket and the objects themselves.

The snapshot says what the tree was when it was taken; what the objects say of themselves is believed where they are
newer. Nothing is deleted: an object that might be needed is shown. The hot directory wins over both, as in recovery.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, TypeGuard

from tierfs.core.errors import IntegrityError
from tierfs.core.keys import key_of
from tierfs.core.records import Fd, Identity, Record, Tombstone
from tierfs.core.reports import Finding
from tierfs.core.residency import Residency
from tierfs.core.snapshot import Entry, Header, HotName, Pin
from tierfs.core.steps import step
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.hotnames import Planter
from tierfs.engine.reconcile import Rebuilt, Reconciler
from tierfs.engine.recover import settle
from tierfs.engine.scan import SCANNED
from tierfs.engine.snapshot import read
from tierfs.engine.snapshotter import SNAPSHOT
from tierfs.engine.tier import Tier
from tierfs.stores.hot import split

_BATCH = 500


class Rebuilder:
    """Fills the empty catalog of `tier`. `tell` gets what an operator should know, `progress` what is being done."""

    def __init__(
        self, tier: Tier, cold: ColdTier, tell: Callable[[Finding], None], progress: Callable[[str, int], None]
    ) -> None:
        self._tier = tier
        self._catalog = tier.catalog
        self._cold = cold
        self._tell = tell
        self._progress = progress
        self._reconciler = Reconciler(tier, cold, tell, progress)
        self._rebuilt = self._reconciler.rebuilt

    async def run(self, spool_directory: Path) -> Rebuilt:
        """Rebuild. The hot directory changes last. StoreError, OSError; CatalogError for a snapshot from the future."""
        with tempfile.TemporaryFile(dir=spool_directory, buffering=0) as spool:
            has_snapshot = await self._fetch_snapshot(spool)
            for entries in _batches(self._read(spool)) if has_snapshot else ():
                self._load(entries)
            await self._reconciler.run()
            with step("rebuild.names"):
                self._show(lambda: self._read(spool) if has_snapshot else iter(()))
        self._catalog.state_fact(SCANNED, "yes")
        self._catalog.sync()
        return self._rebuilt

    # -- the snapshot --------------------------------------------------------------------------------------------

    async def _fetch_snapshot(self, spool: IO[bytes]) -> bool:
        """Bring the newest snapshot that is whole."""
        for info in await self._cold.snapshots(self._tier.prefix):
            self._catalog.state_fact(SNAPSHOT, info.key)
            spool.seek(0)
            spool.truncate()
            self._progress("fetching the snapshot", 0)
            await self._cold.download(Fd(spool.fileno()), info.key)
            try:
                header, *_ = islice(self._read(spool, with_header=True), 1)
                assert isinstance(header, Header)
                for _ in self._read(spool):
                    pass
            except IntegrityError as error:
                remedy = "nothing: the one before it is taken, or the objects alone"
                self._tell(Finding("snapshot-damaged", b"", f"{info.key}: {error}", remedy))
                continue
            self._rebuilt.taken_ns, self._reconciler.modified_ns = header.taken_ns, info.modified_ns
            return True
        return False

    def _read(self, spool: IO[bytes], with_header: bool = False) -> Iterator[Header | Entry]:
        entries = read(spool, self._tier.prefix)
        return entries if with_header else islice(entries, 1, None)

    def _load(self, entries: Iterable[Header | Entry]) -> None:
        records: list[Record] = []
        pins: list[bytes] = []
        for entry in entries:
            if isinstance(entry, Record):
                records.append(self._as_cold(entry))
            elif isinstance(entry, Pin):
                pins.append(entry.path)
            elif isinstance(entry, Tombstone):
                self._catalog.bury(entry.key, entry.since_ns)
        self._catalog.put_all(records)
        self._catalog.change_pins((), pins)
        self._rebuilt.recorded += len(records)
        self._progress("files in the snapshot", self._rebuilt.recorded)

    def _as_cold(self, record: Record) -> Record:
        """A record of the snapshot, of a file that is not hot until the hot directory says so."""
        identity: Identity | None = record.identity
        if record.residency not in (Residency.MIRRORED, Residency.COLD):
            identity = None  # it did not vouch for the object
        ino = self._reconciler.number(record.path)
        if record.residency in (Residency.HOT, Residency.ARCHIVING):
            self._reconciler.stale.add(ino)
        residency = Residency.LOST if record.residency is Residency.LOST else Residency.COLD
        is_misplaced = record.object is not None and record.object.key != key_of(self._tier.prefix, record.path)
        return replace(record, ino=ino, residency=residency, identity=identity, misplaced=is_misplaced)

    # -- the hot directory ---------------------------------------------------------------------------------------

    def _show(self, entries: Callable[[], Iterator[Header | Entry]]) -> None:
        """Make the names that are not there, and let the hot bytes that are there win."""
        planter = Planter(self._tier.hot, self._tell_not_made)
        for name in filter(_is_name, entries()):
            is_taken = self._catalog.get(name.path) or (not stat.S_ISDIR(name.mode) and self._has_below(name.path))
            if not is_taken:
                planter.plant(name)
        for directory in (*self._reconciler.markers, *sorted(self._catalog.directories())):
            self._make_directory(directory)
        settle(self._tier)
        for name in filter(_is_name, entries()):
            planter.finish(name)
        self._rebuilt.names = planter.made
        if planter.refused:
            meaning = f"{planter.refused} owners or attributes of directories and links could not be given back"
            self._tell(Finding("attributes-refused", b"", meaning, "rebuild as root, or set them by hand"))

    def _has_below(self, path: bytes) -> bool:
        return bool(path) and self._catalog.has_below(path)

    def _make_directory(self, path: bytes) -> None:
        """Make the directory of cold files; where a file is in its way, they cannot be shown."""
        try:
            for above in _with_those_above(path):
                if self._catalog.get(above) and self._tier.hot.lstat_or_none(above) is None:
                    raise FileExistsError(errno.EEXIST, f"{os.fsdecode(above)} is a file")
            self._tier.hot.make_directories(path)
        except OSError as error:
            for record in self._catalog.records_below(path):
                self._catalog.drop(record.path)
                meaning = f"it cannot be shown: {error.strerror}; its object stays in the bucket"
                self._tell(Finding("not-shown", record.path, meaning, "move what is in the way, and rebuild again"))

    def _tell_not_made(self, path: bytes, why: str) -> None:
        meaning = f"the snapshot has it, and it could not be made: {why}"
        self._tell(Finding("not-made", path, meaning, "make it by hand"))


def _is_name(entry: Header | Entry) -> TypeGuard[HotName]:
    return isinstance(entry, HotName)


def _with_those_above(path: bytes) -> Iterator[bytes]:
    while path:
        yield path
        path = split(path)[0]


def _batches(entries: Iterator[Header | Entry]) -> Iterator[list[Header | Entry]]:
    while some := list(islice(entries, _BATCH)):
        yield some
