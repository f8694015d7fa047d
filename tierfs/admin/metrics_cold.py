"""Metrics of the cold side: reads of cold files, the chunk cache, the store, its breaker and its lease, the guard."""

from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import Metric

from tierfs.admin.metrics_families import Families
from tierfs.core import errors
from tierfs.core.reports import LeaseState, StoreState
from tierfs.engine.measures import Measures

#: Errors that no operation of an application ends with, or that are as an operator wants them.
_OTHERS = {"TierfsError", "ConfigError", "MountError", "ControlError", "ReadDenied", "StoreError"}


def _names(kind: type[errors.TierfsError]) -> Iterator[str]:
    yield kind.__name__
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _names(below)


#: What operations of applications may fail with: each has a sample from the beginning, so that the first one is seen.
REASONS = tuple(name for name in _names(errors.TierfsError) if name not in _OTHERS)

#: What is tried on the chunk cache's disk.
_OF_THE_CACHE = ("open", "close", "read", "write", "evict", "check")


def families_of(measures: Measures) -> Iterator[Metric]:
    """All families of the cold side."""
    make = Families(measures.mountpoint)
    yield from _of_reads(measures, make)
    yield from _of_the_cache(measures, make)
    yield from _of_the_store(measures, make)
    yield from _of_the_breaker(measures, make)
    yield from _of_the_guard(measures, make)


def _of_reads(measures: Measures, make: Families) -> Iterator[Metric]:
    reads = measures.reads
    yield make.counter(
        "cold_reads_total",
        "Reads of cold files that reached tierfs; what the kernel has in its page cache does not.",
        reads.reads,
    )
    yield make.counter("cold_read_bytes_total", "Bytes that reads of cold files asked for.", reads.bytes_asked)
    yield make.counter(
        "cold_fetched_bytes_total",
        "Bytes of whole, verified chunks that came from the store for reads, read-ahead and restores.",
        reads.bytes_fetched,
    )
    yield make.counter("cold_gets_total", "GETs that were made to fetch chunks.", reads.gets)
    yield make.histogram(
        "cold_wait_seconds",
        "How long reads of cold files waited, of those whose chunks were not all in memory.",
        reads.waited,
    )
    yield make.counter(
        "cold_deadline_misses_total",
        "Reads and restores that were given up because a chunk did not come within cold_timeout.",
        reads.deadline_misses,
    )
    yield make.counter(
        "cold_retries_total", "GETs for chunks that failed and were, or are to be, made again.", reads.retries
    )
    yield make.counter(
        "cold_corrupt_chunks_total",
        "Times that a chunk came from the store with other bytes than the archived ones, or too few.",
        reads.corrupt_chunks,
    )
    yield make.counter(
        "operation_errors_total",
        "Operations of applications that failed for a reason of the store or of tierfs, and were logged.",
        {**dict.fromkeys(REASONS, 0), **measures.operation_errors},
        "reason",
    )


def _of_the_cache(measures: Measures, make: Families) -> Iterator[Metric]:
    reads, cache = measures.reads, measures.cold.cache
    yield make.counter("cache_hits_total", "Chunks not in memory that were found in the chunk cache.", reads.cache_hits)
    yield make.counter(
        "cache_misses_total",
        "Chunks not in memory that the chunk cache did not have, so that they were fetched.",
        reads.cache_misses,
    )
    yield make.counter(
        "cache_bypassed_total",
        "GETs whose chunks went past the chunk cache, because there was no room or its disk failed.",
        cache.bypassed,
    )
    yield make.counter(
        "cache_errors_total",
        "Failures of the chunk cache's disk by what was tried; check: chunks that were found damaged.",
        {**dict.fromkeys(_OF_THE_CACHE, 0), **cache.errors},
        "operation",
    )
    yield make.gauge(
        "cache_bytes", "Bytes that the chunk cache takes on its disk, its database included.", measures.cold.volume
    )
    yield make.gauge("cache_limit_bytes", "The most that the chunk cache may take (cache_size).", measures.cache_limit)


def _of_the_store(measures: Measures, make: Families) -> Iterator[Metric]:
    store = measures.cold.store
    # The client gives counters the ending _total; these two are named elsewhere without it.
    yield make.untyped(
        "s3_bytes_uploaded",
        "Bytes of objects sent to the store; a counter, untyped for its name.",
        store.bytes_uploaded,
    )
    yield make.untyped(
        "s3_bytes_downloaded",
        "Bytes of objects received from the store; a counter, untyped for its name.",
        store.bytes_downloaded,
    )
    yield make.counter(
        "s3_requests_total",
        "Requests sent to the store by S3 operation, with those that were sent again and the self-test.",
        store.requests,
        "operation",
    )
    yield make.counter(
        "s3_failures_total",
        "Requests to the store that failed, by S3 operation and the class of the error.",
        {(name, reason): count for name, found in store.failures.items() for reason, count in found.items()},
        "operation",
        "reason",
    )
    yield make.histogram(
        "s3_first_byte_seconds",
        "How long GETs took from the request to the head of the answer, of those that were answered.",
        store.first_byte,
    )
    yield make.histogram(
        "s3_answer_seconds",
        "How long other requests took to a good answer, by S3 operation, with what was sent again in between.",
        store.answered,
        "operation",
    )


def _of_the_breaker(measures: Measures, make: Families) -> Iterator[Metric]:
    health, lease = measures.cold.health, measures.cold.lease
    yield make.states(
        "breaker_state",
        "1 for the state of a circuit: closed (the store is asked), open (it is spared), half-open (it is tried).",
        {circuit: one.state for circuit, one in health.items()},
        get_args(StoreState),
        "circuit",
    )
    yield make.gauge(
        "breaker_failures",
        "Requests that failed in a row until now.",
        {circuit: one.failures for circuit, one in health.items()},
        "circuit",
    )
    yield make.counter(
        "breaker_opened_total",
        "How often the store did not answer so many times in a row that it was spared.",
        {circuit: one.opened for circuit, one in health.items()},
        "circuit",
    )
    yield make.counter(
        "breaker_refused_total",
        "Requests that failed at once, without the store being asked, because it was spared.",
        {circuit: one.refused for circuit, one in health.items()},
        "circuit",
    )
    yield make.states(
        "lease_state",
        "1 for what the mount has of the lease of its prefix; nothing is archived or deleted but while it is held.",
        {"": lease.state} if lease else {},
        get_args(LeaseState),
        "",
    )


def _of_the_guard(measures: Measures, make: Families) -> Iterator[Metric]:
    guard = measures.guard
    yield make.counter(
        "cold_access_bytes_total",
        "Bytes that were fetched, by what the rules say of whom they were fetched for: allow, limit, deny.",
        guard.fetched_bytes,
        "access",
    )
    yield make.counter("cold_denied_total", "Opens and reads that a rule of access refused cold bytes.", guard.denied)
    yield make.gauge(
        "cold_readers", "Commands of users that had cold bytes fetched in the last minute.", len(guard.readers)
    )
    yield make.gauge(
        "cold_storms_now",
        "Those of them that had more fetched than storm_threshold.",
        sum(one.is_storm for one in guard.readers),
    )
    yield make.counter("cold_storms_total", "Storms that began.", guard.storms)
    yield make.gauge("budget_waiting", "Fetches and restores that wait for a budget now.", guard.waiting, "budget")
    yield make.counter(
        "budget_wait_seconds_total",
        "How long fetches and restores waited for a budget, all together.",
        {name: waited_ns / 1e9 for name, waited_ns in guard.waited_ns.items()},
        "budget",
    )
