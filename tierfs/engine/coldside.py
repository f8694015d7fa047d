"""The cold side: the store, the chunk cache, and what carries bytes between them, as blocking calls.

Knows neither trio nor the catalog, so that it runs as well in a process of its own (engine.coldprocess) as in threads:
what it does must not be felt by who answers the kernel. What goes in and out are records, indices and places in the
shared memory, where the bytes themselves are put.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from tierfs.core.errors import StoreUnavailable
from tierfs.core.extents import Item, runs
from tierfs.core.records import Attributes, Fd, ObjectRef
from tierfs.core.reports import LeaseReport, StoreHealth
from tierfs.core.steps import step
from tierfs.engine import scrub, snapshot, transfer, upload
from tierfs.engine.arena import Place
from tierfs.engine.throttle import Throttle
from tierfs.stores.cache import CacheCounters, ChunkCache
from tierfs.stores.catalog_view import CatalogView
from tierfs.stores.cold import ColdStore, Deleted, ObjectInfo, StoreCounters
from tierfs.stores.lease import LeaseKeeper

_LISTED_AT_ONCE = 1000

#: Calls of the cache alone: they are quick, and must not queue behind those that wait for the network.
OF_THE_CACHE = frozenset({"load", "evict", "cached_bytes", "cached_files", "mark_used"})


class Job:
    """What connects a call with who made it: what it tells goes there; `stop` is set when nobody waits any more."""

    def __init__(self, tell: Callable[[Any], None]) -> None:
        self.tell = tell
        self.stop = threading.Event()


@dataclass(frozen=True, slots=True)
class ColdNumbers:
    """Totals of process `pid` since its start; `volume` is what the cache takes on its disk, in bytes.

    `began_ns` tells processes apart: when this one began, on the host's monotonic clock.
    """

    pid: int = 0
    began_ns: int = 0
    store: StoreCounters = field(default_factory=StoreCounters)
    health: Mapping[str, StoreHealth] = field(default_factory=dict)
    cache: CacheCounters = field(default_factory=CacheCounters)
    volume: int = 0
    lease: LeaseReport | None = None


class ColdSide:
    """Every method is one call: blocking, from any thread, with its Job first. StoreError."""

    def __init__(
        self,
        store: ColdStore,
        cache: ChunkCache,
        memory: memoryview,
        health: Callable[[], Mapping[str, StoreHealth]] = dict,
        keeper: LeaseKeeper | None = None,
    ) -> None:
        self._keeper = keeper
        self._store = store
        self._health = health
        self._cache = cache
        self._memory = memory
        self._listings: dict[int, Iterator[ObjectInfo]] = {}
        self._numbers = count(os.getpid() << 32)  # never one of a process before
        self._began_ns = time.monotonic_ns()
        self._throttle, self._uploads = Throttle(), Throttle()

    # -- chunks --------------------------------------------------------------------------------------------------

    def load(self, job: Job, item: Item, places: dict[int, Place]) -> None:
        """Bring those chunks that the cache has to their places; tells the index of each."""
        transfer.load(self._cache, item, self._targets(places), _while_wanted(job))

    def fetch(self, job: Job, item: Item, places: dict[int, Place], is_kept: bool) -> None:
        """Bring contiguous chunks from the store; tells the index of each. See transfer.fetch."""
        cache = self._cache if is_kept else None
        transfer.fetch(self._store, cache, item, self._targets(places), _while_wanted(job))

    def bring(self, job: Job, item: Item, places: dict[int, Place]) -> None:
        """Bring contiguous chunks: those that the cache has from there, the others from the store, to be kept.

        Tells (index, whether the cache had it) of each: one call where load() and fetch() would be two, one after the
        other.
        """
        wanted = _while_wanted(job)
        targets = self._targets(places)
        missing = dict(targets)

        def found(index: int) -> bool:
            del missing[index]
            return wanted((index, True))

        transfer.load(self._cache, item, targets, found)
        for run in runs(sorted(missing), len(missing)):
            if not job.stop.is_set():
                fetched = {index: missing[index] for index in run}
                transfer.fetch(self._store, self._cache, item, fetched, lambda index: wanted((index, False)))

    def evict(self, job: Job, ref: ObjectRef | None) -> int:
        """Drop the chunks of one object, or of all, from the cache; returns how many there were."""
        return self._cache.evict_all() if ref is None else self._cache.evict_object(ref)

    def cached_bytes(self, job: Job, ref: ObjectRef) -> int:
        """How many bytes of an object the cache has."""
        return self._cache.cached_bytes(ref)

    def cached_files(self, job: Job, item: Item, most: int) -> dict[int, str]:
        """In which files the cache has chunks of an object, by index; at most so many."""
        return self._cache.files(item.ref, item.chunk_size, most)

    def mark_used(self, job: Job, item: Item, indices: set[int]) -> None:
        """Chunks were read from their files."""
        self._cache.used(item.ref, item.chunk_size, indices)

    def numbers(self, job: Job) -> ColdNumbers:
        """The totals."""
        store, cache = self._store.counters, self._cache
        lease = self._keeper.report() if self._keeper else None
        return ColdNumbers(os.getpid(), self._began_ns, store, self._health(), cache.counters, cache.volume(), lease)

    # -- objects -------------------------------------------------------------------------------------------------

    def put(
        self, job: Job, fd: Fd, key: str, attributes: Attributes, chunk_size: int, bytes_per_second: int
    ) -> ObjectRef:
        """Make the bytes of an open file an object, and verify it. NotEligible when they change or the job is ended.

        All uploads together send no more than `bytes_per_second`, on average; 0: no limit.
        """
        with step("archive.sync_bytes"):  # a power cut must not leave an object without the bytes that it was made of
            os.fsync(fd)
        with step("archive.upload"):
            limits = upload.Limits(
                job.stop, lambda size: self._uploads.spend(size, bytes_per_second, job.stop), job.tell
            )
            return upload.upload(self._store, fd, key, attributes, chunk_size, limits)

    def sha256(self, job: Job, fd: Fd, size: int) -> bytes:
        """The SHA-256 of an open file. NotEligible when it is shorter than `size`, or the job is ended."""
        return upload.sha256_of(fd, size, job.stop)

    def head(self, job: Job, key: str) -> ObjectInfo:
        """See ColdStore."""
        return self._store.head(key)

    def confirm(self, job: Job, key: str) -> ObjectInfo:
        """head(), for who is about to rely on the object alone. NoLease when another mount may take it away."""
        if self._keeper:
            self._keeper.check()
        return self._store.head(key)

    def copy(self, job: Job, source: ObjectInfo, key: str) -> ObjectInfo:
        """See ColdStore."""
        return self._store.copy(source, key)

    def delete(self, job: Job, key: str) -> None:
        """See ColdStore."""
        self._store.delete(key)

    def delete_many(self, job: Job, keys: Sequence[str]) -> Deleted:
        """See ColdStore."""
        return self._store.delete_many(keys)

    def list_open(self, job: Job, prefix: str) -> int:
        """Begin a listing of all objects whose key begins with `prefix`; returns its number."""
        number = next(self._numbers)
        self._listings[number] = iter(self._store.list(prefix))
        return number

    def list_more(self, job: Job, listing: int) -> list[ObjectInfo]:
        """The next objects of a listing, none at its end. StoreUnavailable when another process began it."""
        if listing not in self._listings:
            raise StoreUnavailable("the listing was interrupted: the process that talks to the store was started again")
        return list(islice(self._listings[listing], _LISTED_AT_ONCE))

    def list_close(self, job: Job, listing: int) -> None:
        """Forget a listing."""
        self._listings.pop(listing, None)

    def take_lease(self, job: Job, is_forced: bool) -> LeaseReport | None:
        """Ask for the lease of the prefix, and keep it from here on; None for who writes nothing. See LeaseKeeper."""
        return self._keeper.claim(is_forced) if self._keeper else None

    def tidy(self, job: Job) -> None:
        """See ColdStore."""
        self._store.tidy()

    def probe(self, job: Job) -> tuple[str, ...]:
        """See ColdStore."""
        return self._store.probe()

    # -- snapshots, and what check asks ---------------------------------------------------------------------------

    def take_snapshot(self, job: Job, root: Fd, order: snapshot.Order) -> snapshot.Taken:
        """Put a snapshot of the tree whose hot directory is `root` into the bucket. See snapshot.take."""
        return snapshot.take(self._store, root, order, job.stop)

    def snapshots(self, job: Job, prefix: str) -> list[ObjectInfo]:
        """The snapshots in the bucket, the newest first."""
        return snapshot.newest_first(self._store, prefix)

    def download(self, job: Job, target: Fd, key: str) -> None:
        """Bring an object into an open, empty file."""
        snapshot.download(self._store, key, target)

    def verify(self, job: Job, ref: ObjectRef, bytes_per_second: int) -> None:
        """Read an object back and compare it with its record, at no more than so many bytes per second in all."""
        scrub.verify(self._store, ref, lambda size: self._throttle.spend(size, bytes_per_second, job.stop), job.stop)

    def inspect_catalog(self, job: Job, path: Path) -> list[str]:
        """What SQLite finds wrong with the catalog. CatalogError when it cannot even be opened."""
        with closing(CatalogView(path)) as view:
            return view.check_integrity()

    def inspect_cache(self, job: Job, is_deep: bool, is_repaired: bool) -> int:
        """How many chunks of the cache are not what they should be; they are dropped if that is wanted."""
        damaged = self._cache.damaged(is_deep)
        if is_repaired:
            self._cache.drop(damaged)
        return len(damaged)

    def keep_lease(self, is_kept: bool) -> None:
        """Whether another process goes on with the lease when this one ends."""
        if self._keeper:
            self._keeper.is_kept = is_kept

    def close(self) -> None:
        """Close store and cache; the lease is given back first, since the next mount waits for it."""
        self._store.close()
        self._cache.close()

    def _targets(self, places: dict[int, Place]) -> dict[int, memoryview]:
        return {index: self._memory[start : start + size] for index, (start, size) in places.items()}


def _while_wanted(job: Job) -> Callable[[object], bool]:
    def tell(event: object) -> bool:
        job.tell(event)
        return not job.stop.is_set()

    return tell
