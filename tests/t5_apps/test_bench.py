"""The benchmark runs: one cold row with small files, to its end, and nothing of it stays."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import require
from tests.mounting import directory
from tests.servers import ServerMissing, rclone
from tests.t5_apps.conftest import run

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_cold_row_is_measured_for_each_contender() -> None:
    """How much is downloaded for two pages of 4 KiB: two pages by hand, whole chunks by way of a mount."""
    try:
        with rclone():
            pass
    except ServerMissing as missing:
        require(False, str(missing))
    command = [sys.executable, "-m", "bench", "--cold", "--small", "--rounds=1", "--rows=two pages"]
    with directory() as home:
        values = home / "values.json"
        said = run(*command, "--contenders=raw,tierfs-fuse", f"--directory={home}", f"--json={values}", cwd=ROOT)
        measured = json.loads(values.read_text())
        assert measured["failures"] == [], said
        (by_hand,), (by_mount,) = (measured["lines"][0]["values"][who] for who in ("raw S3", "tierfs, plain FUSE"))
        assert by_hand == 8192 / (1 << 20)
        assert by_mount >= 2.0
        assert list(home.iterdir()) == [values]
