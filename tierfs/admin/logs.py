"""Where the worker's log goes, and how a line of it is written: for a person, for a program, or for the journal."""

import json
import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from tierfs.admin.similar import Similar
from tierfs.core.secrets import masked

_LOG_BYTES = 10 << 20  # then a new file is begun; three old ones are kept
#: Where credentials may come from that boto3 uses: their values appear in no line, whatever the line is.
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_TEXTS = frozenset({"message", "reason", "traceback"})
#: Names of files can hold anything: one line is one line, and moves no cursor.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9}
#: sd-daemon(3): what a line may begin with, so that the journal knows how bad it is.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


class PlainLines(logging.Formatter):
    """Time, level and message in one line; a traceback below it, where there is one. No secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record."""
        return f"{self.formatTime(record)} {record.levelname} {_text_of(record, self)}"


class JournalLines(logging.Formatter):
    """What systemd's journal takes from standard error: it knows the time itself, and reads the priority."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record."""
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)
        return "\n".join(f"<{priority}>{line}" for line in _text_of(record, self).split("\n"))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message; of an event also kind, path, from, to, reason, bytes and
    duration (seconds); the traceback where there is one. No secrets.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_event_of(record),
        }
        if hasattr(record, "similar"):
            fields["similar"] = record.similar
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        known = _known_secrets()
        return json.dumps({name: masked(x, known) if name in _TEXTS else x for name, x in fields.items()})


def _text_of(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    text = record.getMessage().translate(_CONTROLS)
    if record.exc_info:
        text = f"{text}\n{formatter.formatException(record.exc_info)}"
    return masked(text, _known_secrets())


def _event_of(record: logging.LogRecord) -> dict[str, object]:
    """What a line says as fields, where it is an event."""
    fields: dict[str, object] | None = getattr(record, "fields", None)
    event: dict[str, Any] | None = getattr(record, "event", None)
    if fields is not None or event is None:
        return dict(fields or {})
    return {
        "kind": event["kind"],
        "path": os.fsdecode(event["path"]),
        "from": event["before"],
        "to": event["after"],
        "reason": record.getMessage(),
        "bytes": event["size"],
        "duration": event["duration_ns"] / 1e9,
    }


def _known_secrets() -> list[str]:
    return [secret for name in _SECRETS if (secret := os.environ.get(name))]


def is_journal(fd: int) -> bool:
    """Whether a descriptor is the one that systemd reads for its journal: systemd.exec(5), $JOURNAL_STREAM."""
    st = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{st.st_dev}:{st.st_ino}"


def start_logging(request: dict[str, Any]) -> None:
    """Log to standard error in the foreground, else to a file in the state directory that is rotated."""
    settings = request["settings"]
    handler: logging.Handler = logging.StreamHandler()
    if not request["foreground"]:
        log = Path(request["state"], "tierfs.log")
        handler = RotatingFileHandler(log, maxBytes=_LOG_BYTES, backupCount=3, errors="backslashreplace")
    plain = JournalLines() if request["foreground"] and is_journal(2) else PlainLines()
    handler.setFormatter(JsonLines() if settings["log_format"] == "json" else plain)
    level = logging.getLevelNamesMapping()[settings["log_level"].upper()]
    similar = Similar(handler)
    similar.setLevel(level)
    logging.basicConfig(level=logging.WARNING, handlers=[similar])
    # Events are made of lines too (engine.journal), whatever is written: the level is the handler's.
    logging.getLogger("tierfs").setLevel(min(logging.INFO, level))
