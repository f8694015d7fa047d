"""A pace that threads share."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from tierfs.core.pace import Pace


class Throttle:
    """Holds all who share it to so many bytes per second together. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pace = Pace(0)

    def spend(self, size: int, bytes_per_second: int, stop: threading.Event) -> None:
        """Wait until `size` bytes may be spent, or `stop` is set; 0 bytes per second: no limit."""
        if bytes_per_second <= 0:
            return
        with self._lock:
            now_ns = self._clock()
            pace = replace(self._pace, per_second=bytes_per_second)
            wait_ns, self._pace = pace.wait_ns(now_ns), pace.spent(size, now_ns)
        stop.wait(wait_ns / 1e9)
