"""The objects of a bucket against the records of a snapshot, for a rebuild: whichever is newer is believed.

Nothing is deleted on suspicion: an object that may be the only one of a file is shown, under a made-up name if need be.
"""

import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import trio

from tierfs.core.errors import ObjectMissing, StoreError
from tierfs.core.keys import Named, is_reserved, key_of, path_of
from tierfs.core.records import Attributes, Ino, ObjectRef, Record, Tombstone
from tierfs.core.reports import Finding
from tierfs.core.residency import Residency
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.scan import attributes_of
from tierfs.engine.tier import Tier
from tierfs.stores.cold import ObjectInfo
from tierfs.stores.hot import join, split

_HEADS = 32
_ROOM_FOR_NAME = 240  # bytes: names end at 255
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


class Reconciler:
    """Makes the catalog agree with the bucket. `tell` gets what an operator should know, `progress` how far it is.

    `taken_ns` of `rebuilt` is set, and so is `modified_ns`, when the snapshot came into the bucket by the clock of the
    store; None without one.
    """

    def __init__(
        self, tier: Tier, cold: ColdTier, tell: Callable[[Finding], None], progress: Callable[[str, int], None]
    ) -> None:
        self._tier = tier
        self._catalog = tier.catalog
        self._cold = cold
        self._tell = tell
        self._progress = progress
        self._failures: list[StoreError] = []
        self._met: set[Ino] = set()  # records whose object was listed
        self._given_up: set[Ino] = set()  # files that tierfs has removed, or archived elsewhere, since the snapshot
        self._others: dict[bytes, _Seen] = {}  # objects whose path belongs to a record with another object
        self.modified_ns: int | None = None
        self.stale: set[Ino] = set()  # files that were hot, and newer than their object, in the snapshot
        self.markers: list[bytes] = []  # directories of which there is an object
        self.rebuilt = Rebuilt()

    async def run(self) -> None:
        """Compare everything. StoreError."""
        await self._reconcile()
        self._settle_others()
        self._mark_lost()

    def number(self, path: bytes) -> Ino:
        """The node id that the file at a path is to have."""
        st = self._tier.hot.lstat_or_none(path)
        if st is None or st.st_nlink > 1:
            return self._tier.numbers.new()
        return self._tier.numbers.of(st)

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
                if self._failures:
                    raise self._failures[0]
                self._progress("objects in the bucket", count)

    def _is_known(self, record: Record, info: ObjectInfo) -> bool:
        """Whether the snapshot has the last word: the same object, from before the snapshot was begun."""
        is_before = self.modified_ns is not None and info.modified_ns < self.modified_ns - _LONGEST_SNAPSHOT_NS
        return is_before and record.object is not None and _is(record.object, info)

    async def _ask(self, key: str, limit: trio.CapacityLimiter) -> None:
        try:
            self._judge(self._look(await self._cold.head(key)))
        except ObjectMissing:
            pass
        except StoreError as error:
            self._failures.append(error)
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
            self._catalog.put(replace(record, attributes=self._merged(record, seen)))
            if seen.archived_ns > self.rebuilt.taken_ns:
                self.stale.discard(record.ino)
        elif record.misplaced:
            # Another file has this key. If tierfs archived it, the one that had it was removed, or moved before.
            if seen.archived_ns > self.rebuilt.taken_ns:
                self._given_up.add(record.ino)
            self._catalog.put(replace(record, object=None, identity=None, misplaced=False))
            self._unknown(seen)
        elif not record.object.etag and seen.archived_ns <= self.rebuilt.taken_ns:
            self._met.add(record.ino)  # lost, and the object was known not to be what was lost
        else:
            self._newer(record, seen)

    def _newer(self, record: Record, seen: _Seen) -> None:
        """The file was archived again after the snapshot."""
        attributes = self._merged(record, seen)
        if not seen.is_ours:
            size, then_ns = seen.info.size, seen.info.modified_ns
            attributes = replace(record.attributes, size=size, mtime_ns=then_ns, ctime_ns=then_ns)
        self._met.add(record.ino)
        self.stale.discard(record.ino)
        self.rebuilt.newer += 1
        changed = replace(record, residency=Residency.COLD, attributes=attributes, object=seen.stored, identity=None)
        self._catalog.put(replace(changed, restored_ns=0))

    def _merged(self, record: Record, seen: _Seen) -> Attributes:
        """The attributes of a file of which record and object both know something: those that changed last."""
        if seen.archived_ns <= record.attributes.ctime_ns and seen.info.size == record.attributes.size:
            return record.attributes
        return replace(seen.attributes, xattrs=self._xattrs(record.path, record, seen))

    def _xattrs(self, path: bytes, known: Record | None, seen: _Seen) -> tuple[tuple[bytes, bytes], ...]:
        """Extended attributes that do not fit into an object's metadata are those of the snapshot, if it has any."""
        if seen.has_all_xattrs:
            return seen.attributes.xattrs
        if known and seen.archived_ns <= self.rebuilt.taken_ns:
            return known.attributes.xattrs
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
            self.markers.append(named.path)
        elif self._catalog.get(named.path):
            self._others[named.path] = seen
        else:
            self._adopt(named.path, seen)

    def _is_older(self, seen: _Seen, tombstone: Tombstone) -> bool:
        """Whether this is the object that was given up, and not another one, archived or moved here later."""
        was_there = self.modified_ns is not None and seen.info.modified_ns < self.modified_ns - _CLOCK_STEP_NS
        return was_there and seen.archived_ns <= tombstone.since_ns

    def _adopt(self, path: bytes, seen: _Seen) -> None:
        ino = self.number(path)
        self._catalog.exhume(seen.info.key)
        attributes = replace(seen.attributes, xattrs=self._xattrs(path, None, seen))
        self._catalog.put(Record(path, ino, Residency.COLD, attributes, seen.stored))
        self._met.add(ino)
        self.rebuilt.added += 1

    def _settle_others(self) -> None:
        """Two objects for one file: it was renamed, and replaced, or moved to the key of its new name."""
        nameless: list[tuple[Attributes, ObjectRef]] = []
        for path, seen in self._others.items():
            record = self._catalog.get(path)
            if record is None:
                self._adopt(path, seen)
                continue
            is_met, known = record.ino in self._met, record.object
            if is_met and known and seen.stored.sha256 and seen.stored.sha256 == known.sha256:
                self._catalog.bury(seen.info.key, self._tier.now())  # a copy: it is made once more
            elif not is_met or seen.archived_ns > record.attributes.ctime_ns:
                self._catalog.exhume(seen.info.key)
                self._newer(replace(record, misplaced=False), seen)
                nameless += [(record.attributes, known)] if is_met and known else []
            else:
                nameless.append((seen.attributes, seen.stored))
        for attributes, stored in nameless:
            self._name(attributes, stored)

    def _name(self, attributes: Attributes, stored: ObjectRef) -> None:
        """Show an object whose file has another one now: it may be the only one of a file that was renamed since."""
        named = path_of(self._tier.prefix, stored.key)
        wanted = path = named.path if isinstance(named, Named) else b"unnamed"
        number = 0
        while self._catalog.get(path) or self._tier.hot.lstat_or_none(path):
            number += 1
            directory, name = split(wanted)
            path = join(directory, b"%s.rebuilt-%d" % (name[:_ROOM_FOR_NAME], number))
        ino = self._tier.numbers.new()
        self._catalog.exhume(stored.key)
        is_misplaced = stored.key != key_of(self._tier.prefix, path)
        self._catalog.put(Record(path, ino, Residency.COLD, attributes, stored, misplaced=is_misplaced))
        self._met.add(ino)
        self.rebuilt.added += 1
        if number:
            meaning = f"the object {stored.key} belongs to a file whose name is not known: it is shown under this one"
            self._tell(Finding("name-unknown", path, meaning, "rename it, or remove it"))

    def _mark_lost(self) -> None:
        """What the bucket does not have is lost, unless the hot directory has it."""
        for page in self._catalog.pages():
            for record in page:
                has_hot_bytes = self._tier.hot.lstat_or_none(record.path) is not None
                if record.ino in self._given_up and record.ino not in self._met:
                    self._catalog.drop(record.path)
                    self.rebuilt.recorded -= 1
                    continue
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
        elif record.ino in self.stale:
            meaning = "the file was hot and newer when the snapshot was taken: the bucket has the version before that"
            self._tell(Finding("older-version", record.path, meaning, "nothing, or take it from a backup"))


def _is(stored: ObjectRef, info: ObjectInfo) -> bool:
    return (stored.etag, stored.size) == (info.etag, info.size)
