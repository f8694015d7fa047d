"""Work on a mount whose store fails now and then: the short form of `python -m tests.soak`."""

from collections.abc import Callable

import pytest

from tests import soak
from tests.conftest import require
from tests.servers import ServerMissing

pytestmark = pytest.mark.mount


def test_a_store_that_fails_now_and_then_loses_nothing(record_property: Callable[[str, object], None]) -> None:
    """No difference; `tierfs check` finds nothing, on this mount and on the next one."""
    try:
        result = soak.run(soak.Soak(minutes=0.1, percent=2.0))
    except ServerMissing as missing:
        require(False, str(missing))
    record_property("soak", str(result))
    assert result.operations > 0
