"""Workers die and are replaced while applications go on: the short form of `python -m tests.storm`."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import require
from tests.exercise.witness import Mismatch
from tests.servers import ServerMissing
from tests.storm.process import ROLES
from tests.storm.stalls import Stalls
from tests.storm.storm import Storm, run
from tests.t4_mount.modes import MODES, needing_passthrough

_STEPS = 600


@pytest.mark.mount
@pytest.mark.parametrize("mode", MODES)
def test_applications_outlive_workers(mode: str, record_property: Callable[[str, object], None]) -> None:
    """Killed three times and replaced twice, no call fails, and every result is a local filesystem's."""
    for how, strikes in (("kill", 3), ("upgrade", 2)):
        try:
            with needing_passthrough():
                result = run(Storm(strikes, mode=mode, how=how, between_s=0.7))
        except ServerMissing as missing:
            require(False, str(missing))
        record_property(how, str(result))
        assert result.strikes.done.total() >= strikes
        assert result.operations > 0


def played(root: Path, role: str, seed: str = "7") -> object:
    player = ROLES[role](root, seed)
    player.make_directories()
    for _ in range(_STEPS):
        player.step()
    return player


@pytest.mark.parametrize("role", ROLES)
def test_an_application_is_content_with_a_local_filesystem(role: str, tmp_path: Path) -> None:
    """What it expects of a mount is what a plain directory does; and what it does follows from its seed."""
    seen = []
    for name in ("one", "again"):
        player = ROLES[role](tmp_path / name, "7")
        player.make_directories()
        for _ in range(_STEPS):
            player.step()
        player.verify()
        player.settle()
        player.verify()
        seen.append(contents(tmp_path / name))
    assert seen[0] == seen[1]


def contents(root: Path) -> dict[str, object]:
    """All that is below a directory."""
    there = {path: path for path in root.rglob("*")}
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in there
    }
