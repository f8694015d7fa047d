"""Archive and release: the way down."""

import logging
import os
import time

import trio

from tierfs.core.errors import NotEligible, ObjectChanged, ObjectMissing
from tierfs.core.keys import key_of
from tierfs.core.records import Fd, Ino, ObjectRef, Record
from tierfs.core.residency import Residency
from tierfs.core.steps import step
from tierfs.engine.coldtier import ColdTier, upload_of
from tierfs.engine.events import sentence
from tierfs.engine.movements import Movement, Movements
from tierfs.engine.sweep import Sweeper
from tierfs.engine.tier import Tier
from tierfs.stores.hot import identity_of

log = logging.getLogger(__name__)

_CLOCK_REALTIME_COARSE = 5  # linux/time.h: the clock that timestamps of files are taken from
_CLOCK_STEP_NS = 10_000_000  # the longest tick of a kernel (HZ=100): timestamps of files are as fine as that
_LOOKS = 1000  # milliseconds to wait for a file that changes all the time


class Archiver:
    """Moves files down: archive (copy and verify), release (drop the hot bytes)."""

    def __init__(self, tier: Tier, cold: ColdTier, sweeper: Sweeper, chunk_size: int, concurrency: int) -> None:
        self._tier = tier
        self._cold = cold
        self._sweeper = sweeper
        self._chunk_size = chunk_size
        self._uploads = trio.CapacityLimiter(concurrency)
        self._began_ns = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
        self._moving: set[Ino] = set()
        self.active: dict[bytes, Movement] = {}  # by path: the files that are being archived now
        self.archives, self.releases = Movements(), Movements()
        self.released_bytes = 0  # that the hot tier has room for since then

    async def archive(self, path: bytes) -> Record:
        """Copy a HOT file up and verify it: it is MIRRORED then. NotEligible, OSError, StoreError."""
        with self.archives.watching():
            record = await self._archive(path)
        self.archives.moved(record.attributes.size)
        return record

    async def _archive(self, path: bytes) -> Record:
        if path in self.active:
            raise NotEligible("being archived")
        key = key_of(self._tier.prefix, path)
        async with self._sweeper.using(key):
            await self._sweeper.clear(key)
            await self._wait_until_changes_show(path)
            record = self._tier.archive_started(path)
            movement = Movement(path, "archive", record.attributes.size, self._tier.now())
            self.active[path] = movement
            self._moving.add(record.ino)
            try:
                return self._tier.archived(record, await self._upload(record, key, movement))
            except BaseException as error:
                self._tier.archive_aborted(record, sentence(error))
                raise
            finally:
                self.active.pop(path, None)
                self._moving.discard(record.ino)

    def take_back(self) -> None:
        """Make HOT what is ARCHIVING and nobody archives: its end could not be written down. CatalogError."""
        for record in list(self._tier.catalog.records(Residency.ARCHIVING)):
            if record.ino not in self._moving:
                self._tier.archive_aborted(record, "its end could not be written down")

    async def release(self, path: bytes) -> Record:
        """Drop the hot bytes of a MIRRORED file after a last look at its object. NotEligible, OSError, StoreError."""
        with self.releases.watching():
            record = await self._release(path)
        self.releases.moved(record.attributes.size)
        return record

    async def _release(self, path: bytes) -> Record:
        record = self._tier.check_releasable(path)
        stored = record.object
        if stored is None:
            raise NotEligible("not archived")
        try:
            info = await self._cold.confirm(stored.key)
        except ObjectMissing:
            self._tier.missing(stored)
            raise
        if (info.etag, info.size) != (stored.etag, stored.size):
            self._tier.missing(stored)
            raise ObjectChanged(f"{stored.key} was overwritten behind tierfs; the file stays hot and is archived again")
        await self._check_bytes(path, record, stored)
        with step("release.sync_catalog"):
            await trio.to_thread.run_sync(self._tier.catalog.sync)
        blocks = self._tier.hot.lstat(path).st_blocks
        released = self._tier.release(path, record)
        self.released_bytes += blocks * 512
        return released

    async def _check_bytes(self, path: bytes, record: Record, stored: ObjectRef) -> None:
        """Compare hot bytes with the recorded SHA-256, unless they were written while this worker ran. NotEligible.

        Identity says that no bytes are newer, but for one case: fdatasync(2) and O_DSYNC make bytes durable and leave
        ctime in memory, so a power cut gives back the file with new bytes and old times.
        """
        if record.identity is None or record.identity.ctime_ns >= self._began_ns:
            return
        fd = self._open(path)
        try:
            is_same = await self._cold.sha256(fd, stored.size) == stored.sha256
        finally:
            os.close(fd)
        if not is_same:
            if identity_of(self._tier.hot.lstat(path)) != record.identity:
                raise NotEligible("it is being changed")
            if self._tier.catalog.get(path) == record:
                self._tier.written(path)
            log.warning("%s has other bytes than were archived, with the same times: it stays hot", os.fsdecode(path))
            raise NotEligible("its bytes are not those that were archived: it is archived again")

    async def _wait_until_changes_show(self, path: bytes) -> None:
        """Wait until another write would give the file another ctime: the clock that these are taken from has steps."""
        for _ in range(_LOOKS):
            ahead_ns = self._tier.hot.lstat(path).st_ctime_ns - time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
            if not 0 <= ahead_ns < _CLOCK_STEP_NS:
                return
            await trio.to_thread.run_sync(time.sleep, 0.001)  # the kernel's time, whatever trio's is
        raise NotEligible("it is being changed")

    def _open(self, path: bytes) -> Fd:
        """Open a file for reading, without a trace in its atime where we may."""
        try:
            return self._tier.hot.open(path, os.O_RDONLY | os.O_NOATIME)
        except PermissionError:
            return self._tier.hot.open(path, os.O_RDONLY)

    async def _upload(self, record: Record, key: str, movement: Movement) -> ObjectRef:
        fd = self._open(record.path)
        # Both tiers keep what a power cut must not take: that there may be an object, and the bytes it will have.
        rate = self._tier.settings.upload_rate
        upload = upload_of(fd, key, record.attributes, self._chunk_size, rate, movement.reached)
        self._tier.on_cancel(record.ino, upload.end)
        try:
            with step("archive.sync_catalog"):
                await trio.to_thread.run_sync(self._tier.catalog.sync)
            async with self._uploads:
                return await self._cold.put(upload)
        finally:
            self._tier.on_cancel(record.ino, None)
            os.close(fd)
