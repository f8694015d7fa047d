"""A bucket as a doctor looks at it: each action of IAM by itself, what it can do, the lease, and how fast it is.

Everything that is written lies below the reserved prefix, and is removed again.
"""

import secrets
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import botocore.exceptions as boto

from tierfs.core.diagnosis import Right
from tierfs.core.errors import AccessDenied, ObjectMissing, StoreError, StoreRefused
from tierfs.core.keys import RESERVED
from tierfs.core.lease import Found
from tierfs.stores import s3_probe
from tierfs.stores.cold import Meter
from tierfs.stores.s3_answers import MIB, Abilities
from tierfs.stores.s3_lease import S3LeasePlace
from tierfs.stores.s3_wire import S3Settings, S3Wire, open_session

#: A request may be silent for so long: somebody waits for the answer.
_PATIENCE_S = 10.0
_BODY = b"tierfs doctor wrote this object to learn what it may do; it may be deleted"
#: What is moved to measure: the little first, the rest where that went quickly.
_LITTLE, _MOVED, _QUICKLY_S = 256 << 10, 4 * MIB, 0.5
_LOOKS = 5
#: S3's codes for credentials that are wrong as a whole, whatever they would be allowed to do.
_OF_CREDENTIALS = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
_LIST = "see objects that it does not know, and to tell a missing object from one that it may not read"
_DELETE = "remove objects of files that were removed or renamed; they would cost money for ever"
_PARTS = "go on with an upload in parts that was cut off"
_ABORT = "remove the parts of an upload that nobody goes on with; they would cost money unseen"


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds until an answer begins, and bytes a second up and down, on one connection."""

    answer_s: float
    up: float
    down: float


class S3Examined:
    """One bucket and prefix. Every method raises StoreError where the store does not do what it was asked."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = replace(
            settings, max_retries=0, pool_size=1, timeout_s=min(settings.timeout_s, _PATIENCE_S), pending=None
        )
        self._session = open_session(self._settings)
        self._wire = S3Wire(self._settings, self._session, Meter())
        self._key = f"{settings.prefix}{RESERVED}/doctor-{secrets.token_hex(8)}"

    @property
    def endpoint(self) -> str:
        """The URL that requests go to."""
        return self._wire.endpoint

    @property
    def region(self) -> str:
        """The region that requests are signed for."""
        return self._wire.region

    def credentials(self) -> str | None:
        """Where boto3 found credentials, in its words (env, shared-credentials-file, iam-role); None for none.

        StoreError where the way to them fails.
        """
        with self._wire.telling("head_bucket", ""):
            found = self._session.get_credentials()
            if found is None:
                return None
            found.get_frozen_credentials()  # which may have to be fetched
        return str(found.method)

    def look(self) -> None:
        """One request that needs nothing but a bucket that is there; being forbidden to list it is an answer, too."""
        try:
            self._wire.call("list_objects_v2", Prefix=self._key, MaxKeys=1)
        except AccessDenied as error:
            if is_about_credentials(error):
                raise

    def home(self) -> str | None:
        """The region that the bucket says it is in; None where it does not say."""
        with suppress(StoreError):
            answer = self._wire.call("head_bucket")
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
            told = answer.get("BucketRegion") or headers.get("x-amz-bucket-region")
            return str(told) if told else None
        return None

    def rights(self) -> Generator[Right, None, None]:
        """Try what tierfs does with objects, one action of IAM after the other; closed half way, it leaves nothing."""
        listing = self._tried("s3:ListBucket", _LIST, "list_objects_v2", Prefix=self._key, MaxKeys=1)
        yield listing
        if self._settings.read_only:
            yield self._read(listing)
            return
        try:
            put = self._tried("s3:PutObject", "archive files", "put_object", self._key, Body=_BODY)
            yield put
            if not put.refusal or not listing.refusal:  # else a missing object looks like a forbidden one
                yield self._read(listing)
            yield from self._in_parts()  # a list: who stops listening would leave the upload behind
            yield self._tried("s3:DeleteObject", _DELETE, "delete_object", self._key)
        finally:
            with suppress(StoreError):
                self._wire.call("delete_object", self._key)

    def _read(self, listing: Right) -> Right:
        right = self._tried("s3:GetObject", "read cold files", "get_object", self._key)
        return replace(right, refusal="") if listing.refusal and self._settings.read_only else right

    def _in_parts(self) -> list[Right]:
        """An upload in parts that is begun, looked at, and given up."""
        try:
            upload_id = self._wire.call("create_multipart_upload", self._key)["UploadId"]
        except (AccessDenied, StoreRefused):
            return []  # of which s3:PutObject, or the self-test, has said what there is to say
        about, rights = {"UploadId": upload_id}, list[Right]()
        try:
            with suppress(StoreRefused):
                rights.append(self._tried("s3:ListMultipartUploadParts", _PARTS, "list_parts", self._key, **about))
        finally:
            rights.append(self._tried("s3:AbortMultipartUpload", _ABORT, "abort_multipart_upload", self._key, **about))
        return rights

    def _tried(self, action: str, needed_for: str, operation: str, key: str = "", **arguments: Any) -> Right:
        """Whether one request is allowed. StoreError when it fails for another reason."""
        try:
            answer = self._wire.call(operation, key, **arguments)
        except AccessDenied as error:
            return Right(action, needed_for, _words_of(error))
        except ObjectMissing:
            return Right(action, needed_for)
        if body := answer.get("Body"):
            body.close()
        return Right(action, needed_for)

    def shortcomings(self) -> tuple[str, ...]:
        """What the server cannot do of what tierfs makes use of, in sentences: the self-test of a mount."""
        abilities = Abilities(crc32=self._settings.checksum == "auto")
        where = f"{self._settings.prefix}{RESERVED}/"
        return s3_probe.probe(self._wire, where, abilities, self._settings.read_only).sentences

    def lease(self) -> Found | None:
        """The lease as it is now; it is only read."""
        return S3LeasePlace(self._wire, self._settings.place, self._settings.prefix).read()

    def speed(self) -> Speed:
        """Up to some mebibytes up and down, and a few small reads."""
        moved = _LITTLE
        try:
            up_s = self._put(moved)
            if up_s < _QUICKLY_S:
                moved = _MOVED
                up_s = self._put(moved)
            answers = [_seconds(lambda: self._get("bytes=0-0")) for _ in range(_LOOKS)]
            down_s = _seconds(lambda: self._get(f"bytes=0-{moved - 1}"))
        finally:
            with suppress(StoreError):
                self._wire.call("delete_object", self._key)
        return Speed(statistics.median(answers), moved / up_s, moved / down_s)

    def _put(self, size: int) -> float:
        body = secrets.token_bytes(size)
        return _seconds(lambda: self._wire.call("put_object", self._key, Body=body))

    def _get(self, what: str) -> None:
        answer = self._wire.call("get_object", self._key, Range=what)
        with answer["Body"] as body, self._wire.telling("get_object", self._key):
            body.read()

    def close(self) -> None:
        """Close all connections."""
        self._wire.close()


def code_of(error: StoreError) -> str:
    """S3's error code; empty where the store did not say one."""
    cause = error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, boto.ClientError) else ""


def _words_of(error: StoreError) -> str:
    """What the store said: AWS names the user, and which kind of policy denies it."""
    cause, code = error.__cause__, code_of(error)
    text = str(cause.response.get("Error", {}).get("Message", "")) if isinstance(cause, boto.ClientError) else ""
    return f"{text.rstrip('. ')} ({code})" if text and code else code or "the store says 403"


def is_about_credentials(error: StoreError) -> bool:
    """Whether the credentials are wrong, missing or expired, and not only forbidden to do this."""
    return code_of(error) in _OF_CREDENTIALS or not isinstance(error.__cause__, boto.ClientError)


def _seconds(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return max(time.monotonic() - began, 1e-6)
