"""How long calls took: counted in narrow buckets, so that many millions fit, and the longest one exactly."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

#: Buckets for each power of ten: neighbours differ by 5 %.
_PER_DECADE = 48


class Stalls:
    """Durations in seconds, by kind of call."""

    def __init__(self) -> None:
        self._buckets: dict[str, Counter[int]] = {}
        self._longest_s: dict[str, float] = {}

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Count how long the block takes, also when it fails."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - began)

    def add(self, kind: str, seconds: float) -> None:
        """Count one duration."""
        bucket = math.ceil(math.log10(max(seconds, 1e-9)) * _PER_DECADE)
        self._buckets.setdefault(kind, Counter())[bucket] += 1
        self._longest_s[kind] = max(self._longest_s.get(kind, 0.0), seconds)

    def kinds(self) -> list[str]:
        """What was counted."""
        return sorted(self._buckets)

    def count(self, kind: str) -> int:
        """How many calls of this kind there were."""
        return self._buckets.get(kind, Counter()).total()

    def quantile_s(self, kind: str, share: float) -> float:
        """The duration that `share` of the calls did not exceed, at most 5 % too long; 1.0 is exact; 0.0 of none."""
        longest, rank, below = self._longest_s.get(kind, 0.0), share * self.count(kind), 0
        for bucket, count in sorted(self._buckets.get(kind, Counter()).items()):
            below += count
            if below >= rank:
                return min(longest, float(10 ** (bucket / _PER_DECADE)))
        return longest

    def to_json(self) -> dict[str, Any]:
        """As one process tells it to another."""
        buckets = {kind: sorted(counts.items()) for kind, counts in self._buckets.items()}
        return {"buckets": buckets, "longest_s": self._longest_s}

    @classmethod
    def together(cls, told: Sequence[Mapping[str, Any]]) -> "Stalls":
        """What several processes told."""
        whole = cls()
        for one in told:
            for kind, counts in one["buckets"].items():
                whole._buckets.setdefault(kind, Counter()).update(dict(map(tuple, counts)))
            for kind, longest_s in one["longest_s"].items():
                whole._longest_s[kind] = max(whole._longest_s.get(kind, 0.0), longest_s)
        return whole

    def table(self) -> str:
        """A line for each kind: how many calls, p50, p99, p99.9, p100."""
        head = f"{'kind':<28}{'calls':>10}{'p50':>12}{'p99':>12}{'p99.9':>12}{'p100':>12}"
        rows = [
            f"{kind:<28}{self.count(kind):>10}"
            + "".join(f"{in_words(self.quantile_s(kind, share)):>12}" for share in (0.5, 0.99, 0.999, 1.0))
            for kind in self.kinds()
        ]
        return "\n".join([head, *rows])


def in_words(seconds: float) -> str:
    """A duration as people read it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
