"""How many files are in which tier, and their bytes: quickly, however many there are, and with its age.

The catalog knows those that have records. Of the others only the hot directory knows: to look at all of it takes
seconds where there are many files, and every pass of the policy does it anyway.
"""

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field

import trio

from tierfs.core.errors import TierfsError
from tierfs.core.policy import matches
from tierfs.core.residency import WITHOUT_HOT_BYTES, Residency
from tierfs.engine.daemon import Daemon
from tierfs.engine.look import Look, Stopwatch
from tierfs.engine.movements import Movements
from tierfs.engine.tier import Tier
from tierfs.stores.catalog_rows import Tally
from tierfs.stores.catalog_view import CatalogView

#: Who asks for `status` may wait for a look that takes so much of the processor, in nanoseconds: a thousand files.
_MOST_FOR_STATUS_NS = 100_000_000
#: A scrape comes every few seconds, and nobody is to feel it.
_MOST_FOR_SCRAPES_NS = 10_000_000
#: However many ask so often: looks for them take no more of the time than one part in so many, but for the smallest.
_SHARE_OF_LOOKS, _SMALLEST_NS = 200, 2_000_000
#: Where summing up the catalog takes longer than this, scrapes do not wait for it: it is done every few seconds, and
#: never for more than a twentieth of the time.
_QUICK_NS, _PAUSE_S, _SHARE = 10_000_000, 5.0, 20
#: The first look of a mount whose policy does not look is so far away at most, in seconds.
_FIRST_S = 10.0
_NONE = Tally(0, 0)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the catalog knows: files and bytes by residency; objects to be deleted, and to follow a rename."""

    tally: Mapping[Residency, Tally] = field(default_factory=dict)
    deletions: int = 0
    moves: int = 0

    def sum_of(self, *residencies: Residency) -> Tally:
        """Files and bytes of these residencies."""
        found = [self.tally[residency] for residency in residencies if residency in self.tally]
        return Tally(sum(one.files for one in found), sum(one.bytes for one in found))


@dataclass(frozen=True, slots=True)
class Stock:
    """Files and their bytes by tier; `as_of_ns` (since the epoch) is when all hot files were last looked at.

    Until the first look there is no hot, and warm is what the catalog says. `lost` are some of the cold. `held` is what
    hot and warm files take on the disk. `deletions` and `moves` are objects that are still to be deleted, or to follow
    a rename.
    """

    tiers: Mapping[str, Tally] = field(default_factory=dict)
    lost: Tally = _NONE
    held: int = 0
    as_of_ns: int = 0
    deletions: int = 0
    moves: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether all tiers were counted."""
        return bool(self.as_of_ns)


class Inventory:
    """Counts the files of one mount.

    A small tree is counted whenever somebody asks. Of a large one the last look is kept up by what tierfs has moved
    since; hot files that came, went and grew are known with the next look, `as_of_ns` later.
    """

    def __init__(self, tier: Tier, daemon: Daemon, restores: Movements, releases: Movements) -> None:
        self._tier = tier
        self._daemon = daemon
        self._restores, self._releases = restores, releases
        daemon.brought = self._brought
        self._summing = trio.Lock()
        self._looking = trio.Lock()
        self._recorded = Recorded()
        self._as_of_change: int | None = None
        self._cost_ns = 0  # what that took of the processor

    async def run(self, interval_s: float) -> None:
        """Keep up what takes too long to be found out when somebody asks, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_reading)
            nursery.start_soon(self._keep_looking, interval_s)

    async def _keep_looking(self, interval_s: float) -> None:
        """Look at all hot files now and then where the policy does not."""
        await trio.sleep(min(interval_s, _FIRST_S))
        while True:
            look = self._daemon.look
            if look is None or (self._is_costly(look) and self._tier.now() - look.at_ns > 2e9 * interval_s):
                with suppress(TierfsError, OSError):  # who asks is told
                    await self._daemon.look_at_all()
            await trio.sleep(interval_s)

    async def _keep_reading(self) -> None:
        """Read the catalog now and then where that takes a while."""
        while True:
            if not self._is_read_quickly():
                with suppress(TierfsError):  # who asks is told
                    await self._read()
            await trio.sleep(max(_PAUSE_S, self._cost_ns / 1e9 * _SHARE))

    async def count(self) -> Stock:
        """For a person: as it is now where that takes a moment, or where nobody has looked yet. CatalogError."""
        recorded = await self._read()
        async with self._looking:  # two at the same time would take twice as long
            look = self._daemon.look
            if look is None or look.cpu_ns <= _MOST_FOR_STATUS_NS:
                await self._daemon.look_at_all()
                return self._fresh(recorded)
        return self._kept_up(recorded, look)

    async def glance(self) -> Stock:
        """For a scrape: as count(), within milliseconds, whatever is not known then. CatalogError."""
        recorded = await self._read() if self._is_read_quickly() else self._recorded
        look = self._daemon.look
        if look is None:
            return self._unknown(recorded)
        if self._is_costly(look) or self._is_young(look):
            return self._kept_up(recorded, look)
        await self._daemon.look_at_all()
        return self._fresh(recorded)

    async def last(self) -> Stock:
        """For a person who asks every few seconds: as glance(), but complete. CatalogError."""
        found = await self.glance()
        return found if found.is_complete else await self.count()

    @staticmethod
    def _is_costly(look: Look) -> bool:
        return look.cpu_ns > _MOST_FOR_SCRAPES_NS

    def _is_young(self, look: Look) -> bool:
        return look.cpu_ns > _SMALLEST_NS and self._tier.now() - look.at_ns < _SHARE_OF_LOOKS * look.cpu_ns

    def _brought(self) -> tuple[int, int]:
        restores, releases = self._restores, self._releases
        return restores.done - releases.done, restores.bytes - releases.bytes

    # -- the catalog ---------------------------------------------------------------------------------------------

    def _is_read_quickly(self) -> bool:
        """Whether the catalog may be read while somebody waits; also where nobody knows yet."""
        return self._cost_ns <= _QUICK_NS

    async def _read(self) -> Recorded:
        """What the catalog says, summed up in a thread: that is a look at all records."""
        async with self._summing:
            changes = self._tier.catalog.changes()
            if changes != self._as_of_change:
                self._recorded, self._cost_ns = await trio.to_thread.run_sync(self._sum_up)
                self._as_of_change = changes
            return self._recorded

    def _sum_up(self) -> tuple[Recorded, int]:
        """What the catalog says, and what that took of the processor, in nanoseconds."""
        spent = Stopwatch()
        with closing(CatalogView(self._tier.catalog.path)) as view:
            tally, is_misplaced = view.tally_by_residency()
            misplaced = view.misplaced() if is_misplaced else ()
            moves = sum(not matches(path, self._tier.settings.transient) for path in misplaced)
            recorded = Recorded(tally, view.count_tombstones(), moves)
        spent.pause()
        return recorded, spent.spent_ns

    # -- both ----------------------------------------------------------------------------------------------------

    def _fresh(self, recorded: Recorded) -> Stock:
        """All of it by the look that was made just now."""
        look = self._daemon.look
        assert look
        warm = Tally(look.warm_files, look.warm_bytes)
        hot = Tally(look.files - look.warm_files, look.bytes - look.warm_bytes)
        return _stock(recorded, {"hot": hot, "warm": warm}, look.held, look.at_ns)

    def _kept_up(self, recorded: Recorded, look: Look) -> Stock:
        """An older look, and what has been moved since."""
        now = self._brought()
        files, size = now[0] - look.brought[0], now[1] - look.brought[1]
        warm = recorded.sum_of(Residency.MIRRORED)
        hot = Tally(max(0, look.files + files - warm.files), max(0, look.bytes + size - warm.bytes))
        return _stock(recorded, {"hot": hot, "warm": warm}, max(0, look.held + size), look.at_ns)

    def _unknown(self, recorded: Recorded) -> Stock:
        """What the catalog knows without a look."""
        return _stock(recorded, {"warm": recorded.sum_of(Residency.MIRRORED)}, 0, 0)


def _stock(recorded: Recorded, near: Mapping[str, Tally], held: int, at_ns: int) -> Stock:
    return Stock(
        tiers={**near, "cold": recorded.sum_of(*WITHOUT_HOT_BYTES)},
        lost=recorded.sum_of(Residency.LOST),
        held=held,
        as_of_ns=at_ns,
        deletions=recorded.deletions,
        moves=recorded.moves,
    )
