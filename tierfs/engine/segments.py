"""Segments in the tree: which other files move with one.

What a segment is, core.segments and core.policy say by names; here these are looked up. Segments are small (as many
files as there are patterns), so their names are asked for one by one, and a directory is listed only to see which of
its segments are the newest.
"""

import os
import stat
from collections.abc import Collection

import trio

from tierfs.core.policy import HotFile, Segment, matches, segments_of, why_for_good
from tierfs.core.reports import Verb
from tierfs.core.segments import segment_of
from tierfs.engine.tier import Tier
from tierfs.stores.hot import join, split

_LOOKS_AT_ONCE = 200  # files that the loop looks at before it serves others


def others_of(tier: Tier, path: bytes, known: Collection[bytes] = ()) -> list[bytes]:
    """The other files of the segment that a file belongs to, of either tier, without those that are known already."""
    name = segment_of(path, tier.settings.segments)
    paths = name.paths(tier.settings.segments) if name else []
    others = [one for one in paths if one != path and one not in known]
    return [one for one in others if tier.catalog.get(one) or tier.hot.lstat_or_none(one)]


def to_move_along(tier: Tier, verb: Verb, path: bytes, known: Collection[bytes]) -> list[bytes]:
    """What else an operator moves with a file: the rest of its segment, without what stays hot for good."""
    others = others_of(tier, path, known)
    if verb == "restore":
        return [one for one in others if tier.cold_record(one)]
    stats = [(one, tier.hot.lstat_or_none(one)) for one in others if not tier.cold_record(one)]
    files = [tier.look(one, st) for one, st in stats if st]
    free = [file.path for file in files if why_for_good(file, tier.settings) is None]
    return [one for one in free if verb == "archive" or not matches(one, tier.settings.keep_hot)]


def to_bring_along(tier: Tier, path: bytes) -> list[bytes]:
    """The cold files of the segment that are to come back because a file of it is written to: none that is larger.

    Whoever writes to a log writes to its indexes next, and those are small beside it. Whoever writes to an index may
    never ask for the log, and that would fill the hot tier.
    """
    written = tier.cold_record(path)
    others = [tier.cold_record(one) for one in others_of(tier, path)] if written else []
    return [one.path for one in others if one and written and one.attributes.size <= written.attributes.size]


async def members_in(tier: Tier, directory: bytes) -> list[HotFile]:
    """All files with hot bytes in a directory that belong to segments; none where there is no such directory."""
    try:
        names = [os.fsencode(entry.name) for entry in tier.hot.scan(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    members = []
    for index, path in enumerate(join(directory, name) for name in names):
        if index % _LOOKS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        st = tier.hot.lstat_or_none(path) if segment_of(path, tier.settings.segments) else None
        if st and stat.S_ISREG(st.st_mode):
            members.append(tier.look(path, st))
    return members


class Surroundings:
    """The segments that files stand in. What was seen of one directory is kept until another is asked for."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._directory: bytes | None = None
        self._segments: dict[bytes, Segment] = {}

    async def segment_with(self, file: HotFile) -> Segment:
        """The segment of a file with hot bytes."""
        settings, directory = self._tier.settings, split(file.path)[0]
        if segment_of(file.path, settings.segments) is None:
            return Segment(None, (file,))
        if directory != self._directory:
            self._directory, self._segments = None, {}
            found = segments_of(await members_in(self._tier, directory), settings)
            self._segments = {one.path: segment for segment in found for one in segment.members}
            self._directory = directory
        return self._segments.get(file.path, Segment(None, (file,)))
