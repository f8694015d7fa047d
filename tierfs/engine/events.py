"""What happened to a mount: numbered, the last ten thousand in memory, for whoever follows.

An event is one small object, made where residency is committed and where the bucket is told of deletions and renames.
Lines of the log are written afterwards (engine.journal), so that nothing waits for a disk. All of it is touched by the
trio thread alone.
"""

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice

import trio

from tierfs.core.records import Ino, Record
from tierfs.core.reports import EventReport
from tierfs.core.residency import TRANSIENT, Event, Residency
from tierfs.core.secrets import masked

MOST = 10_000
_FAILURES = 20  # the last ones are at hand without a look at all
_SECOND_NS = 10**9
_NUMBERS_PER_SECOND = 1_000_000  # more than a worker ever has: the next one, a second later, has higher ones
_MOST_MOVES = 10_000  # whose begin is remembered; there are as many at a time as files are moved

#: Why residency changes, where the event itself says so; else it is whatever the work is done for (because()).
_REASONS = {
    Event.WRITTEN: "it was written to",
    Event.REPLACED: "it got new content",
    Event.MISSING: "its object is gone from the bucket",
    Event.FOUND: "its object is there again",
    Event.CRASHED: "found so, after a worker had ended or work behind the mount",
}

_cause: ContextVar[str] = ContextVar("cause", default="")


@contextmanager
def because(reason: str) -> Iterator[None]:
    """What changes in this block, and in the tasks that are started in it, has this reason; an outer one is kept."""
    token = _cause.set(_cause.get() or reason)
    try:
        yield
    finally:
        _cause.reset(token)


def sentence(error: BaseException) -> str:
    """What an error says to a person."""
    if isinstance(error, trio.Cancelled):
        return "it was interrupted"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__


class Events:
    """The last events of a mount.

    INVARIANT: numbers rise one by one. INVARIANT: nobody who follows holds up who records: one who is too slow is told
    that it missed some (kind gap).
    """

    def __init__(self, now: Callable[[], int], most: int = MOST) -> None:
        self._now = now
        self._ring: deque[EventReport] = deque(maxlen=most)
        self._last = now() // _SECOND_NS * _NUMBERS_PER_SECOND
        self.failures: deque[EventReport] = deque(maxlen=_FAILURES)
        self._begun: dict[Ino, int] = {}
        self._news = trio.lowlevel.ParkingLot()

    @property
    def last(self) -> int:
        """The number of the newest event, or the one before the first."""
        return self._last

    def record(
        self,
        kind: str,
        path: bytes = b"",
        *,
        before: str = "",
        after: str = "",
        reason: str = "",
        size: int = 0,
        duration_ns: int = 0,
    ) -> None:
        """Something happened, now; see EventReport."""
        self._add(kind, path, before, after, masked(reason), size, duration_ns)

    def _add(self, kind: str, path: bytes, before: str, after: str, reason: str, size: int, duration_ns: int) -> None:
        self._last += 1
        event = EventReport(self._last, self._now(), kind, path, before, after, reason, size, duration_ns)
        self._ring.append(event)
        if kind == "failure":
            self.failures.append(event)
        if self._news:
            self._news.unpark_all()

    def turned(self, before: Residency, record: Record, event: Event, reason: str = "") -> None:
        """A file has another residency; `reason` is better than what the event says by itself."""
        after, duration_ns = record.residency, 0
        if after is before:
            return
        if after in TRANSIENT:
            self._begin(record.ino)
        elif before in TRANSIENT:
            now_ns = time.monotonic_ns()
            duration_ns = now_ns - self._begun.pop(record.ino, now_ns)
        # What others said may hold anything; what a change is done for is our own words, and this is a commit.
        why = masked(reason) if reason else _REASONS.get(event) or _cause.get()
        size = 0 if after is Residency.HOT else record.attributes.size
        self._add("residency", record.path, before.value, after.value, why, size, duration_ns)

    def _begin(self, ino: Ino) -> None:
        self._begun[ino] = time.monotonic_ns()
        if len(self._begun) > _MOST_MOVES:  # of files that were removed meanwhile
            del self._begun[next(iter(self._begun))]

    def since(self, number: int) -> list[EventReport]:
        """The events after this number, as far as they are kept; all for one that is to come: another worker's."""
        newer = self._last - number if number <= self._last else len(self._ring)
        return list(islice(reversed(self._ring), newer))[::-1]

    async def follow(self, after: int = 0) -> AsyncGenerator[EventReport, None]:
        """The events after this number (0: all that are kept), then each as it happens; close it with aclosing()."""
        while True:
            found = self.since(after)
            if found and 0 < after < found[0].number - 1:
                reason = "events before the next one are not kept any more"
                yield EventReport(found[0].number - 1, found[0].at_ns, "gap", reason=reason)
            for event in found:
                yield event
                after = event.number
            if not found:
                await self._news.park()
