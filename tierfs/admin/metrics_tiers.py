"""Metrics of the tiers: what is where, what moves, the policy, the hot tier's disk, snapshots."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from tierfs.admin.metrics_families import Families
from tierfs.core.profiles import policy_of
from tierfs.engine.jobs import ENDED
from tierfs.engine.measures import Measures
from tierfs.engine.movements import Movements

#: In words for the help of each way between the tiers.
_WAYS = {
    "archive": ("Archives", "archived", "Bytes of files that were copied to the bucket and verified."),
    "release": ("Releases", "released", "Bytes of files whose hot bytes were dropped."),
    "restore": ("Restores", "restored", "Bytes of files that came back to the hot tier as a whole."),
}


def families_of(measures: Measures) -> Iterator[Metric]:
    """All families of the tiers."""
    make = Families(measures.mountpoint)
    yield from _of_the_stock(measures, make)
    yield from _of_moves(measures, make)
    yield from _of_the_policy(measures, make)
    yield from _of_the_disk(measures, make)
    yield from _of_snapshots(measures, make)


def _of_the_stock(measures: Measures, make: Families) -> Iterator[Metric]:
    stock = measures.stock
    tiers, is_complete = stock.tiers, stock.is_complete
    policy = policy_of(measures.profile)
    # Gauges whatever their ending says: these two are named elsewhere.
    yield make.gauge(
        "segments_total",
        "Regular files of the tree, of all tiers, by the profile that says what becomes of them.",
        {policy: sum(one.files for one in tiers.values())} if is_complete else {},
        "policy",
    )
    yield make.gauge(
        "archived_segments_total",
        "Regular files whose bytes are in the bucket, verified: warm and cold ones without those that are lost.",
        sum(tiers[tier].files for tier in ("warm", "cold") if tier in tiers) - stock.lost.files,
    )
    yield make.gauge(
        "tier_files",
        "Regular files by tier: hot (on the SSD alone), warm (in both places), cold (in the bucket alone).",
        {tier: one.files for tier, one in tiers.items()},
        "tier",
    )
    yield make.gauge("tier_bytes", "Bytes of these files.", {tier: one.bytes for tier, one in tiers.items()}, "tier")
    yield make.gauge(
        "tiers_counted_timestamp_seconds",
        "When all hot files were last looked at; what was moved since is counted, new hot files are not.",
        stock.as_of_ns / 1e9,
    )
    yield make.gauge(
        "lost_files", "Files whose only copy was in the bucket and is gone from there.", measures.lost_files
    )


def _of_moves(measures: Measures, make: Families) -> Iterator[Metric]:
    for way, (title, done, help_of_bytes) in _WAYS.items():
        moves = measures.moves.get(way) or Movements()
        yield make.counter(
            f"{way}_operations_total",
            f"{title} by what came of them: done, failed, refused (a rule or a change of the file was in the way).",
            {"done": moves.done, "failed": moves.failed, "refused": moves.refused},
            "result",
        )
        yield make.counter(f"{done}_bytes_total", help_of_bytes, moves.bytes)
    yield make.gauge(
        "queue_length",
        "Files that are being archived or restored, or planned to be archived; objects to delete or to move.",
        measures.queue,
        "queue",
    )
    yield make.gauge("jobs_running", "Jobs of operators that run now.", measures.jobs.get("running", 0))
    yield make.counter(
        "jobs_total",
        "Jobs of operators that have ended, by how.",
        {state: measures.jobs.get(state, 0) for state in ENDED},
        "result",
    )
    yield make.gauge(
        "failing_files",
        "Files that the policy could not move when it last tried, and tries again later.",
        measures.failing_files,
    )


def _of_the_policy(measures: Measures, make: Families) -> Iterator[Metric]:
    passes = measures.passes
    yield make.counter(
        "policy_passes_total",
        "Passes of the policy by how they ended.",
        {"done": passes.done, "failed": passes.broken},
        "result",
    )
    yield make.gauge("policy_pass_timestamp_seconds", "When the last pass began, 0 for never.", passes.last_ns / 1e9)
    yield make.gauge(
        "policy_next_pass_timestamp_seconds",
        "When the next pass begins, or the one that runs was to begin; 0 before the first.",
        passes.next_ns / 1e9,
    )
    yield make.gauge(
        "policy_pass_duration_seconds",
        "How long the last pass took, with its releases and without its archives, which go on after it.",
        passes.took_ns / 1e9,
    )
    yield make.gauge("policy_planned_files", "Files that the last pass wanted to move.", passes.by_verb, "verb")
    yield make.counter("policy_failures_total", "Moves for the policy that failed.", passes.failed)


def _of_the_disk(measures: Measures, make: Families) -> Iterator[Metric]:
    disk = measures.disk
    yield make.gauge("hot_disk_size_bytes", "Size of the hot tier's filesystem.", disk.size)
    yield make.gauge("hot_disk_free_bytes", "What is free there for who is not root.", disk.free)
    yield make.gauge(
        "hot_held_bytes",
        "What the tree's hot and warm files take there, as of tiers_counted_timestamp_seconds.",
        measures.stock.held,
    )
    yield make.gauge(
        "hot_level_bytes",
        "What the watermarks are compared with: all that is used there, or hot_held_bytes where they are sizes.",
        disk.level,
    )
    runway = measures.runway
    outlooks = {"up": runway.up, "down": runway.down} if runway else {}
    yield make.gauge(
        "runway_seconds",
        "While the hot tier fills: until it is full at the rate of the last hours, with the store up, and down.",
        {store: one.seconds for store, one in outlooks.items() if one.seconds is not None},
        "store",
    )
    yield make.gauge(
        "hot_watermark_bytes",
        "The watermarks: above high releases begin, below low they stop.",
        {"high": disk.high, "low": disk.low},
        "watermark",
    )


def _of_snapshots(measures: Measures, make: Families) -> Iterator[Metric]:
    snapshots = measures.snapshots
    yield make.counter(
        "snapshots_total",
        "Snapshots of the tree by how they ended; a tree that did not change needs none.",
        {"done": snapshots.taken, "failed": snapshots.failed},
        "result",
    )
    yield make.gauge(
        "snapshot_timestamp_seconds",
        "Of when the newest snapshot is that this worker took, 0 before the first.",
        snapshots.covered_ns / 1e9,
    )
    yield make.gauge("snapshot_entries", "Names in the newest snapshot that this worker took.", snapshots.entries)
    yield make.gauge("snapshot_bytes", "Size of the newest snapshot that this worker took.", snapshots.bytes)
