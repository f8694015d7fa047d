"""What the engine tells a person: the answers of the control API, frozen.

Paths are bytes, relative to the root of the tree; sizes are bytes; times are nanoseconds since the epoch.
"""

from dataclasses import dataclass, field
from typing import Literal

from tierfs.core.residency import Residency, Tier

#: Parts of a path that can be asked for: directories are opened one inside the other.
DEEPEST = 500

Verb = Literal["archive", "release", "restore"]
Result = Literal["done", "unchanged", "failed"]
StoreState = Literal["closed", "open", "half-open"]
Kind = Literal["file", "directory", "symlink", "other"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in the tree: where its bytes are, and why they are not archived yet.

    `key` is the object's key, None without one. `reason` is a sentence, empty when there is nothing to explain.
    """

    path: bytes
    residency: Residency
    tier: Tier
    size: int
    mtime_ns: int
    key: str | None = None
    cached_bytes: int = 0
    pinned: bool = False
    reason: str = ""
    kind: Kind = "file"


@dataclass(frozen=True, slots=True)
class Total:
    """What a request is going to touch: said once, before the first outcome."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file; `bytes` is what was moved, `reason` why it failed or did not change.

    `error` is the class of the error that `reason` came from, empty without one.
    """

    path: bytes
    result: Result
    reason: str = ""
    bytes: int = 0
    error: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """What the policy would do to one file now, and why.

    `rule` is the reason without what differs from file to file. `requests` to the store are what it takes, `dollars` is
    what they cost, `month` by how much each month costs more (or, with a minus, less) then: decimal numbers as text,
    empty where nobody knows the prices.
    """

    path: bytes
    verb: Verb
    size: int
    reason: str
    rule: str = ""
    requests: int = 0
    dollars: str = ""
    month: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A disagreement between catalog, hot directory, bucket and cache: what it means, and what to do about it.

    `repaired` is what was done about it; empty when nothing was.
    """

    what: str
    path: bytes
    meaning: str
    remedy: str
    repaired: str = ""


@dataclass(frozen=True, slots=True)
class CheckOrder:
    """How a check is to be made: reading every object back (`is_deep`), repairing what can be repaired safely.

    `bytes_per_second` is the most that is read from the store for it, 0 for no limit.
    """

    is_deep: bool = False
    is_repairing: bool = False
    bytes_per_second: int = 0


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Whether a store is asked (closed), spared (open), or tried (half-open), for one kind of request.

    `failures` in a row until now, `reason` the last of them; `since_ns` and `next_try_ns` are 0 while closed; `opened`
    and `refused` count since the start.
    """

    state: StoreState
    failures: int
    since_ns: int
    next_try_ns: int
    reason: str
    opened: int
    refused: int


LeaseState = Literal["held", "waiting", "lapsed", "unreached", "refused", "lost"]


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """Whether the mount may write to its store: only while the lease is held; `reason` says why it is not.

    waiting: the one before may still write. lapsed: not renewed in time. unreached: the store could not be asked.
    refused: another mount has it. lost: another mount took it over.
    """

    state: LeaseState
    epoch: int
    taken_ns: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EventReport:
    """One thing that happened to a mount.

    `kind` is residency (`before` and `after` are residencies), failure, deletion, move, pass, room, snapshot, breaker,
    lease, storm, mount, take-over, cold-process, unfit, slow, job or gap (what was before is not kept any more).
    `before` and `after` are empty where there is no state that changed. `path` is empty for what is about no file,
    `bytes` is the size of the file where it has moved, `duration_ns` how long that took; 0 where nobody knows. Numbers
    rise one by one, and those of the next worker are higher.
    """

    number: int
    at_ns: int
    kind: str
    path: bytes = b""
    before: str = ""
    after: str = ""
    reason: str = ""
    bytes: int = 0
    duration_ns: int = 0


JobState = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class JobReport:
    """Work on many files that goes on by itself, and how far it is.

    `files` and `bytes` are what it is about, 0 until it has looked; `done` files and `done_bytes` are through, without
    those that `failed`. `ended_ns` is 0 while it runs. failed: it ended, and not every file did as it was told, or none
    (`reason`). cancelled: by an operator, or because its worker ended (`reason`); what it had done stands.
    """

    id: str
    verb: Verb
    state: JobState
    begun_ns: int
    ended_ns: int = 0
    files: int = 0
    bytes: int = 0
    done: int = 0
    done_bytes: int = 0
    failed: int = 0
    reason: str = ""


Report = Entry | Total | Outcome | PlannedAction | Finding | EventReport | JobReport


def happened(
    kind: str, path: bytes = b"", *, before: str = "", after: str = "", size: int = 0, duration_ns: int = 0
) -> dict[str, object]:
    """What a line of the log is given as `extra` to be an event as well; its reason is the line itself."""
    found = {"kind": kind, "path": path, "before": before, "after": after, "size": size, "duration_ns": duration_ns}
    return {"event": found}
