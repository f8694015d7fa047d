"""Room on the hot tier before it is full: MIRRORED files are released at once, without waiting for the policy.

A write that finds the disk full gets ENOSPC as on any disk, in both I/O modes: hot writes wait for no bucket, and those
that are passed through never come here. So room is made before: the filesystem is looked at every second. A restore is
our own write, and waits for the bucket anyway: it makes the room that it needs.
"""

import logging

import trio

from tierfs.core.config import Settings
from tierfs.core.policy import Fill, HotFile, plan_room
from tierfs.core.quantities import parse_watermark
from tierfs.core.reports import happened
from tierfs.core.residency import Residency
from tierfs.core.segments import segment_of
from tierfs.engine.daemon import Daemon
from tierfs.engine.segments import members_in
from tierfs.engine.tier import Tier
from tierfs.stores.hot import split

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # a statvfs costs microseconds
_LOOKS_AT_ONCE = 200  # files that the loop looks at before it serves others
#: Where the settings are sizes, which say nothing of the filesystem.
_NEARLY_FULL, _WITH_ROOM = parse_watermark("95%"), parse_watermark("90%")


class Room:
    """Makes room. Without effect where nothing may be released unasked (auto_archive off, read_only)."""

    def __init__(self, tier: Tier, daemon: Daemon, settings: Settings) -> None:
        self._tier = tier
        self._daemon = daemon
        self._settings = settings
        self._is_allowed = settings.auto_archive and not settings.read_only
        high = settings.high_watermark
        self._marks = (high, settings.low_watermark) if high.is_percent else (_NEARLY_FULL, _WITH_ROOM)

    async def run(self) -> None:
        """Look every second, until cancelled; where nothing can go, not before the policy has had its turn."""
        while self._is_allowed:
            await trio.sleep(_LOOK_S)
            high, low = self._marks
            if self._fill().excess_over(high) <= 0:
                continue
            if not await self._make(self._fill().excess_over(low), f"the hot tier is above {high}"):
                await trio.sleep(self._settings.policy_interval.seconds)

    async def make(self, needed_bytes: int) -> bool:
        """Release until so many bytes are free; whether anything was released."""
        if not self._is_allowed:
            return False
        filesystem = self._tier.hot.statvfs()
        free = filesystem.f_bavail * filesystem.f_frsize
        return await self._make(needed_bytes - free, "a restore needs its room")

    async def _make(self, wanted_bytes: int, reason: str) -> bool:
        files = await self._mirrored()
        # In a thread, as the daemon plans: many files take longer than the loop may.
        now_ns = self._tier.now()
        actions = await trio.to_thread.run_sync(plan_room, files, wanted_bytes, self._settings, now_ns, reason)
        before = self._fill().used
        await self._daemon.release(actions)
        freed = before - self._fill().used
        text = "%s: %d mirrored files were to go, %d bytes are free now"
        log.info(text, reason, len(actions), max(0, freed), extra=happened("room", size=max(0, freed)))
        return freed > 0

    async def _mirrored(self) -> list[HotFile]:
        """What the catalog calls MIRRORED, as it is now, and what else belongs to its segments."""
        files: dict[bytes, HotFile] = {}
        listed: set[bytes] = set()
        for index, path in enumerate([one.path for one in self._tier.catalog.records(Residency.MIRRORED)]):
            if index % _LOOKS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            st = None if path in files else self._tier.hot.lstat_or_none(path)
            if st:
                files[path] = self._tier.look(path, st)
            directory = split(path)[0]
            if segment_of(path, self._settings.segments) and directory not in listed:
                listed.add(directory)
                files |= {one.path: one for one in await members_in(self._tier, directory)}
        return list(files.values())

    def _fill(self) -> Fill:
        filesystem = self._tier.hot.statvfs()
        used = (filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_frsize
        return Fill(hot=0, used=used, capacity=filesystem.f_blocks * filesystem.f_frsize)
