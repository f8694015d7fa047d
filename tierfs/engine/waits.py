"""What an operation has waited for, so that a slow one can say so. Asked for by who answers it, in the same task."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

_MOST = 8  # waits of one operation that are remembered: the last ones


class Wait(NamedTuple):
    """A wait that is over, on the host's monotonic clock."""

    what: str
    ended_ns: int
    duration_ns: int


_waits: ContextVar[tuple[Wait, ...]] = ContextVar("waits", default=())


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """A block that does nothing but wait, for what this names."""
    began_ns = time.monotonic_ns()
    try:
        yield
    finally:
        note(what, time.monotonic_ns() - began_ns)


def note(what: str, duration_ns: int) -> None:
    """A wait of so long is over now."""
    if duration_ns:
        _waits.set((*_waits.get(), Wait(what, time.monotonic_ns(), duration_ns))[-_MOST:])


def taken(since_ns: int) -> dict[str, int]:
    """How long this task has waited for what, in waits that ended since then; they are forgotten with this."""
    found: dict[str, int] = {}
    for wait in _waits.get():
        if wait.ended_ns >= since_ns:
            found[wait.what] = found.get(wait.what, 0) + wait.duration_ns
    _waits.set(())
    return found
