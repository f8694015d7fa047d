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
from tierfs.admin.metrics import exposition, merged
from tierfs.core.access import Access
from tierfs.core.errors import ControlError
from tierfs.core.histogram import Histogram
from tierfs.core.reports import StoreHealth
from tierfs.core.storms import ColdReader
from tierfs.engine.coldside import ColdNumbers
from tierfs.engine.guard import GuardNumbers
from tierfs.engine.hydrate import HydrateCounters
from tierfs.engine.measures import Measures, sum_of
from tierfs.stores.cache import CacheCounters
from tierfs.stores.cold import StoreCounters

WAITED = Histogram([1, 0, 2] + [0] * 13, 9_500_000)
CLOSED = StoreHealth("closed", 0, 0, 0, "", 1, 2)
OPEN = StoreHealth("open", 7, 5, 6, "it hangs", 3, 4)
COLD = ColdNumbers(
    pid=11,
    began_ns=1,
    store=StoreCounters(1 << 60, 20, {"GetObject": 3, "PutObject": 4}, WAITED),
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
    operation_errors=32,
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
        "operation_errors_total": 32,
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
    }


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
    fresh = [family.name for family in text_string_to_metric_families(text_of(Measures("/m", "1")))]
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


def test_a_mountpoint_may_be_any_bytes() -> None:
    text = text_of(replace(MEASURES, mountpoint=os.fsdecode(b'/a\xff"\n\\')))
    (family, *_) = text_string_to_metric_families(text)
    assert family.samples[0].labels["mountpoint"] == '/a\\xff"\n\\'


def test_several_mounts_make_one_text() -> None:
    texts = [text_of(replace(MEASURES, mountpoint=mountpoint)) for mountpoint in ("/a", "/b")]
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
        store=StoreCounters(1, 2, {"GetObject": 1, "HeadObject": 2}, WAITED),
        health={"reads": CLOSED},
        cache=CacheCounters(1, 1, 1, {"read": 1}),
        volume=5,
    )
    total = sum_of(COLD, later)
    assert total.store == StoreCounters(
        (1 << 60) + 1, 22, {"GetObject": 4, "PutObject": 4, "HeadObject": 2}, WAITED.plus(WAITED)
    )
    assert total.cache == CacheCounters(6, 7, 8, {"check": 8, "read": 1})
    assert total.health == {"reads": replace(CLOSED, opened=4, refused=6)}
    assert (total.began_ns, total.volume) == (2, 5)
    assert sum_of(ColdNumbers(), COLD) == COLD
