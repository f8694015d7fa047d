"""The control API as it is spoken: JSON lines, each an object with one key that says what it holds.

    {"entry": {...}}  {"total": {...}}  {"outcome": {...}}  {"planned": {...}}  {"finding": {...}}  {"error": {...}}
    {"event": {...}}  {"job": {...}}

JSON is always ASCII, and paths are str with surrogateescape: names that are not UTF-8 survive. Paths are relative to
the mountpoint, without empty, "." and ".." parts; the root itself is "". Times are nanoseconds since the epoch.
"""

import builtins
import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from tierfs.core import errors
from tierfs.core.errors import ControlError, TierfsError
from tierfs.core.reports import (
    DEEPEST,
    CheckOrder,
    Entry,
    EventReport,
    Finding,
    JobReport,
    Outcome,
    PlannedAction,
    Report,
    Total,
    Verb,
)
from tierfs.core.residency import Residency, Tier

API = "/api/v1"
METRICS = "/metrics"
LINES = "application/x-ndjson"
VERBS: tuple[Verb, ...] = ("archive", "release", "restore")
_LONGEST_NUMBER = 18  # digits of what fits into 64 bits
OPENAPI = f"{API}/openapi.json"
DOCS = f"{API}/docs"
PAGE = "/status"
#: What a browser shows, and all that it is made of: nothing in it knows of the mount.
PAGES = (PAGE, DOCS, OPENAPI)
#: What the status page asks of the mount.
SHOWN = tuple(f"{API}/tiered/{name}" for name in ("stats", "activity", "events", "jobs", "plan", "cost"))

_TAGS: dict[type, str] = {
    Entry: "entry",
    Total: "total",
    Outcome: "outcome",
    PlannedAction: "planned",
    Finding: "finding",
    EventReport: "event",
    JobReport: "job",
}
_CLASSES: dict[str, Any] = {tag: kind for kind, tag in _TAGS.items()}
_READERS: dict[str, Callable[[Any], Any]] = {"path": os.fsencode, "residency": Residency, "tier": Tier}

#: Which HTTP status tells a client what to do about an error; the first class that fits counts.
_STATUSES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.ConfigError, 400),
    (errors.NoSuchJob, 404),
    (errors.ControlError, 400),
    (errors.NotEligible, 409),
    (errors.DeadlineExceeded, 504),
    (errors.StoreUnavailable, 503),
    (errors.StoreError, 502),
    (errors.FileLost, 410),
    (errors.OverBudget, 429),
    (errors.ReadDenied, 403),
    (FileNotFoundError, 404),
    (NotADirectoryError, 404),
    (IsADirectoryError, 409),
    (PermissionError, 403),
)
#: Paths that no file can have are not there.
_IMPOSSIBLE = (errno.ENAMETOOLONG, errno.ELOOP)


def dump(value: object) -> bytes:
    """One line of ASCII JSON."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def to_json(report: Report) -> dict[str, object]:
    """The JSON object of a report, under its tag."""
    fields = asdict(report)
    if "path" in fields:
        fields["path"] = os.fsdecode(fields["path"])
    return {_TAGS[type(report)]: fields}


def from_json(line: Mapping[str, Any]) -> Report:
    """The report that a JSON object holds; raises the error that it holds, and ControlError for an unknown kind."""
    [(tag, fields)] = line.items()
    if tag == "error":
        raise error_from_json(fields)
    if tag not in _CLASSES:
        raise ControlError(f"the mount sent a report of the unknown kind {tag!r}: it runs another version of tierfs")
    report: Report = _CLASSES[tag](**{name: _READERS.get(name, _same)(value) for name, value in fields.items()})
    return report


def error_to_json(error: BaseException) -> dict[str, object]:
    """The JSON object of an error."""
    if isinstance(error, OSError) and error.errno is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes | str) else ""
        message = f"{os.strerror(error.errno)}{f': {name!r}' if name else ''}"
    else:
        message = str(error)
    return {"error": {"kind": type(error).__name__, "message": message}}


def error_from_json(fields: Mapping[str, Any]) -> TierfsError:
    """The error that a mount met, as the class that it had there; ControlError where there is no such class."""
    kind, message = str(fields.get("kind")), str(fields.get("message"))
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, TierfsError):
        return found(message)
    return ControlError(f"the mount met {kind}: {message}")


def status_of(error: BaseException) -> int:
    """The HTTP status of an error."""
    if isinstance(error, OSError) and error.errno in _IMPOSSIBLE:
        return 404
    return _status_of_class(type(error))


def status_of_outcome(outcome: Outcome) -> int:
    """The HTTP status of what became of one file."""
    if outcome.result != "failed":
        return 200
    found = getattr(errors, outcome.error, None) or getattr(builtins, outcome.error, None)
    return _status_of_class(found) if isinstance(found, type) and issubclass(found, BaseException) else 500


def _status_of_class(error: type[BaseException]) -> int:
    return next((status for kind, status in _STATUSES if issubclass(error, kind)), 500)


def checked_path(value: object) -> bytes:
    """A path of a request, relative to the mountpoint. ControlError for one that could lead elsewhere."""
    if not isinstance(value, str):
        raise ControlError(f"a path is a string, not {value!r}")
    try:
        path = os.fsencode(value)
    except UnicodeEncodeError:
        raise ControlError(f"the path {value!r} holds surrogates that stand for no byte") from None
    parts = path.split(b"/")
    is_strange = b"\0" in path or any(part in (b"", b".", b"..") for part in parts)
    if len(parts) > DEEPEST:
        raise ControlError(f"the path {value[:80]!r}... has more than {DEEPEST} parts")
    if path and is_strange:
        raise ControlError(f"the path {value!r} is not one inside the mount: it is absolute, or has empty or dot parts")
    return path


def checked_verb(value: object) -> Verb:
    """What a job is to do. ControlError."""
    for verb in VERBS:
        if value == verb:
            return verb
    raise ControlError(f"verb is archive, release or restore, not {value!r}")


def checked_number(value: str | None) -> int:
    """A number in the query or a header of a request, 0 where there is none. ControlError."""
    if value and not (value.isascii() and value.isdecimal() and len(value) <= _LONGEST_NUMBER):
        raise ControlError(f"{value[:80]!r} is not a number")
    return int(value or 0)


def checked_flag(value: str | None) -> bool:
    """Yes or no in the query of a request, no where there is none. ControlError."""
    if value not in (None, "true", "false"):
        raise ControlError(f"{value!r} is neither true nor false")
    return value == "true"


def order_to_json(order: CheckOrder) -> dict[str, object]:
    """How a check is asked for."""
    return {"deep": order.is_deep, "repair": order.is_repairing, "bytes_per_second": order.bytes_per_second}


def checked_order(body: Mapping[str, object]) -> CheckOrder:
    """What a request for a check asks for; what it does not say is the least. ControlError."""
    is_deep, is_repairing = body.get("deep", False), body.get("repair", False)
    bytes_per_second = body.get("bytes_per_second", 0)
    if not isinstance(is_deep, bool) or not isinstance(is_repairing, bool) or type(bytes_per_second) is not int:
        raise ControlError("deep and repair are true or false, bytes_per_second is a number")
    return CheckOrder(is_deep, is_repairing, bytes_per_second)


def _same(value: Any) -> Any:
    return value
