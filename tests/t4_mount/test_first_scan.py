"""The first mount of a bucket that holds more than can be looked at before the mount serves."""

import os
import time

import pytest

from tests.mounting import Plan, directory, mounted

pytestmark = pytest.mark.mount

OBJECTS = 4000
_PATIENCE_S = 120.0


def test_objects_appear_while_the_tree_is_in_use() -> None:
    """The kernel keeps listings, and names that are not there; both are forgotten as objects appear."""
    with directory() as home:
        plan = Plan(home)
        plan.make_directories()
        (plan.bucket / "d").mkdir()
        for number in range(OBJECTS):
            (plan.bucket / "d" / f"object-{number}").write_bytes(b"x")
        with mounted(plan) as mount:
            deadline = time.monotonic() + _PATIENCE_S
            some = os.listdir(mount.path / "d")
            assert not (mount.path / "d" / "object").exists()
            while mount.status()["cold"]["files"] < OBJECTS:
                assert time.monotonic() < deadline, mount.status()["cold"]
            # The kernel is told of the last ones a moment later: it forgets the listing that it has kept.
            while len(all_of_them := os.listdir(mount.path / "d")) < OBJECTS:
                assert time.monotonic() < deadline, len(all_of_them)
            assert set(some) <= set(all_of_them)
            assert len(all_of_them) == len(set(all_of_them)) == OBJECTS
            assert (mount.path / "d" / f"object-{OBJECTS - 1}").read_bytes() == b"x"
