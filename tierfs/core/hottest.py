"""Which files are used most now: counts in which what is long ago weighs little. Pure: the clock is an argument."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nlargest

from tierfs.core.records import Ino

#: What was so long ago counts half. So the counts are about those of the last minute.
_HALF_LIFE_NS = 30 * 10**9
#: So many files are remembered: those that are shown, and those that may soon be.
_REMEMBERED = 100
#: An open weighs as much as so many bytes that are read.
_BYTES_OF_AN_OPEN = 1 << 20
#: Less than this is no use any more.
_LEAST = 0.05


@dataclass(frozen=True, slots=True)
class Use:
    """How often a file was opened, and how many bytes were read of it, of late."""

    opens: float = 0.0
    bytes: float = 0.0


_NEVER = Use()


@dataclass(frozen=True, slots=True)
class Hottest:
    """The files that are used most, as of `at_ns`. INVARIANT: at most _REMEMBERED of them, the most used first."""

    at_ns: int = 0
    uses: Mapping[Ino, Use] = field(default_factory=dict)

    def later(self, opens: Mapping[Ino, int], sizes: Mapping[Ino, int], now_ns: int) -> "Hottest":
        """With what was counted since; those that were used least are forgotten.

        Both counts should be a few hundred files at most, or those that were counted most: see busiest().
        """
        share = 0.5 ** (max(0, now_ns - self.at_ns) / _HALF_LIFE_NS)
        weighed: list[tuple[float, Ino, float, float]] = []
        for ino in {**self.uses, **opens, **sizes}:
            known = self.uses.get(ino, _NEVER)
            opened, read = known.opens * share + opens.get(ino, 0), known.bytes * share + sizes.get(ino, 0)
            weight = opened + read / _BYTES_OF_AN_OPEN
            if weight >= _LEAST:
                weighed.append((weight, ino, opened, read))
        found = nlargest(_REMEMBERED, weighed)
        return Hottest(now_ns, {ino: Use(opened, read) for _, ino, opened, read in found})

    def ordered(self) -> list[tuple[Ino, Use]]:
        """All of them, the most used first."""
        return list(self.uses.items())


def busiest(known: Mapping[Ino, int], more: Iterable[tuple[Ino, int]]) -> dict[Ino, int]:
    """Those of both that were counted most: to look at many counts a few at a time."""
    return dict(nlargest(_REMEMBERED, [*known.items(), *more], key=lambda one: one[1]))
