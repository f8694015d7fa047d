"""The policy: which files move, and why.

Pure functions of what is known of the files, the settings and the time. Their output is advice: tier looks again, under
its lock, before it acts. A reason is a sentence part that fits behind "not archived: " or "archive, because ".
"""

import fnmatch
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from tierfs.core.config import Settings
from tierfs.core.quantities import Watermark
from tierfs.core.residency import Residency


class Verb(StrEnum):
    ARCHIVE = "archive"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class HotFile:
    """What the policy looks at in one file that has hot bytes; sizes in bytes, times in nanoseconds since the epoch."""

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
    """One proposed move. `size` in bytes."""

    verb: Verb
    path: bytes
    size: int
    reason: str


def matches(path: bytes, patterns: Iterable[str]) -> bool:
    """Whether a path matches a shell pattern: one with a slash the whole path, one without any name in it."""
    text = path.decode("utf-8", "surrogateescape")
    names = text.split("/")
    return any(
        _compiled(p.lstrip("/")).match(text) if "/" in p else any(map(_compiled(p).match, names)) for p in patterns
    )


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


def plan(files: Iterable[HotFile], fill: Fill, settings: Settings, now_ns: int) -> list[Action]:
    """What to move now, in order: archives by age, releases by age, then releases that the high watermark asks for.

    A file that is to be archived now is to be released in a later pass. Releases for the watermark take the files
    that are already MIRRORED, the ones that changed longest ago first, until the low watermark is reached.
    """
    archives: list[Action] = []
    releases: list[Action] = []
    spare: list[HotFile] = []
    for file in files:
        if file.residency is Residency.HOT and why_not_archived(file, settings, now_ns) is None:
            archives.append(Action(Verb.ARCHIVE, file.path, file.size, f"unchanged for {_age(now_ns - file.mtime_ns)}"))
        elif why_not_released(file, settings, now_ns) is None:
            releases.append(Action(Verb.RELEASE, file.path, file.size, f"unchanged for {_age(now_ns - file.fresh_ns)}"))
        elif _is_spare(file, now_ns):
            spare.append(file)
    return archives + releases + _plan_watermark(spare, sum(action.size for action in releases), fill, settings)


def _plan_watermark(spare: list[HotFile], already: int, fill: Fill, settings: Settings) -> list[Action]:
    if fill.excess_over(settings.high_watermark) - already <= 0:
        return []
    excess = fill.excess_over(settings.low_watermark) - already
    return _plan_oldest(spare, excess, f"the hot tier is above {settings.high_watermark}")


def plan_room(files: Iterable[HotFile], wanted_bytes: int, now_ns: int, reason: str) -> list[Action]:
    """Releases that free so many bytes now: of MIRRORED files, the ones that changed longest ago first.

    Fewer bytes where there are not enough files that may go.
    """
    return _plan_oldest([file for file in files if _is_spare(file, now_ns)], wanted_bytes, reason)


def _is_spare(file: HotFile, now_ns: int) -> bool:
    """Whether the hot bytes of a file can go before its age says so."""
    return file.residency is Residency.MIRRORED and (why_kept(file) or _why_not_again(file, now_ns)) is None


def _plan_oldest(spare: list[HotFile], wanted_bytes: int, reason: str) -> list[Action]:
    actions: list[Action] = []
    for file in sorted(spare, key=lambda f: f.fresh_ns):
        if wanted_bytes <= 0:
            break
        wanted_bytes -= file.size
        actions.append(Action(Verb.RELEASE, file.path, file.size, reason))
    return actions


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


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))
