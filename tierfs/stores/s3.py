"""The cold tier in a bucket, by boto3.

boto3 signs, retries and reuses connections; what an answer means is decided in s3_answers. Checksums are computed here
and sent with the request: boto3's own way needs a chunked upload that several servers break on.
"""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as boto
import urllib3.exceptions
from botocore.config import Config
from botocore.parsers import ResponseParserError

from tierfs.core.errors import (
    AccessDenied,
    ConfigError,
    IntegrityError,
    ObjectChanged,
    ObjectMissing,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from tierfs.core.lease import Fence, unfenced
from tierfs.stores import s3_probe
from tierfs.stores.cold import Meter, ObjectInfo, Progress, Source, StoreCounters, plain_metadata
from tierfs.stores.s3_answers import (
    NOT_S3,
    Abilities,
    Refuted,
    TransferSizes,
    advise,
    check_range,
    check_written,
    classify,
    plain_etag,
    sentence,
)
from tierfs.stores.s3_failures import explain
from tierfs.stores.s3_lease import WRITES, S3LeasePlace
from tierfs.stores.s3_upload import Target, copy_parts, read_exactly, upload_parts, upload_whole

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

#: Bytes handed on at once by get(): large enough to be cheap, small enough to stop soon, and for many at a time.
BLOCK = 512 << 10

#: Time to connect, in seconds, where the setting allows more: a host that does not answer by then is down.
CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach one bucket.

    `timeout_s` is the longest silence of one request, `read_timeout_s` that of a GET, which is never sent again here:
    its caller has a deadline, and knows whether somebody still waits. `prefix` is where the self-test writes, unless
    `read_only`.
    """

    bucket: str
    region: str | None = None
    endpoint_url: str | None = None
    path_style: bool | None = None
    pool_size: int = 32
    timeout_s: float = 30.0
    read_timeout_s: float = 30.0
    max_retries: int = 5
    checksum: Literal["auto", "when_required"] = "auto"
    storage_class: str | None = None
    prefix: str = ""
    read_only: bool = False
    sizes: TransferSizes = field(default_factory=TransferSizes)

    @property
    def place(self) -> str:
        """The bucket in words."""
        return f"bucket {self.bucket} at {self.endpoint_url or 'AWS'}"


class S3Wire:
    """One bucket by boto3: counts requests as they leave, and turns everything that can go wrong into StoreErrors.

    `fence` is asked before each request that writes; what it raises passes through.
    """

    def __init__(self, settings: S3Settings, session: boto3.Session, meter: Meter, fence: Fence = unfenced) -> None:
        self._settings = settings
        self._fence = fence
        self.meter = meter
        self._client = _connect(settings, session)
        self._client.meta.events.register("before-send.s3", self._count_request)
        self._client.meta.events.register("before-call.s3.HeadBucket", _follow_no_redirect)

    def call(self, operation: str, key: str = "", **arguments: Any) -> dict[str, Any]:
        """One request about the bucket, or about the object `key`; copies come from the same bucket. StoreError."""
        about: dict[str, Any] = {"Bucket": self._settings.bucket} | ({"Key": key} if key else {})
        if "CopySource" in arguments:
            arguments["CopySource"] = {**arguments["CopySource"], "Bucket": self._settings.bucket}
        with self.telling(operation, key):
            answer: dict[str, Any] = getattr(self._client, operation)(**about, **arguments)
        body = arguments.get("Body")
        if isinstance(body, bytes):
            self.meter.count_bytes(uploaded=len(body))
        return answer

    @contextmanager
    def telling(self, operation: str, key: str) -> Iterator[None]:
        """Turn what goes wrong in the block into one of core/errors, with a sentence for a person.

        What a source or a progress callback raises passes through untouched.
        """
        try:
            yield
        except Refuted as error:
            raise self._tell(operation, key, error.kind, error.why) from error
        except boto.ClientError as error:
            raise self._refused(operation, key, error) from error
        except (boto.BotoCoreError, ResponseParserError, urllib3.exceptions.HTTPError) as error:
            kind, why = explain(error)
            raise self._tell(operation, key, kind, why) from error

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _count_request(self, event_name: str, **_: Any) -> None:
        # Called for every attempt: retries cost money too, and may come long after the first one.
        operation = event_name.rpartition(".")[2]
        if operation in WRITES:
            self._fence()
        self.meter.count_request(operation)

    def _refused(self, operation: str, key: str, error: boto.ClientError) -> StoreError:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        told = error.response.get("Error", {})
        code = str(told.get("Code", ""))
        kind = classify(status, code, operation)
        text = str(told.get("Message") or "").rstrip(". ")
        why = f"{text} ({code})" if text and text != code else f"the store answered {code or status}"
        return self._tell(operation, key, kind, why, advise(code, kind))

    def _tell(
        self, operation: str, key: str, kind: type[StoreError], why: str, advice: str | None = None
    ) -> StoreError:
        advice = advise("", kind) if advice is None else advice
        return kind(sentence(operation, key, self._settings.place, why, advice))


class S3Store:
    """ColdStore in an S3 bucket.

    INVARIANT: what a server promises is not relied upon; ETag and length of every answer are compared here.
    """

    def __init__(self, settings: S3Settings, fence: Fence = unfenced) -> None:
        self._meter = Meter()
        self._settings = settings
        self._fence = fence
        # A session keeps S3's model, which costs a quarter of a second to read.
        self._session = _session(settings)
        self._wire = S3Wire(settings, self._session, self._meter, fence)
        reading = replace(settings, max_retries=0, timeout_s=min(settings.timeout_s, settings.read_timeout_s))
        self._reading = S3Wire(reading, self._session, self._meter)
        self._abilities = Abilities(crc32=settings.checksum == "auto")
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
                written = upload_parts(self._wire, target, source, self._abilities, sizes, progress)
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
            with self._reading.telling("get_object", key):
                check_range(answer, start, stop, etag)
            yield from self._blocks(key, body, stop - start)
        finally:
            body.close()

    def _blocks(self, key: str, body: Any, size: int) -> Iterator[bytes]:
        """The body, which must be exactly `size` bytes: it may end, stall or die at any byte."""
        left = size
        while True:
            with self._reading.telling("get_object", key):
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
        present = self.head(source.key) if not source.version_id else self._head_version(source)
        with self._wire.telling("copy_object", source.key):
            if (present.etag, present.size) != (source.etag, source.size):
                raise Refuted(ObjectChanged, f"it was overwritten: its ETag is {present.etag}, not {source.etag}")
            extra = self._extra or ({"StorageClass": source.storage_class} if source.storage_class else {})
            if source.size <= self._settings.sizes.copy:
                self._wire.call("copy_object", key, **origin, **extra)
            else:
                copy_parts(self._wire, Target(key, present.metadata, extra), source, self._settings.sizes, origin)
            copied = _info(key, self._head_of_new(key))
            if copied.size != source.size:
                raise Refuted(IntegrityError, f"it has {source.size} bytes, its copy {key} has {copied.size}")
        return copied

    def _head_version(self, source: ObjectInfo) -> ObjectInfo:
        with self._wire.telling("head_object", source.key):
            return _info(source.key, self._wire.call("head_object", source.key, VersionId=source.version_id))

    def delete(self, key: str) -> None:
        """Delete an object; deleting one that is not there succeeds."""
        with suppress(ObjectMissing):
            self._wire.call("delete_object", key)

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


def _follow_no_redirect(context: dict[str, Any], **_: Any) -> None:
    """boto3 answers a redirect with HeadBucket, to learn the region: when that redirects too, it recurses."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _session(settings: S3Settings) -> boto3.Session:
    """A session of our own: boto3's default one belongs to whoever made it. ConfigError."""
    try:
        return boto3.Session(region_name=settings.region)
    except boto.BotoCoreError as error:
        raise ConfigError(f"cannot use {settings.place}: {error}") from error


def _connect(settings: S3Settings, session: boto3.Session) -> "S3Client":
    """A client; nothing is sent yet. ConfigError."""
    if settings.endpoint_url and urlsplit(settings.endpoint_url).username is not None:
        # Not repeated in the message, and never in a later one.
        raise ConfigError("credentials do not belong into endpoint_url: let boto3 find them (environment, profile)")
    path_style = settings.path_style if settings.path_style is not None else settings.endpoint_url is not None
    config = Config(
        connect_timeout=min(CONNECT_S, settings.timeout_s),
        read_timeout=settings.timeout_s,
        max_pool_connections=settings.pool_size,
        retries={"mode": "standard", "total_max_attempts": settings.max_retries + 1},
        s3={"addressing_style": "path" if path_style else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        user_agent_extra="tierfs",
    )
    try:
        return session.client("s3", endpoint_url=settings.endpoint_url, config=config)
    except (boto.BotoCoreError, ValueError) as error:
        raise ConfigError(f"cannot use {settings.place}: {error}") from error
