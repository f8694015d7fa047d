"""A mount in figures: for `status`, and for metrics."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import trio

from tierfs.core.config import Settings
from tierfs.core.histogram import Histogram
from tierfs.core.quantities import Watermark
from tierfs.core.residency import Residency
from tierfs.engine.archive import Archiver
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.daemon import Daemon
from tierfs.engine.history import History
from tierfs.engine.hydrate import Hydrator
from tierfs.engine.inventory import Inventory, Stock
from tierfs.engine.measures import HotDisk, Measures, Odometer
from tierfs.engine.money import Money
from tierfs.engine.observed import WHERE, Facts, Observations
from tierfs.engine.restore import Restorer
from tierfs.engine.snapshotter import Snapshots, Snapshotter
from tierfs.engine.tier import Tier
from tierfs.engine.tree import Tree

_MOST_FILES = 20  # whose failures are named


@dataclass(frozen=True, slots=True)
class Engine:
    """The parts of a running mount."""

    tree: Tree
    tier: Tier
    cold: ColdTier
    hydrator: Hydrator
    archiver: Archiver
    restorer: Restorer
    daemon: Daemon
    settings: Settings
    #: Told each path that changed without an application's doing.
    changed: Callable[[bytes], None] = lambda _path: None
    snapshotter: Snapshotter | None = None


class Figures:
    """Counts one mount. `observe` asks the mount what it saw."""

    def __init__(self, engine: Engine, facts: Facts, observe: Callable[[], Observations]) -> None:
        self.engine = engine
        self.facts = facts
        self.observe = observe
        self.odometer = Odometer(engine.cold)
        moving = engine.tier, engine.archiver, engine.restorer
        self.history = History(*moving, self.odometer, Path(facts.state_directory))
        self.money = Money(engine.tier, engine.daemon, self.odometer, self.history, facts.store)
        self.inventory = Inventory(engine.tier, engine.daemon, engine.restorer.restores, engine.archiver.releases)

    async def keep_up(self) -> None:
        """Look at the cold process's totals now and then, which should outlive it, and at the hot tier."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.odometer.run)
            nursery.start_soon(self.history.run)
            nursery.start_soon(self.inventory.run, self.engine.settings.policy_interval.seconds)

    async def cached_bytes(self) -> int:
        """What the chunk cache takes on its disk."""
        return (await self.odometer.read()).volume

    async def status(self, is_quick: bool = False) -> Mapping[str, object]:
        """The mount for a person; `is_quick`: who looks every few seconds. CatalogError."""
        e, facts, seen = self.engine, self.facts, self.observe()
        stock = await (self.inventory.last() if is_quick else self.inventory.count())
        passes, measured = e.daemon.passes, await self._measured(stock, seen)
        return {
            **{name: getattr(facts, name) for name in WHERE},
            "api": seen.api,
            **{tier: one._asdict() for tier, one in stock.tiers.items()},
            "as_of_ns": stock.as_of_ns,
            "lost": stock.lost._asdict(),
            **measured.as_json(),
            "queue": {name: length for name, length in measured.queue.items() if name != "planned"},
            "errors": {
                "reads": seen.read_errors,
                "policy": passes.failed,
                "files": {os.fsdecode(path): why for path, (_, _, why) in list(e.tier.failures.items())[:_MOST_FILES]},
            },
            "policy": {"last_pass_ns": passes.last_ns, "next_pass_ns": passes.next_ns, "planned": passes.planned},
            "passthrough": facts.passthrough,
            "read_only": e.settings.read_only,
            "version": facts.version,
            "warnings": [*seen.warnings, *measured.warnings(), *filter(None, [passes.waiting])],
            "fuse": {
                "requests": seen.requests,
                "opens": seen.opens,
                "open_files": seen.open_files,
                "backing_ids": seen.backing_ids,
                "known_nodes": seen.known_nodes,
            },
            "succession": asdict(seen.succession),
            "worker_pid": facts.worker_pid,
            "supervisor_pid": facts.supervisor_pid,
        }

    async def measure(self) -> Measures:
        """The mount for a scraper: quickly, however many files there are. CatalogError."""
        return await self._measured(await self.inventory.glance(), self.observe())

    async def _measured(self, stock: Stock, seen: Observations) -> Measures:
        e, facts = self.engine, self.facts
        cold, counters = await self.odometer.read(), e.hydrator.counters
        return Measures(
            mountpoint=facts.mountpoint,
            version=facts.version,
            reads=replace(counters, waited=counters.waited.plus(Histogram())),
            cold=cold,
            cold_restarts=seen.cold_restarts,
            take_overs=seen.succession.take_overs,
            cache_limit=int(e.settings.cache_size),
            operation_errors=seen.errors,
            lost_files=e.tier.catalog.count(Residency.LOST),
            guard=e.hydrator.guard.numbers(),
            profile=e.settings.profile,
            stock=stock,
            disk=self._disk(stock.held),
            moves={
                "archive": replace(e.archiver.archives),
                "release": replace(e.archiver.releases),
                "restore": replace(e.restorer.restores),
            },
            queue={
                "archiving": len(e.archiver.active),
                "restoring": e.restorer.active(),
                "deletions": stock.deletions,
                "moves": stock.moves,
                "planned": e.daemon.waiting_files,
            },
            failing_files=len(e.tier.failures),
            passes=replace(e.daemon.passes),
            snapshots=e.snapshotter.counts() if e.snapshotter else Snapshots(),
            seen=seen,
            is_passthrough=facts.passthrough == "on",
            runway=self.history.runway(cold),
            pids={"worker": facts.worker_pid, "supervisor": facts.supervisor_pid, "cold": cold.pid},
        )

    def _disk(self, held: int) -> HotDisk:
        """The hot tier's filesystem, and what the watermarks are compared with."""
        found, settings = self.engine.tier.hot.statvfs(), self.engine.settings
        size, used = found.f_blocks * found.f_frsize, (found.f_blocks - found.f_bfree) * found.f_frsize

        def mark_bytes(mark: Watermark) -> int:
            return int(size * mark.amount / 100) if mark.is_percent else int(mark.amount)

        return HotDisk(
            size=size,
            free=found.f_bavail * found.f_frsize,
            level=used if settings.high_watermark.is_percent else held,
            high=mark_bytes(settings.high_watermark),
            low=mark_bytes(settings.low_watermark),
        )
