"""When a snapshot of the tree is taken: after a pass of the policy if something changed, now and then, and at the end.

The cold process makes it, from its own view of the catalog and the hot directory, at half of its speed. Never more
often than the setting says, and never for more than a small share of the time: a large tree has snapshots less often.
"""

import logging
from dataclasses import dataclass

import trio

from tierfs import __version__
from tierfs.core.errors import TierfsError
from tierfs.core.records import Tombstone
from tierfs.core.reports import happened
from tierfs.core.steps import step
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.snapshot import Order, Taken
from tierfs.engine.tier import Tier

log = logging.getLogger(__name__)

#: The fact that the bucket has a snapshot that this catalog, or the one that it was rebuilt from, has led to.
SNAPSHOT = "snapshot"

_SHARE = 20  # a snapshot that takes a minute is taken every twenty minutes


@dataclass(frozen=True, slots=True)
class Snapshots:
    """How many were `taken` since the worker began, and `failed`; the newest has `entries` and `bytes`.

    `covered_ns` (since the epoch) is when it was begun, 0 before the first.
    """

    taken: int = 0
    failed: int = 0
    covered_ns: int = 0
    entries: int = 0
    bytes: int = 0


class Snapshotter:
    """Takes snapshots of one tree.

    INVARIANT: an object that the newest snapshot names is not deleted by tierfs: covers() says which may go.
    """

    def __init__(self, tier: Tier, cold: ColdTier) -> None:
        self._tier = tier
        self._cold = cold
        self._interval_s = 0.0 if tier.settings.read_only else tier.settings.snapshot_interval.seconds
        self._next = 0.0
        self._seen: tuple[int, int] | None = None
        self._covered_ns = 0
        self._has_any = tier.catalog.fact(SNAPSHOT) is not None
        self._lock = trio.Lock()
        self.last: Taken | None = None
        self.failure = ""
        self._taken = self._failed = 0

    def covers(self, tombstone: Tombstone) -> bool:
        """Whether no snapshot in the bucket needs this object any more.

        While it is still named by the newest one, that would be a snapshot of a file that is lost. A clock that was
        set back says nothing until the next snapshot.
        """
        if not self._interval_s or tombstone.since_ns < self._covered_ns <= self._tier.now():
            return True
        return not self._has_any

    def counts(self) -> Snapshots:
        """What was counted."""
        entries, size = (self.last.entries, self.last.bytes) if self.last else (0, 0)
        return Snapshots(self._taken, self._failed, self._covered_ns, entries, size)

    def begin(self) -> None:
        """The mount serves from now on: the first snapshot is an interval away."""
        self._next = trio.current_time() + self._interval_s

    async def after_pass(self) -> None:
        """Take a snapshot if it is time, and something has changed; a failure is logged."""
        if self._interval_s and trio.current_time() >= self._next and self._changes() != self._seen:
            await self._try(rest=1.0)

    async def leave(self) -> None:
        """The mount is gone: a last snapshot if anything changed since the one before, as fast as it goes."""
        if self._interval_s and self._changes() != self._seen:
            await self._try(rest=0.0)

    async def take(self, rest: float = 0.0) -> Taken:
        """Take a snapshot now. StoreError, CatalogError, OSError."""
        tier = self._tier
        async with self._lock:
            seen, began_ns = self._changes(), tier.now()
            order = Order(tier.catalog.path, tier.prefix, f"tierfs {__version__}", rest)
            taken = await self._cold.take_snapshot(tier.hot.root, order)
            self._covered_ns, self._seen, self.last = began_ns, seen, taken
            self._taken += 1
            if not self._has_any:
                with step("snapshot.commit"):
                    tier.catalog.state_fact(SNAPSHOT, taken.key)
                self._has_any = True
        if taken.is_new:
            text = "a snapshot of the tree is in the bucket: %s (%d entries)"
            log.info(text, taken.key, taken.entries, extra=happened("snapshot"))
        return taken

    async def _try(self, rest: float) -> None:
        began = trio.current_time()
        try:
            await self.take(rest)
            self.failure = ""
        except (TierfsError, OSError) as error:
            if str(error) != self.failure:
                log.warning("no snapshot of the tree could be taken: %s", error, extra=happened("failure"))
            self.failure = str(error)
            self._failed += 1
        now = trio.current_time()
        self._next = now + max(self._interval_s, (now - began) * _SHARE)

    def _changes(self) -> tuple[int, int]:
        return self._tier.catalog.changes(), self._tier.hot.changes
