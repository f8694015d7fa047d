"""Metrics of the mount itself: requests of the kernel, open files, its workers and their processes."""

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector

from tierfs.admin.metrics_families import PREFIX, Families
from tierfs.engine.measures import Measures


def families_of(measures: Measures) -> Iterator[Metric]:
    """All families of the mount, but for those of its processes."""
    make, seen = Families(measures.mountpoint), measures.seen
    yield make.info("build", "The version of tierfs that serves the mount.", {"version": measures.version})
    yield from _of_fuse(measures, make)
    yield make.counter(
        "cold_process_restarts_total",
        "How often the process that talks to the store ended and was started again.",
        measures.cold_restarts,
    )
    yield make.counter(
        "take_overs_total",
        "How often a worker went on where another one had ended; other counters begin again then.",
        measures.take_overs,
    )
    yield make.gauge("take_over_seconds", "How long the last take-over took.", seen.succession.seconds)
    yield make.gauge(
        "warnings",
        "Sentences under warnings in status: what an operator should know of.",
        len(seen.warnings) + len(measures.warnings()) + bool(measures.passes.waiting),
    )


def _of_fuse(measures: Measures, make: Families) -> Iterator[Metric]:
    seen = measures.seen
    yield make.counter(
        "fuse_requests_total",
        "Requests of the kernel that reached tierfs; what it passes through or has in its caches does not.",
        seen.requests,
        "operation",
    )
    yield make.histogram(
        "fuse_answer_seconds",
        "How long operations took that the worker's Python answered, with what they waited for.",
        seen.answered,
        "operation",
    )
    yield make.counter(
        "opens_total",
        "Opens of files: passthrough (the kernel does their I/O on the hot file itself), cached (tierfs answers).",
        seen.opens,
        "mode",
    )
    yield make.gauge("open_files", "Handles of files that applications have open.", seen.open_files)
    yield make.gauge("backing_ids", "Files that the kernel passes through now.", seen.backing_ids)
    yield make.gauge("known_nodes", "Files and directories that the kernel knows.", seen.known_nodes)
    yield make.gauge(
        "passthrough", "Whether the mount passes hot files through to the kernel.", int(measures.is_passthrough)
    )


def families_of_processes(measures: Measures) -> list[Metric]:
    """Processor, memory and descriptors of the mount's processes, by the official client. Blocking: it reads /proc."""
    made: dict[str, Metric] = {}
    mountpoint = Families(measures.mountpoint).mountpoint
    for process, pid in measures.pids.items():
        # A cold process that is being started again has no pid.
        for found in _of_one(pid) if pid else ():
            family = made.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            for sample in found.samples:
                family.add_sample(sample.name, {"mountpoint": mountpoint, "process": process}, sample.value)
    return list(made.values())


def _of_one(pid: int) -> Iterator[Metric]:
    yield from ProcessCollector(namespace=PREFIX.removesuffix("_"), pid=lambda: pid, registry=None).collect()
