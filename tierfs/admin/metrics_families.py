"""Families of metrics of one mount: what the official client makes of a name, a sentence and figures."""

import os
from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    UnknownMetricFamily,
)

#: What every name begins with.
PREFIX = "tiered_storage_"

#: Values by what the label says, by what all labels say; a plain number for a metric without any.
Values = float | Mapping[str, float] | Mapping[tuple[str, ...], float] | Mapping[tuple[str, str], float]


class Counted(Protocol):
    """Durations in buckets."""

    @property
    def total_ns(self) -> int: ...

    def cumulative(self) -> list[tuple[float, int]]: ...


class Families:
    """Makes the families of one mount: each of their samples names the mountpoint."""

    def __init__(self, mountpoint: str) -> None:
        self.mountpoint = os.fsencode(mountpoint).decode("utf-8", "backslashreplace")

    def counter(self, name: str, text: str, values: Values, *labels: str) -> Metric:
        """What only grows; the name ends in _total."""
        return self._filled(CounterMetricFamily(PREFIX + name, text, labels=_all(labels)), values)

    def gauge(self, name: str, text: str, values: Values, *labels: str) -> Metric:
        """What is so now."""
        return self._filled(GaugeMetricFamily(PREFIX + name, text, labels=_all(labels)), values)

    def untyped(self, name: str, text: str, values: Values) -> Metric:
        """What has a name that its type does not allow."""
        return self._filled(UnknownMetricFamily(PREFIX + name, text, labels=_all(())), values)

    def states(self, name: str, text: str, now: Mapping[str, str], known: Iterable[str], label: str) -> Metric:
        """1 for the state that each is in, 0 for the others; without a `label` there is one alone, of any name."""
        states = list(known)
        values: dict[tuple[str, ...], float] = {
            (one, state) if label else (state,): float(state == is_in) for one, is_in in now.items() for state in states
        }
        return self.gauge(name, text, values, *filter(None, [label, "state"]))

    def info(self, name: str, text: str, values: Mapping[str, str]) -> Metric:
        """What is said in labels."""
        family = InfoMetricFamily(PREFIX + name, text, labels=_all(()))
        family.add_metric([self.mountpoint], dict(values))
        return family

    def histogram(self, name: str, text: str, counted: Counted | Mapping[str, Counted], *labels: str) -> Metric:
        """Durations, in seconds."""
        family = HistogramMetricFamily(PREFIX + name, text, labels=_all(labels))
        each = counted if isinstance(counted, Mapping) else {"": counted}
        for value, one in each.items():
            buckets = [(_bound(bound_s), float(count)) for bound_s, count in one.cumulative()]
            family.add_metric([self.mountpoint, value] if labels else [self.mountpoint], buckets, one.total_ns / 1e9)
        return family

    def _filled(self, family: CounterMetricFamily | GaugeMetricFamily | UnknownMetricFamily, values: Values) -> Metric:
        if isinstance(values, Mapping):
            for key, value in values.items():
                family.add_metric([self.mountpoint, *((key,) if isinstance(key, str) else key)], value)
        else:
            family.add_metric([self.mountpoint], values)
        return family


def _bound(bound_s: float) -> str:
    return "+Inf" if bound_s == float("inf") else str(bound_s)


def _all(labels: tuple[str, ...]) -> list[str]:
    return ["mountpoint", *labels]
