"""How long until the hot tier is full at the present rate: with the store up, and with it down. Pure.

Two series are kept over the last hours. The bytes in use on the filesystem say how fast it fills as things are. What
applications wrote (bytes in use, with what was released added and what was restored taken away) says how fast it would
fill if nothing could move: that is what happens while the store is down.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any, Literal

#: Samples that are older say little about the present rate.
WINDOW_NS = 6 * 3_600 * 10**9
#: Pairs of samples give the rate; below so many samples, or so short a time, one burst would be all of it.
_FEWEST_SAMPLES = 6
_SHORTEST_NS = 1_800 * 10**9
#: Nearer to each other they say nothing more, and a worker that is started again and again would leave thousands.
_NEAREST_NS = 240 * 10**9
#: A warning comes a day ahead: room takes a person who looks in office hours, or a disk that has to be ordered.
WARN_BELOW_S = 86_400.0

State = Literal["unknown", "steady", "filling"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The hot tier's filesystem at one moment: bytes in use; bytes released and restored until then, as totals."""

    at_ns: int
    used: int
    released: int = 0
    restored: int = 0

    @property
    def written(self) -> int:
        """What would be in use if nothing had moved between the tiers."""
        return self.used + self.released - self.restored


@dataclass(frozen=True, slots=True)
class Outlook:
    """How the hot tier fills under one condition: bytes per second, None where too little is known yet.

    `seconds` is until it is full, None where it is not filling, or where that is not known.
    """

    state: State
    bytes_per_second: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of the hot tier's filesystem: bytes that are free, and mirrored ones that may go at once."""

    free: int
    releasable: int


@dataclass(frozen=True, slots=True)
class Growth:
    """How fast the bytes in use grow, in bytes per second: as things are, and with the store down."""

    up: float
    down: float


@dataclass(frozen=True, slots=True)
class Runway:
    """Until when the hot tier has room. `up` counts mirrored files as room, `down` does not: a release asks the store.

    `history_s` is how long the rate was looked at, in seconds; `is_down`: the store is down now, so that `down` holds.
    """

    free_bytes: int
    releasable_bytes: int
    history_s: float
    up: Outlook
    down: Outlook
    is_down: bool = False

    @property
    def now(self) -> Outlook:
        """The outlook as things are."""
        return self.down if self.is_down else self.up

    def warning(self) -> str:
        """What an operator should know of, or nothing."""
        seconds = self.now.seconds
        if seconds is None or seconds >= WARN_BELOW_S:
            return ""
        why = "the store is down, so nothing can be released" if self.is_down else "what may be released is counted in"
        return f"the hot tier is full in {shown_hours(seconds)} at the present rate ({why}): make room"

    def as_json(self) -> Mapping[str, object]:
        """For `status`."""
        return asdict(self)


def kept(samples: Sequence[Sample], sample: Sample) -> tuple[Sample, ...]:
    """The samples of the window, with one more; none that are not older than it (the clock was set back)."""
    earliest_ns = sample.at_ns - WINDOW_NS
    found = [one for one in samples if earliest_ns <= one.at_ns < sample.at_ns]
    if len(found) > 1 and found[-1].at_ns - found[-2].at_ns < _NEAREST_NS:
        del found[-1]
    return (*found, sample)


def growth_of(samples: Sequence[Sample]) -> Growth | None:
    """The present rates: the median of those between all pairs of samples, so that a burst or a pause does not count.

    None where there is not enough history yet.
    """
    if len(samples) < _FEWEST_SAMPLES or samples[-1].at_ns - samples[0].at_ns < _SHORTEST_NS:
        return None
    at_s = [(one.at_ns - samples[0].at_ns) / 1e9 for one in samples]
    return Growth(
        up=_rate(zip(at_s, [one.used for one in samples], strict=True)),
        down=_rate(zip(at_s, [one.written for one in samples], strict=True)),
    )


def _rate(points: Iterable[tuple[float, int]]) -> float:
    """The median: thousands of pairs, in a loop that serves others, so there is nothing in it that can be outside."""
    return median([(b - a) / (t - s) for (s, a), (t, b) in combinations(points, 2) if t > s])


def runway(growth: Growth | None, room: Room, history_s: float, is_down: bool) -> Runway:
    """Until when there is room, at this rate."""
    up = _outlook(growth.up if growth else None, room.free + room.releasable)
    down = _outlook(growth.down if growth else None, room.free)
    return Runway(room.free, room.releasable, history_s, up, down, is_down)


def _outlook(rate: float | None, room: int) -> Outlook:
    if rate is None:
        return Outlook("unknown")
    # A byte a second fills a disk in centuries: that is noise.
    return Outlook("steady", rate) if rate < 1 else Outlook("filling", rate, max(0, room) / rate)


def shown_hours(seconds: float) -> str:
    """How long there is room, in the unit in which one would plan."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours < 1:
        return f"{minutes:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.0f} days"


def samples_json(samples: Sequence[Sample]) -> list[list[int]]:
    """For the file that outlives the worker."""
    return [[one.at_ns, one.used, one.released, one.restored] for one in samples]


def samples_from(rows: Sequence[Sequence[Any]]) -> tuple[Sample, ...]:
    """What samples_json() wrote, in order. TypeError, ValueError for anything else."""
    found = [Sample(int(at_ns), int(used), int(released), int(restored)) for at_ns, used, released, restored in rows]
    return tuple(sorted(found, key=lambda one: one.at_ns))
