"""Workers die and are replaced while applications go on: the short form of `python -m tests.storm`."""

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.exercise.bursts import VIRTUAL
from tests.exercise.witness import Mismatch
from tests.servers import ServerMissing
from tests.storm.process import ROLES
from tests.storm.stalls import Stalls
from tests.storm.storm import Storm, run
from tests.t4_mount.modes import MODES, needing_passthrough

_STEPS = 600


# httpx leaves a socket to the garbage collector when a worker dies just as an operator calls it.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", [*MODES, VIRTUAL])
def test_applications_outlive_workers(mode: str, record_property: Callable[[str, object], None]) -> None:
    """Killed three times and replaced twice, no call fails, and every result is a local filesystem's."""
    try:
        with needing_passthrough():
            roles = sorted(ROLES.keys() - {"control"})
            storm = Storm(strikes=5, mode=mode, how="both", between_s=0.3, is_remounted=False, roles=roles)
            result = run(storm)
    except ServerMissing as missing:
        require(False, str(missing))
    record_property("storm", str(result))
    assert result.strikes.done.total() >= 5
    assert result.operations > 0
    gc.collect()


def played(root: Path, role: str) -> Any:
    """An application that did something in a plain directory, and has files open."""
    player = ROLES[role](root, "7")
    player.make_directories()
    for _ in range(_STEPS):
        player.step()
    return player


@pytest.mark.parametrize("role", sorted(ROLES.keys() - {"control"}))
def test_an_application_is_content_with_a_local_filesystem(role: str, tmp_path: Path) -> None:
    """What it expects of a mount is what a plain directory does; and what it does follows from its seed."""
    seen = []
    for name in ("one", "again"):
        player = played(tmp_path / name, role)
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


def change_a_byte(player: Any) -> None:
    """In the shadow of the largest file that has a name."""
    node = max((player._model.nodes[path] for path in player._model.paths("file")), key=lambda one: len(one.data))
    node.data[len(node.data) // 2] ^= 1


def change_an_orphan(player: Any) -> None:
    """In the shadow of a file that is only held open."""
    data = max((handle.node.data for _, handle in player._held), key=len)
    data[len(data) // 2] ^= 1


def lose_a_name(player: Any) -> None:
    os.unlink(player._at(b"stable-123"))


def lose_a_lock(player: Any) -> None:
    player._flocked ^= {1}


@pytest.mark.parametrize(
    ("role", "break_it"),
    [
        *((role, change_a_byte) for role in ("appender", "mapper", "namer", "reader", "orphans", "everything")),
        *(("orphans", change_an_orphan), ("lister", lose_a_name), ("locker", lose_a_lock)),
    ],
)
def test_what_differs_from_its_shadow_is_noticed(role: str, break_it: Callable[[Any], None], tmp_path: Path) -> None:
    player = played(tmp_path / "files", role)
    try:
        break_it(player)
        with pytest.raises(Mismatch):
            player.verify()
    finally:
        player.settle()


def test_the_longest_stall_is_told_exactly() -> None:
    """And what several processes counted is one table."""
    one, other = Stalls(), Stalls()
    for milliseconds in range(1, 100):
        one.add("write", milliseconds / 1000)
    other.add("write", 0.2345)
    other.add("read", 0.001)
    both = Stalls.together([json.loads(json.dumps(some.to_json())) for some in (one, other)])
    assert both.count("write") == 100
    assert both.quantile_s("write", 1.0) == 0.2345
    assert both.quantile_s("write", 0.5) == pytest.approx(0.05, rel=0.05)
    assert both.quantile_s("list", 0.5) == 0.0
    assert [line.split()[0] for line in both.table().splitlines()] == ["kind", "read", "write"]
