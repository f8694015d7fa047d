"""What `tierfs doctor` says: verdicts, and those that follow from figures alone. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tierfs.core.lease import Found
from tierfs.core.quantities import Size, Watermark

#: S3 refuses requests of a host whose clock is more than 15 minutes off (RequestTimeTooSkewed).
_MOST_SKEW_S, _LITTLE_SKEW_S = 900.0, 60.0
#: Below that a disk is as good as full: SQLite's log and one part of an upload have no room.
_LITTLE_ROOM = 64 << 20
_LEAST_DESCRIPTORS, _FEW_DESCRIPTORS = 256, 4096
#: What the three processes of a mount need when nothing is going on, and with all that they may hold in memory.
_LEAST_MEMORY, _LITTLE_MEMORY = 256 << 20, 512 << 20
#: As good as no limit: control groups write theirs as a number, too.
ENDLESS = 1 << 60
_SLOW_ANSWER_S = 0.5
_SLOW_BYTES_PER_S = 1 << 20
#: Passthrough, and requests that are sent again when a worker has died.
_MODERN_KERNEL = (6, 9)


class Verdict(StrEnum):
    """How bad it is; `skipped`: it could not be looked at, which says nothing."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    PROBLEM = "problem"


_SEVERITY = list(Verdict)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was looked at (`subject`), what was found, and where that is not good what it means and what to do."""

    subject: str
    verdict: Verdict
    found: str
    meaning: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """A filesystem in figures (statvfs(3)): bytes and inodes; `inodes` is 0 where there is no limit.

    `free` is for who is not root; what is `reserved` for root is neither that, nor taken.
    """

    free: int
    total: int
    inodes_free: int = 0
    inodes: int = 0
    reserved: int = 0

    @property
    def used(self) -> int:
        """Bytes that are taken: what the watermarks are compared with."""
        return self.total - self.free - self.reserved

    @property
    def why_full(self) -> str:
        """What there is no room for, in words; empty where there is room."""
        if self.free < _LITTLE_ROOM:
            return f"{_shown(self.free)} of {_shown(self.total)} are free"
        if self.inodes and self.inodes_free * 100 < self.inodes:
            return f"{self.inodes_free} of {self.inodes} inodes are free"
        return ""


@dataclass(frozen=True, slots=True)
class Right:
    """An action of IAM that was tried, what tierfs needs it for, and how it was refused; empty where it was not."""

    action: str
    needed_for: str
    refusal: str = ""


def worst(diagnoses: Iterable[Diagnosis]) -> Verdict:
    """The verdict over all."""
    return max((one.verdict for one in diagnoses), key=_SEVERITY.index, default=Verdict.OK)


def judge_kernel(release: str) -> Diagnosis:
    """By what uname(2) says."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None:
        return Diagnosis("kernel", Verdict.SKIPPED, f"{release}: not a release of Linux that can be compared")
    if (int(numbers[1]), int(numbers[2])) >= _MODERN_KERNEL:
        return Diagnosis("kernel", Verdict.OK, f"Linux {release}")
    return Diagnosis(
        "kernel",
        Verdict.WARNING,
        f"Linux {release} is older than 6.9",
        "hot files are read and written through tierfs (no passthrough), and requests that a worker answers while it "
        "dies get EIO",
        "boot Linux 6.9 or later",
    )


def judge_clock(skew_s: float) -> Diagnosis:
    """By how far this host's clock is ahead of the store's, in seconds."""
    off, way = abs(skew_s), "ahead of" if skew_s > 0 else "behind"
    if off < _LITTLE_SKEW_S:
        return Diagnosis("clock", Verdict.OK, f"within {max(off, 1):.0f} s of the store's")
    found = f"{off:.0f} s {way} the store's"
    remedy = "set the clock, and keep it with NTP (chrony, systemd-timesyncd)"
    if off < _MOST_SKEW_S:
        meaning = "S3 refuses requests from 15 minutes on; ages of files and archive_window are off by that, too"
        return Diagnosis("clock", Verdict.WARNING, found, meaning, remedy)
    return Diagnosis("clock", Verdict.PROBLEM, found, "S3 refuses every request (RequestTimeTooSkewed)", remedy)


def judge_descriptors(limit: int) -> Diagnosis:
    """By the hard limit of open files, to which the worker raises its own."""
    if limit >= _FEW_DESCRIPTORS:
        most = "without limit" if limit >= ENDLESS else f"up to {limit}"
        return Diagnosis("open files", Verdict.OK, f"{most} (hard limit of RLIMIT_NOFILE)")
    verdict = Verdict.PROBLEM if limit < _LEAST_DESCRIPTORS else Verdict.WARNING
    return Diagnosis(
        "open files",
        verdict,
        f"only {limit} (hard limit of RLIMIT_NOFILE)",
        "every hot file that is open in the mount takes one, connections to the store and the cache take more: open(2) "
        "fails with EMFILE",
        "raise the hard limit: LimitNOFILE= in the unit, `ulimit -Hn`, or /etc/security/limits.conf",
    )


def judge_memory(available: int, limit: int | None) -> Diagnosis:
    """By what is available on the host, and what the control group allows, in bytes."""
    least = available if limit is None else min(available, limit)
    allowed = "" if limit is None else f", the control group allows {_shown(limit)}"
    found = f"{_shown(available)} available{allowed}"
    if least >= _LITTLE_MEMORY:
        return Diagnosis("memory", Verdict.OK, found)
    return Diagnosis(
        "memory",
        Verdict.PROBLEM if least < _LEAST_MEMORY else Verdict.WARNING,
        found,
        "a mount takes about 250 MiB at rest and 500 MiB at work; where there is less, the kernel kills its processes",
        "give it more: MemoryMax= of the unit, or the limit of the container",
    )


def judge_hot_room(room: Room, high: Watermark) -> Diagnosis:
    """The disk of the hot directory, against the high watermark."""
    subject, found = "hot disk", f"{_shown(room.free)} of {_shown(room.total)} free"
    if room.why_full:
        meaning = "writes fail with ENOSPC; only files that are in the bucket already can make room"
        return Diagnosis(
            subject, Verdict.PROBLEM, f"full: {room.why_full}", meaning, "make room, then archive earlier (warm_after)"
        )
    if high.is_percent and high.excess_bytes(0, room.used, room.total) > 0:
        meaning = "archived files are released as soon as they can be, before cold_after"
        remedy = "nothing, if that is meant; else raise high_watermark, or make room"
        return Diagnosis(subject, Verdict.WARNING, f"{found}: above high_watermark ({high})", meaning, remedy)
    if problem := contradiction_of_watermark(high, room.total):
        remedy = "make high_watermark smaller, or write it in percent"
        return Diagnosis(subject, Verdict.WARNING, found, problem, remedy)
    return Diagnosis(subject, Verdict.OK, found)


def judge_state_room(room: Room, cache_size: int, cached: int) -> Diagnosis:
    """The disk of the state directory: room for the catalog, and for what the cache may still grow by."""
    subject, found = "state disk", f"{_shown(room.free)} of {_shown(room.total)} free"
    if room.why_full:
        meaning = "the catalog cannot grow: changes of names and attributes fail with ENOSPC, nothing is archived"
        return Diagnosis(
            subject, Verdict.PROBLEM, f"full: {room.why_full}", meaning, "make room, or move the state directory"
        )
    remedy = "make cache_size smaller, or put the state directory on a larger disk (--state)"
    if problem := contradiction_of_cache(cache_size, room.total):
        return Diagnosis(subject, Verdict.PROBLEM, found, f"{problem}; the catalog is on it, too", remedy)
    if cache_size - cached > room.free:
        meaning = f"the cache may still grow by {_shown(cache_size - cached)}, and the catalog is on the same disk"
        return Diagnosis(subject, Verdict.WARNING, found, meaning, remedy)
    return Diagnosis(subject, Verdict.OK, found)


def contradiction_of_cache(cache_size: int, total: int) -> str:
    """Why a cache of that size is nonsense on a disk of `total` bytes; empty when it is not."""
    if cache_size <= total:
        return ""
    return f"cache_size ({_shown(cache_size)}) is larger than the whole disk of the state directory ({_shown(total)})"


def contradiction_of_watermark(high: Watermark, total: int) -> str:
    """Why a watermark is never reached on a disk of `total` bytes; empty when it can be."""
    if high.is_percent or high.amount <= total:
        return ""
    return f"high_watermark ({high}) is more than the whole disk of the hot directory ({_shown(total)}) holds"


def judge_right(right: Right) -> Diagnosis:
    """One action of IAM."""
    if not right.refusal:
        return Diagnosis(right.action, Verdict.OK, "allowed")
    return Diagnosis(
        right.action,
        Verdict.PROBLEM,
        f"refused: {right.refusal}",
        f"tierfs needs it to {right.needed_for}",
        f"allow {right.action} in the policy of this user or role, and look for a Deny in the policy of the bucket",
    )


def judge_lease(found: Found | None, own_identity: str, now_ns: int) -> Diagnosis:
    """Who may write below the prefix. `own_identity` is of our state directory, empty when there is none yet."""
    if found is None:
        return Diagnosis("lease", Verdict.OK, "nobody has it")
    lease = found.lease
    if lease is None:
        return Diagnosis(
            "lease",
            Verdict.PROBLEM,
            "something else than a lease is where the lease should be",
            "no mount may write below this prefix",
            "look who writes there; `tierfs mount --take-over` replaces it",
        )
    where, age_s = lease.owner.where, found.age_ns / 1e9
    if lease.is_free:
        return Diagnosis("lease", Verdict.OK, f"given back by {where}")
    if own_identity and lease.owner.identity == own_identity:
        return Diagnosis("lease", Verdict.OK, f"of this state directory, renewed {age_s:.0f} s ago")
    if found.age_ns >= lease.patience_ns and lease.begins_ns <= now_ns:
        return Diagnosis("lease", Verdict.OK, f"run out: {where} was not heard of for {age_s:.0f} s")
    return Diagnosis(
        "lease",
        Verdict.PROBLEM,
        f"another mount has it: {where}, renewed {age_s:.0f} s ago",
        "a second mount of this bucket and prefix is refused, unless it is read-only",
        "unmount the other one, or mount with another prefix, or with --read-only; if it is gone for good, wait until "
        "the lease has run out, or use --take-over",
    )


def judge_speed(answer_s: float, up: float, down: float) -> Diagnosis:
    """By the time until an answer begins, in seconds, and what one connection carries each way, in bytes a second."""
    found = f"first byte after {answer_s * 1e3:.0f} ms, {_shown(up)}/s up and {_shown(down)}/s down on one connection"
    if answer_s < _SLOW_ANSWER_S and min(up, down) >= _SLOW_BYTES_PER_S:
        return Diagnosis("speed", Verdict.OK, found)
    return Diagnosis(
        "speed",
        Verdict.WARNING,
        found,
        "cold reads wait that long for each step that read-ahead cannot foresee; archives and restores take their time",
        "look at the network between here and the bucket; another region, or an endpoint nearby, may be faster",
    )


def _shown(size: float) -> str:
    """A size in about three digits."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 1000 * factor else f"{size / factor:.0f} {unit}"
    return str(Size(int(size))) if size else "0 bytes"
