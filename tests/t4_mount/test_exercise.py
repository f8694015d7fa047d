"""Random I/O on hot and cold files while bytes move, compared: the short form of `python -m tests.exercise`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import require
from tests.exercise.application import Application
from tests.exercise.bursts import VIRTUAL, Exercise, run
from tests.exercise.habits import HABITS
from tests.exercise.witness import Mismatch
from tests.servers import ServerMissing
from tests.t4_mount.modes import MODES, needing_passthrough


@pytest.mark.mount
@pytest.mark.parametrize("mode", [*MODES, VIRTUAL])
def test_random_operations_while_bytes_move(mode: str, record_property: Callable[[str, object], None]) -> None:
    """Applications see what a dict of bytes says, whatever operators do; over several mounts."""
    try:
        with needing_passthrough():
            result = run(Exercise(operations=20_000, seed="1", mode=mode, burst=10_000))
    except ServerMissing as missing:
        require(False, str(missing))
    record_property("exercise", str(result))
    assert result.operations == 20_000
    assert result.mounts == 2
    assert result.operators.moved["release"] > 0


def worked(root: Path, seed: str) -> Application:
    """An application that did something in a plain directory."""
    application = Application(root, seed, HABITS["everything"])
    application.make_directories()
    for _ in range(3000):
        application.step()
    application.settle()
    application.verify()
    return application


def seen(root: Path) -> dict[str, bytes]:
    """All files below a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_an_application_does_follows_from_its_seed(tmp_path: Path) -> None:
    for name, seed in (("one", "7"), ("again", "7"), ("other", "8")):
        worked(tmp_path / name, seed)
    assert seen(tmp_path / "one") == seen(tmp_path / "again") != seen(tmp_path / "other")


def test_a_byte_that_differs_is_found_and_told(tmp_path: Path) -> None:
    """With its offset, and with what was done to the file before."""
    application = worked(tmp_path / "files", "7")
    path = max((tmp_path / "files").rglob("f*"), key=lambda one: one.stat().st_size)
    with path.open("r+b") as file:
        file.seek(1234)
        byte = file.read(1)[0]
        file.seek(1234)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(Mismatch, match=r"the first difference is at offset 1234.*\n(.*\n)+ *[0-9]+: (write|store)"):
        application.verify()
