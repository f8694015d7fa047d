"""What a mount counts: totals since its worker started, those of the cold side over all its cold processes."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

import trio

from tierfs.core.errors import StoreUnavailable
from tierfs.core.histogram import Histogram
from tierfs.core.reports import StoreHealth
from tierfs.core.runway import Runway
from tierfs.engine.coldside import ColdNumbers
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.daemon import Passes
from tierfs.engine.guard import GuardNumbers
from tierfs.engine.inventory import Stock
from tierfs.engine.movements import Movements
from tierfs.engine.observed import NOTHING_SEEN, Observations
from tierfs.engine.reading import HydrateCounters
from tierfs.engine.snapshotter import Snapshots
from tierfs.stores.cache import CacheCounters
from tierfs.stores.cold import StoreCounters

_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class HotDisk:
    """The hot tier's filesystem in bytes: `free` is for who is not root.

    `level` is what the watermarks are compared with: what is used of all of it, or what the tree's files take.
    """

    size: int = 0
    free: int = 0
    level: int = 0
    high: int = 0
    low: int = 0


@dataclass(frozen=True, slots=True)
class Measures:
    """The figures of a mount at one moment; totals since its worker started, sizes in bytes.

    `cold_restarts` is how often the cold process ended and was started again, `take_overs` how often a worker went on
    where another one had ended (since the mount was made), `operation_errors` how often an
    application was told an error that is not the local filesystem's, by the class of the error. `moves` has the three
    ways between the tiers, `queue` what waits. `failing_files` could not be moved when the policy last tried.
    `jobs` are those that run, and those that have ended, by how.
    """

    mountpoint: str
    version: str
    reads: HydrateCounters = field(default_factory=HydrateCounters)
    cold: ColdNumbers = field(default_factory=ColdNumbers)
    cold_restarts: int = 0
    take_overs: int = 0
    cache_limit: int = 0
    operation_errors: Mapping[str, int] = field(default_factory=dict)
    lost_files: int = 0
    guard: GuardNumbers = field(default_factory=GuardNumbers)
    profile: str = "generic"
    stock: Stock = field(default_factory=Stock)
    disk: HotDisk = field(default_factory=HotDisk)
    moves: Mapping[str, Movements] = field(default_factory=dict)
    queue: Mapping[str, int] = field(default_factory=dict)
    failing_files: int = 0
    passes: Passes = field(default_factory=Passes)
    snapshots: Snapshots = field(default_factory=Snapshots)
    seen: Observations = NOTHING_SEEN
    is_passthrough: bool = False
    pids: Mapping[str, int] = field(default_factory=dict)
    runway: Runway | None = None
    jobs: Mapping[str, int] = field(default_factory=dict)

    def warnings(self) -> list[str]:
        """What an operator should know of."""
        lease = self.cold.lease
        held = f"nothing is archived or deleted in the store: {lease.reason}" if lease and lease.reason else ""
        return [*filter(None, (held, self.runway.warning() if self.runway else ""))]

    def as_json(self) -> Mapping[str, object]:
        """The cold side in figures, for `status`."""
        reads, store, cache = self.reads, self.cold.store, self.cold.cache
        return {
            "cold_reads": {
                "reads": reads.reads,
                "bytes_asked": reads.bytes_asked,
                "bytes_fetched": reads.bytes_fetched,
                "gets": reads.gets,
                "waits": _histogram_json(reads.waited),
                "deadline_misses": reads.deadline_misses,
                "retries": reads.retries,
                "corrupt_chunks": reads.corrupt_chunks,
            },
            "cache": {
                "bytes": self.cold.volume,
                "limit_bytes": self.cache_limit,
                "hits": reads.cache_hits,
                "misses": reads.cache_misses,
                "bypassed": cache.bypassed,
                "errors": cache.errors,
            },
            "store_io": {
                "bytes_uploaded": store.bytes_uploaded,
                "bytes_downloaded": store.bytes_downloaded,
                "requests": sum(store.requests.values()),
                "requests_by_operation": store.requests,
                "first_byte": _histogram_json(store.first_byte),
            },
            "breaker": {kind: asdict(health) for kind, health in self.cold.health.items()},
            "lease": asdict(self.cold.lease) if self.cold.lease else None,
            "hot_disk": asdict(self.disk),
            "runway": self.runway.as_json() if self.runway else None,
            **self.guard.as_json(),
            "cold_pid": self.cold.pid,
            "cold_restarts": self.cold_restarts,
        }


class Odometer:
    """The totals of all cold processes of a mount, one after the other.

    INVARIANT: no total ever goes down. What a process counted after it was last asked is lost with it.
    """

    def __init__(self, cold: ColdTier) -> None:
        self._cold = cold
        self._before = ColdNumbers()  # the sum of those that ended
        self._last = ColdNumbers()
        self._asking = trio.Lock()  # answers that overtake each other would go down

    async def run(self) -> None:
        """Ask now and then, until cancelled: a process that is killed has little that nobody knows."""
        while True:
            await self.read()
            await trio.sleep(_PAUSE_S)

    def known(self) -> ColdNumbers:
        """The totals as they were last read: waits for nothing."""
        return sum_of(self._before, self._last)

    async def read(self) -> ColdNumbers:
        """The totals; the last ones while the cold side is being started again."""
        async with self._asking:
            with suppress(StoreUnavailable):
                numbers = await self._cold.numbers()
                if numbers.began_ns != self._last.began_ns:
                    self._before = sum_of(self._before, self._last)
                self._last = numbers
        return self.known()


def sum_of(before: ColdNumbers, now: ColdNumbers) -> ColdNumbers:
    """The totals of both; what is no total is the one of `now`."""
    return replace(
        now,
        store=StoreCounters(
            before.store.bytes_uploaded + now.store.bytes_uploaded,
            before.store.bytes_downloaded + now.store.bytes_downloaded,
            _added(before.store.requests, now.store.requests),
            before.store.first_byte.plus(now.store.first_byte),
            {
                operation: _added(before.store.failures.get(operation, {}), now.store.failures.get(operation, {}))
                for operation in {**before.store.failures, **now.store.failures}
            },
            {
                operation: before.store.answered.get(operation, Histogram()).plus(
                    now.store.answered.get(operation, Histogram())
                )
                for operation in {**before.store.answered, **now.store.answered}
            },
        ),
        cache=CacheCounters(
            before.cache.hits + now.cache.hits,
            before.cache.misses + now.cache.misses,
            before.cache.bypassed + now.cache.bypassed,
            _added(before.cache.errors, now.cache.errors),
        ),
        health={kind: _health_sum(before.health.get(kind), health) for kind, health in now.health.items()},
    )


def _health_sum(before: StoreHealth | None, now: StoreHealth) -> StoreHealth:
    if before is None:
        return now
    return replace(now, opened=before.opened + now.opened, refused=before.refused + now.refused)


def _added(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {name: before.get(name, 0) + now.get(name, 0) for name in {**before, **now}}


def _histogram_json(histogram: Histogram) -> Mapping[str, object]:
    """Durations in seconds; buckets are [upper bound, how many were at most so long], the last one without a bound."""
    buckets = [[None if bound_s == float("inf") else bound_s, count] for bound_s, count in histogram.cumulative()]
    return {
        "count": histogram.count,
        "sum_s": histogram.total_ns / 1e9,
        "p50_s": histogram.quantile_s(0.5),
        "p99_s": histogram.quantile_s(0.99),
        "buckets": buckets,
    }
