"""A real Prometheus reads a real mount: rules, alerts, and every expression of the dashboard."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t0_pure.test_monitoring import EXPRESSIONS, MONITORING
from tests.t5_apps.conftest import need, run, wait_until
from tests.t5_apps.prometheus import Prometheus, prometheus

RULES = MONITORING / "tierfs.rules.yml"
CONTENT = b"tierfs" * 50_000

#: What has series only when something fails.
OF_FAILURES = {"tiered_storage_s3_failures_total"}
#: The store of this mount is a directory: how long that took is known of GETs alone.
OF_BUCKETS = {"tiered_storage_s3_answer_seconds"}
#: Comparisons say that nothing is the matter by giving nothing: a disk that does not fill, a snapshot not yet taken.
COMPARES = re.compile(r" > 0(?! or)")


@dataclass(frozen=True, slots=True)
class Stage:
    """A mount whose files were moved every way, and the server that watches it."""

    mount: Mount
    server: Prometheus


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    need("prometheus", "promtool")
    flags = ("--auto-archive", "--warm-after", "1h", "--policy-interval", "1s", "--hydrate-rate", "1GiB")
    with directory() as home:
        token = home / "token"
        token.touch(0o600)
        token.write_text("a-token-of-some-length")
        api = ("--api-address", "127.0.0.1:0", "--api-token-file", str(token))
        with (
            mounted(Plan(home, flags=(*flags, *api))) as mount,
            prometheus(home, RULES, mount.status()["api"], token) as server,
        ):
            yield prepared(Stage(mount, server))


def prepared(stage: Stage) -> Stage:
    """Files in every tier."""
    mount = stage.mount
    for name in ("hot", "warm", "cold", "doomed"):
        (mount.path / name).write_bytes(CONTENT)
    mount.archive("warm")
    mount.release("cold", "doomed")
    assert (mount.path / "cold").read_bytes() == CONTENT
    return stage


@pytest.mark.parametrize("what", ["config prometheus.yml", "rules tierfs.rules.yml"])
def test_promtool_finds_nothing_wrong(what: str) -> None:
    need("promtool")
    kind, file = what.split()
    run("promtool", "check", kind, MONITORING / file)


def test_alerts_fire_when_they_should() -> None:
    need("promtool")
    run("promtool", "test", "rules", "tierfs.rules.test.yml", cwd=MONITORING)


def test_promtool_finds_the_metrics_well_made(stage: Stage) -> None:
    """But for the ends of two names, which are given."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=stage.mount.client.metrics().encode(),
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode() + done.stdout.decode()
    given = ("tiered_storage_segments_total", "tiered_storage_archived_segments_total")
    assert [line for line in said.splitlines() if line.strip() and not line.startswith(given)] == []


def test_what_is_moved_is_scraped(stage: Stage) -> None:
    for expression in (
        'up{job="tierfs"} == 1',
        'tiered_storage_archive_operations_total{result="done"} == 3',
        'tiered_storage_release_operations_total{result="done"} == 2',
        'tiered_storage_segments_total{policy="default"} == 4',
        "tiered_storage_archived_segments_total == 3",
        'tiered_storage_tier_files{tier="hot"} == 1',
        "tiered_storage_s3_bytes_downloaded > 0",
        'tiered_storage_fuse_answer_seconds_count{operation="create"} == 4',
    ):
        stage.server.wait_for(expression)


def test_every_expression_of_the_dashboard_finds_its_series(stage: Stage) -> None:
    for expression in EXPRESSIONS:
        chosen = expression.replace("$instance", ".*").replace("$mountpoint", ".*").replace("$__rate_interval", "1m")
        assert "$" not in chosen
        if any(name in chosen for name in OF_FAILURES | OF_BUCKETS) or COMPARES.search(chosen):
            stage.server.query(chosen)
        else:
            stage.server.wait_for(chosen)


def test_the_rules_are_evaluated_and_a_lost_file_is_an_alert(stage: Stage) -> None:
    server, mount = stage.server, stage.mount
    wait_until(
        lambda: all(rule["health"] == "ok" for rule in server.rules()),
        lambda: [(rule["name"], rule["health"], rule.get("lastError")) for rule in server.rules()],
    )
    assert server.query('ALERTS{alertname="TierfsFilesLost"}') == []
    (mount.plan.bucket / "doomed").unlink()
    with suppress(OSError):
        (mount.path / "doomed").read_bytes()
    server.wait_for("tiered_storage_lost_files == 1")
    server.wait_for('ALERTS{alertname="TierfsFilesLost", severity="critical"}')
    server.wait_for('increase(tiered_storage_operation_errors_total{reason=~"FileLost|ObjectMissing"}[1m]) > 0')
    assert os.fspath(mount.path) in {alert["metric"]["mountpoint"] for alert in server.query("ALERTS")}
