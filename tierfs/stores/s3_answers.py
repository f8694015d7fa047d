"""How to read what an S3 server says, pure: ETags, ranges, refusals; and how to cut an object into parts.

Servers differ from AWS and from each other: each rule here is met in the field.
"""

import re
from dataclasses import dataclass
from typing import Any, Protocol

from tierfs.core.errors import (
    AccessDenied,
    BucketMissing,
    IntegrityError,
    ObjectChanged,
    ObjectMissing,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from tierfs.stores.cold import ObjectInfo

MIB = 1 << 20

#: Why an answer with status 200 is of no use.
NOT_S3 = "the answer is not one of S3: check that endpoint_url is an S3 server"


class Wire(Protocol):
    """One bucket: a request in, S3's parsed answer out; raises StoreError and its subclasses."""

    def call(self, operation: str, key: str = "", **arguments: Any) -> dict[str, Any]: ...


class Refuted(Exception):
    """An answer that is not what it should be: which error, and why; the caller makes the sentence."""

    def __init__(self, kind: type[StoreError], why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why


@dataclass(frozen=True, slots=True)
class TransferSizes:
    """How objects are cut, in bytes. S3's own limits: parts of 5 MiB to 5 GiB, 10,000 of them, CopyObject to 5 GiB.

    INVARIANT: an object up to `part` bytes is one PUT; parts in flight hold `in_flight` bytes at most, or one part.
    """

    part: int = 16 * MIB
    max_parts: int = 10_000
    in_flight: int = 64 * MIB
    copy: int = 5 << 30
    page: int = 1000  # objects, not bytes: entries of one answer to a list
    deleted: int = 1000  # objects that one request deletes: DeleteObjects takes no more


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the self-test found a store to do, and what is assumed before it ran."""

    crc32: bool = True  # takes S3's additional checksums
    md5_etags: bool = True  # the ETag of an object that was put whole is its MD5
    composite_etags: bool = False  # the ETag of a multipart object is the MD5 of its parts' MD5s


@dataclass(frozen=True, slots=True)
class Written:
    """What was sent: size in bytes, CRC-32 of all of it, and the ETags that prove that the store has the same."""

    size: int
    crc32: str
    etags: frozenset[str]


def plan_part_size(size: int, sizes: TransferSizes) -> int:
    """Bytes per part, so that an object of `size` bytes has at most `sizes.max_parts` of them."""
    needed = -(-size // sizes.max_parts)
    return sizes.part if needed <= sizes.part else -(-needed // MIB) * MIB


def plan_threads(part_size: int, sizes: TransferSizes) -> int:
    """How many parts of that size may be in flight at once: 1 to 4."""
    return max(1, min(4, sizes.in_flight // part_size))


def plain_etag(etag: str | None) -> str:
    """An ETag without its quotes, as tierfs compares and records it; weak ETags keep their mark."""
    return (etag or "").replace('"', "")


def is_md5(etag: str, answer: dict[str, Any]) -> bool:
    """Whether an ETag looks like an MD5 and the answer does not say that encryption made it something else."""
    if answer.get("SSECustomerAlgorithm") or str(answer.get("ServerSideEncryption", "")).startswith("aws:"):
        return False
    return re.fullmatch(r"[0-9a-f]{32}", etag) is not None


def check_range(answer: dict[str, Any], start: int, stop: int, etag: str) -> None:
    """Check that a GET answered with the bytes [start, stop) of the object that was asked for.

    Some servers ignore If-Match, answer ranges with status 200, or send the whole object: what counts are ETag,
    Content-Range and Content-Length. Refuted.
    """
    found = plain_etag(answer.get("ETag"))
    if etag and found != etag:
        raise Refuted(ObjectChanged, f"it was overwritten: its ETag is {found or 'missing'}, recorded was {etag}")
    length = answer.get("ContentLength")
    content_range = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", str(answer.get("ContentRange", "")))
    if content_range is None:
        # The whole object in place of a range: right by chance when that was what was asked for.
        if start == 0 and length == stop:
            return
        raise Refuted(
            StoreRefused, "the store sends whole objects where a range was asked for, tierfs cannot work with it"
        )
    first, last = int(content_range[1]), int(content_range[2])
    if first == start and last < stop - 1:
        raise Refuted(ObjectChanged, f"it is shorter than recorded: it ends at byte {last + 1}, {stop} were expected")
    if first != start or last != stop - 1:
        raise Refuted(StoreRefused, f"asked for bytes {start}-{stop - 1}, the store sent {content_range[0]}")
    if length not in (None, stop - start):
        # Its own range says another length: damaged on the way, as a body that ends early is.
        raise Refuted(IntegrityError, f"the store sent {length} bytes for {content_range[0]}")


def check_written(written: Written, answer: dict[str, Any], info: ObjectInfo) -> None:
    """Compare what a HEAD says with what was sent. Refuted."""
    if info.size != written.size:
        raise Refuted(IntegrityError, f"{written.size} bytes were sent, the store has {info.size}")
    crc32 = str(answer.get("ChecksumCRC32", ""))
    if crc32 and "-" not in crc32 and answer.get("ChecksumType") != "COMPOSITE" and crc32 != written.crc32:
        raise Refuted(IntegrityError, f"the CRC32 of what was sent is {written.crc32}, of what the store has {crc32}")
    if written.etags and info.etag not in written.etags:
        raise Refuted(
            IntegrityError,
            f"the store has ETag {info.etag}, expected was {' or '.join(sorted(written.etags))}: "
            "it holds other bytes, or somebody else wrote the same key",
        )


_CLASSES: dict[str, type[StoreError]] = {
    "NoSuchBucket": BucketMissing,
    "NoSuchKey": ObjectMissing,
    "NoSuchVersion": ObjectMissing,
    # A retry of a completion that had succeeded, or a sweeper of unfinished uploads: the next attempt starts afresh.
    "NoSuchUpload": StoreUnavailable,
    "PreconditionFailed": ObjectChanged,
    "InvalidRange": ObjectChanged,
    "ConditionalRequestConflict": StoreUnavailable,
    "OperationAborted": StoreUnavailable,
    "RequestTimeout": StoreUnavailable,
    "SlowDown": StoreUnavailable,
    # Where one request is about many objects, each has a code and none a status.
    "InternalError": StoreUnavailable,
    "ServiceUnavailable": StoreUnavailable,
    "AccessDenied": AccessDenied,
    "ExpiredToken": AccessDenied,
    "InvalidToken": AccessDenied,
    "InvalidAccessKeyId": AccessDenied,
    "SignatureDoesNotMatch": AccessDenied,
    "RequestTimeTooSkewed": AccessDenied,
    "InvalidObjectState": StoreRefused,
    "NotImplemented": StoreRefused,
    "MethodNotAllowed": StoreRefused,
    "BadDigest": IntegrityError,
    "InvalidDigest": IntegrityError,
    "XAmzContentSHA256Mismatch": IntegrityError,
    "XAmzContentChecksumMismatch": IntegrityError,
}

_ADVICE: dict[str, str] = {
    "NoSuchBucket": "create the bucket or correct its name",
    "InvalidAccessKeyId": "the store does not know this access key: correct the credentials",
    "SignatureDoesNotMatch": "the secret key is wrong: correct the credentials",
    "ExpiredToken": "the credentials have expired: renew them",
    "RequestTimeTooSkewed": "this host's clock is wrong: set it",
    "PermanentRedirect": "the bucket is in another region: set region",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set region",
    "IllegalLocationConstraintException": "the bucket is in another region: set region",
    **dict.fromkeys(
        ("301", "302", "307", "308"), "the address leads elsewhere: check endpoint_url (https?) and region"
    ),
    "InvalidObjectState": "the object is in an archive class: thaw it first",
    "SlowDown": "the store asks for fewer requests: it is tried again later",
}

_ADVICE_BY_CLASS: dict[type[StoreError], str] = {
    AccessDenied: "check the credentials and the bucket's policy",
    BucketMissing: "create the bucket or correct its name",
    StoreUnavailable: "it is tried again later",
}


def classify(status: int, code: str, operation: str) -> type[StoreError]:
    """Which error a refusal is, by S3's error code first (a HEAD has none), then by HTTP status."""
    if code == "NoSuchUpload" and operation in ("list_parts", "abort_multipart_upload"):
        return ObjectMissing
    if code in _CLASSES:
        return _CLASSES[code]
    if status == 404:
        return BucketMissing if operation in ("head_bucket", "list_objects_v2") else ObjectMissing
    if status in (401, 403):
        return AccessDenied
    if status in (412, 416):
        return ObjectChanged
    if status in (408, 429) or (status >= 500 and status != 501):
        return StoreUnavailable
    return StoreRefused


def advise(code: str, kind: type[StoreError]) -> str:
    """What an operator does about it, or nothing."""
    return _ADVICE.get(code) or _ADVICE_BY_CLASS.get(kind, "")


_VERBS = {
    "get_object": "read",
    "head_object": "look at",
    "delete_object": "delete",
    "delete_objects": "delete objects in",
    "copy_object": "copy",
    "upload_part_copy": "copy",
    "list_objects_v2": "list",
    "head_bucket": "look at",
}


def sentence(operation: str, key: str, place: str, why: str, advice: str = "") -> str:
    """One sentence for a person: what was tried, where, why it failed, what to do."""
    what = f"object {key} in {place}" if key else place
    tail = f"; {advice}" if advice else ""
    return f"cannot {_VERBS.get(operation, 'write')} {what}: {why.rstrip('. ') or 'no reason was given'}{tail}"
