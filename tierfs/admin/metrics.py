"""Metrics of a mount in the text format of Prometheus, by its official client; docs/METRICS.md is their table.

No registry of the process: each answer is made of one snapshot, by a collector that lives as long as the answer.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tierfs.core.errors import ControlError
from tierfs.core.histogram import Histogram
from tierfs.core.reports import StoreState
from tierfs.engine.measures import Measures

_PREFIX = "tiered_storage_"

#: Values by what the label says; a plain number for a metric without one.
_Values = float | Mapping[str, float]


def exposition(measures: Measures, accept: str = "") -> tuple[bytes, str]:
    """The metrics and their media type; `accept` is what the client says that it reads."""
    encode, media_type = choose_encoder(accept)
    return encode(_registry_of(MountCollector(measures))), media_type


def merged(texts: Sequence[str]) -> str:
    """The metrics of several mounts as one text: each family once, as the format wants it. ControlError for others."""
    families: dict[str, Metric] = {}
    try:
        for family in (family for text in texts for family in text_string_to_metric_families(text)):
            families.setdefault(family.name, family)
            if families[family.name] is not family:
                families[family.name].samples.extend(family.samples)
    except ValueError as error:
        raise ControlError(f"a mount sent metrics that cannot be read: {error}") from None
    return generate_latest(_registry_of(_Given(families.values()))).decode()


class MountCollector(Collector):
    """Turns one snapshot of a mount into families of metrics; each sample names the mountpoint."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self._mountpoint = os.fsencode(measures.mountpoint).decode("utf-8", "backslashreplace")

    def collect(self) -> Iterator[Metric]:
        """All families, also those without samples."""
        yield self._info("build", "The version of tierfs that serves the mount.", {"version": self._measures.version})
        yield from self._of_reads()
        yield from self._of_the_cache()
        yield from self._of_the_store()
        yield from self._of_the_breaker()
        yield from self._of_the_guard()
        yield self._counter(
            "cold_process_restarts_total",
            "How often the process that talks to the store ended and was started again.",
            self._measures.cold_restarts,
        )
        yield self._counter(
            "take_overs_total",
            "How often a worker went on where another one had ended; other counters begin again then.",
            self._measures.take_overs,
        )
        yield self._gauge(
            "lost_files", "Files whose only copy was in the bucket and is gone from there.", self._measures.lost_files
        )

    def _of_reads(self) -> Iterator[Metric]:
        reads, counter = self._measures.reads, self._counter
        yield counter(
            "cold_reads_total",
            "Reads of cold files that reached tierfs; what the kernel has in its page cache does not.",
            reads.reads,
        )
        yield counter("cold_read_bytes_total", "Bytes that reads of cold files asked for.", reads.bytes_asked)
        yield counter(
            "cold_fetched_bytes_total",
            "Bytes of whole, verified chunks that came from the store for reads, read-ahead and restores.",
            reads.bytes_fetched,
        )
        yield counter("cold_gets_total", "GETs that were made to fetch chunks.", reads.gets)
        yield self._histogram(
            "cold_wait_seconds",
            "How long reads of cold files waited, of those whose chunks were not all in memory.",
            reads.waited,
        )
        yield counter(
            "cold_deadline_misses_total",
            "Reads and restores that were given up because a chunk did not come within cold_timeout.",
            reads.deadline_misses,
        )
        yield counter(
            "cold_retries_total", "GETs for chunks that failed and were, or are to be, made again.", reads.retries
        )
        yield counter(
            "cold_corrupt_chunks_total",
            "Times that a chunk came from the store with other bytes than the archived ones, or too few.",
            reads.corrupt_chunks,
        )
        yield counter(
            "operation_errors_total",
            "Operations of applications that failed for a reason of the store or of tierfs, and were logged.",
            self._measures.operation_errors,
        )

    def _of_the_cache(self) -> Iterator[Metric]:
        reads, cache, counter = self._measures.reads, self._measures.cold.cache, self._counter
        yield counter("cache_hits_total", "Chunks not in memory that were found in the chunk cache.", reads.cache_hits)
        yield counter(
            "cache_misses_total",
            "Chunks not in memory that the chunk cache did not have, so that they were fetched.",
            reads.cache_misses,
        )
        yield counter(
            "cache_bypassed_total",
            "GETs whose chunks went past the chunk cache, because there was no room or its disk failed.",
            cache.bypassed,
        )
        yield counter(
            "cache_errors_total",
            "Failures of the chunk cache's disk by what was tried; check: chunks that were found damaged.",
            cache.errors,
            "operation",
        )
        yield self._gauge(
            "cache_bytes",
            "Bytes that the chunk cache takes on its disk, its database included.",
            self._measures.cold.volume,
        )
        yield self._gauge(
            "cache_limit_bytes", "The most that the chunk cache may take (cache_size).", self._measures.cache_limit
        )

    def _of_the_store(self) -> Iterator[Metric]:
        store = self._measures.cold.store
        # The client gives counters the ending _total; these two are named elsewhere without it.
        yield self._untyped(
            "s3_bytes_uploaded",
            "Bytes of objects sent to the store; a counter, untyped for its name.",
            store.bytes_uploaded,
        )
        yield self._untyped(
            "s3_bytes_downloaded",
            "Bytes of objects received from the store; a counter, untyped for its name.",
            store.bytes_downloaded,
        )
        yield self._counter(
            "s3_requests_total",
            "Requests sent to the store by S3 operation, with those that were sent again and the self-test.",
            store.requests,
            "operation",
        )
        yield self._histogram(
            "s3_first_byte_seconds",
            "How long GETs took from the request to the head of the answer, of those that were answered.",
            store.first_byte,
        )

    def _of_the_breaker(self) -> Iterator[Metric]:
        health = self._measures.cold.health
        states = GaugeMetricFamily(
            f"{_PREFIX}breaker_state",
            "1 for the state of a circuit: closed (the store is asked), open (it is spared), half-open (it is tried).",
            labels=["mountpoint", "circuit", "state"],
        )
        for circuit, one in health.items():
            for state in get_args(StoreState):
                states.add_metric([self._mountpoint, circuit, state], int(one.state == state))
        yield states
        yield self._gauge(
            "breaker_failures",
            "Requests that failed in a row until now.",
            {circuit: one.failures for circuit, one in health.items()},
            "circuit",
        )
        yield self._counter(
            "breaker_opened_total",
            "How often the store did not answer so many times in a row that it was spared.",
            {circuit: one.opened for circuit, one in health.items()},
            "circuit",
        )
        yield self._counter(
            "breaker_refused_total",
            "Requests that failed at once, without the store being asked, because it was spared.",
            {circuit: one.refused for circuit, one in health.items()},
            "circuit",
        )

    def _of_the_guard(self) -> Iterator[Metric]:
        guard = self._measures.guard
        yield self._counter(
            "cold_access_bytes_total",
            "Bytes that were fetched, by what the rules say of whom they were fetched for: allow, limit, deny.",
            guard.fetched_bytes,
            "access",
        )
        yield self._counter(
            "cold_denied_total", "Opens and reads that a rule of access refused cold bytes.", guard.denied
        )
        yield self._gauge(
            "cold_readers", "Commands of users that had cold bytes fetched in the last minute.", len(guard.readers)
        )
        yield self._gauge(
            "cold_storms_now",
            "Those of them that had more fetched than storm_threshold.",
            sum(one.is_storm for one in guard.readers),
        )
        yield self._counter("cold_storms_total", "Storms that began.", guard.storms)
        yield self._gauge("budget_waiting", "Fetches and restores that wait for a budget now.", guard.waiting, "budget")
        yield self._counter(
            "budget_wait_seconds_total",
            "How long fetches and restores waited for a budget, all together.",
            {name: waited_ns / 1e9 for name, waited_ns in guard.waited_ns.items()},
            "budget",
        )

    # -- families ------------------------------------------------------------------------------------------------

    def _counter(self, name: str, text: str, values: _Values, label: str = "") -> Metric:
        return self._filled(CounterMetricFamily(_PREFIX + name, text, labels=_labels(label)), values)

    def _gauge(self, name: str, text: str, values: _Values, label: str = "") -> Metric:
        return self._filled(GaugeMetricFamily(_PREFIX + name, text, labels=_labels(label)), values)

    def _untyped(self, name: str, text: str, value: float) -> Metric:
        return self._filled(UnknownMetricFamily(_PREFIX + name, text, labels=_labels("")), value)

    def _filled(self, family: CounterMetricFamily | GaugeMetricFamily | UnknownMetricFamily, values: _Values) -> Metric:
        if isinstance(values, Mapping):
            for name, value in values.items():
                family.add_metric([self._mountpoint, name], value)
        else:
            family.add_metric([self._mountpoint], values)
        return family

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(_PREFIX + name, text, labels=_labels(""))
        buckets = [
            ("+Inf" if bound_s == float("inf") else str(bound_s), count) for bound_s, count in histogram.cumulative()
        ]
        family.add_metric([self._mountpoint], buckets, histogram.total_ns / 1e9)
        return family

    def _info(self, name: str, text: str, values: Mapping[str, str]) -> Metric:
        family = InfoMetricFamily(_PREFIX + name, text, labels=_labels(""))
        family.add_metric([self._mountpoint], dict(values))
        return family


class _Given(Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _registry_of(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def _labels(label: str) -> list[str]:
    return ["mountpoint", label] if label else ["mountpoint"]
