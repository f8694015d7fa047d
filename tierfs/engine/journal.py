"""How events and the log meet: what happened is said once, and is both.

What happens often (residency, deletions, moves, passes, jobs) is an event first, one small object; its line of the log
is written here, by a follower like any other. What is a line of the log anyway, and an event as well, says so where it
is logged (core.reports.happened), in whichever process; the Collector takes it from there.
"""

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

import trio

from tierfs.core.reports import EventReport
from tierfs.engine.events import Events

log = logging.getLogger("tierfs.events")

#: The kinds whose lines are written here; all others come from lines.
_WRITTEN = frozenset({"residency", "deletion", "move", "pass", "job", "gap"})
_BAD = frozenset({"lost", "failed"})


class Journal:
    """Writes the lines of events that have none yet. INVARIANT: in order, each once."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._written = 0

    async def run(self) -> None:
        """Write until cancelled; others come to their turn between two lines."""
        try:
            async with aclosing(self._events.follow(self._written)) as events:
                async for event in events:
                    self._write(event)
                    await trio.lowlevel.checkpoint()
        finally:
            self.finish()

    def finish(self) -> None:
        """Write what is there, now: the process is about to end."""
        for event in self._events.since(self._written):
            self._write(event)

    def _write(self, event: EventReport) -> None:
        if event.number <= self._written:
            return  # finish() was quicker
        self._written = event.number
        if event.kind in _WRITTEN:
            level = logging.WARNING if event.after in _BAD or event.kind == "gap" else logging.INFO
            log.log(level, "%s", line_of(event), extra={"fields": fields_of(event)})


class Collector(logging.Handler):
    """Makes events of those lines of the log that say what happened. Made in the trio thread; lines come from any."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events
        self._thread = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line that is an event."""
        if getattr(record, "event", None) is None:
            return
        if threading.get_ident() == self._thread:
            self._take(record)
        else:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._take, record)

    def _take(self, record: logging.LogRecord) -> None:
        happening: Mapping[str, Any] = vars(record)["event"]
        try:
            self._events.record(**{"reason": record.getMessage(), **happening})
        except Exception:  # a line that is written wrongly is no reason to end whoever writes it, nor the loop
            self.handleError(record)


def line_of(event: EventReport) -> str:
    """An event in one line, as the log has it."""
    turned = f"{event.before} to {event.after}" if event.before and event.after and event.kind == "residency" else ""
    size = f"{event.bytes} bytes" if event.bytes else ""
    took = f"in {event.duration_ns / 1e9:.3g} s" if event.duration_ns else ""
    name = os.fsdecode(event.path) or event.kind
    said = ", ".join(filter(None, (turned, " ".join(filter(None, (size, took))))))
    return ": ".join(filter(None, (name, said, event.reason)))


def fields_of(event: EventReport) -> Mapping[str, object]:
    """The same as fields: sizes in bytes, durations in seconds, the path relative to the mountpoint."""
    return {
        "kind": event.kind,
        "path": os.fsdecode(event.path),
        "from": event.before,
        "to": event.after,
        "reason": event.reason,
        "bytes": event.bytes,
        "duration": event.duration_ns / 1e9,
    }
