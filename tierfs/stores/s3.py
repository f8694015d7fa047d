"""The cold tier in an S3 bucket.

Requests go over an S3Wire; what an answer means is decided in s3_answers. Checksums are computed here and sent with the
request: boto3's own way needs a chunked upload that several servers break on.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from tierfs.core.errors import (
    AccessDenied,
    IntegrityError,
    ObjectChanged,
    ObjectMissing,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from tierfs.core.lease import Fence, unfenced
from tierfs.stores import s3_probe
from tierfs.stores.cold import Deleted, Meter, ObjectInfo, Progress, Source, StoreCounters, plain_metadata
from tierfs.stores.s3_answers import (
    NOT_S3,
    Abilities,
    Refuted,
    check_range,
    check_written,
    plain_etag,
)
from tierfs.stores.s3_deletions import Deletions
from tierfs.stores.s3_lease import S3LeasePlace
from tierfs.stores.s3_pending import PendingUploads
from tierfs.stores.s3_upload import Target, copy_parts, read_exactly, upload_parts, upload_whole
from tierfs.stores.s3_wire import S3Settings, S3Wire, open_session

#: Bytes handed on at once by get(): large enough to be cheap, small enough to stop soon, and for many at a time.
BLOCK = 512 << 10


class S3Store:
    """ColdStore in an S3 bucket.

    INVARIANT: what a server promises is not relied upon; ETag and length of every answer are compared here.
    """

    def __init__(self, settings: S3Settings, fence: Fence = unfenced) -> None:
        self._meter = Meter()
        self._settings = settings
        self._fence = fence
        # A session keeps S3's model, which costs a quarter of a second to read.
        self._session = open_session(settings)
        self._wire = S3Wire(settings, self._session, self._meter, fence)
        reading = replace(settings, max_retries=0, timeout_s=min(settings.timeout_s, settings.read_timeout_s))
        self._reading = S3Wire(reading, self._session, self._meter)
        self._abilities = Abilities(crc32=settings.checksum == "auto")
        self._pending = PendingUploads(settings.pending)
        self._deletions = Deletions(self._wire, self.delete, settings.sizes.deleted)
        self._extra = {"StorageClass": settings.storage_class} if settings.storage_class else {}

    @property
    def counters(self) -> StoreCounters:
        """Running totals since it was opened; bytes are those of objects."""
        return self._meter.totals

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        """Upload `source` as `key` and return what a HEAD afterwards says; see ColdStore."""
        target = Target(key, plain_metadata(metadata), self._extra)
        with self._wire.telling("put_object", key):
            if source.size <= self._settings.sizes.part:
                body = read_exactly(source, 0, source.size)
                written = upload_whole(self._wire, target, body, self._abilities)
                progress(len(body))
            else:
                sizes = self._settings.sizes
                written = upload_parts(self._wire, target, source, self._abilities, sizes, self._pending, progress)
            answer = self._head_of_new(key)
            info = _info(key, answer)
            check_written(written, answer, info)
        return info

    def get(
        self, key: str, start: int, stop: int, etag: str, version_id: str | None = None
    ) -> Generator[bytes, None, None]:
        """Stream the bytes [start, stop); see ColdStore. Closing the generator closes the request."""
        if start >= stop:
            return
        arguments = {"Range": f"bytes={start}-{stop - 1}"}
        if etag and not etag.startswith("W/"):  # a weak ETag never matches
            arguments["IfMatch"] = f'"{etag}"'
        if version_id:
            arguments["VersionId"] = version_id
        began_ns = time.monotonic_ns()
        answer = self._reading.call("get_object", key, **arguments)
        self._meter.count_first_byte(time.monotonic_ns() - began_ns)  # its head is here: the body follows at once
        body = answer["Body"]
        try:
            with self._reading.receiving("get_object", key):
                check_range(answer, start, stop, etag)
            yield from self._blocks(key, body, stop - start)
        finally:
            body.close()

    def _blocks(self, key: str, body: Any, size: int) -> Iterator[bytes]:
        """The body, which must be exactly `size` bytes: it may end, stall or die at any byte."""
        left = size
        while True:
            with self._reading.receiving("get_object", key):
                # One byte more than is left shows the end of the body, which gives the connection back to the pool.
                block = body.read(min(BLOCK, left) or 1)
                if len(block) > left or (left and not block):
                    # Whatever lies between may cut an answer off: bytes that came are checked, the rest is asked for.
                    raise Refuted(
                        StoreUnavailable, f"the answer ends {left - len(block)} bytes before its announced end"
                    )
            if not block:
                return
            left -= len(block)
            self._meter.count_bytes(downloaded=len(block))
            yield block

    def head(self, key: str) -> ObjectInfo:
        """Describe one object; see ColdStore."""
        with self._wire.telling("head_object", key):
            return _info(key, self._head(key))

    def _head(self, key: str) -> dict[str, Any]:
        arguments = {"ChecksumMode": "ENABLED"} if self._abilities.crc32 else {}
        try:
            return self._wire.call("head_object", key, **arguments)
        except ObjectMissing:
            # A HEAD has no body, so a missing bucket looks like a missing object; taking one for the other would
            # declare every file of a mount lost.
            with suppress(AccessDenied, StoreRefused):
                self._wire.call("head_bucket")
            raise

    def _head_of_new(self, key: str) -> dict[str, Any]:
        """What a HEAD says of an object that was written just now. Refuted.

        A store that shows it late must not be taken for one that lost the object that is there.
        """
        try:
            return self._head(key)
        except ObjectMissing:
            raise Refuted(
                IntegrityError, f"the store took {key} and says that it is not there yet; it is written again later"
            ) from None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix`; see ColdStore."""
        token: str | None = None
        while True:
            # boto3 asks for url-encoded keys by itself, and decodes them.
            arguments: dict[str, Any] = {"Prefix": prefix, "MaxKeys": self._settings.sizes.page}
            if token:
                arguments["ContinuationToken"] = token
            page = self._wire.call("list_objects_v2", **arguments)
            with self._wire.telling("list_objects_v2", ""):
                if "IsTruncated" not in page:
                    raise Refuted(StoreUnavailable, NOT_S3)
                found = [_info(entry["Key"], entry) for entry in page.get("Contents", ())]
                before, token = token, page.get("NextContinuationToken") if page["IsTruncated"] else None
                if page["IsTruncated"] and (not token or token == before):
                    raise Refuted(StoreRefused, "the store says that there are more objects, but not how to get them")
            yield from (info for info in found if not s3_probe.is_of_self_test(info.key))
            if token is None:
                return

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        """Copy an object inside the bucket; see ColdStore."""
        origin: dict[str, Any] = {"CopySource": {"Key": source.key}}
        if source.version_id:
            origin["CopySource"]["VersionId"] = source.version_id
        if source.etag and not source.etag.startswith("W/"):
            origin["CopySourceIfMatch"] = f'"{source.etag}"'
        # Not every store honours CopySourceIfMatch, and only a HEAD has the metadata that a multipart copy needs.
        present = self._look_again(source)
        with self._wire.telling("copy_object", source.key):
            if (present.etag, present.size) != (source.etag, source.size):
                raise Refuted(ObjectChanged, f"it was overwritten: its ETag is {present.etag}, not {source.etag}")
            extra = self._extra or ({"StorageClass": source.storage_class} if source.storage_class else {})
            try:
                if source.size <= self._settings.sizes.copy:
                    self._wire.call("copy_object", key, **origin, **extra)
                else:
                    target = Target(key, present.metadata, extra)
                    copy_parts(self._wire, target, source, self._settings.sizes, self._pending, origin)
            except ObjectMissing:
                self._look_again(source)
                raise Refuted(IntegrityError, "the store shows it, and does not find it to copy it") from None
            copied = _info(key, self._head_of_new(key))
            if copied.size != source.size:
                raise Refuted(IntegrityError, f"it has {source.size} bytes, its copy {key} has {copied.size}")
        return copied

    def _look_again(self, source: ObjectInfo) -> ObjectInfo:
        """What there is to be copied. ObjectMissing."""
        return self._head_version(source) if source.version_id else self.head(source.key)

    def _head_version(self, source: ObjectInfo) -> ObjectInfo:
        with self._wire.telling("head_object", source.key):
            return _info(source.key, self._wire.call("head_object", source.key, VersionId=source.version_id))

    def delete(self, key: str) -> None:
        """Delete an object; deleting one that is not there succeeds."""
        with suppress(ObjectMissing):
            self._wire.call("delete_object", key)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        """Delete up to a thousand objects with one request, one by one where the store does not take that."""
        return self._deletions.run(keys)

    def probe(self) -> tuple[str, ...]:
        """The self-test: learns what the store can do, and says in sentences what it cannot; see ColdStore."""
        # Few retries: somebody waits for the mount.
        hasty = replace(self._settings, max_retries=min(1, self._settings.max_retries))
        wire = S3Wire(hasty, self._session, self._meter, self._fence)
        try:
            found = s3_probe.probe(wire, self._settings.prefix, self._abilities, self._settings.read_only)
        finally:
            wire.close()
        self._abilities = found.abilities
        # Have a connection, and boto3 all that it makes at its first GET, before somebody waits for one.
        with suppress(StoreError):
            self._reading.call("get_object", f"{self._settings.prefix}{s3_probe.NOWHERE}", Range="bytes=0-0")
        return found.sentences

    def tidy(self) -> None:
        """Abort what uploads of this mount have left; see ColdStore."""
        self._pending.tidy(self._wire)

    def lease_place(self, patience_s: float) -> S3LeasePlace:
        """Where the lease of the prefix is; a request about it is silent for so long at most, and not counted."""
        hasty = replace(self._settings, max_retries=0, pool_size=1, timeout_s=min(self._settings.timeout_s, patience_s))
        return S3LeasePlace(S3Wire(hasty, self._session, Meter()), self._settings.place, self._settings.prefix)

    def close(self) -> None:
        """Close all connections."""
        self._wire.close()
        self._reading.close()


def _info(key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    """An ObjectInfo from the answer of a HEAD, or from an entry of a list. Refuted."""
    etag = plain_etag(answer.get("ETag"))
    size = answer.get("ContentLength", answer.get("Size"))
    if not etag or size is None:
        raise Refuted(StoreUnavailable, NOT_S3)
    version = answer.get("VersionId")
    modified = answer.get("LastModified")
    return ObjectInfo(
        key=key,
        size=size,
        etag=etag,
        version_id=None if version in (None, "", "null") else version,
        modified_ns=_ns(modified) if isinstance(modified, datetime) else 0,
        storage_class=answer.get("StorageClass"),
        metadata=plain_metadata(answer.get("Metadata", {})),
    )


def _ns(when: datetime) -> int:
    return int(when.replace(microsecond=0).timestamp()) * 1_000_000_000 + when.microsecond * 1000
