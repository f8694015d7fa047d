"""The cold store in a directory: what other programs see of it, and what they and crashes may do to it."""

import os
import resource
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes import BytesSource, no_progress
from tierfs.core.errors import BucketMissing, ObjectChanged, ObjectMissing, StoreRefused, StoreUnavailable
from tierfs.stores.cold import ObjectInfo
from tierfs.stores.directory import DirectoryStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryStore]:
    opened = DirectoryStore(str(tmp_path))
    yield opened
    opened.close()


def put(store: DirectoryStore, key: str, body: bytes, **metadata: str) -> ObjectInfo:
    return store.put(key, BytesSource(body), metadata, no_progress)


def read(store: DirectoryStore, info: ObjectInfo) -> bytes:
    return b"".join(store.get(info.key, 0, info.size, info.etag))


def state(root: Path) -> list[str]:
    """What is in the directory apart from objects, without empty directories."""
    return [str(path.relative_to(root)) for path in (root / ".tierfs-store").rglob("*") if path.is_file()]


def test_objects_are_plain_files(store: DirectoryStore, tmp_path: Path) -> None:
    put(store, "a/b", b"abc", mode="0644")
    assert (tmp_path / "a/b").read_bytes() == b"abc"
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o600


def test_what_fails_is_counted_as_a_bucket_would(store: DirectoryStore) -> None:
    info = put(store, "a", b"x")
    store.delete("a")
    for _ in range(2):
        with pytest.raises(ObjectMissing):
            read(store, info)
    assert store.counters.failures == {"GetObject": {"ObjectMissing": 2}}


def test_an_etag_is_new_with_every_put(store: DirectoryStore) -> None:
    first, second = put(store, "a", b"abc"), put(store, "a", b"abc")
    assert first.etag != second.etag
    with pytest.raises(ObjectChanged):
        read(store, first)


def test_a_self_test_that_was_killed_left_no_object(store: DirectoryStore, tmp_path: Path) -> None:
    put(store, "a", b"abc")
    (tmp_path / ".tierfs-self-test-0123456789abcdef").write_bytes(b"it was killed")
    assert [info.key for info in store.list("")] == ["a"]


def test_descriptions_come_and_go_with_their_objects(store: DirectoryStore, tmp_path: Path) -> None:
    for body in (b"1", b"22", b"22", b"333"):
        put(store, "a/b", body)
        assert len(state(tmp_path)) == 1
    store.delete("a/b")
    assert state(tmp_path) == []
    assert not (tmp_path / "a").exists()


def test_a_put_that_fails_leaves_nothing(store: DirectoryStore, tmp_path: Path) -> None:
    put(store, "a/b", b"abc")
    before = state(tmp_path)
    with pytest.raises(StoreRefused, match="directory of that name"):
        put(store, "a", b"abc")
    with pytest.raises(StoreRefused, match="longer"):
        put(store, "x" * 256, b"abc")
    assert state(tmp_path) == before


def test_files_of_others_are_objects(store: DirectoryStore, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/foreign").write_bytes(b"foreign")
    (info,) = store.list("")
    assert info == store.head("sub/foreign")
    assert (info.key, info.size, info.metadata) == ("sub/foreign", 7, {})
    assert read(store, info) == b"foreign"
    (tmp_path / "sub/foreign").write_bytes(b"longer than before")
    with pytest.raises(ObjectChanged):
        read(store, info)


def test_an_object_changed_by_others_is_noticed(store: DirectoryStore, tmp_path: Path) -> None:
    info = put(store, "a", b"abc", mode="0644")
    (tmp_path / "a").write_bytes(b"xyz")
    with pytest.raises(ObjectChanged):
        read(store, info)
    assert store.head("a").metadata == {}


def test_a_copy_of_the_directory_is_the_same_store(store: DirectoryStore, tmp_path: Path) -> None:
    info = put(store, "a/b", b"abc", mode="0644")
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    subprocess.run(["cp", "-a", str(tmp_path), str(moved)], check=True)
    other = DirectoryStore(str(moved))
    assert other.head("a/b") == info
    assert read(other, info) == b"abc"
    other.close()
    shutil.rmtree(moved)


def test_a_crash_before_the_rename_leaves_the_old_object(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = put(store, "a", b"old", mode="0644")

    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    monkeypatch.setattr(DirectoryStore, "_publish", crash)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", crash)  # a process that dies cleans nothing
        with pytest.raises(Crash):
            put(store, "a", b"new")
    monkeypatch.undo()
    assert len(state(tmp_path)) == 3  # the old description, the new one, the new body
    again = DirectoryStore(str(tmp_path))
    assert again.head("a") == info
    assert read(again, info) == b"old"
    again.close()


def test_leftovers_of_a_crash_go_after_a_day(store: DirectoryStore, tmp_path: Path) -> None:
    put(store, "a", b"abc")
    old, young = tmp_path / ".tierfs-store/new/old", tmp_path / ".tierfs-store/new/young"
    old.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(old, (1, 1))
    store.probe()
    assert not old.exists()
    assert young.exists()


def test_symbolic_links_lead_nowhere(store: DirectoryStore, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "file").symlink_to(outside / "secret")
    uses: list[Callable[[], object]] = [
        lambda: store.head("link/secret"),
        lambda: store.head("file"),
        lambda: put(store, "link/new", b""),
    ]
    for use in uses:
        with pytest.raises((ObjectMissing, StoreRefused)):
            use()
    store.delete("link/secret")
    put(store, "file", b"mine")  # replaces the link, not what it points to
    assert [info.key for info in store.list("")] == ["file"]
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"
    shutil.rmtree(outside)


@pytest.mark.parametrize("name", [".tierfs-store", ".tierfs-store/new", ".tierfs-store/about"])
def test_nothing_is_written_through_a_link_where_descriptions_are_kept(tmp_path: Path, name: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    (root / name).parent.mkdir(parents=True)
    (root / name).symlink_to(outside)
    with closing(DirectoryStore(str(root))) as store, pytest.raises(StoreRefused):
        put(store, "a", b"abc")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "key", ["../a", "a/../../b", "/etc/passwd", "a//b", "a/", "", ".", "a/.", "a\0b", ".tierfs-store/new/a", "\udcff"]
)
def test_keys_that_lead_out_are_refused(store: DirectoryStore, key: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: put(store, key, b""),
        lambda: store.head(key),
        lambda: store.delete(key),
    ]
    for use in uses:
        with pytest.raises(StoreRefused):
            use()
    assert list(store.list(f"{key}/")) == []


def test_special_files_are_not_objects(store: DirectoryStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir").mkdir()
    for key in ("fifo", "dir"):
        with pytest.raises((ObjectMissing, StoreRefused)):
            store.head(key)
    store.delete("dir")
    assert list(store.list("")) == []
    assert (tmp_path / "dir").exists()


def test_names_that_are_not_text_are_not_objects(
    store: DirectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff", "wb"):
        pass
    assert list(store.list("")) == []
    assert "UTF-8" in caplog.text


def test_a_disk_that_is_gone_has_no_missing_objects(store: DirectoryStore, tmp_path: Path) -> None:
    info = put(store, "a", b"abc")
    shutil.rmtree(tmp_path / ".tierfs-store")
    (tmp_path / "a").unlink()
    uses: list[Callable[[], object]] = [
        lambda: store.head("a"),
        lambda: read(store, info),
        lambda: store.delete("a"),
        lambda: list(store.list("")),
        lambda: put(store, "a", b"abc"),
        lambda: store.probe(),
    ]
    for use in uses:
        with pytest.raises(BucketMissing, match="mount its disk"):
            use()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("nothing", "file"):
        with pytest.raises(BucketMissing, match=name):
            DirectoryStore(str(tmp_path / name))


def test_a_full_disk_is_worth_a_retry(store: DirectoryStore, tmp_path: Path) -> None:
    before = put(store, "a", b"before")
    # The limit of this process stands in for a disk: it too fails a write half-way.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StoreUnavailable, match="object a"):
            put(store, "a", b"x" * (3 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert read(store, before) == b"before"
    assert len(state(tmp_path)) == 1


def test_a_directory_whose_disk_is_not_mounted_is_not_an_empty_store(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    try:
        with pytest.raises(BucketMissing, match="is its disk mounted"):
            store.expect_objects()
        store.put("a", BytesSource(b"x"), {}, no_progress)
        store.expect_objects()
    finally:
        store.close()
