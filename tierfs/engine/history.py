"""What a mount remembers of the last hours: how its tiers filled, and what it asked of the store.

It is in memory, and goes into one small file every few minutes and at the end: the next worker goes on with it. A kill
costs the minutes since the last time.
"""

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import trio

from tierfs.core.costs import Traffic
from tierfs.core.errors import CatalogError
from tierfs.core.fill import FillSample, fill_from, fill_json, with_sample
from tierfs.core.policy import matches
from tierfs.core.records import Record
from tierfs.core.residency import Residency
from tierfs.core.runway import Growth, Room, Runway, Sample, growth_of, kept, runway, samples_from, samples_json
from tierfs.core.usage import Hour, Usage, days_of, minus
from tierfs.engine.archive import Archiver
from tierfs.engine.coldside import ColdNumbers
from tierfs.engine.measures import Odometer
from tierfs.engine.restore import Restorer
from tierfs.engine.tier import Tier
from tierfs.stores.catalog_view import CatalogView
from tierfs.stores.history_file import HistoryFile

log = logging.getLogger(__name__)

#: 72 looks fill the window of six hours: enough for a median, and a file of some kilobytes is written each time.
PAUSE_S = 300.0


class History:
    """Keeps both. INVARIANT: what is counted was not counted before, also not by the worker before."""

    def __init__(self, tier: Tier, archiver: Archiver, restorer: Restorer, odometer: Odometer, state: Path) -> None:
        self._tier = tier
        self._archiver = archiver
        self._restorer = restorer
        self._odometer = odometer
        self._file = HistoryFile(state)
        self._usage, self._samples, self.fill = _read(self._file)
        before = self._samples[-1] if self._samples else Sample(0, 0)
        self._moved_before = before.released, before.restored
        self._counted = Traffic()
        self._gone: dict[int, tuple[int, int]] = {}  # sums: a million files may be removed between two looks
        self._growth: Growth | None = growth_of(self._samples)
        self._releasable = 0
        tier.catalog.on_given_up = self._given_up

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        try:
            while True:
                await self.look()
                await trio.sleep(PAUSE_S)
        finally:
            self._note()
            self._write()

    async def look(self) -> None:
        """Take a sample, count what came since the last time, and write both down."""
        try:
            self._releasable = await trio.to_thread.run_sync(self._count_releasable)
        except CatalogError as error:
            log.warning("how much of the hot tier could be released is not known: %s", error)
        self._note()
        self._write()

    def last_day(self) -> tuple[int, Hour]:
        """What was asked of the store in the last day, up to now, and over how many nanoseconds."""
        self._count()
        return self._usage.last_day(self._tier.now())

    def runway(self, numbers: ColdNumbers) -> Runway:
        """Until when the hot tier has room; quickly: this is asked often."""
        filesystem = self._tier.hot.statvfs()
        room = Room(filesystem.f_bavail * filesystem.f_frsize, self._releasable)
        history_ns = self._samples[-1].at_ns - self._samples[0].at_ns if self._samples else 0
        is_down = any(health.state != "closed" for health in numbers.health.values())
        return runway(self._growth, room, history_ns / 1e9, is_down)

    def _note(self) -> None:
        self._count()
        filesystem = self._tier.hot.statvfs()
        released, restored = self._moved_before
        sample = Sample(
            self._tier.now(),
            used=(filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_frsize,
            released=released + self._archiver.released_bytes,
            restored=restored + self._restorer.restores.bytes,
        )
        self._samples = kept(self._samples, sample)
        self._growth = growth_of(self._samples)

    def _count(self) -> None:
        """Put what came since the last time into its hour."""
        store = self._odometer.known().store
        totals = Traffic(dict(store.requests), store.bytes_uploaded, store.bytes_downloaded)
        self._usage = self._usage.counted(minus(totals, self._counted), self._gone, self._tier.now())
        self._counted = totals
        self._gone = {}

    def _given_up(self, record: Record) -> None:
        """An object goes with its file. It was put when the file had been written to, so it is not older than that."""
        if record.object and record.object.etag:
            days = days_of(self._tier.now() - record.attributes.mtime_ns)
            files, size = self._gone.get(days, (0, 0))
            self._gone[days] = files + 1, size + record.object.size

    def _count_releasable(self) -> int:
        """Bytes of mirrored files that may go when room is needed; who has them open is left aside."""
        settings, pins = self._tier.settings, self._tier.pins
        if settings.read_only or not settings.auto_archive:
            return 0
        with closing(CatalogView(self._tier.catalog.path)) as view:
            if not (settings.keep_hot or pins):
                return view.tally([Residency.MIRRORED]).bytes
            return sum(
                size for path, size in view.mirrored() if not (matches(path, settings.keep_hot) or pins.cover(path))
            )

    def filled(self, sample: FillSample) -> None:
        """The tiers and the cache hold so much now."""
        self.fill = with_sample(self.fill, sample)

    def _as_json(self) -> dict[str, Any]:
        usage, samples = self._usage.as_json(), samples_json(self._samples)
        return {"usage": usage, "samples": samples, "fill": fill_json(self.fill)}

    def _write(self) -> None:
        # Some kilobytes into the page cache; a thread would take longer to begin.
        try:
            self._file.write(self._as_json())
        except OSError as error:
            log.warning("the history of the mount cannot be written to %s: %s", self._file.path, error.strerror)


def _read(file: HistoryFile) -> tuple[Usage, tuple[Sample, ...], tuple[FillSample, ...]]:
    """What the worker before knew; nothing of a file that nobody understands."""
    values = file.read()
    try:
        usage, samples = Usage.from_json(values["usage"]), samples_from(values["samples"])
        return usage, samples, fill_from(values.get("fill", ()))  # an older tierfs did not write it
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        if values:
            log.warning("%s cannot be read: the history of the mount begins anew", file.path)
        return Usage(), (), ()
