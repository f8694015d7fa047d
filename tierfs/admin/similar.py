"""Lines of the log that are alike: after the first ones of a while they are counted, and told in one line.

A bucket that is away fails a thousand reads in a second, each with the same sentence; a pass archives ten thousand
files. Whoever reads the log wants to know of them, and of the line between them that is different.
"""

import logging
import threading
from collections.abc import Hashable
from dataclasses import dataclass

_LINES = 100  # of a kind that are written in a while: ten a second for long, or a page of them at once
_WHILE_S = 10.0


@dataclass(slots=True)
class _Kind:
    """Lines that are alike, in the while that began at `since_s`: how many there were, and the last one."""

    since_s: float
    count: int = 0
    last: logging.LogRecord | None = None


class Similar(logging.Handler):
    """Hands lines on to another handler; of those that are alike so many in a while, then how many more there were.

    Alike are lines of one logger, level and template; of events: of one kind and change. A line that comes from another
    process is text already: `alike` is the template that it had there.
    """

    def __init__(self, target: logging.Handler, lines: int = _LINES, while_s: float = _WHILE_S) -> None:
        super().__init__()
        self._target = target
        self._lines = lines
        self._while_s = while_s
        self._kinds: dict[Hashable, _Kind] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it. Called with the handler's lock."""
        key = _kind_of(record)
        kind = self._kinds.get(key)
        if kind is None or record.created - kind.since_s >= self._while_s:
            self._tell(key)
            kind = self._kinds[key] = _Kind(record.created)
        kind.count += 1
        if kind.count <= self._lines:
            self._target.handle(record)
            return
        kind.last = record
        if self._timer is None:
            self._timer = threading.Timer(self._while_s, self._tell_all)
            self._timer.daemon = True
            self._timer.start()

    def flush(self) -> None:
        """Have the lines that were handed on reach their file."""
        self._target.flush()

    def close(self) -> None:
        """Say how many were not written, then close the other handler."""
        if self._timer:
            self._timer.cancel()
        self._tell_all()
        self._target.close()
        super().close()

    def _tell_all(self) -> None:
        self.acquire()
        try:
            self._timer = None
            for key in list(self._kinds):
                self._tell(key)
        finally:
            self.release()

    def _tell(self, key: Hashable) -> None:
        """The end of a while: one line for those that were counted."""
        kind = self._kinds.pop(key, None)
        if kind and kind.last:
            more, last = kind.count - self._lines, kind.last
            try:
                text = f"{more} similar lines in {last.created - kind.since_s:.0f} s, the last: {last.getMessage()}"
            except Exception:  # as any handler: a line that is written wrongly is no reason to end whoever writes it
                self.handleError(last)
                return
            told = {**vars(last), "msg": text, "args": (), "similar": more}
            self._target.handle(logging.makeLogRecord(told))


def _kind_of(record: logging.LogRecord) -> Hashable:
    fields = getattr(record, "fields", None)
    if fields:
        return (fields["kind"], fields["from"], fields["to"])
    return (record.name, record.levelno, getattr(record, "alike", str(record.msg)))
