"""Which files are used most now: counts in which what is long ago weighs little. Pure: the clock is an argument."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nlargest

from tierfs.core.records import Ino

#: What was so long ago counts half. So the counts are about those of the last minute.
_HALF_LIFE_NS = 30 * 10**9
#: So many files are remembered: those that are shown, and those that may soon be.
_REMEMBERED = 200
#: An open weighs as much as so many bytes that are read.
_BYTES_OF_AN_OPEN = 1 << 20
#: Less than this is no use any more.
_LEAST = 0.05


@dataclass(frozen=True, slots=True)
class Use:
    """How often a file was opened, and how many bytes were read of it, of late."""

    opens: float = 0.0
    bytes: float = 0.0

    @property
    def weight(self) -> float:
        """What they are ordered by."""
        return self.opens + self.bytes / _BYTES_OF_AN_OPEN

    def decayed(self, share: float, opens: int = 0, size: int = 0) -> "Use":
        """So much of it is left, and this comes to it."""
        return Use(self.opens * share + opens, self.bytes * share + size)


@dataclass(frozen=True, slots=True)
class Hottest:
    """The files that are used most, as of `at_ns`. INVARIANT: at most _REMEMBERED of them."""

    at_ns: int = 0
    uses: Mapping[Ino, Use] = field(default_factory=dict)

    def later(self, opens: Mapping[Ino, int], sizes: Mapping[Ino, int], now_ns: int) -> "Hottest":
        """With what was counted since; those that were used least are forgotten.

        Both counts should be a few hundred files at most, or those that were counted most: see busiest().
        """
        share = 0.5 ** (max(0, now_ns - self.at_ns) / _HALF_LIFE_NS)
        uses = {
            ino: self.uses.get(ino, Use()).decayed(share, opens.get(ino, 0), sizes.get(ino, 0))
            for ino in {**self.uses, **opens, **sizes}
        }
        used = [one for one in uses.items() if one[1].weight >= _LEAST]
        return Hottest(now_ns, dict(nlargest(_REMEMBERED, used, key=lambda one: one[1].weight)))

    def ordered(self) -> list[tuple[Ino, Use]]:
        """All of them, the most used first."""
        return sorted(self.uses.items(), key=lambda one: -one[1].weight)


def busiest(known: Mapping[Ino, int], more: Iterable[tuple[Ino, int]]) -> dict[Ino, int]:
    """Those of both that were counted most: to look at many counts a few at a time."""
    return dict(nlargest(_REMEMBERED, [*known.items(), *more], key=lambda one: one[1]))
