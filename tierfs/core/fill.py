"""How the tiers filled over the last day: a sample a minute, of what is long ago one every ten minutes. Pure."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

_MINUTE_NS = 60 * 10**9
#: For so long each sample is kept; after that the first one of each stretch, for a day.
_FINE_NS = 30 * _MINUTE_NS
_STRETCH_NS = 10 * _MINUTE_NS
_WINDOW_NS = 24 * 60 * _MINUTE_NS


@dataclass(frozen=True, slots=True)
class FillSample:
    """Bytes of hot, warm and cold files, and what the chunk cache took, at one moment (ns since the epoch)."""

    at_ns: int
    hot_bytes: int
    warm_bytes: int
    cold_bytes: int
    cache_bytes: int

    def as_json(self) -> dict[str, int]:
        """For who draws it."""
        # By hand: dataclasses.asdict takes ten times as long, and there are many.
        return {
            "at_ns": self.at_ns,
            "hot_bytes": self.hot_bytes,
            "warm_bytes": self.warm_bytes,
            "cold_bytes": self.cold_bytes,
            "cache_bytes": self.cache_bytes,
        }


def with_sample(samples: Sequence[FillSample], sample: FillSample) -> tuple[FillSample, ...]:
    """With one more; none that is not older than it (the clock was set back), and few of those that are much older."""
    found: list[FillSample] = []
    for one in samples:
        is_fine = one.at_ns > sample.at_ns - _FINE_NS
        is_next = not found or one.at_ns // _STRETCH_NS > found[-1].at_ns // _STRETCH_NS
        if sample.at_ns - _WINDOW_NS <= one.at_ns < sample.at_ns and (is_fine or is_next):
            found.append(one)
    return (*found, sample)


def fill_json(samples: Sequence[FillSample]) -> list[list[int]]:
    """For the file that outlives the worker."""
    return [list(astuple(one)) for one in samples]


def fill_from(rows: Sequence[Sequence[Any]]) -> tuple[FillSample, ...]:
    """What fill_json() wrote, in order. TypeError, ValueError for anything else."""
    found = [FillSample(*map(int, row)) for row in rows]
    return tuple(sorted(found, key=lambda one: one.at_ns))
