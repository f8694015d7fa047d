"""The self-test of a bucket: which of S3's promises this server keeps, found by trying, said in sentences."""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
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
from tierfs.stores.cold import plain_metadata
from tierfs.stores.s3_answers import NOT_S3, Abilities, Refuted, Wire, check_range, plain_etag
from tierfs.stores.s3_upload import crc32_text, digest_of

#: Objects of the self-test; they are gone when it ends, and a list leaves them out: the mount may serve meanwhile.
_NAME = ".tierfs-self-test-"
#: A name that no object has.
NOWHERE = f"{_NAME}nowhere"
_OURS = re.compile(re.escape(_NAME) + r"[0-9a-f]{16}")

_BODY = b"tierfs wrote this object to learn what the store can do; it may be deleted"
_METADATA = {"tierfs-test": "kept"}


@dataclass(frozen=True, slots=True)
class Findings:
    """What the self-test learned: for the client, and in sentences for a person."""

    abilities: Abilities
    sentences: tuple[str, ...]


@dataclass(slots=True)
class _Test:
    """One run: the object that it plays with, and what it has learned so far."""

    wire: Wire
    key: str
    abilities: Abilities
    sentences: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.sentences.append(text)

    def learn(self, **abilities: bool) -> None:
        self.abilities = replace(self.abilities, **abilities)

    def put(self, **arguments: Any) -> dict[str, Any]:
        return self.wire.call("put_object", self.key, Body=_BODY, **arguments)


def is_of_self_test(key: str) -> bool:
    """Whether an object belongs to a self-test: one that runs now, or one that was killed."""
    return _OURS.search(key) is not None


def probe(wire: Wire, prefix: str, assumed: Abilities, read_only: bool) -> Findings:
    """Try everything that tierfs needs, in a few small requests; writes nothing when `read_only`.

    BucketMissing, AccessDenied, StoreUnavailable, StoreRefused when the store cannot be used at all.
    """
    test = _Test(wire, f"{prefix}{_NAME}{secrets.token_hex(8)}", assumed)
    listed = _can_list(test, prefix)
    if read_only:
        return Findings(test.abilities, tuple(test.sentences))
    with _swept(test):
        if _can_write(test, listed):
            _check_object(test)
            _check_ranges(test)
            _check_checksums(test)
            _check_conditions(test)
            _check_multipart(test)
            _check_copies(test)
            _check_names(test)
    return Findings(test.abilities, tuple(test.sentences))


@contextmanager
def _swept(test: _Test) -> Iterator[None]:
    try:
        yield
    finally:
        # What it leaves behind harms nobody, and an error of the test itself says more.
        with suppress(StoreError):
            test.wire.call("delete_object", test.key)
            test.wire.call("delete_object", f"{test.key}-copy")
            test.wire.call("delete_object", f"{test.key}/below")


def _can_list(test: _Test, prefix: str) -> bool:
    try:
        page = test.wire.call("list_objects_v2", Prefix=prefix, MaxKeys=1)
    except AccessDenied as error:
        test.say(f"the bucket cannot be listed, so objects that tierfs does not know stay unseen ({error})")
        return False
    if "IsTruncated" not in page:
        raise StoreUnavailable(f"cannot list the bucket: {NOT_S3}")
    return True


def _can_write(test: _Test, listed: bool) -> bool:
    """Put the object, with additional checksums if the store takes them."""
    digest = digest_of(_BODY)
    try:
        try:
            test.put(Metadata=_METADATA, **digest.arguments(test.abilities))
        except (StoreRefused, IntegrityError):
            if not test.abilities.crc32:
                raise
            test.learn(crc32=False)
            test.put(Metadata=_METADATA, **digest.arguments(test.abilities))
            test.say("the store refuses S3's additional checksums (CRC32): Content-MD5 alone protects uploads")
    except AccessDenied as error:
        if not listed:
            raise
        test.say(f"objects cannot be written, so nothing can be archived ({error})")
        return False
    return True


def _check_object(test: _Test) -> None:
    answer = test.wire.call("head_object", test.key)
    etag = plain_etag(answer.get("ETag"))
    if answer.get("ContentLength") != len(_BODY) or not etag:
        raise StoreRefused(f"the store cannot be used: an object of {len(_BODY)} bytes reads back as {answer}")
    if etag != hashlib.md5(_BODY, usedforsecurity=False).hexdigest():
        test.learn(md5_etags=False)
        test.say("ETags are not MD5 sums here (encryption, or another server): they do not prove what was stored")
    metadata = plain_metadata(answer.get("Metadata", {}))
    if any(metadata.get(name) != value for name, value in _METADATA.items()):
        test.say("user metadata does not come back: owners, modes and times would be lost with the catalog")


def _check_ranges(test: _Test) -> None:
    answer = test.wire.call("get_object", test.key, Range="bytes=2-5")
    with answer["Body"] as body:
        try:
            check_range(answer, 2, 6, "")
            right = body.read() == _BODY[2:6]
        except Refuted:
            right = False
    if not right:
        raise StoreRefused("the store cannot be used: it does not answer range requests with the range")
    if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
        test.say("ranges are answered with status 200 instead of 206 (tierfs goes by Content-Range)")


def _check_checksums(test: _Test) -> None:
    wrong = digest_of(b"something else")
    if _accepts(test, ContentMD5=base64.b64encode(wrong.md5).decode()):
        test.say("a wrong Content-MD5 is accepted: uploads are verified by ETag and size alone")
    if test.abilities.crc32 and _accepts(test, ChecksumCRC32=crc32_text(wrong.crc32)):
        test.say("S3's additional checksums (CRC32) are not verified: uploads are verified by MD5 and size")


def _accepts(test: _Test, **arguments: Any) -> bool:
    """Whether the store takes an upload that it should refuse."""
    try:
        test.put(Metadata=_METADATA, **arguments)
    except (StoreRefused, IntegrityError, ObjectChanged):
        return False
    return True


def _check_conditions(test: _Test) -> None:
    try:
        test.wire.call("get_object", test.key, IfMatch='"0123456789abcdef0123456789abcdef"')["Body"].close()
        test.say("If-Match is ignored on reads: overwritten objects are noticed by the ETag in the answer")
    except (ObjectChanged, StoreRefused):
        pass
    if _accepts(test, IfNoneMatch="*"):
        test.say("conditional writes are ignored: nothing stops a second host from overwriting the same key")


def _check_multipart(test: _Test) -> None:
    try:
        try:
            etag = _put_in_parts(test)
        except (StoreRefused, IntegrityError):
            if not test.abilities.crc32:
                raise
            test.learn(crc32=False)
            etag = _put_in_parts(test)
            test.say("S3's additional checksums (CRC32) are refused in multipart uploads: Content-MD5 protects them")
    except (StoreRefused, IntegrityError) as error:
        test.say(f"multipart uploads do not work, so large files cannot be archived ({error})")
        return
    md5 = digest_of(_BODY).md5
    if etag == f"{hashlib.md5(md5, usedforsecurity=False).hexdigest()}-1":
        test.learn(composite_etags=True)
    elif etag != md5.hex() and test.abilities.md5_etags:
        test.say("the ETags of multipart objects are not the MD5 of their parts: they do not prove what was stored")


def _put_in_parts(test: _Test) -> str:
    """Put the object again as an upload of one part; its ETag afterwards."""
    wire, digest = test.wire, digest_of(_BODY)
    checksums = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"} if test.abilities.crc32 else {}
    upload_id = wire.call("create_multipart_upload", test.key, Metadata=_METADATA, **checksums)["UploadId"]
    try:
        arguments = digest.arguments(test.abilities)
        part = wire.call("upload_part", test.key, UploadId=upload_id, PartNumber=1, Body=_BODY, **arguments)
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        final = {"ChecksumCRC32": crc32_text(digest.crc32), "ChecksumType": "FULL_OBJECT"} if checksums else {}
        wire.call("complete_multipart_upload", test.key, UploadId=upload_id, MultipartUpload=parts, **final)
    except StoreError:
        with suppress(StoreError):
            wire.call("abort_multipart_upload", test.key, UploadId=upload_id)
        raise
    return plain_etag(wire.call("head_object", test.key).get("ETag"))


def _check_copies(test: _Test) -> None:
    wire, key, origin = test.wire, f"{test.key}-copy", {"Key": test.key}
    try:
        wire.call("copy_object", key, CopySource=origin)
        copy = wire.call("head_object", key)
        if copy.get("ContentLength") != len(_BODY):
            raise StoreRefused("the copy has another size")
    except (StoreRefused, ObjectMissing, IntegrityError) as error:
        test.say(f"objects cannot be copied inside the store, so renamed files keep their old keys ({error})")
        return
    if "mtime" in {name.lower() for name in copy.get("Metadata", {})}:
        # Nobody sent that: it is how `rclone serve s3` gives itself away.
        test.say("this is rclone: it forgets user metadata (owners, modes, times) when it restarts")
    upload_id = wire.call("create_multipart_upload", key)["UploadId"]
    try:
        part = wire.call("upload_part_copy", key, UploadId=upload_id, PartNumber=1, CopySource=origin)
        works = bool((part.get("CopyPartResult") or {}).get("ETag"))
    except (StoreRefused, ObjectMissing, IntegrityError):
        works = False
    finally:
        wire.call("abort_multipart_upload", key, UploadId=upload_id)
    if not works:
        test.say("objects above 5 GiB cannot be copied inside the store (UploadPartCopy): they keep their old keys")


def _check_names(test: _Test) -> None:
    """Keys are opaque in S3; servers that keep objects as files make paths of them."""
    try:
        test.wire.call("put_object", f"{test.key}/below", Body=_BODY)
        kept = test.wire.call("head_object", test.key).get("ContentLength") == len(_BODY)
    except (StoreRefused, StoreUnavailable, ObjectMissing):
        kept = False
    if not kept:
        test.say("an object cannot have the name of a directory that others are in, nor a name part above 255 bytes")
