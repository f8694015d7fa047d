"""A store that is away is a problem for cold reads alone."""

import errno
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mounting import Plan, directory, mounted
from tests.t4_mount.modes import wait_until

pytestmark = pytest.mark.mount


def test_a_tree_whose_store_is_away_mounts_and_heals_by_itself() -> None:
    """The directory of the store, on a disk that is not mounted yet: empty, then gone, then there again."""
    with directory() as home:
        plan = Plan(home)
        with mounted(plan) as mount:
            mount.make_cold(mount.path / "cold", b"x" * 10_000)
            (mount.path / "hot").write_bytes(b"hot")
        away = plan.bucket.rename(plan.bucket.with_name("away"))
        plan.bucket.mkdir()
        with mounted(replace(plan, flags=("--cold-timeout", "1s"))) as mount:
            assert (mount.path / "hot").read_bytes() == b"hot"
            assert (mount.path / "cold").stat().st_size == 10_000
            with pytest.raises(OSError, match="Input/output error") as failed:
                (mount.path / "cold").read_bytes()
            assert failed.value.errno == errno.EIO
            assert mount.residency("cold") == "cold"
            wait_until(lambda: any("is its disk mounted?" in warning for warning in mount.status()["warnings"]))
            plan.bucket.rmdir()
            (mount.path / "hot").write_bytes(b"still hot")
            Path(away).rename(plan.bucket)
            found: list[bytes] = []

            def is_read() -> bool:  # a second may be too short on a busy machine
                with suppress(OSError):
                    found.append((mount.path / "cold").read_bytes())
                return bool(found)

            wait_until(is_read)
            assert found == [b"x" * 10_000]
