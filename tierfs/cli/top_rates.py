"""Rates of a mount, from two looks at its activity. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LEAST_S = 0.001  # two looks in the same moment have no rate


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two looks, `seconds` apart.

    INVARIANT: a total that a new worker began again is taken since that worker began, so that no rate is negative. The
    same holds for the first look.
    """

    now: Mapping[str, Any]
    before: Mapping[str, Any]
    seconds: float

    @classmethod
    def between(cls, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> "Rates":
        """Of a look, and the one before if there was one."""
        is_same = before is not None and before["since_ns"] == now["since_ns"] and before["as_of_ns"] < now["as_of_ns"]
        since_ns = before["as_of_ns"] if before and is_same else now["since_ns"]
        seconds = max(_LEAST_S, (now["as_of_ns"] - since_ns) / 1e9)
        return cls(now, before if before and is_same else {}, seconds)

    def more(self, *names: str) -> float:
        """By how much a total grew, which the names lead to; never negative."""
        return max(0.0, self.change(*names))

    def change(self, *names: str) -> float:
        """By how much a figure changed."""
        return _figure(self.now, names) - _figure(self.before, names)

    def per_second(self, *names: str) -> float:
        """How fast a total grew."""
        return self.more(*names) / self.seconds

    def operations(self) -> list[tuple[str, float, float | None]]:
        """Operations that were asked for: name, how many a second, and how long one took in seconds; the most first."""
        found = []
        for name in self.now["operations"]:
            timed = self.more("operations", name, "timed")
            mean_s = self.more("operations", name, "seconds") / timed if timed else None
            found.append((name, self.per_second("operations", name, "count"), mean_s))
        return sorted((one for one in found if one[1] > 0), key=lambda one: -one[1])

    def hit_share(self) -> float | None:
        """Which part of the chunks that were not in memory the cache had; None where there were none."""
        hits, misses = self.more("cache", "hits"), self.more("cache", "misses")
        return hits / (hits + misses) if hits + misses else None

    def time_left_s(self, transfer: Mapping[str, Any]) -> float | None:
        """How long a file is still on its way, at the rate since it began; None while nobody can say."""
        took_s = (self.now["as_of_ns"] - transfer["begun_ns"]) / 1e9
        if took_s <= 0 or transfer["done_bytes"] <= 0:
            return None
        left = max(0, transfer["bytes"] - transfer["done_bytes"])
        return float(left * took_s / transfer["done_bytes"])

    def as_json(self) -> dict[str, object]:
        """For scripts: everything per second."""
        return {
            "seconds": self.seconds,
            "operations": {name: {"per_second": rate, "mean_s": mean_s} for name, rate, mean_s in self.operations()},
            "bytes": {
                name: self.change("bytes", name) / self.seconds
                if name == "grown_hot"
                else self.per_second("bytes", name)
                for name in self.now["bytes"]
            },
            "cold_waits": self.per_second("cold_waits", "count"),
            "cache_hit_share": self.hit_share(),
            "requests": {
                name: self.per_second("store", "requests", name, "count") for name in self.now["store"]["requests"]
            },
        }


def _figure(look: Mapping[str, Any], names: tuple[str, ...]) -> float:
    found: Any = look
    for name in names:
        found = found.get(name)
        if found is None:
            return 0.0
    return float(found)


def allotted(wanted: list[int], rows: int) -> list[int]:
    """How many of so many rows each section gets: what it wants, and where that is too much as much as the others."""
    given = [0] * len(wanted)
    while rows > 0 and any(has < wants for has, wants in zip(given, wanted, strict=True)):
        for index, wants in enumerate(wanted):
            if given[index] < wants and rows > 0:
                given[index] += 1
                rows -= 1
    return given
