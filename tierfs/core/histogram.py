"""Durations counted in buckets, so that what most of them were can be told of any number of them in little memory."""

from bisect import bisect_left
from dataclasses import dataclass, field
from operator import add, sub

_MS = 1_000_000

#: Upper bounds of the buckets in nanoseconds: from what a local cache answers to twice the longest default deadline.
BOUNDS_NS = tuple(
    milliseconds * _MS
    for milliseconds in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000)
)


def _zeros() -> list[int]:
    return [0] * (len(BOUNDS_NS) + 1)


@dataclass(slots=True)
class Histogram:
    """How often something took how long. Not safe for threads: who counts in several has a lock.

    INVARIANT: `counts[i]` are the durations above BOUNDS_NS[i - 1] and at most BOUNDS_NS[i], the last one those above
    all bounds; `total_ns` is the sum of all durations.
    """

    counts: list[int] = field(default_factory=_zeros)
    total_ns: int = 0

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.counts)

    def observe(self, duration_ns: int) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_NS, duration_ns)] += 1
        self.total_ns += duration_ns

    def plus(self, other: "Histogram") -> "Histogram":
        """The durations of both; neither is changed."""
        return Histogram(list(map(add, self.counts, other.counts)), self.total_ns + other.total_ns)

    def minus(self, before: "Histogram") -> "Histogram":
        """The durations that came since `before`, an earlier state of the same; neither is changed."""
        return Histogram(list(map(sub, self.counts, before.counts)), self.total_ns - before.total_ns)

    def cumulative(self) -> list[tuple[float, int]]:
        """For each bound in seconds, the last one infinite: how many durations were at most so long."""
        bounds_s = [*(bound_ns / 1e9 for bound_ns in BOUNDS_NS), float("inf")]
        return [(bound_s, sum(self.counts[: index + 1])) for index, bound_s in enumerate(bounds_s)]

    def quantile_s(self, share: float) -> float | None:
        """The duration in seconds that `share` of all did not exceed, None without any.

        As Prometheus' histogram_quantile: evenly spread inside a bucket, and the highest bound for what is above it.
        """
        rank, below = share * self.count, 0
        lower_ns = 0
        for bound_ns, count in zip(BOUNDS_NS, self.counts, strict=False):
            if count and below + count >= rank:
                return (lower_ns + (bound_ns - lower_ns) * (rank - below) / count) / 1e9
            below += count
            lower_ns = bound_ns
        return BOUNDS_NS[-1] / 1e9 if self.count else None


_CELLS = 65  # a number of nanoseconds has up to 63 bits
#: Which of the buckets are shown, as bits: from 16 microseconds in steps of four times as much to a minute.
_SHOWN = range(14, 37, 2)


class Doublings:
    """Durations counted in buckets that are each twice as wide as the one before: two additions for each duration.

    Who counts does it without a call, since what is counted may take microseconds:

        cells[took_ns.bit_length()] += 1
        cells[-1] += took_ns

    INVARIANT: `cells[n]` are the durations of n bits, so below 2**n nanoseconds; the last cell is the sum of all.
    """

    __slots__ = ("cells",)

    def __init__(self) -> None:
        self.cells = [0] * (_CELLS + 1)

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.cells[:-1])

    @property
    def total_ns(self) -> int:
        """Their sum."""
        return self.cells[-1]

    def cumulative(self) -> list[tuple[float, int]]:
        """For each bound in seconds, the last one infinite: how many durations were at most so long."""
        shown = [(2**bits / 1e9, sum(self.cells[: bits + 1])) for bits in _SHOWN]
        return [*shown, (float("inf"), self.count)]
