"""Uploads in parts that were begun and not ended: remembered, so that a crash costs neither the bytes nor the rent.

Parts that nobody completes are kept, and charged for, until somebody aborts their upload, and a bucket does not tell
whose they are. So each upload is noted in a file of its own before its first part leaves; what is noted is of this
mount, and what is not is left alone.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tierfs.core.errors import NoLease, ObjectMissing, StoreError, StoreUnavailable
from tierfs.core.steps import step
from tierfs.stores.durable import sync
from tierfs.stores.s3_answers import Wire

_log = logging.getLogger(__name__)

_KEPT_NS = 24 * 3600 * 10**9  # for who archives the same bytes again
_SUFFIX = ".upload"


@dataclass(frozen=True, slots=True)
class Pending:
    """One upload: its key, the store's name for it, what tells its body from others, and when it began, in ns.

    `is_given_up` says that nobody will go on with it.
    """

    key: str
    upload_id: str
    body: str
    begun_ns: int
    is_given_up: bool = False


def body_of(metadata: Mapping[str, str], *shape: object) -> str:
    """What tells one body from others: its object's metadata, which has its SHA-256, and how it is cut."""
    text = json.dumps([sorted(metadata.items()), *map(str, shape)])
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


class PendingUploads:
    """The uploads of one mount, in files of one directory; without one they are only known while they are under way.

    Safe to call from threads. A disk that takes no note is no reason not to upload.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._under_way: set[str] = set()  # keys

    def find(self, key: str, body: str) -> Pending | None:
        """The upload to go on with, if there is one of the same body."""
        noted = self._read(self._path(key))
        return noted if noted and noted.key == key and noted.body == body and not noted.is_given_up else None

    def begun(self, key: str, upload_id: str, body: str) -> None:
        """An upload is there; known after a crash from now on."""
        self._write(Pending(key, upload_id, body, time.time_ns()))

    def ended(self, key: str) -> None:
        """It is complete, or gone."""
        with suppress(FileNotFoundError, OSError):
            if path := self._path(key):
                with step("multipart.forget"):
                    path.unlink()

    def failed(self, wire: Wire, key: str, upload_id: str, error: BaseException) -> None:
        """An upload came to nothing: kept for another try if the store was away, else aborted."""
        path = self._path(key)
        if path and path.exists() and isinstance(error, StoreUnavailable | NoLease):
            return
        self._give_up(key)
        try:
            self._abort(wire, key, upload_id)
        except StoreError as second:
            later = "; it is tried again later" if path else ""
            error.add_note(f"the unfinished upload {upload_id} could not be removed{later}: {second}")

    def abort(self, wire: Wire, key: str) -> None:
        """Whatever was begun of a key makes room for another upload of it."""
        if noted := self._read(self._path(key)):
            self._give_up(key)
            with suppress(StoreError):
                self._abort(wire, noted.key, noted.upload_id)

    def tidy(self, wire: Wire) -> None:
        """Abort the uploads of this mount that nobody goes on with. StoreError: the first one that could not be."""
        failures: list[StoreError] = []
        for noted in self._all():
            is_old = not 0 <= time.time_ns() - noted.begun_ns < _KEPT_NS
            if noted.key in self._under_way or not (noted.is_given_up or is_old):
                continue
            try:
                with self.using(noted.key):
                    self._abort(wire, noted.key, noted.upload_id)
                _log.info("removed what an upload of %s had left in the bucket", noted.key)
            except StoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    @contextmanager
    def using(self, key: str) -> Iterator[None]:
        """While an upload of a key is under way, it is not abandoned."""
        with self._lock:
            self._under_way.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.discard(key)

    # -- inside --------------------------------------------------------------------------------------------------

    def _abort(self, wire: Wire, key: str, upload_id: str) -> None:
        with suppress(ObjectMissing), step("multipart.abort"):
            wire.call("abort_multipart_upload", key, UploadId=upload_id)
        self.ended(key)

    def _give_up(self, key: str) -> None:
        if noted := self._read(self._path(key)):
            self._write(replace(noted, is_given_up=True))

    def _all(self) -> list[Pending]:
        if self._directory is None:
            return []
        with suppress(OSError):
            paths = [path for path in self._directory.iterdir() if path.suffix == _SUFFIX]
            return [noted for noted in map(self._read, sorted(paths)) if noted]
        return []

    def _path(self, key: str) -> Path | None:
        name = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return self._directory / f"{name}{_SUFFIX}" if self._directory else None

    def _read(self, path: Path | None) -> Pending | None:
        """What a file says; None when it is not there, or was not written whole."""
        if path is None:
            return None
        with suppress(OSError, ValueError, TypeError):
            return Pending(**json.loads(path.read_bytes()))
        return None

    def _write(self, noted: Pending) -> None:
        path = self._path(noted.key)
        if path is None:
            return
        new = path.with_suffix(".new")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with step("multipart.note"), open(new, "wb") as file:
                file.write(json.dumps(asdict(noted)).encode())
                file.flush()
                os.fsync(file.fileno())
                new.replace(path)
                sync(path.parent)
        except OSError as error:
            _log.warning("an upload of %s goes on unnoted: parts may stay if tierfs is killed: %s", noted.key, error)
