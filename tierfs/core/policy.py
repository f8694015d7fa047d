"""The policy: which files move, and why.

Pure functions of what is known of the files, the settings and the time. Their output is advice: tier looks again, under
its lock, before it acts. A reason is a sentence part that fits behind "not archived: " or "archive, because ".
"""

import fnmatch
import re
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from tierfs.core.config import Settings
from tierfs.core.quantities import Watermark
from tierfs.core.residency import Residency
from tierfs.core.segments import SegmentName, newest_of, segment_of


class Verb(StrEnum):
    ARCHIVE = "archive"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class HotFile:
    """What the policy looks at in one file that has hot bytes; sizes in bytes, times in nanoseconds since the epoch.

    `holes` are the bytes of `size` that take no room: brokers preallocate indexes, and of a file with several names
    each has its share.
    """

    path: bytes
    mode: int
    nlink: int
    size: int
    mtime_ns: int
    ctime_ns: int
    residency: Residency = Residency.HOT
    readers: int = 0
    writers: int = 0
    pinned: bool = False
    restored_ns: int = 0
    retry_at_ns: int = 0
    failure: str = ""
    holes: int = 0

    @property
    def fresh_ns(self) -> int:
        """From when on the age of the hot bytes counts: they were written to, or brought back.

        Not the ctime: a rename or a chmod does not use them, and what is copied in with its times is as old as it says.
        """
        return max(self.mtime_ns, self.restored_ns)


@dataclass(frozen=True, slots=True)
class Fill:
    """How full the hot tier is, in bytes: the tree's own hot files, and its filesystem with all that is on it."""

    hot: int
    used: int
    capacity: int

    def excess_over(self, mark: Watermark) -> int:
        """Bytes above a watermark; 0 or less when it is not exceeded."""
        return mark.excess_bytes(self.hot, self.used, self.capacity)


@dataclass(frozen=True, slots=True)
class Action:
    """One proposed move. `size` in bytes. Actions of one segment stand together, in the order to carry them out.

    `rule` is the reason without what differs from file to file.
    """

    verb: Verb
    path: bytes
    size: int
    reason: str
    segment: SegmentName | None = None
    rule: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Segment:
    """Files that move together: the members of a segment that have hot bytes, or one file on its own (no `name`).

    The data come first: what is kept hot last, else the largest first. What a crash leaves in the bucket is then of
    use by itself; brokers make an index again from its log, and remove one that has no log.
    """

    name: SegmentName | None
    members: tuple[HotFile, ...]
    is_newest: bool = False

    @property
    def fresh_ns(self) -> int:
        """From when on its age counts: that of its youngest member."""
        return max(file.fresh_ns for file in self.members)


def segments_of(files: Iterable[HotFile], settings: Settings) -> list[Segment]:
    """All files as segments, in the order in which the first file of each was met."""
    if not settings.segments:
        return [Segment(None, (file,)) for file in files]
    found: dict[SegmentName | bytes, list[HotFile]] = {}
    for file in files:
        found.setdefault(segment_of(file.path, settings.segments) or file.path, []).append(file)
    names = [name for name in found if isinstance(name, SegmentName)]
    with_data = {name for name in names if not all(matches(file.path, settings.keep_hot) for file in found[name])}
    newest = newest_of(names, settings.keep_newest, with_data)

    def order(file: HotFile) -> tuple[bool, int, bytes]:
        return matches(file.path, settings.keep_hot), -file.size, file.path

    return [
        Segment(name, tuple(sorted(members, key=order)), name in newest)
        if isinstance(name, SegmentName)
        else Segment(None, tuple(members))
        for name, members in found.items()
    ]


def matches(path: bytes, patterns: Collection[str]) -> bool:
    """Whether a path matches a shell pattern: one with a slash the whole path, one without any name in it."""
    if not patterns:
        return False
    text = path.decode("utf-8", "surrogateescape")
    whole, name = _compiled(tuple(patterns))
    return bool(whole and whole.match(text)) or bool(name and any(map(name.match, text.split("/"))))


def why_never(file: HotFile, settings: Settings) -> str | None:
    """Why a file is not eligible for archive at any age, whoever asks; None when it is."""
    if not stat.S_ISREG(file.mode):
        return "not a regular file"
    if file.nlink > 1:
        return f"it has {file.nlink} hard links"
    if file.size == 0:
        return "it is empty"
    if file.writers:
        return "open for writing"
    if settings.read_only:
        return "the mount is read-only"
    return None


def why_for_good(file: HotFile, settings: Settings) -> str | None:
    """Why the policy never archives a file, as it is now; None when it will sooner or later."""
    return why_never(replace(file, writers=0), settings) or _why_unwanted(file, settings)


def why_not_archived(file: HotFile, settings: Settings, now_ns: int) -> str | None:
    """Why the policy leaves a HOT file alone now; None when it would archive it."""
    return why_never(file, settings) or _why_unwanted(file, settings) or _why_not_yet(file, settings, now_ns)


def why_not_released(file: HotFile, settings: Settings, now_ns: int) -> str | None:
    """Why the policy keeps the hot bytes of a MIRRORED file; None when it would release them."""
    if file.residency is not Residency.MIRRORED:
        return "not archived"
    if reason := why_kept(file):
        return reason
    left = file.fresh_ns + settings.cold_after - now_ns
    if left > 0:
        return f"younger than cold_after for another {_age(left)}"
    return _why_not_again(file, now_ns)


def why_kept(file: HotFile) -> str | None:
    """Why the hot bytes of a MIRRORED file cannot be released, whoever asks; None when they can."""
    if file.pinned:
        return "pinned"
    if file.readers or file.writers:
        return "open"
    return None


def why_not_archived_with(file: HotFile, segment: Segment, settings: Settings, now_ns: int) -> str | None:
    """The same as why_not_archived() for a member of a segment: it may wait for another one."""
    if reason := _why_newest(segment, settings) or why_not_archived(file, settings, now_ns):
        return reason
    return _why_others_wait(
        _moving_besides(file, segment, settings), lambda one: _why_not_mirrored(one, settings, now_ns)
    )


def why_not_released_with(file: HotFile, segment: Segment, settings: Settings, now_ns: int) -> str | None:
    """The same as why_not_released() for a member of a segment: it may be kept hot, or wait for another one."""
    return _why_stays(file, segment, settings, now_ns, lambda one: why_not_released(one, settings, now_ns))


def plan(files: Iterable[HotFile], fill: Fill, settings: Settings, now_ns: int) -> list[Action]:
    """What to move now, in order: archives by age, releases by age, then releases that the high watermark asks for.

    A file that is to be archived now is to be released in a later pass. Releases for the watermark take the segments
    that are already MIRRORED, the ones that changed longest ago first, until the low watermark is reached.
    """
    archives: list[Action] = []
    releases: list[Action] = []
    spare: list[Segment] = []
    of_archives, of_releases = rule_of_archives(settings), rule_of_releases(settings)
    for segment in segments_of(files, settings):
        for file in _archivable(segment, settings, now_ns):
            reason = f"unchanged for {_age(now_ns - file.mtime_ns)}"
            archives.append(Action(Verb.ARCHIVE, file.path, file.size, reason, segment.name, of_archives))
        aged = _releasable(segment, settings, lambda one: why_not_released(one, settings, now_ns))
        for file in aged:
            reason = f"unchanged for {_age(now_ns - file.fresh_ns)}"
            releases.append(Action(Verb.RELEASE, file.path, file.size, reason, segment.name, of_releases))
        if not aged:
            spare.append(segment)
    already = sum(action.size for action in releases)
    if fill.excess_over(settings.high_watermark) - already <= 0:
        return archives + releases
    excess = fill.excess_over(settings.low_watermark) - already
    return (
        archives
        + releases
        + _plan_oldest(spare, excess, settings, now_ns, f"the hot tier is above {settings.high_watermark}")
    )


def plan_room(
    files: Iterable[HotFile], wanted_bytes: int, settings: Settings, now_ns: int, reason: str
) -> list[Action]:
    """Releases that free so many bytes now: of MIRRORED files, the ones that changed longest ago first.

    Fewer bytes where there are not enough files that may go. `files` has all members of the segments that it touches.
    """
    return _plan_oldest(segments_of(files, settings), wanted_bytes, settings, now_ns, reason)


def rule_of_archives(settings: Settings) -> str:
    """Which setting it is that has files archived."""
    return f"unchanged for {settings.warm_after} (warm_after)"


def rule_of_releases(settings: Settings) -> str:
    """Which setting it is that has files released at their age."""
    return f"unchanged for {settings.cold_after} (cold_after)"


def _why_not_spare(file: HotFile, now_ns: int) -> str | None:
    """Why the hot bytes of a file cannot go, whatever its age; None when they can."""
    if file.residency is not Residency.MIRRORED:
        return "not archived"
    return why_kept(file) or _why_not_again(file, now_ns)


def _plan_oldest(
    segments: list[Segment], wanted_bytes: int, settings: Settings, now_ns: int, reason: str
) -> list[Action]:
    spare = [
        Segment(segment.name, gone)
        for segment in segments
        if (gone := _releasable(segment, settings, lambda one: _why_not_spare(one, now_ns)))
    ]
    actions: list[Action] = []
    for segment in sorted(spare, key=lambda one: one.fresh_ns):
        if wanted_bytes <= 0:
            break
        wanted_bytes -= sum(file.size for file in segment.members)
        actions += [Action(Verb.RELEASE, file.path, file.size, reason, segment.name) for file in segment.members]
    return actions


def _archivable(segment: Segment, settings: Settings, now_ns: int) -> list[HotFile]:
    """The members to archive now: none as long as one that is to move must wait."""
    if segment.is_newest:
        return []
    others = [file for file in segment.members if file.residency is not Residency.MIRRORED]
    reasons = [(file, why_not_archived(file, settings, now_ns)) for file in others]
    if any(reason and _is_to_move(file, settings) for file, reason in reasons):
        return []
    return [file for file, reason in reasons if reason is None and file.residency is Residency.HOT]


def _releasable(segment: Segment, settings: Settings, why: Callable[[HotFile], str | None]) -> tuple[HotFile, ...]:
    """The members to release, when `why` says for each on its own why it stays: none as long as one is not ready."""
    gone = []
    for file in () if segment.is_newest else segment.members:
        if file.residency is not Residency.MIRRORED:
            if len(segment.members) > 1 and _is_to_move(file, settings):
                return ()
        elif not matches(file.path, settings.keep_hot):
            if why(file) is None:
                gone.append(file)
            elif not file.pinned:
                return ()
    return tuple(gone)


def _why_stays(
    file: HotFile, segment: Segment, settings: Settings, now_ns: int, why: Callable[[HotFile], str | None]
) -> str | None:
    """Why a member of a segment stays hot, when `why` says it for each on its own."""
    if matches(file.path, settings.keep_hot):
        return "kept hot by a pattern"
    if reason := _why_newest(segment, settings) or why(file):
        return reason
    others = _moving_besides(file, segment, settings)
    return _why_others_wait(others, lambda one: _why_not_mirrored(one, settings, now_ns) or why(one))


def _why_newest(segment: Segment, settings: Settings) -> str | None:
    return f"one of the newest segments (keep_newest is {settings.keep_newest})" if segment.is_newest else None


def _why_others_wait(others: Sequence[HotFile], why: Callable[[HotFile], str | None]) -> str | None:
    """The first of the other members that is not ready yet, and why."""
    for other in others:
        if reason := why(other):
            name = other.path.rpartition(b"/")[2].decode("utf-8", "backslashreplace")
            return f"its segment waits for {name}: {reason}"
    return None


def _moving_besides(file: HotFile, segment: Segment, settings: Settings) -> list[HotFile]:
    """The other members that move with one sooner or later: nothing that lasts keeps them hot."""
    return [one for one in segment.members if one.path != file.path and _is_to_move(one, settings)]


def _is_to_move(file: HotFile, settings: Settings) -> bool:
    if file.pinned or matches(file.path, settings.keep_hot):
        return False
    if file.residency is Residency.MIRRORED:
        return True
    return why_for_good(file, settings) is None


def _why_not_mirrored(file: HotFile, settings: Settings, now_ns: int) -> str | None:
    """Why a member of a segment has no copy in the bucket yet, and is not getting one now; None when that is so."""
    return None if file.residency is Residency.MIRRORED else why_not_archived(file, settings, now_ns)


def _why_unwanted(file: HotFile, settings: Settings) -> str | None:
    if file.pinned:
        return "pinned"
    if not matches(file.path, settings.include):
        return "not included by a pattern"
    if matches(file.path, settings.exclude):
        return "excluded by a pattern"
    if matches(file.path, settings.transient):
        return "its name does not last (a pattern of transient)"
    if file.size < settings.min_size:
        return f"smaller than min_size ({settings.min_size})"
    return None


def _why_not_yet(file: HotFile, settings: Settings, now_ns: int) -> str | None:
    if file.residency is Residency.ARCHIVING:
        return "being archived"
    if not settings.auto_archive:
        return "auto_archive is off"
    left = max(file.mtime_ns + settings.warm_after, file.ctime_ns + min(settings.settle, settings.warm_after)) - now_ns
    if left > 0:
        return f"changed too recently; eligible in {_age(left)}"
    return _why_not_again(file, now_ns)


def _why_not_again(file: HotFile, now_ns: int) -> str | None:
    if file.retry_at_ns > now_ns:
        return f"failed ({file.failure}); next try in {_age(file.retry_at_ns - now_ns)}"
    return None


def next_try_ns(failures: int, now_ns: int) -> int:
    """When to try a file again that failed so many times in a row: 10 s, doubling to an hour."""
    return now_ns + min(10 << min(failures - 1, 16), 3600) * 1_000_000_000


def _age(ns: int) -> str:
    """An age as people say it: the largest unit that gives at least one, rounded down."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if ns >= length * 1_000_000_000:
            return f"{ns // (length * 1_000_000_000)}{unit}"
    return f"{max(0, ns) / 1e9:.0f}s"


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """Patterns for whole paths as one expression, and those for names."""
    whole = [fnmatch.translate(pattern.lstrip("/")) for pattern in patterns if "/" in pattern]
    names = [fnmatch.translate(pattern) for pattern in patterns if "/" not in pattern]
    return re.compile("|".join(whole)) if whole else None, re.compile("|".join(names)) if names else None
