"""What the policy would do to a directory that was never mounted: how much moves, and how long that takes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tierfs.core.config import Settings
from tierfs.core.costs import is_due
from tierfs.core.keys import is_storable, key_of
from tierfs.core.policy import (
    Action,
    Fill,
    HotFile,
    Segment,
    Verb,
    plan,
    rule_of_archives,
    rule_of_releases,
    segments_of,
    why_not_archived_with,
)
from tierfs.core.windows import MINUTES_OF_DAY, open_minutes, parse_windows


@dataclass(slots=True)
class Share:
    """Some of the files, and their bytes."""

    files: int = 0
    bytes: int = 0

    def add(self, file: HotFile) -> None:
        """One more."""
        self.files += 1
        self.bytes += file.size


@dataclass(slots=True)
class Forecast:
    """What would become of all files. `archived` in all, and by the first directory of their paths (b"": none).

    `released` are those of them that would leave the hot tier as soon as they are archived. `kept` are the others, by
    the reason. `seconds` is how long the archives take at the configured rates, None where none is; `days` is the same
    where the policy archives only in a window. `actions` are the archives, and the releases that follow.
    """

    archived: Share = field(default_factory=Share)
    released: Share = field(default_factory=Share)
    directories: dict[bytes, Share] = field(default_factory=dict)
    kept: dict[str, Share] = field(default_factory=dict)
    seconds: float | None = None
    days: float | None = None
    actions: list[Action] = field(default_factory=list)


def forecast(files: Sequence[HotFile], prefix: str, settings: Settings, now_ns: int) -> Forecast:
    """What the policy would do with these files, none of which is in the bucket below `prefix` yet."""
    found = Forecast()
    nothing_full = Fill(hot=0, used=0, capacity=1)
    wanted = {action.path for action in plan(files, nothing_full, settings, now_ns) if action.verb is Verb.ARCHIVE}
    segments = {file.path: segment for segment in segments_of(files, settings) for file in segment.members}
    for file in files:
        if file.path in wanted and is_storable(key_of(prefix, file.path)):
            first, slash, _ = file.path.partition(b"/")
            found.archived.add(file)
            found.actions.append(Action(Verb.ARCHIVE, file.path, file.size, rule_of_archives(settings)))
            found.directories.setdefault(first if slash else b"", Share()).add(file)
            if is_due(file, settings, now_ns):
                found.released.add(file)
                found.actions.append(Action(Verb.RELEASE, file.path, file.size, rule_of_releases(settings)))
        else:
            found.kept.setdefault(_why_kept(file, segments[file.path], settings, now_ns), Share()).add(file)
    found.seconds = _seconds(found.archived, settings)
    if found.seconds is not None and settings.archive_window:
        share = open_minutes(parse_windows(settings.archive_window)) / MINUTES_OF_DAY
        found.days = found.seconds / share / 86_400
    return found


def _why_kept(file: HotFile, segment: Segment, settings: Settings, now_ns: int) -> str:
    """Without what differs from file to file."""
    reason = why_not_archived_with(file, segment, settings, now_ns) or "its path is too long for an object key"
    if reason.startswith("its segment waits"):
        return "its segment waits for another file of it"
    return "it has several names" if file.nlink > 1 else reason.partition(";")[0]


def _seconds(archived: Share, settings: Settings) -> float | None:
    times = [archived.bytes / settings.upload_rate] if settings.upload_rate else []
    times += [archived.files * 60 / settings.archive_rate] if settings.archive_rate else []
    return max(times, default=None)
