"""What is in monitoring/ fits together, and the metrics that there are; t5_apps/test_prometheus has it evaluated."""

import itertools
import json
import re
from typing import Any

import pytest

from tests.t0_pure.test_documents import ROOT, rows, section

MONITORING = ROOT / "monitoring"
RULES = (MONITORING / "tierfs.rules.yml").read_text()
RULE_TESTS = (MONITORING / "tierfs.rules.test.yml").read_text()
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text())

_NAME = re.compile(r"\btiered_storage_\w+")
_ALERT = re.compile(r"^      - alert: (\w+)\n((?:        .*\n|\n)+)", re.MULTILINE)
ALERTS = dict(_ALERT.findall(RULES))
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def known_names() -> set[str]:
    """Every name that a sample can have, and those that stand for several."""
    names = set()
    for name, kind, _labels, _meaning in rows(section(ROOT / "docs" / "METRICS.md", "The metrics")):
        plain = name.strip("`")
        ends = ("", "_bucket", "_count", "_sum") if kind == "histogram" else ("",)
        names |= {plain + end for end in ends}
    return names


@pytest.mark.parametrize("text", [RULES, RULE_TESTS, "\n".join(EXPRESSIONS)], ids=["rules", "tests", "dashboard"])
def test_only_metrics_that_there_are(text: str) -> None:
    found = set(_NAME.findall(text))
    assert found
    assert found - known_names() == set()


def test_every_metric_is_on_the_dashboard_or_says_nothing_over_time() -> None:
    shown = {re.sub("_(bucket|count|sum)$", "", name) for name in _NAME.findall("\n".join(EXPRESSIONS))}
    told = {name.strip("`") for name, *_ in rows(section(ROOT / "docs" / "METRICS.md", "The metrics"))}
    assert told - shown == {
        f"tiered_storage_{name}"
        for name in (
            "known_nodes",
            "policy_next_pass_timestamp_seconds",
            "process_start_time_seconds",
            "process_virtual_memory_bytes",
            "snapshot_bytes",
            "snapshot_entries",
            "tiers_counted_timestamp_seconds",
        )
    }


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: str) -> None:
    body = ALERTS[alert]
    assert re.search(r"^        for: [1-9]\d*[mh]$", body, re.MULTILINE)
    assert re.search(r"^          severity: (critical|warning|info)$", body, re.MULTILINE)
    assert re.search(r"^          summary: .*\.\"?$", body, re.MULTILINE)
    assert re.search(r"^          runbook: (.|\n)*\.$", body, re.MULTILINE)


def test_every_alert_is_seen_to_fire() -> None:
    assert len(ALERTS) == RULES.count("- alert:")
    assert set(re.findall(r'alertname="(\w+)"', RULE_TESTS)) == set(ALERTS)


def test_the_panels_fill_the_page_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["datasource"]["uid"] == "${datasource}"
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_above, (one, other)


def test_every_expression_heeds_what_is_chosen_above() -> None:
    for expression in EXPRESSIONS:
        for name in _NAME.findall(expression):
            assert f'{name}{{instance=~"$instance", mountpoint=~"$mountpoint"' in expression
