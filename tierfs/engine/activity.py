"""What goes on right now: totals to make rates from, what moves, which files are used most, how the tiers filled.

It is asked for every second, by several: nothing here walks a directory or waits for a disk or the store, and what may
be much is looked at a little at a time, while the loop serves others.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice

import trio

from tierfs.core.errors import TierfsError
from tierfs.core.fill import FillSample
from tierfs.core.histogram import Histogram
from tierfs.core.hottest import Hottest, busiest
from tierfs.core.records import Ino
from tierfs.core.residency import WITHOUT_HOT_BYTES
from tierfs.core.secrets import masked
from tierfs.engine.coldside import ColdNumbers
from tierfs.engine.figures import Figures
from tierfs.engine.movements import Movement
from tierfs.engine.observed import Observations, Sight
from tierfs.stores.cold import StoreCounters

_PAUSE_S = 5.0
_PATIENCE_S = 1.0
#: Latencies are those since the oldest of so many marks: of the last two minutes.
_MARKS, _MARK_EACH_S = 12, 10.0
_FILL_EACH_NS = 60 * 10**9
_MOST_FILES = 20
_MOST_ERRORS = 20
_MOST_TRANSFERS = 100
_AT_ONCE = 500  # counts that are looked at before the loop serves others: a tenth of a millisecond
_WORST = ("open", "half-open")  # states of a circuit; else it is closed

_UNSEEN = (
    "hot files are passed through to the kernel: what is read and written of them is not seen here; grown_hot says how "
    "much more the hot tier's filesystem holds"
)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Durations as they were at one moment, on trio's clock."""

    at_s: float
    waited: Histogram
    answered: Mapping[str, Histogram]


class Activity:
    """The view of one mount. INVARIANT: totals begin with the worker, and never go down."""

    def __init__(self, figures: Figures, sight: Sight) -> None:
        self._figures = figures
        self._sight = sight
        self._began_ns = figures.engine.tier.now()
        self._held_before = self._held()
        self._hottest = Hottest()
        self._counting = trio.Lock()
        self._marks: deque[_Mark] = deque(maxlen=_MARKS)

    async def run(self) -> None:
        """Keep up what nobody may ask for in time, until cancelled."""
        while True:
            await self._count_uses()
            if not self._marks or trio.current_time() - self._marks[-1].at_s >= _MARK_EACH_S:
                self._marks.append(self._mark(self._figures.odometer.known().store))
            fill = self._figures.history.fill
            if not fill or abs(self._figures.engine.tier.now() - fill[-1].at_ns) >= _FILL_EACH_NS:
                with suppress(TierfsError, OSError):  # who asks for status is told
                    await self._sample_fill()
            await trio.sleep(_PAUSE_S)

    async def report(self) -> Mapping[str, object]:
        """All of it, for JSON: see docs/API.md. CatalogError."""
        figures = self._figures
        with trio.move_on_after(_PATIENCE_S):  # a cold process that hangs is a reason to look, not to see nothing
            await figures.odometer.read()
        cold, seen = figures.odometer.known(), figures.observe()
        await self._count_uses()
        hottest = self._hot_files()
        await trio.lowlevel.checkpoint()
        return {
            "as_of_ns": figures.engine.tier.now(),
            "since_ns": self._began_ns,
            "worker_pid": figures.facts.worker_pid,
            "io_mode": "passthrough" if figures.facts.passthrough == "on" else "plain",
            "operations": _operations(seen),
            **self._totals(cold),
            "store": self._store(cold),
            "transfers": [_transfer(one) for one in self._transfers()],
            "hottest": hottest,
            "fill": [one.as_json() for one in figures.history.fill],
            "errors": self._errors(),
            **self._candidates(),
        }

    # -- totals --------------------------------------------------------------------------------------------------

    def _totals(self, cold: ColdNumbers) -> Mapping[str, object]:
        reads = self._figures.engine.hydrator.counters
        read, written = self._sight.hot_bytes()
        before, over_s = self._before(cold.store)
        waited = reads.waited.minus(before.waited)
        return {
            "bytes": {
                "read_hot": read,
                "written_hot": written,
                "grown_hot": self._held() - self._held_before,
                "read_cold": reads.bytes_asked,
                "read_cached": reads.bytes_cached,
                "downloaded": cold.store.bytes_downloaded,
                "uploaded": cold.store.bytes_uploaded,
            },
            "unseen": _UNSEEN if self._figures.facts.passthrough == "on" else "",
            "latencies_over_s": over_s,
            "cold_waits": {
                "count": reads.waited.count,
                "seconds": reads.waited.total_ns / 1e9,
                "p50_s": waited.quantile_s(0.5),
                "p99_s": waited.quantile_s(0.99),
            },
            "cache": {
                "hits": reads.cache_hits,
                "misses": reads.cache_misses,
                "bytes": cold.volume,
                "limit_bytes": int(self._figures.engine.settings.cache_size),
            },
        }

    def _held(self) -> int:
        """What the hot tier's filesystem would hold if nothing had moved between the tiers."""
        engine = self._figures.engine
        found = engine.tier.hot.statvfs()
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        return used + engine.archiver.released_bytes - engine.restorer.restores.bytes

    def _store(self, cold: ColdNumbers) -> Mapping[str, object]:
        """Whether the store is asked, and how long it takes to answer; the worse of both circuits counts."""
        store, health = cold.store, list(cold.health.values())
        state, worst = next(
            ((state, one) for state in _WORST for one in health if one.state == state), ("closed", None)
        )
        before, _ = self._before(store)
        answered = {name: _since(now, before.answered.get(name)) for name, now in _answered(store).items()}
        return {
            "state": state if health else "",
            "reason": worst.reason if worst else "",
            "requests": {
                name: {
                    "count": count,
                    "failed": sum(store.failures.get(name, {}).values()),
                    "p50_s": answered[name].quantile_s(0.5) if name in answered else None,
                    "p99_s": answered[name].quantile_s(0.99) if name in answered else None,
                }
                for name, count in store.requests.items()
            },
        }

    # -- latencies -----------------------------------------------------------------------------------------------

    def _mark(self, store: StoreCounters) -> _Mark:
        waited = self._figures.engine.hydrator.counters.waited
        copies = {name: one.plus(Histogram()) for name, one in _answered(store).items()}
        return _Mark(trio.current_time(), waited.plus(Histogram()), copies)

    def _before(self, store: StoreCounters) -> tuple[_Mark, float]:
        """The oldest mark, and how long ago it was made, in seconds."""
        mark = self._marks[0] if self._marks else self._mark(store)
        return mark, trio.current_time() - mark.at_s

    # -- what is used --------------------------------------------------------------------------------------------

    async def _count_uses(self) -> None:
        """Take what was counted since the last time; of many files those that are used most, a few at a time."""
        async with self._counting:
            opens, sizes = self._sight.take_uses()
            if opens or sizes or self._hottest.uses:
                fewer = await _fewer(opens), await _fewer(sizes)
                self._hottest = self._hottest.later(*fewer, self._figures.engine.tier.now())
                await trio.lowlevel.checkpoint()

    def _hot_files(self) -> list[Mapping[str, object]]:
        return list(islice(self._named(), _MOST_FILES))

    def _named(self) -> Iterator[Mapping[str, object]]:
        catalog = self._figures.engine.tier.catalog
        for ino, use in self._hottest.ordered():
            record = catalog.get_by_ino(ino)
            is_cold = record is not None and record.residency in WITHOUT_HOT_BYTES
            path = self._sight.path_of(ino) or (record.path if record else None)
            if path is not None:
                tier, opens = "cold" if is_cold else "hot", round(use.opens, 1)
                yield {"path": os.fsdecode(path), "tier": tier, "opens": opens, "bytes": round(use.bytes)}

    def _transfers(self) -> list[Movement]:
        engine = self._figures.engine
        moving = [*engine.archiver.active.values(), *engine.restorer.under_way()]
        for key, movement in engine.hydrator.fetching()[:_MOST_TRANSFERS]:
            record = engine.tier.catalog.get_by_key(key)
            if record:
                movement.path = record.path
                moving.append(movement)
        return nsmallest(_MOST_TRANSFERS, moving, key=lambda one: one.begun_ns)

    # -- what went wrong, what is next, and how it filled --------------------------------------------------------

    def _errors(self) -> Sequence[Mapping[str, object]]:
        """What applications were told, and what failed that tierfs does by itself or for an operator."""
        told = [
            (one.at_ns, one.operation, one.path, masked(one.error)) for one in list(self._sight.told())[-_MOST_ERRORS:]
        ]
        failures = self._figures.engine.tier.events.failures
        own = [(one.at_ns, "background", one.path, one.reason) for one in failures]
        return [
            {"at_ns": at_ns, "operation": operation, "path": os.fsdecode(path), "error": error}
            for at_ns, operation, path, error in sorted([*told, *own])[-_MOST_ERRORS:]
        ]

    def _candidates(self) -> Mapping[str, object]:
        daemon = self._figures.engine.daemon
        found = [
            {"path": os.fsdecode(one.path), "size": one.size, "verb": one.verb.value, "reason": one.reason}
            for one in daemon.candidates
        ]
        return {"candidates": found, "candidates_as_of_ns": daemon.candidates_at_ns}

    async def _sample_fill(self) -> None:
        """Note how full the tiers are, once that is known."""
        figures = self._figures
        stock, cold = await figures.inventory.glance(), await figures.odometer.read()
        if stock.is_complete:
            hot, warm, below = (stock.tiers[tier].bytes for tier in ("hot", "warm", "cold"))
            figures.history.filled(FillSample(figures.engine.tier.now(), hot, warm, below, cold.volume))


async def _fewer(counts: Mapping[Ino, int]) -> dict[Ino, int]:
    """Those that were counted most."""
    found: dict[Ino, int] = {}
    items = iter(counts.items())
    while some := list(islice(items, _AT_ONCE)):
        found = busiest(found, some)
        await trio.lowlevel.checkpoint()
    return found


def _answered(store: StoreCounters) -> Mapping[str, Histogram]:
    """How long requests took, by kind; GETs to the head of their answer."""
    return {**store.answered, "GetObject": store.first_byte}


def _since(now: Histogram, before: Histogram | None) -> Histogram:
    return now.minus(before) if before else now


def _operations(seen: Observations) -> Mapping[str, object]:
    """Requests of the kernel, and how long those took that Python answered."""
    return {
        name: {
            "count": count,
            "timed": seen.answered[name].count if name in seen.answered else 0,
            "seconds": seen.answered[name].total_ns / 1e9 if name in seen.answered else 0.0,
        }
        for name, count in seen.requests.items()
    }


def _transfer(one: Movement) -> Mapping[str, object]:
    return {
        "path": os.fsdecode(one.path),
        "verb": one.verb,
        "bytes": one.bytes,
        "done_bytes": one.done_bytes,
        "begun_ns": one.begun_ns,
    }
