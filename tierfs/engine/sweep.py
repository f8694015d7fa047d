"""What the bucket still owes to the tree: objects to delete, objects to move to the key of their file's new name.

Both are facts in the catalog and are carried out until the bucket has done them; it may be down meanwhile. An object is
deleted only after the catalog that gave it up is durable, and never while a handle reads it or an archive writes it.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import trio

from tierfs.core.errors import ObjectChanged, ObjectMissing, StoreError
from tierfs.core.keys import RESERVED, key_of
from tierfs.core.records import Record
from tierfs.engine.tier import Tier
from tierfs.stores.cold import ColdStore, ObjectInfo

log = logging.getLogger(__name__)


class Sweeper:
    """Carries deletions and renames to the bucket.

    INVARIANT: no two requests that change the same key are under way at the same time.
    """

    def __init__(self, tier: Tier, store: ColdStore) -> None:
        self._tier = tier
        self._catalog = tier.catalog
        self._store = store
        self._used: Counter[str] = Counter()
        self._lock = trio.Lock()  # one sweep at a time; archives wait for it only where they need the same key
        self.failures = 0

    @contextmanager
    def using(self, key: str) -> Iterator[None]:
        """Keep the sweep away from a key while something else changes its object."""
        self._used[key] += 1
        try:
            yield
        finally:
            self._used[key] -= 1

    async def clear(self, key: str) -> None:
        """Wait until nothing is left to be deleted under a key that is about to be written. StoreError."""
        if self._catalog.is_buried(key):
            async with self._lock:
                await self._delete([key])

    async def sweep(self) -> None:
        """Delete what was given up and re-key what was renamed; what fails is left for the next sweep."""
        async with self._lock:
            await self._delete([tombstone.key for tombstone in self._catalog.tombstones()])
            for record in self._catalog.misplaced():
                await self._rekey(record)

    async def _delete(self, keys: list[str]) -> None:
        ready = [key for key in keys if self._may_delete(key)]
        if not ready:
            return
        await trio.to_thread.run_sync(self._catalog.sync)
        for key in ready:
            if not self._catalog.is_buried(key) or not self._may_delete(key):
                continue
            with self.using(key):
                await trio.to_thread.run_sync(self._store.delete, key)
                self._catalog.exhume(key)

    def _may_delete(self, key: str) -> bool:
        """Not while it is in use. A key that a file of the tree has again is not to be deleted at all."""
        if self._catalog.get_by_key(key):
            self._catalog.exhume(key)
            return False
        return not self._used[key] and not self._tier.open_files.objects[key]

    async def _rekey(self, record: Record) -> None:
        """Copy an object to the key of its file's name, commit, and give the old one up."""
        stored = record.object
        if stored is None or self._used[stored.key]:
            return
        wanted = key_of(self._tier.prefix, record.path)
        if wanted == stored.key:
            self._catalog.put(replace(record, misplaced=False))
            return
        if self._catalog.is_buried(wanted):
            return
        holder = self._catalog.get_by_key(wanted)
        if holder:
            if not holder.misplaced:
                return
            # Two files that swapped names each hold the other's key: one of them steps aside.
            wanted = f"{self._tier.prefix}{RESERVED}/moving/{uuid.uuid4().hex}"
        try:
            await self._copy(record, wanted)
        except (ObjectMissing, ObjectChanged) as error:
            log.warning("%s cannot follow its file's new name: %s", stored.key, error)
            self._tier.missing(stored)
        except StoreError as error:
            self.failures += 1
            log.warning("%s stays under its old key for now: %s", stored.key, error)

    async def _copy(self, record: Record, wanted: str) -> None:
        stored = record.object
        assert stored is not None
        source = ObjectInfo(stored.key, stored.size, stored.etag, stored.version_id)
        with self.using(stored.key), self.using(wanted):
            info = await trio.to_thread.run_sync(self._store.copy, source, wanted)
        current = self._catalog.get_by_key(stored.key)
        if current is None or current.object != stored or self._catalog.get_by_key(wanted):
            self._catalog.bury(wanted, self._tier.now())
            return
        moved = replace(stored, key=wanted, etag=info.etag, version_id=info.version_id)
        misplaced = wanted != key_of(self._tier.prefix, current.path)
        self._catalog.put_and_bury(replace(current, object=moved, misplaced=misplaced), stored.key, self._tier.now())
