"""Operations that hold up the task that answers them: how long, and what they waited for.

Most operations are answered without waiting. They are never slow for our reasons, and cost nothing here: the table is
empty, and nobody looks at a clock. Another task that takes requests in the meantime is how it shows that one waits
(mount.requests).
"""

import logging
import os
import time

import trio

from tierfs.core.reports import happened
from tierfs.engine.waits import taken

log = logging.getLogger(__name__)


class HeldUp:
    """The operations that wait now. `since_ns` says since when, by the task that answers, on the monotonic clock."""

    def __init__(self, limit_ns: int = 0) -> None:
        self.since_ns: dict[trio.lowlevel.Task, int] = {}
        self._limit_ns = limit_ns

    def notice(self, task: trio.lowlevel.Task | None) -> None:
        """A task that has a request does not go on with it now; None is nobody."""
        if task is not None and self._limit_ns:
            self.since_ns.setdefault(task, time.monotonic_ns())

    def forget(self, task: trio.lowlevel.Task) -> None:
        """A task has no request."""
        self.since_ns.pop(task, None)

    def began(self) -> int:
        """When the operation that this task has answered began to wait, which is over now; 0: it never did."""
        return self.since_ns.pop(trio.lowlevel.current_task(), 0)

    def say(self, operation: str, path: bytes, began_ns: int) -> None:
        """Log an operation that has waited since then, if that was long."""
        now_ns = time.monotonic_ns()
        waits = taken(began_ns)
        took_ns = max(now_ns - began_ns, *waits.values(), 0)
        if took_ns < self._limit_ns:
            return
        rest_ns = took_ns - sum(waits.values())
        if rest_ns >= self._limit_ns:
            waits["its turn"] = rest_ns
        waited = ", ".join(f"{ns / 1e9:.1f} s for {what}" for what, ns in waits.items())
        log.warning(
            "slow: %s of %s took %.1f s; it waited %s",
            *(operation, os.fsdecode(path) or "what has no name any more", took_ns / 1e9, waited),
            extra=happened("slow", path, duration_ns=took_ns),
        )
