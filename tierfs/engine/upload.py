"""A file becomes an object: checksums, metadata, the bytes. Blocking functions without state.

The file is read twice: once for its checksums (the metadata of an object is sent before its body), once to send it,
and the second reading must give the checksums of the first. What the bucket then says of the object is compared in
stores; tier compares the identity of the file before it believes the result.
"""

import hashlib
import json
import os
import stat
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

from isal import isal_zlib

from tierfs.core.errors import NotEligible
from tierfs.core.records import Attributes, Fd, ObjectRef
from tierfs.stores.cold import ColdStore

FORMAT = "1"
_BLOCK = 1 << 20
_TELL_NS = 200_000_000  # between two words on how far an upload is: each wakes the loop that answers the kernel
_LONGEST_METADATA = 1800  # bytes; S3 allows 2 KiB for all keys and values together


@dataclass(frozen=True, slots=True)
class Digest:
    """What identifies the bytes of a file: SHA-256, and the CRC-32 of each chunk (4 bytes little-endian each)."""

    sha256: bytes
    crcs: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Limits:
    """When an upload ends early: `stop` is set; and how fast it goes: `spend` is told how many bytes are to be sent.

    `sent` is told now and then how many bytes have left.
    """

    stop: threading.Event
    spend: Callable[[int], None]
    sent: Callable[[int], None]


class Upload:
    """The bytes of an open file while they are sent: a cold.Source that stops when told to, or when they changed."""

    def __init__(self, fd: Fd, digest: Digest, chunk_size: int, limits: Limits) -> None:
        self.size = digest.size
        self._fd = fd
        self._digest = digest
        self._chunk_size = chunk_size
        self._checked = 0
        self._running_crc = 0
        self._limits = limits
        self._sent = 0
        self._told_ns = 0

    def read_at(self, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size). NotEligible when they are not the ones that were digested."""
        self._limits.spend(size)
        _check_wanted(self._limits.stop)
        data = _pread_exactly(self._fd, offset, size)
        if offset == self._checked:
            self._check(data)
        return data

    def progress(self, size: int) -> None:
        """Called by the store as bytes go out; raises to end the transfer."""
        _check_wanted(self._limits.stop)
        self._sent += size
        if time.monotonic_ns() - self._told_ns >= _TELL_NS:
            self._told_ns = time.monotonic_ns()
            self._limits.sent(self._sent)

    def _check(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = self._chunk_size - self._checked % self._chunk_size
            piece, view = view[:room], view[room:]
            self._running_crc = isal_zlib.crc32(piece, self._running_crc)
            self._checked += len(piece)
            if self._checked % self._chunk_size == 0 or self._checked == self.size:
                index = (self._checked - 1) // self._chunk_size
                if self._running_crc.to_bytes(4, "little") != self._digest.crcs[4 * index : 4 * index + 4]:
                    raise NotEligible("changed while it was being archived")
                self._running_crc = 0


def upload(store: ColdStore, fd: Fd, key: str, attributes: Attributes, chunk_size: int, limits: Limits) -> ObjectRef:
    """Make the bytes of an open file an object, and verify it. NotEligible when they change or it is to stop."""
    began_ns = time.time_ns()
    digest = digest_of(fd, attributes.size, chunk_size, limits.stop)
    source = Upload(fd, digest, chunk_size, limits)
    info = store.put(key, source, metadata_of(attributes, digest, began_ns), source.progress)
    return ObjectRef(key, info.etag, info.size, info.version_id, chunk_size, digest.sha256, digest.crcs)


def digest_of(fd: Fd, size: int, chunk_size: int, stop: threading.Event) -> Digest:
    """Read a whole file and digest it. NotEligible when it is shorter than `size` or `stop` is set."""
    sha256, crcs, crc, offset = hashlib.sha256(), bytearray(), 0, 0
    while offset < size:
        _check_wanted(stop)
        data = _pread_exactly(fd, offset, min(_BLOCK, chunk_size - offset % chunk_size, size - offset))
        sha256.update(data)
        crc = isal_zlib.crc32(data, crc)
        offset += len(data)
        if offset % chunk_size == 0 or offset == size:
            crcs += crc.to_bytes(4, "little")
            crc = 0
    return Digest(sha256.digest(), bytes(crcs), size)


def sha256_of(fd: Fd, size: int, stop: threading.Event) -> bytes:
    """Read a whole file; its SHA-256 alone. NotEligible when it is shorter than `size` or `stop` is set."""
    return digest_of(fd, size, _BLOCK, stop).sha256


def metadata_of(attributes: Attributes, digest: Digest, began_ns: int) -> dict[str, str]:
    """The user metadata of an object: enough to give the file back without a catalog.

    `began_ns` is when the archive began, by the clock of this host. Extended attributes are there where they fit, else
    that there are some.
    """
    metadata = {
        "tierfs-format": FORMAT,
        "tierfs-mode": f"{stat.S_IMODE(attributes.mode):o}",
        "tierfs-uid": str(attributes.uid),
        "tierfs-gid": str(attributes.gid),
        "tierfs-mtime-ns": str(attributes.mtime_ns),
        "tierfs-size": str(attributes.size),
        "tierfs-sha256": digest.sha256.hex(),
        "tierfs-archived-ns": str(began_ns),
    }
    if attributes.xattrs:
        pairs = [[b64encode(name).decode(), b64encode(value).decode()] for name, value in attributes.xattrs]
        packed = json.dumps(pairs, separators=(",", ":"))
        if sum(map(len, [*metadata, *metadata.values()])) + len(packed) < _LONGEST_METADATA:
            metadata["tierfs-xattrs"] = packed
        else:
            metadata["tierfs-xattrs-omitted"] = str(len(attributes.xattrs))
    return metadata


def _check_wanted(stop: threading.Event) -> None:
    if stop.is_set():
        raise NotEligible("opened for writing while it was being archived")


def _pread_exactly(fd: Fd, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            raise NotEligible("became shorter while it was being archived")
        data += more
    return data
