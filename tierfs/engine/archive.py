"""Archive and release: the way down.

An archive reads the file twice: once for its checksums (the metadata of an object is sent before its body), once to
send it, and the second reading must give the checksums of the first. What the bucket then says of the object is
compared in stores; tier compares the identity of the file before it believes the result.
"""

import hashlib
import json
import os
import stat
import threading
import time
import zlib
from base64 import b64encode
from dataclasses import dataclass

import trio

from tierfs.core.errors import NotEligible, ObjectChanged, ObjectMissing
from tierfs.core.keys import key_of
from tierfs.core.records import Attributes, Fd, ObjectRef, Record
from tierfs.engine.sweep import Sweeper
from tierfs.engine.tier import Tier
from tierfs.stores.cold import ColdStore

FORMAT = "1"
_BLOCK = 1 << 20
_CLOCK_REALTIME_COARSE = 5  # linux/time.h: the clock that timestamps of files are taken from
_CLOCK_STEP_NS = 10_000_000  # the longest tick of a kernel (HZ=100): timestamps of files are as fine as that
_LOOKS = 1000  # milliseconds to wait for a file that changes all the time
_LONGEST_METADATA = 1800  # bytes; S3 allows 2 KiB for all keys and values together


@dataclass(frozen=True, slots=True)
class Digest:
    """What identifies the bytes of a file: SHA-256, and the CRC-32 of each chunk (4 bytes little-endian each)."""

    sha256: bytes
    crcs: bytes
    size: int


class Upload:
    """The bytes of an open file while they are sent: a cold.Source that stops when told to, or when they changed."""

    def __init__(self, fd: Fd, digest: Digest, chunk_size: int) -> None:
        self.size = digest.size
        self._fd = fd
        self._digest = digest
        self._chunk_size = chunk_size
        self._checked = 0
        self._running_crc = 0
        self.stop = threading.Event()

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size). NotEligible when they are not the ones that were digested."""
        data = _pread_exactly(self._fd, offset, size)
        if offset == self._checked:
            self._check(data)
        return data

    def progress(self, _size: int) -> None:
        """Called by the store as bytes go out; raises to end the transfer."""
        if self.stop.is_set():
            raise NotEligible("opened for writing while it was being archived")
        trio.from_thread.check_cancelled()

    def _check(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = self._chunk_size - self._checked % self._chunk_size
            piece, view = view[:room], view[room:]
            self._running_crc = zlib.crc32(piece, self._running_crc)
            self._checked += len(piece)
            if self._checked % self._chunk_size == 0 or self._checked == self.size:
                index = (self._checked - 1) // self._chunk_size
                if self._running_crc.to_bytes(4, "little") != self._digest.crcs[4 * index : 4 * index + 4]:
                    raise NotEligible("changed while it was being archived")
                self._running_crc = 0


def digest_of(fd: Fd, size: int, chunk_size: int, stop: threading.Event | None = None) -> Digest:
    """Read a whole file and digest it. Blocking. NotEligible when it is shorter than `size` or `stop` is set."""
    sha256, crcs, crc, offset = hashlib.sha256(), bytearray(), 0, 0
    while offset < size:
        if stop and stop.is_set():
            raise NotEligible("opened for writing while it was being archived")
        data = _pread_exactly(fd, offset, min(_BLOCK, chunk_size - offset % chunk_size, size - offset))
        sha256.update(data)
        crc = zlib.crc32(data, crc)
        offset += len(data)
        if offset % chunk_size == 0 or offset == size:
            crcs += crc.to_bytes(4, "little")
            crc = 0
    return Digest(sha256.digest(), bytes(crcs), size)


def metadata_of(attributes: Attributes, digest: Digest) -> dict[str, str]:
    """The user metadata of an object: enough to give the file back without a catalog; xattrs only where they fit."""
    metadata = {
        "tierfs-format": FORMAT,
        "tierfs-mode": f"{stat.S_IMODE(attributes.mode):o}",
        "tierfs-uid": str(attributes.uid),
        "tierfs-gid": str(attributes.gid),
        "tierfs-mtime-ns": str(attributes.mtime_ns),
        "tierfs-size": str(attributes.size),
        "tierfs-sha256": digest.sha256.hex(),
    }
    if attributes.xattrs:
        pairs = [[b64encode(name).decode(), b64encode(value).decode()] for name, value in attributes.xattrs]
        packed = json.dumps(pairs, separators=(",", ":"))
        if sum(map(len, [*metadata, *metadata.values()])) + len(packed) < _LONGEST_METADATA:
            metadata["tierfs-xattrs"] = packed
    return metadata


class Archiver:
    """Moves files down: archive (copy and verify), release (drop the hot bytes)."""

    def __init__(self, tier: Tier, store: ColdStore, sweeper: Sweeper, chunk_size: int, threads: int) -> None:
        self._tier = tier
        self._store = store
        self._sweeper = sweeper
        self._chunk_size = chunk_size
        self._threads = trio.CapacityLimiter(threads)
        self.active: dict[bytes, int] = {}  # path: size, of the files that are being archived now

    async def archive(self, path: bytes) -> Record:
        """Copy a HOT file up and verify it: it is MIRRORED then. NotEligible, OSError, StoreError."""
        if path in self.active:
            raise NotEligible("being archived")
        key = key_of(self._tier.prefix, path)
        async with self._sweeper.using(key):
            await self._sweeper.clear(key)
            await self._wait_until_changes_show(path)
            record = self._tier.archive_started(path)
            self.active[path] = record.attributes.size
            try:
                return self._tier.archived(record, await self._upload(record, key))
            except BaseException:
                self._tier.archive_aborted(record)
                raise
            finally:
                self.active.pop(path, None)

    async def release(self, path: bytes) -> Record:
        """Drop the hot bytes of a MIRRORED file after a last look at its object. NotEligible, OSError, StoreError."""
        record = self._tier.check_releasable(path)
        stored = record.object
        if stored is None:
            raise NotEligible("not archived")
        try:
            info = await trio.to_thread.run_sync(
                self._store.head, stored.key, limiter=self._threads, abandon_on_cancel=True
            )
        except ObjectMissing:
            self._tier.missing(stored)
            raise
        if (info.etag, info.size) != (stored.etag, stored.size):
            self._tier.missing(stored)
            raise ObjectChanged(f"{stored.key} was overwritten behind tierfs; the file stays hot and is archived again")
        await trio.to_thread.run_sync(self._tier.catalog.sync)
        return self._tier.release(path, record)

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

    async def _upload(self, record: Record, key: str) -> ObjectRef:
        fd = self._open(record.path)
        stop = threading.Event()
        self._tier.on_cancel(record.ino, stop.set)

        def transfer() -> ObjectRef:
            # Both tiers keep what a power cut must not take: that there may be an object, and the bytes it will have.
            self._tier.catalog.sync()
            os.fsync(fd)
            digest = digest_of(fd, record.attributes.size, self._chunk_size, stop)
            upload = Upload(fd, digest, self._chunk_size)
            upload.stop = stop
            info = self._store.put(key, upload, metadata_of(record.attributes, digest), upload.progress)
            return ObjectRef(key, info.etag, info.size, info.version_id, self._chunk_size, digest.sha256, digest.crcs)

        try:
            return await trio.to_thread.run_sync(transfer, limiter=self._threads)
        finally:
            self._tier.on_cancel(record.ino, None)
            os.close(fd)


def _pread_exactly(fd: Fd, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            raise NotEligible("became shorter while it was being archived")
        data += more
    return data
