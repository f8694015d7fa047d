"""Multipart uploads and copies: parts in parallel, bounded memory, nothing left behind when they fail."""

import base64
import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from isal import isal_zlib

from tierfs.core.errors import IntegrityError, ObjectMissing, StoreRefused, StoreUnavailable
from tierfs.core.steps import step
from tierfs.stores.cold import ObjectInfo, Progress, Source
from tierfs.stores.s3_answers import (
    NOT_S3,
    Abilities,
    Refuted,
    TransferSizes,
    Wire,
    Written,
    is_md5,
    plain_etag,
    plan_part_size,
    plan_threads,
)
from tierfs.stores.s3_pending import PendingUploads, body_of


@dataclass(frozen=True, slots=True)
class Target:
    """The object to write: key, user metadata, and what else S3 is told when it is created (storage class)."""

    key: str
    metadata: Mapping[str, str]
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Digest:
    """The checksums of one body: MD5 and CRC-32."""

    md5: bytes
    crc32: int

    def arguments(self, abilities: Abilities) -> dict[str, str]:
        """The checksums to send with the body."""
        sent = {"ContentMD5": base64.b64encode(self.md5).decode()}
        if abilities.crc32:
            sent["ChecksumCRC32"] = crc32_text(self.crc32)
        return sent


def digest_of(body: bytes) -> Digest:
    """Both checksums of a body."""
    return Digest(hashlib.md5(body, usedforsecurity=False).digest(), isal_zlib.crc32(body))


def crc32_text(crc32: int) -> str:
    """A CRC-32 as S3 writes it: base64 of 4 bytes, big-endian."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def read_exactly(source: Source, offset: int, size: int) -> bytes:
    """The bytes [offset, offset + size) of a source; Refuted when it has become shorter."""
    body = source.read_at(offset, size)
    if len(body) != size:
        raise Refuted(
            IntegrityError, f"the file became shorter while it was read: {offset + len(body)} bytes are left of it"
        )
    return body


def upload_whole(wire: Wire, target: Target, body: bytes, abilities: Abilities) -> Written:
    """PutObject. Refuted when the answer's ETag is not the body's MD5 where it should be."""
    digest = digest_of(body)
    answer = wire.call(
        "put_object",
        target.key,
        Body=body,
        Metadata=dict(target.metadata),
        **target.extra,
        **digest.arguments(abilities),
    )
    etag = plain_etag(answer.get("ETag"))
    _compare_md5(etag, answer, digest, abilities)
    expected = {etag} if etag or not abilities.md5_etags else {digest.md5.hex()}
    return Written(len(body), crc32_text(digest.crc32), frozenset(expected - {""}))


def upload_parts(
    wire: Wire,
    target: Target,
    source: Source,
    abilities: Abilities,
    sizes: TransferSizes,
    pending: PendingUploads,
    progress: Progress,
) -> Written:
    """Multipart upload, the source read once from front to back; `progress` is called in the caller's thread.

    Parts that an earlier try left are compared, and not sent again.
    """
    size, part_size = source.size, plan_part_size(source.size, sizes)
    md5s: list[bytes] = []
    # Needed only where the ETag of a multipart object may be the MD5 of all of it.
    whole_md5 = None if abilities.composite_etags or not abilities.md5_etags else hashlib.md5(usedforsecurity=False)
    crc32 = 0
    checksums = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"} if abilities.crc32 else {}
    body_id = body_of(target.metadata, size, part_size, target.extra, checksums)
    with _multipart(wire, target, checksums, pending, body_id) as upload:
        with _Parts(plan_threads(part_size, sizes), progress) as parts:
            for offset in range(0, size, part_size):
                parts.make_room()
                body = read_exactly(source, offset, min(part_size, size - offset))
                digest = digest_of(body)
                md5s.append(digest.md5)
                crc32 = isal_zlib.crc32(body, crc32)
                if whole_md5 is not None:
                    whole_md5.update(body)
                if upload.has(len(md5s), digest, len(body)):
                    parts.keep(_Part(len(md5s), plain_etag(upload.there[len(md5s)].get("ETag")), len(body)))
                else:
                    parts.start(_upload_part, wire, target.key, upload.id, len(md5s), body, digest, abilities)
                del body  # only the request holds it now
            finished = parts.finish()
        final = {"ChecksumCRC32": crc32_text(crc32), "ChecksumType": "FULL_OBJECT"} if abilities.crc32 else {}
        answer = _complete(wire, target.key, upload.id, finished, final)
    etags = {plain_etag(answer.get("ETag"))}
    if abilities.md5_etags:
        etags.add(f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}")
        if whole_md5 is not None:
            etags.add(whole_md5.hexdigest())
    return Written(size, crc32_text(crc32), frozenset(etags - {""}))


def copy_parts(
    wire: Wire,
    target: Target,
    source: ObjectInfo,
    sizes: TransferSizes,
    pending: PendingUploads,
    origin: Mapping[str, Any],
) -> None:
    """Multipart copy inside the store, for objects that CopyObject does not take."""
    # Copies cost the client nothing: as few parts as S3 allows make sense, each at most what CopyObject takes.
    part_size = max(plan_part_size(source.size, sizes), min(sizes.copy, 32 * sizes.part))
    # Its parts prove nothing about the source of today: what an earlier try left is not gone on with.
    with _multipart(wire, target, {}, pending, f"copy {uuid.uuid4().hex}") as upload:
        with _Parts(plan_threads(1, sizes), lambda _moved: None) as parts:
            for number, offset in enumerate(range(0, source.size, part_size), start=1):
                parts.make_room()
                extent = f"bytes={offset}-{min(offset + part_size, source.size) - 1}"
                parts.start(_copy_part, wire, target.key, upload.id, number, {**origin, "CopySourceRange": extent})
            finished = parts.finish()
        _complete(wire, target.key, upload.id, finished, {})


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    etag: str
    size: int


class _Parts:
    """The parts in flight of one upload, at most `threads` of them; failures surface in the caller's thread.

    INVARIANT: when the block is left, no request is under way any more.
    """

    def __init__(self, threads: int, progress: Progress) -> None:
        self._threads = threads
        self._progress = progress
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tierfs-part")
        self._running: set[Future[_Part]] = set()
        self._finished: list[_Part] = []

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, function: Callable[..., _Part], *arguments: Any) -> None:
        self._running.add(self._pool.submit(function, *arguments))

    def keep(self, part: _Part) -> None:
        """A part that the store has already."""
        self._finished.append(part)
        self._progress(part.size)

    def make_room(self) -> None:
        """Wait until another part may be read into memory."""
        while len(self._running) >= self._threads:
            self._collect()

    def finish(self) -> list[dict[str, Any]]:
        """Wait for all parts; they are returned as CompleteMultipartUpload wants them."""
        while self._running:
            self._collect()
        ordered = sorted(self._finished, key=lambda part: part.number)
        return [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in ordered]

    def _collect(self) -> None:
        done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            part = future.result()
            self._finished.append(part)
            self._progress(part.size)


def _upload_part(
    wire: Wire, key: str, upload_id: str, number: int, body: bytes, digest: Digest, abilities: Abilities
) -> _Part:
    with step("multipart.part"):
        answer = wire.call(
            "upload_part", key, UploadId=upload_id, PartNumber=number, Body=body, **digest.arguments(abilities)
        )
    etag = plain_etag(answer.get("ETag"))
    _compare_md5(etag, answer, digest, abilities)
    return _Part(number, etag or digest.md5.hex(), len(body))


def _copy_part(wire: Wire, key: str, upload_id: str, number: int, origin: Mapping[str, Any]) -> _Part:
    answer = wire.call("upload_part_copy", key, UploadId=upload_id, PartNumber=number, **origin)
    etag = plain_etag((answer.get("CopyPartResult") or {}).get("ETag"))
    if not etag:
        # A server that does not know the request takes it for an UploadPart with an empty body.
        raise Refuted(StoreRefused, "the store cannot copy parts of objects (UploadPartCopy)")
    return _Part(number, etag, 0)


def _compare_md5(etag: str, answer: dict[str, Any], digest: Digest, abilities: Abilities) -> None:
    if abilities.md5_etags and is_md5(etag, answer) and etag != digest.md5.hex():
        raise Refuted(
            IntegrityError, f"the store answered with ETag {etag}, the MD5 of what was sent is {digest.md5.hex()}"
        )


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload in parts. `there` are the parts that the store has from an earlier try, by number."""

    id: str
    there: Mapping[int, Mapping[str, Any]]

    def has(self, number: int, digest: Digest, size: int) -> bool:
        """Whether a part is there, and certainly this one."""
        part = self.there.get(number, {})
        is_proven = plain_etag(part.get("ETag")) == digest.md5.hex() or (
            part.get("ChecksumCRC32") == crc32_text(digest.crc32)
        )
        return is_proven and part.get("Size") == size


@contextmanager
def _multipart(
    wire: Wire, target: Target, checksums: Mapping[str, str], pending: PendingUploads, body: str
) -> Iterator[_Upload]:
    """An upload, new or left by an earlier try, of which nothing is forgotten when the block fails."""
    with pending.using(target.key):
        upload = _found(wire, target.key, pending, body) or _begun(wire, target, checksums, pending, body)
        try:
            yield upload
        except BaseException as error:
            pending.failed(wire, target.key, upload.id, error)
            raise
        pending.ended(target.key)


def _found(wire: Wire, key: str, pending: PendingUploads, body: str) -> _Upload | None:
    """The upload of the same body that was begun before, with its parts, if the store still has it."""
    noted = pending.find(key, body)
    if noted is None:
        return None
    there: dict[int, Mapping[str, Any]] = {}
    marker: dict[str, Any] = {}
    try:
        while True:
            page = wire.call("list_parts", key, UploadId=noted.upload_id, **marker)
            there.update((part["PartNumber"], part) for part in page.get("Parts", ()))
            after = page.get("NextPartNumberMarker")
            if not page.get("IsTruncated") or after in (None, *marker.values()):
                return _Upload(noted.upload_id, there)
            marker = {"PartNumberMarker": after}
    except (ObjectMissing, StoreRefused):  # the store has forgotten it, or cannot tell
        return None


def _begun(wire: Wire, target: Target, checksums: Mapping[str, str], pending: PendingUploads, body: str) -> _Upload:
    pending.abort(wire, target.key)
    with step("multipart.begin"):
        created = wire.call(
            "create_multipart_upload", target.key, Metadata=dict(target.metadata), **target.extra, **checksums
        )
    upload_id = str(created.get("UploadId") or "")
    if not upload_id:
        raise Refuted(StoreUnavailable, NOT_S3)
    pending.begun(target.key, upload_id, body)
    return _Upload(upload_id, {})


def _complete(
    wire: Wire, key: str, upload_id: str, parts: list[dict[str, Any]], checksums: Mapping[str, str]
) -> dict[str, Any]:
    with step("multipart.complete"):
        return wire.call(
            "complete_multipart_upload", key, UploadId=upload_id, MultipartUpload={"Parts": parts}, **checksums
        )
