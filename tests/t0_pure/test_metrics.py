"""Metrics as Prometheus reads them: names, types and values, checked by the official client's own parsers."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from tests.t0_pure.test_documents import ROOT, rows, section
from tierfs.admin.metrics import exposition, merged, scrape
from tierfs.core.access import Access
from tierfs.core.errors import ControlError
from tierfs.core.histogram import Doublings, Histogram
from tierfs.core.reports import LeaseReport, StoreHealth
from tierfs.core.runway import Outlook, Runway
from tierfs.core.storms import ColdReader
from tierfs.engine.coldside import ColdNumbers
from tierfs.engine.daemon import Passes
from tierfs.engine.guard import GuardNumbers
from tierfs.engine.hydrate import HydrateCounters
from tierfs.engine.inventory import Stock
from tierfs.engine.measures import HotDisk, Measures, sum_of
from tierfs.engine.movements import Movements
from tierfs.engine.observed import Observations, Succession
from tierfs.engine.snapshotter import Snapshots
from tierfs.stores.cache import CacheCounters
from tierfs.stores.catalog_rows import Tally
from tierfs.stores.cold import StoreCounters

WAITED = Histogram([1, 0, 2] + [0] * 13, 9_500_000)
CLOSED = StoreHealth("closed", 0, 0, 0, "", 1, 2)
OPEN = StoreHealth("open", 7, 5, 6, "it hangs", 3, 4)
PIDS = {"worker": os.getpid(), "cold": os.getpid()}
ANSWERED = Doublings()
for took_ns in (10_000, 50_000, 2_000_000):
    ANSWERED.cells[took_ns.bit_length()] += 1
    ANSWERED.cells[-1] += took_ns
COLD = ColdNumbers(
    pid=11,
    began_ns=1,
    store=StoreCounters(
        1 << 60,
        20,
        {"GetObject": 3, "PutObject": 4},
        WAITED,
        {"GetObject": {"StoreUnavailable": 2}},
        {"PutObject": WAITED},
    ),
    lease=LeaseReport("held", 1, 1),
    health={"reads": OPEN, "writes": CLOSED},
    cache=CacheCounters(5, 6, 7, {"check": 8}),
    volume=4096,
)
MEASURES = Measures(
    mountpoint="/srv/data",
    version="1.2",
    reads=HydrateCounters(21, 22, 23, 24, 25, 26, WAITED, 27, 28, 29),
    cold=COLD,
    cold_restarts=30,
    take_overs=34,
    cache_limit=31,
    operation_errors={"FileLost": 32},
    lost_files=33,
    guard=GuardNumbers(
        fetched_bytes={"allow": 41, "limit": 42, "deny": 0},
        denied=35,
        waited_ns={"hydrate": 1_500_000_000},
        waiting={"hydrate": 44},
        storms=36,
        readers=(
            ColdReader("grep", 5, 6, Access.ALLOW, 1, 0, 1, 1, 0, "a", is_storm=True),
            ColdReader("cat", 5, 7, Access.ALLOW, 1, 0, 1, 1, 0, "a", is_storm=False),
        ),
    ),
    profile="kafka",
    stock=Stock(
        tiers={"hot": Tally(1, 10), "warm": Tally(2, 20), "cold": Tally(4, 40)},
        lost=Tally(1, 5),
        held=28,
        as_of_ns=1_500_000_000,
    ),
    disk=HotDisk(size=1000, free=400, level=600, high=900, low=800),
    moves={
        "archive": Movements(1, 2, 3, 51),
        "release": Movements(4, 5, 6, 52),
        "restore": Movements(7, 8, 9, 53),
    },
    queue={"archiving": 54, "restoring": 55, "deletions": 56, "moves": 57, "planned": 58},
    failing_files=59,
    passes=Passes(
        last_ns=60 * 10**9,
        next_ns=84 * 10**9,
        failed=61,
        done=62,
        broken=63,
        took_ns=1_250_000_000,
        by_verb={"archive": 64, "release": 65},
    ),
    snapshots=Snapshots(taken=66, failed=67, covered_ns=68 * 10**9, entries=69, bytes=70),
    seen=Observations(
        read_errors=32,
        warnings=["a", "b"],
        requests={"lookup": 71, "read": 72},
        opens={"passthrough": 73, "cached": 74},
        open_files=75,
        backing_ids=76,
        known_nodes=77,
        succession=Succession(seconds=0.25),
        answered={"lookup": ANSWERED},
    ),
    is_passthrough=True,
    runway=Runway(1, 2, 3.5, Outlook("filling", 1.5, 81), Outlook("filling", 2.5, 82), is_down=True),
    jobs={"running": 83, "done": 84, "failed": 85, "cancelled": 86},
    pids=PIDS,
)


def text_of(measures: Measures, accept: str = "") -> str:
    return exposition(measures, accept)[0].decode()


def values_of(text: str) -> dict[tuple[str, ...], float]:
    """The samples by name and labels, without the mountpoint."""
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "mountpoint")): sample.value
        for family in families
        for sample in family.samples
    }


def name_of(family: Metric) -> str:
    """As one asks for it: the parser takes the end of a counter's name away."""
    return family.name + ("_total" if family.type == "counter" else "")


def test_every_figure_is_where_it_belongs() -> None:
    found = values_of(text_of(MEASURES))
    plain = {name.removeprefix("tiered_storage_"): value for (name, *labels), value in found.items() if not labels}
    assert plain == {
        "cold_reads_total": 21,
        "cold_read_bytes_total": 22,
        "cold_fetched_bytes_total": 23,
        "cache_hits_total": 24,
        "cache_misses_total": 25,
        "cold_gets_total": 26,
        "cold_wait_seconds_count": 3,
        "cold_wait_seconds_sum": 0.0095,
        "cold_retries_total": 27,
        "cold_deadline_misses_total": 28,
        "cold_corrupt_chunks_total": 29,
        "cold_process_restarts_total": 30,
        "take_overs_total": 34,
        "cache_limit_bytes": 31,
        "lost_files": 33,
        "cold_denied_total": 35,
        "cold_readers": 2,
        "cold_storms_now": 1,
        "cold_storms_total": 36,
        "cache_bytes": 4096,
        "cache_bypassed_total": 7,
        "s3_bytes_uploaded": 1 << 60,
        "s3_bytes_downloaded": 20,
        "s3_first_byte_seconds_count": 3,
        "s3_first_byte_seconds_sum": 0.0095,
        "archived_segments_total": 5,
        "tiers_counted_timestamp_seconds": 1.5,
        "archived_bytes_total": 51,
        "released_bytes_total": 52,
        "restored_bytes_total": 53,
        "jobs_running": 83,
        "failing_files": 59,
        "policy_pass_timestamp_seconds": 60,
        "policy_next_pass_timestamp_seconds": 84,
        "policy_pass_duration_seconds": 1.25,
        "policy_failures_total": 61,
        "hot_disk_size_bytes": 1000,
        "hot_disk_free_bytes": 400,
        "hot_held_bytes": 28,
        "hot_level_bytes": 600,
        "snapshot_timestamp_seconds": 68,
        "snapshot_entries": 69,
        "snapshot_bytes": 70,
        "open_files": 75,
        "backing_ids": 76,
        "known_nodes": 77,
        "passthrough": 1,
        "take_over_seconds": 0.25,
        "warnings": 3,
    }


def test_figures_of_the_tiers_are_told_apart() -> None:
    found = {
        (key[0].removeprefix("tiered_storage_"), *key[1:]): value for key, value in values_of(text_of(MEASURES)).items()
    }
    assert found["segments_total", "kafka"] == 7
    assert [found["tier_files", tier] for tier in ("hot", "warm", "cold")] == [1, 2, 4]
    assert [found["tier_bytes", tier] for tier in ("hot", "warm", "cold")] == [10, 20, 40]
    for verb, figures in (("archive", [1, 3, 2]), ("release", [4, 6, 5]), ("restore", [7, 9, 8])):
        assert [found[f"{verb}_operations_total", result] for result in ("done", "failed", "refused")] == figures
    assert [found["queue_length", queue] for queue in MEASURES.queue] == [54, 55, 56, 57, 58]
    assert [found["policy_passes_total", result] for result in ("done", "failed")] == [62, 63]
    assert [found["policy_planned_files", verb] for verb in ("archive", "release")] == [64, 65]
    assert [found["jobs_total", result] for result in ("done", "failed", "cancelled")] == [84, 85, 86]
    assert [found["runway_seconds", store] for store in ("up", "down")] == [81, 82]
    assert [found["hot_watermark_bytes", mark] for mark in ("high", "low")] == [900, 800]
    assert [found["snapshots_total", result] for result in ("done", "failed")] == [66, 67]


def test_figures_of_the_mount_are_told_apart() -> None:
    found = {
        (key[0].removeprefix("tiered_storage_"), *key[1:]): value for key, value in values_of(text_of(MEASURES)).items()
    }
    assert found["operation_errors_total", "FileLost"] == 32
    assert found["operation_errors_total", "DeadlineExceeded"] == 0
    assert found["s3_failures_total", "GetObject", "StoreUnavailable"] == 2
    assert [found["fuse_requests_total", name] for name in ("lookup", "read")] == [71, 72]
    assert [found["opens_total", mode] for mode in ("passthrough", "cached")] == [73, 74]
    buckets = {key[1]: value for key, value in found.items() if key[0] == "fuse_answer_seconds_bucket"}
    assert list(buckets.values()) == [1, 2, 2, 2] + [3] * 9
    assert list(buckets)[-1] == "+Inf"
    assert found["fuse_answer_seconds_sum", "lookup"] == 0.00206
    assert found["lease_state", "held"] == 1
    assert sum(value for key, value in found.items() if key[0] == "lease_state") == 1
    for process in PIDS:
        assert found["process_resident_memory_bytes", process] > 0
        assert found["process_start_time_seconds", process] > 0


def test_what_nobody_has_counted_yet_has_no_sample() -> None:
    """Before the first look at the hot directory nobody knows how many files there are: that is not none."""
    text = text_of(Measures("/m", "1", stock=Stock({"cold": Tally(2, 3)}, Tally(0, 0), 0, 0)))
    tiers = [key[1] for key in values_of(text) if key[0] == "tiered_storage_tier_files"]
    assert tiers == ["cold"]
    assert "tiered_storage_segments_total{" not in text


async def test_a_scrape_in_pieces_says_the_same() -> None:
    """More samples than a piece has, help and type once, in both formats."""
    seen = replace(MEASURES.seen, answered={f"operation_{number}": ANSWERED for number in range(20)}, requests={})
    measures = replace(MEASURES, seen=seen, pids={})
    for accept in ("", "application/openmetrics-text;version=1.0.0"):
        text, media_type = await scrape(measures, accept)
        assert (text, media_type) == exposition(measures, accept)
        lines = text.decode().splitlines()
        for kind in ("HELP", "TYPE"):
            assert sum(line.startswith(f"# {kind} tiered_storage_fuse_answer_seconds ") for line in lines) == 1
        assert sum(line.startswith("tiered_storage_fuse_answer_seconds_bucket") for line in lines) == 20 * 13
        assert sum(line == "# EOF" for line in lines) == bool(accept)


def test_figures_with_labels_are_told_apart() -> None:
    found = values_of(text_of(MEASURES))
    assert found["tiered_storage_build_info", "1.2"] == 1
    assert [found["tiered_storage_cold_access_bytes_total", access] for access in ("allow", "limit", "deny")] == [
        41,
        42,
        0,
    ]
    assert found["tiered_storage_budget_waiting", "hydrate"] == 44
    assert found["tiered_storage_budget_wait_seconds_total", "hydrate"] == 1.5
    assert found["tiered_storage_s3_requests_total", "GetObject"] == 3
    assert found["tiered_storage_s3_requests_total", "PutObject"] == 4
    assert found["tiered_storage_cache_errors_total", "check"] == 8
    assert [found["tiered_storage_cold_wait_seconds_bucket", bound] for bound in ("0.001", "0.002", "0.005")] == [
        1,
        1,
        3,
    ]
    assert found["tiered_storage_s3_first_byte_seconds_bucket", "+Inf"] == 3
    states = {key[1:]: value for key, value in found.items() if key[0] == "tiered_storage_breaker_state"}
    assert [circuit_and_state for circuit_and_state, value in states.items() if value] == [
        ("reads", "open"),
        ("writes", "closed"),
    ]
    assert len(states) == 6
    assert found["tiered_storage_breaker_failures", "reads"] == 7
    assert found["tiered_storage_breaker_opened_total", "reads"] == 3
    assert found["tiered_storage_breaker_refused_total", "writes"] == 2


def test_a_mount_that_has_done_nothing_has_every_family() -> None:
    fresh = [family.name for family in text_string_to_metric_families(text_of(Measures("/m", "1", pids=PIDS)))]
    assert fresh == [family.name for family in text_string_to_metric_families(text_of(MEASURES))]


def test_the_document_has_every_metric_with_type_and_labels() -> None:
    """docs/METRICS.md is the table: whoever adds a metric says there what it means."""
    table = rows(section(ROOT / "docs" / "METRICS.md", "The metrics"))
    told = {name.strip("`"): (kind, labels) for name, kind, labels, _meaning in table}
    real = {}
    for family in text_string_to_metric_families(text_of(MEASURES)):
        labels = sorted({name for sample in family.samples for name in sample.labels} - {"mountpoint", "le"})
        kind = "untyped" if family.type == "unknown" else family.type
        real[name_of(family)] = (kind, ", ".join(f"`{label}`" for label in labels))
    assert told == real


def test_names_and_help_are_as_prometheus_wants_them() -> None:
    for family in text_string_to_metric_families(text_of(MEASURES)):
        assert family.name.startswith("tiered_storage_")
        assert family.documentation.endswith(".")
        assert family.documentation[0].isupper() or family.documentation[0].isdigit()
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
        assert all(sample.labels["mountpoint"] == "/srv/data" for sample in family.samples)


def test_scrapers_that_prefer_openmetrics_get_it() -> None:
    text = text_of(MEASURES, "application/openmetrics-text;version=1.0.0")
    kinds = {family.name: family.type for family in openmetrics_families(text)}
    assert kinds["tiered_storage_s3_first_byte_seconds"] == "histogram"
    assert kinds["tiered_storage_s3_bytes_downloaded"] == "unknown"
    assert kinds["tiered_storage_cold_reads"] == "counter"
    assert kinds["tiered_storage_segments_total"] == "gauge"


def test_a_mountpoint_may_be_any_bytes() -> None:
    text = text_of(replace(MEASURES, mountpoint=os.fsdecode(b'/a\xff"\n\\')))
    (family, *_) = text_string_to_metric_families(text)
    assert family.samples[0].labels["mountpoint"] == '/a\\xff"\n\\'


def test_several_mounts_make_one_text() -> None:
    texts = [text_of(replace(MEASURES, mountpoint=mountpoint, pids={})) for mountpoint in ("/a", "/b")]
    families = list(text_string_to_metric_families(merged(texts)))
    assert [family.name for family in families] == [family.name for family in text_string_to_metric_families(texts[0])]
    for family in families:
        by_mount = [[s for s in family.samples if s.labels["mountpoint"] == name] for name in ("/a", "/b")]
        assert [s.value for s in by_mount[0]] == [s.value for s in by_mount[1]]
        assert sum(map(len, by_mount)) == len(family.samples) > 0
    assert merged([]) == ""
    with pytest.raises(ControlError, match="cannot be read"):
        merged(["no metrics\nat all"])


def test_the_registry_of_the_process_is_left_alone() -> None:
    probe = (
        "from prometheus_client import REGISTRY; before = set(REGISTRY._names_to_collectors);"
        "from tests.t0_pure.test_metrics import MEASURES; from tierfs.admin.metrics import exposition;"
        "exposition(MEASURES); print(set(REGISTRY._names_to_collectors) == before)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=Path(ROOT), check=True)
    assert done.stdout == "True\n"


def test_the_totals_of_processes_that_ended_count() -> None:
    later = replace(
        COLD,
        began_ns=2,
        store=StoreCounters(
            1,
            2,
            {"GetObject": 1, "HeadObject": 2},
            WAITED,
            {"GetObject": {"StoreUnavailable": 1, "AccessDenied": 1}},
            {"PutObject": WAITED, "HeadObject": WAITED},
        ),
        health={"reads": CLOSED},
        cache=CacheCounters(1, 1, 1, {"read": 1}),
        volume=5,
    )
    total = sum_of(COLD, later)
    assert total.store == StoreCounters(
        (1 << 60) + 1,
        22,
        {"GetObject": 4, "PutObject": 4, "HeadObject": 2},
        WAITED.plus(WAITED),
        {"GetObject": {"StoreUnavailable": 3, "AccessDenied": 1}},
        {"PutObject": WAITED.plus(WAITED), "HeadObject": WAITED},
    )
    assert total.cache == CacheCounters(6, 7, 8, {"check": 8, "read": 1})
    assert total.health == {"reads": replace(CLOSED, opened=4, refused=6)}
    assert (total.began_ns, total.volume) == (2, 5)
    assert sum_of(ColdNumbers(), COLD) == COLD
