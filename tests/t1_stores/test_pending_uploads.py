"""Uploads in parts that a kill -9 or an outage cut off: gone on with, or removed, and nobody else's is touched."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.fakes import BytesSource, no_progress
from tests.t1_stores.conftest import SIZES, Backend
from tierfs.core.errors import NotEligible, StoreUnavailable
from tierfs.stores.s3 import S3Store
from tierfs.stores.s3_wire import S3Settings

PART = SIZES.part
SEED, SIZE = 7, 4 * PART + 77
METADATA = {"tierfs-sha256": "one"}

pytestmark = pytest.mark.parametrize("backend", ["moto", "rclone", "radosgw"], indirect=True, scope="session")

_KILLED = """
import json, os, signal, sys
from pathlib import Path
from random import Random
from tests.fakes import BytesSource
from tests.t1_stores.conftest import SIZES
from tierfs.stores.s3 import S3Store
from tierfs.stores.s3_wire import S3Settings

def die(moved):
    os.kill(os.getpid(), signal.SIGKILL)

endpoint, bucket, pending, key, seed, size, metadata = json.loads(sys.argv[1])
store = S3Store(S3Settings(bucket, endpoint_url=endpoint, sizes=SIZES, pending=Path(pending)))
store.put(key, BytesSource(Random(seed).randbytes(size)), metadata, die)
"""


@pytest.fixture
def pending(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


def open_store(backend: Backend, pending: Path) -> S3Store:
    return S3Store(replace(settings_of(backend), pending=pending))


def settings_of(backend: Backend) -> S3Settings:
    assert backend.settings is not None
    return backend.settings


@pytest.fixture
def store(backend: Backend, pending: Path) -> Iterator[S3Store]:
    opened = open_store(backend, pending)
    yield opened
    opened.close()


def noise(seed: int = SEED) -> bytes:
    return Random(seed).randbytes(SIZE)


def kill_an_upload(backend: Backend, pending: Path, key: str) -> None:
    """Another process uploads noise(), and is killed when at least one part has arrived."""
    settings = settings_of(backend)
    told = json.dumps([settings.endpoint_url, settings.bucket, str(pending), key, SEED, SIZE, METADATA])
    ended = subprocess.run([sys.executable, "-c", _KILLED, told], check=False, timeout=100)
    assert ended.returncode == -9
    assert len(notes(pending)) == 1


def notes(pending: Path) -> list[Path]:
    return sorted(pending.iterdir()) if pending.exists() else []


def unfinished(backend: Backend, prefix: str) -> list[str] | None:
    """The keys of unfinished uploads, as the server shows them; None when it cannot."""
    if backend.name == "rclone":
        return None
    assert backend.server is not None
    with backend.server.client() as client:
        uploads: Any = client.list_multipart_uploads(Bucket=settings_of(backend).bucket, Prefix=prefix)
        return [upload["Key"] for upload in uploads.get("Uploads", [])]


def read(store: S3Store, key: str) -> bytes:
    info = store.head(key)
    return b"".join(store.get(key, 0, info.size, info.etag))


def grow_old(pending: Path) -> None:
    (path,) = notes(pending)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"begun_ns": 1}))


def test_after_a_kill_only_the_rest_is_sent(backend: Backend, store: S3Store, pending: Path, prefix: str) -> None:
    key = f"{prefix}a"
    kill_an_upload(backend, pending, key)
    info = store.put(key, BytesSource(noise()), METADATA, no_progress)
    assert info.size == SIZE
    assert read(store, key) == noise()
    assert store.counters.requests["UploadPart"] < 5
    assert notes(pending) == []
    assert unfinished(backend, prefix) in ([], None)


def test_other_bytes_are_another_upload(backend: Backend, store: S3Store, pending: Path, prefix: str) -> None:
    key = f"{prefix}a"
    kill_an_upload(backend, pending, key)
    store.put(key, BytesSource(noise(8)), {"tierfs-sha256": "two"}, no_progress)
    assert read(store, key) == noise(8)
    assert store.counters.requests["UploadPart"] == 5
    assert store.counters.requests["AbortMultipartUpload"] == 1
    assert notes(pending) == []
    assert unfinished(backend, prefix) in ([], None)


def test_a_part_with_other_bytes_is_sent_again(backend: Backend, store: S3Store, pending: Path, prefix: str) -> None:
    """What the store has is believed for its checksum alone."""
    key = f"{prefix}a"
    kill_an_upload(backend, pending, key)
    (path,) = notes(pending)
    upload_id = json.loads(path.read_text())["upload_id"]
    assert backend.server is not None
    with backend.server.client() as client, suppress(ClientError):  # rclone takes no part twice
        client.upload_part(
            Bucket=settings_of(backend).bucket, Key=key, UploadId=upload_id, PartNumber=1, Body=b"x" * PART
        )
    store.put(key, BytesSource(noise()), METADATA, no_progress)
    assert read(store, key) == noise()


def test_an_outage_costs_what_was_under_way(backend: Backend, store: S3Store, pending: Path, prefix: str) -> None:
    class Cut(BytesSource):
        def read_at(self, offset: int, size: int) -> bytes:
            if offset >= 4 * PART:
                raise StoreUnavailable("the store is away")
            return super().read_at(offset, size)

    key = f"{prefix}a"
    with pytest.raises(StoreUnavailable):
        store.put(key, Cut(noise()), METADATA, no_progress)
    assert len(notes(pending)) == 1
    store.tidy()  # not while somebody may go on with it
    assert unfinished(backend, prefix) in ([key], None)
    before = store.counters.requests["UploadPart"]
    store.put(key, BytesSource(noise()), METADATA, no_progress)
    assert read(store, key) == noise()
    assert store.counters.requests["UploadPart"] - before < 5
    assert notes(pending) == []


def test_a_file_that_changed_leaves_nothing(backend: Backend, store: S3Store, pending: Path, prefix: str) -> None:
    class Changed(BytesSource):
        def read_at(self, offset: int, size: int) -> bytes:
            if offset >= 2 * PART:
                raise NotEligible("it changed")
            return super().read_at(offset, size)

    with pytest.raises(NotEligible):
        store.put(f"{prefix}a", Changed(noise()), METADATA, no_progress)
    assert notes(pending) == []
    assert unfinished(backend, prefix) in ([], None)


def test_what_nobody_goes_on_with_is_removed_and_nothing_else(
    backend: Backend, store: S3Store, pending: Path, prefix: str
) -> None:
    kill_an_upload(backend, pending, f"{prefix}ours")
    bucket = settings_of(backend).bucket
    assert backend.server is not None
    with backend.server.client() as client:
        theirs = client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}theirs")["UploadId"]
        store.tidy()
        assert len(notes(pending)) == 1  # the same bytes may come again
        grow_old(pending)
        store.tidy()
        assert notes(pending) == []
        assert unfinished(backend, prefix) in ([f"{prefix}theirs"], None)
        client.upload_part(Bucket=bucket, Key=f"{prefix}theirs", UploadId=theirs, PartNumber=1, Body=b"x")
        client.abort_multipart_upload(Bucket=bucket, Key=f"{prefix}theirs", UploadId=theirs)


def test_what_the_store_has_forgotten_is_forgotten(
    backend: Backend, store: S3Store, pending: Path, prefix: str
) -> None:
    key = f"{prefix}a"
    kill_an_upload(backend, pending, key)
    (path,) = notes(pending)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"upload_id": "2~nothing-of-this-name"}))
    store.put(key, BytesSource(noise()), METADATA, no_progress)
    assert read(store, key) == noise()
    assert notes(pending) == []


@pytest.mark.parametrize("text", ["{", '{"key": "a"}'])
def test_a_damaged_note_is_none(backend: Backend, store: S3Store, pending: Path, prefix: str, text: str) -> None:
    key = f"{prefix}a"
    kill_an_upload(backend, pending, key)
    (path,) = notes(pending)
    path.write_text(text)
    store.tidy()
    store.put(key, BytesSource(noise()), METADATA, no_progress)
    assert read(store, key) == noise()
    assert notes(pending) == []


def test_a_disk_that_takes_no_note_is_no_reason_not_to_upload(backend: Backend, tmp_path: Path, prefix: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(backend, tmp_path / "file")
    store.put(f"{prefix}a", BytesSource(noise()), METADATA, no_progress)
    assert read(store, f"{prefix}a") == noise()
    store.tidy()
    store.close()
