"""What the bucket still owes to the tree: objects to delete, objects to move to the key of their file's new name.

Both are facts in the catalog and are carried out until the bucket has done them; it may be down meanwhile. An object is
deleted only after the catalog that gave it up is durable and the newest snapshot does not name it any more, and never
while a handle reads it or an archive writes it. An object is moved by a copy, whose key is a tombstone until the commit
that names it: a crash leaves nothing behind.
"""

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from enum import Enum, auto
from itertools import count, islice

import trio

from tierfs.core.errors import BucketMissing, ObjectMissing, StoreError, StoreUnavailable, TierfsError
from tierfs.core.keys import RESERVED, Named, key_of, path_of
from tierfs.core.policy import matches
from tierfs.core.records import ObjectRef, Record, Tombstone
from tierfs.core.residency import Residency
from tierfs.core.steps import step
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.tier import Tier
from tierfs.stores.cold import Deleted, ObjectInfo

log = logging.getLogger(__name__)

_DELETES_AT_ONCE = 1000  # S3's own limit of DeleteObjects
_LOOKS_AT_ONCE = 100  # keys that the loop looks at before it serves others
_LOOKS_FOR_LOST = 100  # objects that are looked for in one sweep


class _Place(Enum):
    """The key that a misplaced object should have."""

    REACHED = auto()  # it is there
    FREE = auto()
    AWAITED = auto()  # another misplaced object is there
    BUSY = auto()  # not now


class Sweeper:
    """Carries deletions and renames to the bucket.

    INVARIANT: no two requests that change the same key are under way at the same time.
    """

    def __init__(self, tier: Tier, cold: ColdTier) -> None:
        self._tier = tier
        self._catalog = tier.catalog
        self._cold = cold
        self._used: dict[str, trio.Event] = {}
        self._lock = trio.Lock()  # one sweep at a time
        self._deletes_at_once = _DELETES_AT_ONCE
        #: Keys that failed, by the order in which they did: they go last, as a sweep ends where the bucket seems down.
        self._troubled: dict[str, int] = {}
        self._wanted: set[str] = set()  # keys that files are to be archived under, and others may have
        self._troubles = count(1)
        #: Whether an object may be deleted or overwritten, as far as snapshots go.
        self.covers: Callable[[Tombstone], bool] = lambda _tombstone: True

    @asynccontextmanager
    async def using(self, key: str) -> AsyncIterator[None]:
        """Have a key for oneself, for as long as its object is being changed."""
        while key in self._used:
            await self._used[key].wait()
        self._used[key] = event = trio.Event()
        try:
            yield
        finally:
            del self._used[key]
            event.set()

    async def clear(self, key: str) -> None:
        """Delete what is still to be deleted under a key that the caller is using and about to write. StoreError.

        A file whose name does not last may still have the key: the next sweep takes it from that.
        """
        if self._catalog.get_by_key(key):
            self._wanted.add(key)
        if self._catalog.is_buried(key) and not self._tier.open_files.objects[key]:
            await self._sync_deletions()
            await self._delete(key)

    async def sweep(self) -> None:
        """Do what can be done now; what fails is left for the next sweep. TierfsError: the first failure."""
        async with self._lock:
            failures = await self._delete_all()
            failures += await self._move_all()
            failures += await self._look_for_lost()
            failures += await self._tidy()
        if failures:
            raise failures[0]

    async def _tidy(self) -> list[TierfsError]:
        try:
            await self._cold.tidy()
        except StoreError as error:
            return [error]
        return []

    # -- deletions -----------------------------------------------------------------------------------------------

    async def _delete_all(self) -> list[TierfsError]:
        keys = [tombstone.key for tombstone in self._catalog.tombstones() if self.covers(tombstone)]
        keys.sort(key=self._trouble_of)
        failures: list[TierfsError] = []
        if keys:
            await self._sync_deletions()
        while keys and not _is_down(failures):
            some, keys = keys[: self._deletes_at_once], keys[self._deletes_at_once :]
            with self._using_free(some) as free:
                try:
                    failures += await self._delete_some(free)
                    self._deletes_at_once = min(2 * self._deletes_at_once, _DELETES_AT_ONCE)
                except TierfsError as error:
                    self._deletes_at_once = max(1, self._deletes_at_once // 2)  # one key may be what fails all
                    self._failed(free)
                    failures.append(error)
        return failures

    @contextmanager
    def _using_free(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """Have those of the keys for oneself that nobody uses now."""
        free = [key for key in keys if key not in self._used]
        self._used.update((key, trio.Event()) for key in free)
        try:
            yield free
        finally:
            for key in free:
                self._used.pop(key).set()

    async def _delete_some(self, keys: Sequence[str]) -> list[TierfsError]:
        """Delete objects with one call, of keys that are used by the caller; why some could not be. StoreError."""
        wanted: list[str] = []
        for index, key in enumerate(keys):
            if index % _LOOKS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            if self._may_delete(key):
                wanted.append(key)
        if not wanted:
            return []
        absent = [key for key in wanted if self._is_below_object(key) and await self._is_absent(key)]
        deleted = Deleted(())
        if present := [key for key in wanted if key not in absent]:
            with step("delete.object"):
                deleted = await self._cold.delete_many(present)
        gone = [*absent, *deleted.gone]
        for first in range(0, len(gone), _LOOKS_AT_ONCE):
            with step("delete.commit"):
                self._catalog.exhume(*gone[first : first + _LOOKS_AT_ONCE])
            self._say_deleted(*gone[first : first + _LOOKS_AT_ONCE])
            await trio.lowlevel.checkpoint()
        for key in gone:
            self._troubled.pop(key, None)
        self._failed(deleted.failures)
        return list(deleted.failures.values())

    def _failed(self, keys: Iterable[str]) -> None:
        self._troubled.update((key, next(self._troubles)) for key in keys)

    def _trouble_of(self, key: str) -> int:
        return self._troubled.get(key, 0)

    async def _sync_deletions(self) -> None:
        """What is to be deleted is given up for good."""
        with step("delete.sync_catalog"):
            await trio.to_thread.run_sync(self._catalog.sync)

    def _may_delete(self, key: str) -> bool:
        """Not while it is in use. A key that a file of the tree has again is not to be deleted at all."""
        if self._catalog.get_by_key(key):
            self._catalog.exhume(key)
        return self._catalog.is_buried(key) and not self._tier.open_files.objects[key]

    async def _delete(self, key: str) -> None:
        """Delete the object of a key that is used by the caller. It was buried before the last sync."""
        if not (self._is_below_object(key) and await self._is_absent(key)):
            with step("delete.object"):
                await self._cold.delete(key)
        with step("delete.commit"):
            self._catalog.exhume(key)
        self._say_deleted(key)
        self._troubled.pop(key, None)

    def _say_deleted(self, *keys: str) -> None:
        for key in keys:
            self._tier.events.record("deletion", self._path_of(key), reason="its object was deleted")

    def _path_of(self, key: str) -> bytes:
        named = path_of(self._tier.prefix, key)
        return named.path if isinstance(named, Named) else b""

    def _is_below_object(self, key: str) -> bool:
        """Whether an object that is still needed has the name of a directory in this key.

        Where keys are paths of files (rclone), the deletion of one that is not there takes such an object away: empty
        directories above a key are removed, whatever they are.
        """
        parts, in_use = key.split("/"), self._tier.open_files.objects
        above = ["/".join(parts[:end]) for end in range(1, len(parts))]
        return any(in_use[one] or self._catalog.get_by_key(one) for one in above)

    async def _is_absent(self, key: str) -> bool:
        """Whether there is no such object. StoreError."""
        try:
            await self._cold.head(key)
        except ObjectMissing:
            return True
        return False

    # -- renames -------------------------------------------------------------------------------------------------

    async def _move_all(self) -> list[TierfsError]:
        """Move each misplaced object, in an order in which keys become free; a circle is broken by stepping aside."""
        misplaced = sorted(self._to_move(), key=lambda one: self._trouble_of(one.object.key if one.object else ""))
        waiting = {record.path: record for record in misplaced}
        failures: list[TierfsError] = []
        turned_away = 0
        while waiting and not _is_down(failures):
            record = waiting.pop(next(iter(waiting)))
            place, wanted = self._place_of(record, waiting)
            if place is _Place.AWAITED and turned_away > len(waiting):
                if _is_aside(record.object):
                    continue
                place, wanted = _Place.FREE, f"{self._tier.prefix}{RESERVED}/moving/{uuid.uuid4().hex}"
            if place is _Place.REACHED:
                with step("move.reached"):
                    self._catalog.put(replace(record, misplaced=False))
            elif place is _Place.AWAITED:
                waiting[record.path] = record
                turned_away += 1
            elif place is _Place.FREE:
                turned_away = 0
                try:
                    moved = await self._move(record, wanted)
                    if moved and moved.misplaced:
                        waiting[moved.path] = moved
                except StoreError as error:
                    self._failed([record.object.key] if record.object else ())
                    failures.append(error)
        return failures

    def _to_move(self) -> list[Record]:
        """The misplaced objects, but those of files whose names do not last, unless another file wants the key.

        They would be copied only to be deleted.
        """
        misplaced, transient = self._catalog.misplaced(), self._tier.settings.transient
        lasting = [record for record in misplaced if not matches(record.path, transient)]
        wanted = self._wanted.union(key_of(self._tier.prefix, record.path) for record in lasting)
        self._wanted.clear()  # who still wants one says so again
        kept = {record.path for record in lasting}
        others = [record for record in misplaced if record.path not in kept]
        return lasting + [record for record in others if record.object and record.object.key in wanted]

    def _place_of(self, record: Record, waiting: Mapping[bytes, Record]) -> tuple[_Place, str]:
        wanted = key_of(self._tier.prefix, record.path)
        stored = record.object
        in_use = self._tier.open_files.objects
        if stored is None or self._catalog.get(record.path) != record or in_use[stored.key] or stored.key in self._used:
            return _Place.BUSY, wanted
        if wanted == stored.key:
            return _Place.REACHED, wanted
        holder, buried = self._catalog.get_by_key(wanted), self._catalog.tombstone(wanted)
        if in_use[wanted] or wanted in self._used or (buried and not self.covers(buried)):
            return _Place.BUSY, wanted
        if holder and holder.residency is not Residency.HOT:
            return (_Place.AWAITED if holder.path in waiting else _Place.BUSY), wanted
        return _Place.FREE, wanted

    async def _move(self, record: Record, wanted: str) -> Record | None:
        """Copy an object to another key, commit, and give the old one up; what became of the record. StoreError."""
        stored = record.object
        assert stored is not None
        source = ObjectInfo(stored.key, stored.size, stored.etag, stored.version_id)
        async with self.using(stored.key), self.using(wanted):
            self._claim(wanted)
            with step("move.sync_catalog"):
                await trio.to_thread.run_sync(self._catalog.sync)
            try:
                with step("move.copy"):
                    info = await self._cold.copy(source, wanted)
            except ObjectMissing:
                self._tier.missing(stored)
                raise
            return self._moved(stored, replace(stored, key=wanted, etag=info.etag, version_id=info.version_id))

    def _claim(self, key: str) -> None:
        """A key is about to be written: bury it, so that a crash leaves nothing, and take it from a HOT file."""
        holder = self._catalog.get_by_key(key)
        if holder:  # an older version of a file that is HOT now
            with step("move.take_key"):
                self._catalog.put(replace(holder, object=None, misplaced=False))
        with step("move.bury"):
            self._catalog.bury(key, self._tier.now())

    def _moved(self, stored: ObjectRef, copied: ObjectRef) -> Record | None:
        """An object has a copy under another key: name that one, unless the file has changed or is being read."""
        record = self._catalog.get_by_key(stored.key)
        if record is None or record.object != stored or self._tier.open_files.objects[stored.key]:
            return None
        misplaced = copied.key != key_of(self._tier.prefix, record.path)
        moved = replace(record, object=copied, misplaced=misplaced)
        with step("move.commit"):
            self._catalog.put_and_bury(moved, stored.key, self._tier.now())
        if not _is_aside(copied):
            reason = f"its object followed its name, from {stored.key}"
            self._tier.events.record("move", record.path, reason=reason, size=record.attributes.size)
        self._troubled.pop(stored.key, None)
        return moved

    # -- lost objects --------------------------------------------------------------------------------------------

    async def _look_for_lost(self) -> list[TierfsError]:
        """LOST heals when the object is there again, as it was."""
        for record in list(islice(self._catalog.records(Residency.LOST), _LOOKS_FOR_LOST)):
            if record.object and record.object.etag:
                try:
                    info = await self._cold.head(record.object.key)
                except ObjectMissing:
                    continue
                except StoreError as error:
                    return [error]
                if _is_same(info, record.object):
                    self._tier.found(record.path, record.object)
        return []


def _is_same(info: ObjectInfo, stored: ObjectRef) -> bool:
    return (info.etag, info.size) == (stored.etag, stored.size)


def _is_down(failures: list[TierfsError]) -> bool:
    """Whether the next request would only wait for a bucket that is not there."""
    return any(isinstance(error, StoreUnavailable | BucketMissing) for error in failures)


def _is_aside(stored: ObjectRef | None) -> bool:
    return stored is not None and f"{RESERVED}/moving/" in stored.key
