"""Random I/O on hot and cold files while bytes move, compared: the short form of `python -m tests.exercise`."""

from collections.abc import Callable

import pytest

from tests.conftest import require
from tests.exercise.bursts import Exercise, run
from tests.servers import ServerMissing
from tests.t4_mount.modes import MODES, needing_passthrough

pytestmark = pytest.mark.mount


@pytest.mark.parametrize("mode", MODES)
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
