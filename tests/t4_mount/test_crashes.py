"""No crash and no power cut loses a byte or invents one: see tests.crashes, which prints this as a table."""

import ast
import os
import re
from pathlib import Path

import pytest

import tierfs
from tests.conftest import require
from tests.crashes.disks import DisksMissing
from tests.crashes.matrix import one_of_each, points, run, steps_reached, table
from tests.crashes.ways import Way
from tests.servers import ServerMissing

PACKAGE = Path(tierfs.__file__).parent
ARCHITECTURE = PACKAGE.parent / "docs" / "ARCHITECTURE.md"
_NAME = re.compile(r"[a-z_]+\.[a-z_]+")
#: Environment variable: `all` for the whole matrix, which takes ten minutes. Else each step has its turn once.
WHOLE = "CRASHES"
#: Functions whose first argument names a step; the demo has steps of another kind.
_NAMING = {"step", "_commit", "_turn"}


def steps_of_the_code() -> set[str]:
    """Every step that has a name."""
    calls = [node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    return {
        str(call.args[0].value)
        for call in calls
        if isinstance(call, ast.Call)
        and (getattr(call.func, "id", "") in _NAMING or getattr(call.func, "attr", "") in _NAMING)
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and _NAME.fullmatch(str(call.args[0].value))
    }


def test_every_step_has_a_crash_and_a_place_in_the_documents() -> None:
    section = ARCHITECTURE.read_text().partition("\n## Crashes\n")[2].partition("\n## ")[0]
    told = {name for name in re.findall(r"`([^`]*)`", section) if _NAME.fullmatch(name)}
    steps = steps_of_the_code()
    assert told == steps
    assert steps_reached(points([Way.CRASH])) == steps
    assert steps_reached(one_of_each(points(list(Way)))) == steps


@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_mount_survives_every_crash(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = points(list(Way))
    if os.environ.get(WHOLE) != "all":
        wanted = one_of_each(wanted)
    try:
        results = list(run(wanted))
    except (DisksMissing, ServerMissing) as missing:
        require(False, str(missing))
        raise
    said = table(results)
    with capsys.disabled():
        print(f"\n{said}")
    assert not any(result.failure for result in results), said
