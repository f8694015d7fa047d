"""The contract of the port tierfs/stores/cold.py, held against every implementation and against real servers."""

import functools
import os
import random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fakes import BytesSource, no_progress
from tests.servers import Quirk
from tests.t1_stores.conftest import Backend
from tierfs.core.errors import (
    BucketMissing,
    IntegrityError,
    ObjectChanged,
    ObjectMissing,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from tierfs.stores.cold import ColdStore, ObjectInfo
from tierfs.stores.s3_answers import MIB

PART = 5 * MIB


@functools.cache
def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that look like nothing else, the same in every run."""
    return random.Random(seed).randbytes(size)


def put(store: ColdStore, key: str, body: bytes, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
    return store.put(key, BytesSource(body), metadata or {}, no_progress)


def read(store: ColdStore, info: ObjectInfo, start: int = 0, stop: int | None = None) -> bytes:
    stop = info.size if stop is None else stop
    return b"".join(store.get(info.key, start, stop, info.etag, info.version_id))


@pytest.mark.parametrize("size", [0, 1, 255, 4096, 1 * MIB + 1])
def test_what_was_put_comes_back(store: ColdStore, prefix: str, size: int) -> None:
    body = noise(size)
    info = put(store, f"{prefix}a", body)
    assert (info.key, info.size) == (f"{prefix}a", size)
    assert read(store, info) == body


def test_put_says_what_head_says(store: ColdStore, prefix: str) -> None:
    info = put(store, f"{prefix}a", b"abc", {"tierfs": "1", "mode": "0100644"})
    assert store.head(f"{prefix}a") == info
    assert info.etag
    assert '"' not in info.etag
    assert info.modified_ns > 0


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 10), (9, 10), (3, 7), (0, 0), (5, 5), (10, 10), (4, 5), (1, 10)]
)
def test_ranges_are_half_open(store: ColdStore, prefix: str, start: int, stop: int) -> None:
    info = put(store, f"{prefix}a", b"0123456789")
    assert read(store, info, start, stop) == b"0123456789"[start:stop]


def test_metadata_comes_back_with_plain_names(store: ColdStore, prefix: str) -> None:
    sent = {"Tierfs": "1", "mtime_ns": "1700000000123456789", "x-attrs": "dXNlci5h=, with spaces; and %41 ~"}
    info = put(store, f"{prefix}a", b"abc", sent)
    assert info.metadata == {"tierfs": "1", "mtime-ns": sent["mtime_ns"], "x-attrs": sent["x-attrs"]}


def test_put_replaces_bytes_and_metadata(store: ColdStore, prefix: str) -> None:
    old = put(store, f"{prefix}a", b"old", {"which": "old", "only": "old"})
    new = put(store, f"{prefix}a", b"the new one", {"which": "new"})
    assert new.etag != old.etag
    assert read(store, new) == b"the new one"
    assert store.head(f"{prefix}a").metadata == {"which": "new"}


def test_an_overwritten_object_is_noticed(store: ColdStore, prefix: str) -> None:
    old = put(store, f"{prefix}a", b"0123456789")
    put(store, f"{prefix}a", b"9876543210")
    with pytest.raises(ObjectChanged):
        read(store, old)
    with pytest.raises(ObjectChanged):
        read(store, old, 2, 4)


def test_an_object_that_is_too_short_is_noticed(store: ColdStore, prefix: str) -> None:
    info = put(store, f"{prefix}a", b"0123456789")
    with pytest.raises(ObjectChanged):
        read(store, info, 5, 11)
    with pytest.raises(ObjectChanged):
        read(store, info, 10, 12)


def test_what_is_not_there_is_missing(store: ColdStore, prefix: str) -> None:
    nothing = ObjectInfo(f"{prefix}nothing", 3, "0" * 32)
    with pytest.raises(ObjectMissing, match="nothing"):
        store.head(nothing.key)
    with pytest.raises(ObjectMissing, match="nothing"):
        read(store, nothing)
    with pytest.raises(ObjectMissing, match="nothing"):
        store.copy(nothing, f"{prefix}copy")
    assert list(store.list(prefix)) == []


def test_delete_and_delete_again(store: ColdStore, prefix: str) -> None:
    info = put(store, f"{prefix}a/b/c", b"abc")
    store.delete(info.key)
    store.delete(info.key)
    store.delete(f"{prefix}never/was")
    with pytest.raises(ObjectMissing):
        store.head(info.key)
    with pytest.raises(ObjectMissing):
        read(store, info)


def test_many_are_deleted_and_the_others_stay(store: ColdStore, prefix: str) -> None:
    keys = [f"{prefix}{number}/x" for number in range(7)]  # more than two requests
    for key in keys:
        put(store, key, b"abc")
    deleted = store.delete_many([*keys[:6], f"{prefix}never/was"])
    assert sorted(deleted.gone) == sorted([*keys[:6], f"{prefix}never/was"])
    assert not deleted.failures
    assert [info.key for info in store.list(prefix)] == keys[6:]
    assert sorted(store.delete_many(keys).gone) == keys
    assert store.delete_many([]).gone == ()
    assert list(store.list(prefix)) == []


def test_of_many_none_is_taken_for_another(store: ColdStore, prefix: str) -> None:
    """Some servers lose space at the ends of a key on the way out of XML."""
    for name in ODD_NAMES:
        put(store, prefix + name, b"odd")
    bystander = put(store, f"{prefix}leading and trailing", b"not odd")
    deleted = store.delete_many([f"{prefix}leading and trailing ", *(prefix + name for name in ODD_NAMES)])
    assert not deleted.failures
    assert [info.key for info in store.list(prefix)] == [bystander.key]


def test_list_gives_every_object_of_the_prefix_once(store: ColdStore, prefix: str) -> None:
    names = ["a", "b/c", "b/d", "b/e/f", "bb", "c", "d/a", "d/b"]  # more than two pages
    infos = {f"{prefix}{name}": put(store, f"{prefix}{name}", name.encode(), {"n": name}) for name in names}
    listed = list(store.list(prefix))
    assert sorted(info.key for info in listed) == sorted(infos)
    for info in listed:
        assert (info.size, info.etag) == (infos[info.key].size, infos[info.key].etag)
        assert info.metadata == {}
        assert info.modified_ns > 0
    assert sorted(info.key for info in store.list(f"{prefix}b")) == [
        f"{prefix}{n}" for n in ("b/c", "b/d", "b/e/f", "bb")
    ]
    assert [info.key for info in store.list(f"{prefix}b/e")] == [f"{prefix}b/e/f"]
    assert list(store.list(f"{prefix}nothing/here")) == []


ODD_NAMES = [
    "with space",
    " leading and trailing ",
    "plus+plus",
    "per%20cent%",
    "amp&ersand;semi=eq,comma",
    "quest?ion#hash",
    "quote'\"quote",
    "<angle>",
    "back\\slash",
    "tilde~!*()[]{}|^`$@:",
    "gr\u00fc\u00dfe/\u65e5\u672c\u8a9e/\U0001f9ca",
    "e\u0301-not-composed",
    ".hidden",
    "..dots..",
    "x" * 255,
    "/".join(["deep"] * 40),
]


def test_any_name_is_a_key(store: ColdStore, prefix: str) -> None:
    infos = {name: put(store, prefix + name, name.encode()) for name in ODD_NAMES}
    assert sorted(info.key for info in store.list(prefix)) == sorted(prefix + name for name in ODD_NAMES)
    for name, info in infos.items():
        assert read(store, info) == name.encode()
        copied = store.copy(info, f"{prefix}copy of/{name}")
        assert read(store, copied) == name.encode()
        store.delete(info.key)
        store.delete(copied.key)
    assert list(store.list(prefix)) == []


@pytest.mark.parametrize("name", ["../escaped", "a/../../../escaped", "a//b", "./a", "a/", "/absolute"])
def test_keys_that_are_no_paths_work_or_are_refused(backend: Backend, store: ColdStore, prefix: str, name: str) -> None:
    try:
        info = put(store, prefix + name, b"odd")
    except StoreRefused:
        with pytest.raises((StoreRefused, ObjectMissing)):
            store.head(prefix + name)
    else:
        assert read(store, info) == b"odd"
    if backend.directory is not None:
        assert not list(backend.directory.parent.glob("**/escaped"))


def test_a_name_that_is_file_and_directory_hurts_nothing(backend: Backend, store: ColdStore, prefix: str) -> None:
    first = put(store, f"{prefix}p", b"first")
    if Quirk.FILES_AS_KEYS in backend.quirks:
        with pytest.raises((StoreRefused, StoreUnavailable)):
            put(store, f"{prefix}p/q", b"second")
    else:
        assert read(store, put(store, f"{prefix}p/q", b"second")) == b"second"
        store.delete(f"{prefix}p/q")
    assert read(store, first) == b"first"
    store.delete(f"{prefix}p")
    assert read(store, put(store, f"{prefix}p/q", b"third")) == b"third"
    store.delete(f"{prefix}p/q")
    assert read(store, put(store, f"{prefix}p", b"fourth")) == b"fourth"


def test_copy_keeps_bytes_and_metadata(store: ColdStore, prefix: str) -> None:
    source = put(store, f"{prefix}a", b"0123456789", {"mode": "0644"})
    copied = store.copy(source, f"{prefix}dir/b")
    assert read(store, copied) == b"0123456789"
    assert copied.metadata["mode"] == "0644"
    assert copied == store.head(f"{prefix}dir/b")
    assert read(store, source) == b"0123456789"


def test_copy_of_an_overwritten_object_is_refused(store: ColdStore, prefix: str) -> None:
    old = put(store, f"{prefix}a", b"old")
    put(store, f"{prefix}a", b"new")
    with pytest.raises(ObjectChanged):
        store.copy(old, f"{prefix}b")
    with pytest.raises(ObjectMissing):
        store.head(f"{prefix}b")


def test_large_copies_keep_bytes_and_metadata(backend: Backend, store: ColdStore, prefix: str) -> None:
    body = noise(2 * 6 * MIB + 1)
    source = put(store, f"{prefix}a", body, {"mode": "0644"})
    if Quirk.PART_COPY_MISSING in backend.quirks and backend.server is not None:
        with pytest.raises(StoreRefused, match="copy"):
            store.copy(source, f"{prefix}b")
    else:
        copied = store.copy(source, f"{prefix}b")
        assert read(store, copied) == body
        assert copied.metadata["mode"] == "0644"
    assert left_behind(backend) == []


@pytest.mark.parametrize("size", [PART, PART + 1, 2 * PART, 4 * PART + 3])
def test_large_objects_are_read_once_from_front_to_back(store: ColdStore, prefix: str, size: int) -> None:
    body = noise(size)
    moved: list[int] = []
    source = BytesSource(body)
    info = store.put(f"{prefix}a", source, {"mode": "0644"}, moved.append)
    assert (info.size, info.metadata) == (size, {"mode": "0644"})
    assert sum(moved) == size
    position = 0
    for offset, length in source.reads:
        assert offset == position
        position += length
    assert position == size
    assert read(store, info) == body
    for start in range(PART - 1, size, PART):
        assert read(store, info, start, min(start + 2, size)) == body[start : start + 2]


class Stop(Exception):
    """Raised by a progress callback."""


def test_an_upload_that_is_stopped_leaves_nothing(backend: Backend, store: ColdStore, prefix: str) -> None:
    before = put(store, f"{prefix}a", b"before")

    def stop(_moved: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        store.put(f"{prefix}a", BytesSource(noise(3 * PART)), {}, stop)
    assert store.head(f"{prefix}a") == before
    assert read(store, before) == b"before"
    assert left_behind(backend) == []


class Shrinking(BytesSource):
    """A file that loses its end while it is read."""

    def read_at(self, offset: int, size: int) -> bytes:
        return super().read_at(offset, size)[: max(0, self.size - 1 - offset)]


@pytest.mark.parametrize("size", [10, 2 * PART])
def test_a_file_that_shrinks_is_not_archived(backend: Backend, store: ColdStore, prefix: str, size: int) -> None:
    with pytest.raises(IntegrityError, match="shorter"):
        store.put(f"{prefix}a", Shrinking(noise(size)), {}, no_progress)
    with pytest.raises(ObjectMissing):
        store.head(f"{prefix}a")
    assert left_behind(backend) == []


class Unreadable(BytesSource):
    """A file on a failing disk."""

    def read_at(self, offset: int, size: int) -> bytes:
        raise OSError(5, "Input/output error")


def test_an_error_of_the_local_disk_is_not_blamed_on_the_store(store: ColdStore, prefix: str) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        store.put(f"{prefix}a", Unreadable(noise(10)), {}, no_progress)


def left_behind(backend: Backend) -> list[str]:
    """Unfinished uploads, as the store itself shows them."""
    if backend.directory is not None:
        return os.listdir(backend.directory / ".tierfs-store" / "new")
    if backend.server is None or backend.settings is None or backend.name == "rclone":
        return []  # rclone cannot list uploads
    with backend.server.client() as client:
        uploads = client.list_multipart_uploads(Bucket=backend.settings.bucket).get("Uploads", [])
        return [upload["Key"] for upload in uploads]


def test_a_stream_that_is_left_early_gives_its_connection_back(store: ColdStore, prefix: str) -> None:
    info = put(store, f"{prefix}a", noise(3 * MIB))
    read(store, info)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(12):
        blocks = store.get(info.key, 0, info.size, info.etag)
        assert next(blocks)
        blocks.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert read(store, info, 0, 10) == noise(3 * MIB)[:10]


def test_a_stream_that_is_overwritten_never_mixes(store: ColdStore, prefix: str) -> None:
    old, new = b"o" * (4 * MIB), b"n" * (4 * MIB)
    info = put(store, f"{prefix}a", old)
    blocks = store.get(info.key, 0, info.size, info.etag)
    first = next(blocks)
    put(store, f"{prefix}a", new)
    try:
        rest = b"".join(blocks)
    except StoreError:
        return
    assert first + rest == old


def test_many_threads_share_a_store(store: ColdStore, prefix: str) -> None:
    barrier = threading.Barrier(6)

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(3):
            body = noise(50_000 + number, seed=number * 10 + turn)
            info = put(store, f"{prefix}{number}/{turn}", body)
            assert read(store, info) == body
            assert read(store, info, 100, 200) == body[100:200]
            if turn:
                store.delete(f"{prefix}{number}/{turn - 1}")

    with ThreadPoolExecutor(6) as pool:
        for result in [pool.submit(work, number) for number in range(6)]:
            result.result()
    assert sorted(info.key for info in store.list(prefix)) == [f"{prefix}{number}/2" for number in range(6)]


def test_one_key_written_by_many_threads_is_one_of_them(store: ColdStore, prefix: str) -> None:
    bodies = [bytes([65 + number]) * 10_000 for number in range(4)]

    def write(body: bytes) -> None:
        try:
            put(store, f"{prefix}a", body)
        except (IntegrityError, StoreUnavailable):
            pass  # somebody else's bytes are there: the writer is told

    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(write, body) for body in bodies]:
            result.result()
    assert read(store, store.head(f"{prefix}a")) in bodies


def test_counters_count(store: ColdStore, prefix: str) -> None:
    uploaded, downloaded = store.counters.bytes_uploaded, store.counters.bytes_downloaded
    requests, answered = dict(store.counters.requests), store.counters.first_byte.count
    info = put(store, f"{prefix}a", b"0123456789")
    read(store, info, 2, 5)
    list(store.list(prefix))
    store.delete(info.key)
    assert store.counters.bytes_uploaded - uploaded == 10
    assert store.counters.bytes_downloaded - downloaded == 3
    for kind in ("PutObject", "GetObject", "ListObjectsV2", "DeleteObject"):
        assert store.counters.requests[kind] - requests.get(kind, 0) == 1
    assert store.counters.first_byte.count - answered == 1
    with pytest.raises(ObjectMissing):
        read(store, info)
    assert store.counters.first_byte.count - answered == 1


#: A word of the sentence in which the self-test tells of a quirk.
TOLD = {
    Quirk.MD5_UNCHECKED: "wrong Content-MD5",
    Quirk.CRC32_UNCHECKED: "CRC32",
    Quirk.RANGE_STATUS_200: "status 200",
    Quirk.IF_MATCH_IGNORED: "If-Match is ignored",
    Quirk.IF_NONE_MATCH_IGNORED: "conditional writes are ignored",
    Quirk.PART_COPY_MISSING: "UploadPartCopy",
    Quirk.FILES_AS_KEYS: "name of a directory",
}


def test_the_self_test_tells_what_the_store_cannot_do(backend: Backend, prefix: str) -> None:
    store = backend.open()
    before = sorted(info.key for info in store.list(""))
    sentences = store.probe()
    for quirk, words in TOLD.items():
        assert any(words in sentence for sentence in sentences) == (quirk in backend.quirks), (quirk, sentences)
    assert sorted(info.key for info in store.list("")) == before
    assert left_behind(backend) == []
    # And what it learned does not break anything.
    body = noise(2 * PART + 1)
    info = put(store, f"{prefix}a", body, {"mode": "0644"})
    assert read(store, info) == body
    store.close()


def test_a_missing_bucket_is_not_a_missing_object(backend: Backend, prefix: str) -> None:
    if backend.missing is None:
        return  # memory is always there
    with pytest.raises(BucketMissing):
        backend.missing().probe()
    if backend.server is None:
        return  # a directory is looked at when it is opened
    store = backend.missing()
    for use in (
        lambda: store.head(f"{prefix}a"),
        lambda: put(store, f"{prefix}a", b"a"),
        lambda: put(store, f"{prefix}a", noise(PART + 1)),
        lambda: list(store.get(f"{prefix}a", 0, 1, "0")),
        lambda: list(store.list(prefix)),
        lambda: store.copy(ObjectInfo(f"{prefix}a", 1, "0"), f"{prefix}b"),
    ):
        with pytest.raises(BucketMissing, match="tierfs-no-such-bucket"):
            use()
    store.close()


def test_another_store_sees_the_same_objects(backend: Backend, store: ColdStore, prefix: str) -> None:
    info = put(store, f"{prefix}a", b"abc", {"mode": "0644"})
    other = backend.open()
    assert other.head(f"{prefix}a") == info
    assert read(other, info) == b"abc"
    if other is not store:
        other.close()
