"""The last day of a mount in hours: what was asked of the store, and which objects went away young. Pure.

Times are nanoseconds since the epoch, by the clock on the wall; what lies in its future (it was set back) is dropped.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from tierfs.core.costs import Traffic

HOUR_NS = 3_600 * 10**9
DAY_NS = 24 * HOUR_NS
#: This hour, and the 23 before it.
HOURS = 24
#: Deleted objects, files and bytes, by the whole days that they were there at most.
Gone = Mapping[int, tuple[int, int]]
#: Objects that were there for longer are not told apart: no class of S3 bills more than 180 days that are not over.
_MOST_DAYS = 400


@dataclass(frozen=True, slots=True)
class Hour:
    """What was counted in the hour that began at `begins_ns`."""

    begins_ns: int
    traffic: Traffic = field(default_factory=Traffic)
    gone: Gone = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Hours, the oldest first; `since_ns` is when counting began, 0 for never.

    INVARIANT: at most HOURS of them, in order, none twice, none without anything in it.
    """

    since_ns: int = 0
    hours: tuple[Hour, ...] = ()

    def counted(self, traffic: Traffic, gone: Gone, now_ns: int) -> "Usage":
        """With what was counted since the last time; older hours than those of a day are forgotten."""
        begins_ns = now_ns - now_ns % HOUR_NS
        kept = [hour for hour in self.hours if begins_ns - (HOURS - 1) * HOUR_NS <= hour.begins_ns < begins_ns]
        [current] = [hour for hour in self.hours if hour.begins_ns == begins_ns] or [Hour(begins_ns)]
        since_ns = self.since_ns if 0 < self.since_ns <= now_ns else now_ns
        if any(traffic.requests.values()) or traffic.uploaded or traffic.downloaded or gone:
            current = replace(current, traffic=plus(current.traffic, traffic), gone=_sum(current.gone, gone))
        return Usage(since_ns, (*kept, *([current] if current != Hour(begins_ns) else ())))

    def last_day(self, now_ns: int) -> tuple[int, Hour]:
        """What was counted in the last day, and over how many nanoseconds: the hour now, and the 23 before it."""
        here = self.counted(Traffic(), {}, now_ns)
        first_ns = now_ns - now_ns % HOUR_NS - (HOURS - 1) * HOUR_NS
        total = Hour(max(here.since_ns, first_ns))
        for hour in here.hours:
            total = replace(total, traffic=plus(total.traffic, hour.traffic), gone=_sum(total.gone, hour.gone))
        return now_ns - total.begins_ns, total

    def as_json(self) -> dict[str, Any]:
        """For the file that outlives the worker."""
        return {
            "since_ns": self.since_ns,
            "hours": [
                {
                    "begins_ns": hour.begins_ns,
                    "requests": dict(hour.traffic.requests),
                    "uploaded": hour.traffic.uploaded,
                    "downloaded": hour.traffic.downloaded,
                    "gone": [[days, files, size] for days, (files, size) in hour.gone.items()],
                }
                for hour in self.hours
            ],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What as_json() wrote. KeyError, TypeError, ValueError for anything else."""
        hours = [
            Hour(
                int(one["begins_ns"]),
                Traffic(
                    {str(name): int(count) for name, count in one["requests"].items()},
                    int(one["uploaded"]),
                    int(one["downloaded"]),
                ),
                {int(days): (int(files), int(size)) for days, files, size in one["gone"]},
            )
            for one in values["hours"]
        ]
        ordered = {hour.begins_ns: hour for hour in sorted(hours, key=lambda hour: hour.begins_ns)}
        return cls(int(values["since_ns"]), tuple(ordered.values())[-HOURS:])


def plus(one: Traffic, other: Traffic) -> Traffic:
    """Both together."""
    requests = Counter(one.requests)
    requests.update(other.requests)
    return Traffic(
        {name: count for name, count in requests.items() if count},
        one.uploaded + other.uploaded,
        one.downloaded + other.downloaded,
    )


def minus(now: Traffic, before: Traffic) -> Traffic:
    """What came since `before`, of totals that never go down."""
    requests = {name: max(0, count - before.requests.get(name, 0)) for name, count in now.requests.items()}
    return Traffic(
        {name: count for name, count in requests.items() if count},
        max(0, now.uploaded - before.uploaded),
        max(0, now.downloaded - before.downloaded),
    )


def days_of(age_ns: int) -> int:
    """The whole days that an object was there at most, by its age in nanoseconds at most."""
    return min(max(0, age_ns) // DAY_NS, _MOST_DAYS)


def _sum(one: Gone, other: Gone) -> Gone:
    found = dict(one)
    for days, (files, size) in other.items():
        before_files, before_size = found.get(days, (0, 0))
        found[days] = before_files + files, before_size + size
    return found
