"""Rebuild: a new catalog from the newest snapshot in the bucket and the objects themselves.

The snapshot says what the tree was when it was taken; what the objects say of themselves is believed where they are
newer. Nothing is deleted: an object that might be needed is shown. The hot directory wins over both, as in recovery.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TypeGuard

import trio

from tierfs.core.errors import IntegrityError, ObjectMissing
from tierfs.core.keys import Named, is_reserved, key_of, path_of
from tierfs.core.records import Attributes, Fd, Identity, Ino, ObjectRef, Record, Tombstone
from tierfs.core.reports import Finding
from tierfs.core.residency import Residency
from tierfs.core.snapshot import Entry, Header, HotName, Pin
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.hotnames import Planter
from tierfs.engine.recover import settle
from tierfs.engine.scan import SCANNED, attributes_of
from tierfs.engine.snapshot import read
from tierfs.engine.snapshotter import SNAPSHOT
from tierfs.engine.tier import Tier
from tierfs.stores.cold import ObjectInfo
from tierfs.stores.hot import split

_BATCH = 500
_HEADS = 32
#: An object that was there so long before a snapshot came into the bucket was there when it was begun. Nanoseconds.
_LONGEST_SNAPSHOT_NS = 3600 * 10**9
#: LastModified of S3 has no fractions.
_CLOCK_STEP_NS = 2 * 10**9


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild found. `taken_ns`: when its snapshot was taken, 0 without one.

    Files: `recorded` in the snapshot, `newer` archived again since then, `added` that it did not know, `lost` without
    an object. `names`: directories, symlinks and the like that were made.
    """

    taken_ns: int = 0
    recorded: int = 0
    newer: int = 0
    added: int = 0
    lost: int = 0
    names: int = 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object as it describes itself; `archived_ns` by the clock of the host that archived it, 0 if not known."""

    info: ObjectInfo
    attributes: Attributes
    stored: ObjectRef
    is_ours: bool
    archived_ns: int
    has_all_xattrs: bool


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
        self._modified_ns: int | None = None  # when the snapshot came into the bucket, by the clock of the store
        self._met: set[Ino] = set()  # records whose object was listed
        self._stale: set[Ino] = set()  # files that were hot, and newer than their object, in the snapshot
        self._others: dict[bytes, _Seen] = {}  # objects whose path belongs to a record with another object
        self._markers: list[bytes] = []
        self.rebuilt = Rebuilt()

    async def run(self, spool_directory: Path) -> Rebuilt:
        """Rebuild. The hot directory changes last. StoreError, OSError; CatalogError for a snapshot from the future."""
        with tempfile.TemporaryFile(dir=spool_directory) as spool:
            has_snapshot = await self._fetch_snapshot(spool)
            for entries in _batches(self._read(spool)) if has_snapshot else ():
                self._load(entries)
            await self._reconcile()
            self._settle_others()
            self._mark_lost()
            self._show(lambda: self._read(spool) if has_snapshot else iter(()))
        self._catalog.state_fact(SCANNED, "yes")
        self._catalog.sync()
        return self.rebuilt

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
            self.rebuilt.taken_ns, self._modified_ns = header.taken_ns, info.modified_ns
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
        self.rebuilt.recorded += len(records)
        self._progress("files in the snapshot", self.rebuilt.recorded)

    def _as_cold(self, record: Record) -> Record:
        """A record of the snapshot, of a file that is not hot until the hot directory says so."""
        identity: Identity | None = record.identity
        if record.residency not in (Residency.MIRRORED, Residency.COLD):
            identity = None  # it did not vouch for the object
        ino = self._number(record.path)
        if record.residency in (Residency.HOT, Residency.ARCHIVING):
            self._stale.add(ino)
        residency = Residency.LOST if record.residency is Residency.LOST else Residency.COLD
        is_misplaced = record.object is not None and record.object.key != key_of(self._tier.prefix, record.path)
        return replace(record, ino=ino, residency=residency, identity=identity, misplaced=is_misplaced)

    def _number(self, path: bytes) -> Ino:
        st = self._tier.hot.lstat_or_none(path)
        if st is None or st.st_nlink > 1:
            return self._tier.numbers.new()
        return self._tier.numbers.of(st)

    # -- the objects ---------------------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        """Compare with what is in the bucket; objects that the snapshot cannot know, or knows otherwise, are asked."""
        limit, count = trio.CapacityLimiter(_HEADS), 0
        async with aclosing(self._cold.objects(self._tier.prefix)) as listing:
            async for batch in listing:
                async with trio.open_nursery() as nursery:
                    for info in batch:
                        count += 1
                        if is_reserved(self._tier.prefix, info.key) or info.key == self._tier.prefix:
                            continue
                        record = self._catalog.get_by_key(info.key)
                        if record and self._is_known(record, info):
                            self._met.add(record.ino)
                            continue
                        await limit.acquire_on_behalf_of(info.key)
                        nursery.start_soon(self._ask, info.key, limit)
                self._progress("objects in the bucket", count)

    def _is_known(self, record: Record, info: ObjectInfo) -> bool:
        """Whether the snapshot has the last word: the same object, from before the snapshot was begun."""
        is_before = self._modified_ns is not None and info.modified_ns < self._modified_ns - _LONGEST_SNAPSHOT_NS
        return is_before and record.object is not None and _is(record.object, info)

    async def _ask(self, key: str, limit: trio.CapacityLimiter) -> None:
        try:
            self._judge(self._look(await self._cold.head(key)))
        except ObjectMissing:
            pass
        finally:
            limit.release_on_behalf_of(key)

    def _look(self, info: ObjectInfo) -> _Seen:
        root = os.fstat(self._tier.hot.root)
        attributes, sha256 = attributes_of(info, (root.st_uid, root.st_gid))
        stored = ObjectRef(info.key, info.etag, info.size, info.version_id, sha256=sha256)
        archived = info.metadata.get("tierfs-archived-ns", "")
        return _Seen(
            info,
            attributes,
            stored,
            is_ours=bool(sha256),
            archived_ns=int(archived) if sha256 and archived.isascii() and archived.isdigit() else 0,
            has_all_xattrs="tierfs-xattrs-omitted" not in info.metadata,
        )

    def _judge(self, seen: _Seen) -> None:
        record = self._catalog.get_by_key(seen.info.key)
        if record is None or record.object is None:
            self._unknown(seen)
        elif _is(record.object, seen.info):
            self._met.add(record.ino)
            if seen.archived_ns > record.attributes.ctime_ns:
                attributes = replace(seen.attributes, xattrs=self._xattrs(record.path, record, seen))
                self._catalog.put(replace(record, attributes=attributes))
                self._stale.discard(record.ino)
        elif record.misplaced:
            # Another file has got this key since; the renamed one has its object elsewhere, or nowhere.
            self._catalog.put(replace(record, object=None, identity=None, misplaced=False))
            self._unknown(seen)
        elif not record.object.etag and seen.archived_ns <= self.rebuilt.taken_ns:
            self._met.add(record.ino)  # lost, and the object was known not to be what was lost
        else:
            self._newer(record, seen)

    def _newer(self, record: Record, seen: _Seen) -> None:
        """The file was archived again after the snapshot."""
        attributes = replace(seen.attributes, xattrs=self._xattrs(record.path, record, seen))
        if not seen.is_ours:
            size, then_ns = seen.info.size, seen.info.modified_ns
            attributes = replace(record.attributes, size=size, mtime_ns=then_ns, ctime_ns=then_ns)
        self._met.add(record.ino)
        self._stale.discard(record.ino)
        self.rebuilt.newer += 1
        changed = replace(record, residency=Residency.COLD, attributes=attributes, object=seen.stored, identity=None)
        self._catalog.put(replace(changed, restored_ns=0))

    def _xattrs(self, path: bytes, known: Record | None, seen: _Seen) -> tuple[tuple[bytes, bytes], ...]:
        """Extended attributes that do not fit into an object's metadata are those of the snapshot, if it has any."""
        if seen.has_all_xattrs:
            return seen.attributes.xattrs
        found = "they are those of the snapshot" if known else "the snapshot does not have them"
        meaning = f"its extended attributes did not fit into its object: {found}"
        self._tell(Finding("xattrs-older", path, meaning, "set them again"))
        return known.attributes.xattrs if known else ()

    def _unknown(self, seen: _Seen) -> None:
        """An object that the snapshot does not name."""
        key = seen.info.key
        tombstone = self._catalog.tombstone(key)
        if tombstone and self._is_older(seen, tombstone):
            return
        named = path_of(self._tier.prefix, key)
        if not isinstance(named, Named):
            self._tell(Finding("object-unnameable", b"", f"the key {key!r} {named.reason}", "rename the object"))
        elif named.is_directory:
            self._markers.append(named.path)
        elif self._catalog.get(named.path):
            self._others[named.path] = seen
        else:
            self._adopt(named.path, seen)

    def _is_older(self, seen: _Seen, tombstone: Tombstone) -> bool:
        """Whether this is the object that was given up, and not another one, archived or moved here later."""
        was_there = self._modified_ns is not None and seen.info.modified_ns < self._modified_ns - _CLOCK_STEP_NS
        return was_there and seen.archived_ns <= tombstone.since_ns

    def _adopt(self, path: bytes, seen: _Seen) -> None:
        ino = self._number(path)
        self._catalog.exhume(seen.info.key)
        attributes = replace(seen.attributes, xattrs=self._xattrs(path, None, seen))
        self._catalog.put(Record(path, ino, Residency.COLD, attributes, seen.stored))
        self._met.add(ino)
        self.rebuilt.added += 1

    def _settle_others(self) -> None:
        """Two objects for one file: renamed, and on the way to the key of its new name when the snapshot was taken."""
        for path, seen in self._others.items():
            record = self._catalog.get(path)
            if record is None:
                self._adopt(path, seen)
            elif record.ino not in self._met:
                self._catalog.exhume(seen.info.key)
                self._newer(replace(record, misplaced=False), seen)
            elif record.object and seen.stored.sha256 and seen.stored.sha256 == record.object.sha256:
                self._catalog.bury(seen.info.key, self._tier.now())  # the copy: it is made once more
            else:
                meaning = f"the object {seen.info.key} is not shown: the file has another one"
                self._tell(Finding("object-unknown", path, meaning, "compare them, and remove one"))

    def _mark_lost(self) -> None:
        """What the bucket does not have is lost, unless the hot directory has it."""
        for page in self._catalog.pages():
            for record in page:
                has_hot_bytes = self._tier.hot.lstat_or_none(record.path) is not None
                if record.ino not in self._met:
                    self._catalog.put(replace(record, residency=Residency.LOST, identity=None))
                elif record.residency is Residency.LOST and record.object and record.object.etag:
                    self._catalog.put(replace(record, residency=Residency.COLD))
                if not has_hot_bytes:
                    self._tell_what_is_gone(record)

    def _tell_what_is_gone(self, record: Record) -> None:
        if record.ino not in self._met:
            self.rebuilt.lost += 1
            meaning = "the snapshot has this file, and the bucket does not have its object"
            self._tell(Finding("lost", record.path, meaning, "bring the object back, or remove the file"))
        elif record.ino in self._stale:
            meaning = "the file was hot and newer when the snapshot was taken: the bucket has the version before that"
            self._tell(Finding("older-version", record.path, meaning, "nothing, or take it from a backup"))

    # -- the hot directory ---------------------------------------------------------------------------------------

    def _show(self, entries: Callable[[], Iterator[Header | Entry]]) -> None:
        """Make the names that are not there, and let the hot bytes that are there win."""
        planter = Planter(self._tier.hot, self._tell_not_made)
        for name in filter(_is_name, entries()):
            is_taken = self._catalog.get(name.path) or (not stat.S_ISDIR(name.mode) and self._has_below(name.path))
            if not is_taken:
                planter.plant(name)
        for directory in (*self._markers, *sorted(self._catalog.directories())):
            self._make_directory(directory)
        settle(self._tier)
        for name in filter(_is_name, entries()):
            planter.finish(name)
        self.rebuilt.names = planter.made
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


def _is(stored: ObjectRef, info: ObjectInfo) -> bool:
    return (stored.etag, stored.size) == (info.etag, info.size)


def _with_those_above(path: bytes) -> Iterator[bytes]:
    while path:
        yield path
        path = split(path)[0]


def _batches(entries: Iterator[Header | Entry]) -> Iterator[list[Header | Entry]]:
    while some := list(islice(entries, _BATCH)):
        yield some
