"""The lease of a prefix of a bucket: an object that is replaced by conditional writes where the store has them."""

from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, cast

from tierfs.core.errors import ObjectChanged, ObjectMissing, StoreRefused, StoreUnavailable
from tierfs.core.keys import RESERVED
from tierfs.core.lease import KEY, Found, Lease
from tierfs.stores.s3_answers import NOT_S3, Refuted, Wire, plain_etag

#: Requests that change the bucket. Taking back an upload that was begun is always allowed: nobody else's can be meant.
WRITES = {
    "PutObject",
    "CopyObject",
    "DeleteObject",
    "DeleteObjects",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
}

_NO_ETAG = '"00000000000000000000000000000000"'


class ClosableWire(Wire, Protocol):
    """A Wire of its own: few and short tries, since the next renewal is another one."""

    def telling(self, operation: str, key: str) -> AbstractContextManager[None]: ...

    def close(self) -> None: ...


class S3LeasePlace:
    """LeasePlace below the prefix of a mount. Asks with both conditions; looks itself where they are not honoured."""

    def __init__(self, wire: ClosableWire, place: str, prefix: str) -> None:
        self.name = f"{place}, prefix {prefix}" if prefix else place
        self._wire = wire
        self._key = f"{prefix}{RESERVED}/{KEY}"
        self._is_exact = True
        self._takes_conditions = True
        self._quote = '"'
        self._is_quote_known = False
        self._written = ""  # the tag of what was written last

    def read(self) -> Found | None:
        """See LeasePlace. The age is between two times of the store: of the answer, and of the object."""
        try:
            answer = self._wire.call("get_object", self._key)
        except ObjectMissing:
            return None
        with answer["Body"] as body, self._wire.telling("get_object", self._key):
            if not plain_etag(answer.get("ETag")):
                raise Refuted(StoreUnavailable, NOT_S3)
            text = body.read()
        return Found(Lease.parse(text.decode(errors="replace")), plain_etag(answer.get("ETag")), _age_ns(answer))

    def write(self, text: str, tag: str | None) -> str:
        """See LeasePlace."""
        if not self._is_exact:
            found = self.read()
            if (found.tag if found else None) != tag:
                raise ObjectChanged(f"{self.name}: somebody else wrote the lease")
        try:
            return self._put(text, self._condition(tag) if self._takes_conditions else {})
        except ObjectMissing as error:
            raise ObjectChanged(str(error)) from error
        except ObjectChanged:
            if tag is None or self._is_quote_known or not self._is_there(tag):
                raise
            if self._quote:
                self._quote = ""  # Ceph compares what it is sent with the bare ETag
            else:
                self._takes_conditions = self._is_exact = False  # it never holds for what is there
                self._is_quote_known = True
            return self.write(text, tag)
        except StoreRefused:
            if not self._takes_conditions:
                raise
            self._takes_conditions = self._is_exact = False  # it knows them, and does not do them
            return self.write(text, tag)

    def _condition(self, tag: str | None) -> dict[str, str]:
        return {"IfNoneMatch": "*"} if tag is None else {"IfMatch": f"{self._quote}{tag}{self._quote}"}

    def _is_there(self, tag: str) -> bool:
        found = self.read()
        return found is not None and found.tag == tag

    def is_exact(self, text: str) -> bool:
        """See LeasePlace: both conditions are tried where they must fail, and one where it must hold."""
        if self._is_exact:
            self.write(text, self._written)
            self._is_quote_known = True
            conditions: tuple[dict[str, str], ...] = ({"IfNoneMatch": "*"}, {"IfMatch": _NO_ETAG})
            self._is_exact = not any(self._accepts(text, condition) for condition in conditions)
        return self._is_exact

    def close(self) -> None:
        """Close connections."""
        self._wire.close()

    def _accepts(self, text: str, condition: dict[str, str]) -> bool:
        with suppress(ObjectChanged):
            self._put(text, condition)
            return True
        return False

    def _put(self, text: str, condition: dict[str, str]) -> str:
        answer = self._wire.call("put_object", self._key, Body=text.encode(), **condition)
        self._written = plain_etag(answer.get("ETag"))
        return self._written


def _age_ns(answer: dict[str, Any]) -> int:
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    try:
        now = parsedate_to_datetime(told)
    except (TypeError, ValueError):
        now = datetime.now(UTC)
    modified = cast(datetime, answer.get("LastModified") or now)
    return max(0, int((now - modified).total_seconds() * 1e9))
