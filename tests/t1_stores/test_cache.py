"""The chunk cache: bounded, checked, persistent, private, never an error for a reader. diskcache is the real one."""

import logging
import os
import pickle
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes import PATIENCE_S
from tierfs.core.records import ObjectRef
from tierfs.stores.cache import ChunkCache, Reservation
from tierfs.stores.chunkfile import chunk_key, running_crcs

CHUNK = 64 << 10
LIMIT = 4 << 20
REF = ObjectRef("a/b", "etag", 1 << 30)
OTHER = ObjectRef("other", "etag", 1 << 30)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ChunkCache]:
    cache = ChunkCache(tmp_path / "cache", LIMIT)
    yield cache
    cache.close()


def got(cache: ChunkCache, ref: ObjectRef, chunk_size: int, index: int, size: int = CHUNK) -> bytes | None:
    """What the cache has of a chunk."""
    target = bytearray(size)
    return bytes(target) if list(cache.read(ref, chunk_size, {index: memoryview(target)})) else None


def missing(cache: ChunkCache, indices: range) -> list[int]:
    """Which chunks the cache does not have, without using any."""
    database = cache._database
    return [index for index in indices if database is None or chunk_key(REF, CHUNK, index) not in database]


def chunk(index: int, size: int = CHUNK) -> bytes:
    return index.to_bytes(4, "little") * (size // 4)


def keep(reservation: Reservation, ref: ObjectRef, index: int, data: bytes) -> bool:
    return reservation.put(ref, CHUNK, index, memoryview(data), running_crcs(memoryview(data)))


def put(cache: ChunkCache, ref: ObjectRef, index: int, data: bytes | None = None) -> bool:
    data = chunk(index) if data is None else data
    with cache.reserve(len(data)) as reservation:
        return keep(reservation, ref, index, data)


def fill(cache: ChunkCache, ref: ObjectRef, count: int) -> None:
    for index in range(count):
        assert put(cache, ref, index)


def value_files(cache: ChunkCache) -> list[Path]:
    return sorted(Path(cache.directory).glob("?/*.val"))


def taken(directory: str) -> int:
    return sum(
        os.lstat(os.path.join(root, name)).st_blocks * 512
        for root, directories, files in os.walk(directory)
        for name in (*directories, *files)
    )


def test_a_chunk_that_was_put_is_got(cache: ChunkCache) -> None:
    assert got(cache, REF, CHUNK, 0) is None
    assert put(cache, REF, 0)
    assert got(cache, REF, CHUNK, 0) == chunk(0)
    assert (cache.counters.hits, cache.counters.misses) == (1, 1)
    assert put(cache, REF, 0, chunk(9))
    assert got(cache, REF, CHUNK, 0) == chunk(9)
    assert len(value_files(cache)) == 1


@pytest.mark.parametrize("data", [b"x", b"abcd", bytes(CHUNK)])
def test_chunks_of_any_length_and_content(cache: ChunkCache, data: bytes) -> None:
    assert put(cache, REF, 7, data)
    assert got(cache, REF, CHUNK, 7, len(data)) == data


def test_another_version_or_chunk_size_never_meets_old_chunks(cache: ChunkCache) -> None:
    put(cache, REF, 0)
    assert got(cache, ObjectRef(REF.key, "new", REF.size), CHUNK, 0) is None
    assert got(cache, ObjectRef(REF.key, REF.etag, REF.size, version_id="2"), CHUNK, 0) is None
    assert got(cache, REF, CHUNK // 2, 0) is None
    assert got(cache, REF, CHUNK, 0) == chunk(0)


def test_missing_and_cached_bytes(cache: ChunkCache) -> None:
    fill(cache, REF, 3)
    put(cache, OTHER, 1)
    assert missing(cache, range(1, 6)) == [3, 4, 5]
    assert cache.cached_bytes(REF) == 3 * CHUNK
    assert cache.cached_bytes(OTHER) == CHUNK


def test_evict_takes_one_object_or_all(cache: ChunkCache) -> None:
    fill(cache, REF, 3)
    fill(cache, OTHER, 2)
    assert cache.evict_object(REF) == 3
    assert cache.cached_bytes(REF) == 0
    assert got(cache, OTHER, CHUNK, 1) == chunk(1)
    assert cache.evict_all() == 2
    assert value_files(cache) == []
    assert cache.counters.errors == {}


def test_survives_restart_and_is_private(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "cache", 0o755)
    cache = ChunkCache(tmp_path / "cache", LIMIT)
    fill(cache, REF, 3)
    cache.close()
    assert os.stat(cache.directory).st_mode & 0o777 == 0o700
    reopened = ChunkCache(tmp_path / "cache", LIMIT)
    assert [got(reopened, REF, CHUNK, index) for index in range(3)] == [chunk(index) for index in range(3)]
    reopened.close()


def test_after_close_everything_is_a_miss(cache: ChunkCache) -> None:
    put(cache, REF, 0)
    cache.close()
    assert got(cache, REF, CHUNK, 0) is None
    assert not put(cache, REF, 1)


# -- the cap -----------------------------------------------------------------------------------------------------


def test_least_recently_used_chunks_go_first(cache: ChunkCache) -> None:
    with cache.reserve(LIMIT // 4):  # somebody else's fetch takes its room too
        count = 0
        while len(value_files(cache)) == count:
            put(cache, REF, count)
            count += 1
            got(cache, REF, CHUNK, 0)  # the first is used all the time
    assert got(cache, REF, CHUNK, 0) == chunk(0)
    gone = missing(cache, range(count))
    assert gone == list(range(1, 1 + len(gone)))
    assert 1 <= len(gone) < count // 2


def test_reservations_count_against_the_cap(cache: ChunkCache) -> None:
    fill(cache, REF, 10)
    with cache.reserve(LIMIT // 2) as first, cache.reserve(LIMIT // 2) as second:
        assert first.granted
        assert not second.granted
        assert not keep(second, OTHER, 0, chunk(0))
    with cache.reserve(LIMIT // 2) as third:
        assert third.granted
    assert cache.counters.bypassed == 1


def test_what_can_never_fit_evicts_nothing(cache: ChunkCache) -> None:
    fill(cache, REF, 3)
    with cache.reserve(2 * LIMIT) as reservation:
        assert not reservation.granted
    assert cache.cached_bytes(REF) == 3 * CHUNK


def test_a_reservation_takes_no_more_than_it_was_made_for(cache: ChunkCache) -> None:
    with cache.reserve(2 * CHUNK, chunks=2) as reservation:
        assert [keep(reservation, REF, index, chunk(index)) for index in range(3)] == [True, True, False]


def test_the_cap_holds_while_many_threads_fill(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    cache = ChunkCache(directory, LIMIT)
    wrong: list[object] = []

    # All threads hold what they have reserved room for when the directory is looked at.
    meeting = threading.Barrier(9, timeout=PATIENCE_S)

    def work(number: int) -> None:
        ref = ObjectRef(f"k{number}", "etag", 1 << 30)
        for index in range(0, 80, 4):
            with cache.reserve(4 * CHUNK, chunks=4) as reservation:
                for each in range(index, index + 4):
                    keep(reservation, ref, each, chunk(each))
                meeting.wait()
                meeting.wait()
            for each in range(index + 1):
                data = got(cache, ref, CHUNK, each)
                if data not in (None, chunk(each)):
                    wrong.append(each)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    most = 0
    for _ in range(0, 80, 4):
        meeting.wait()
        most = max(most, taken(str(directory)))
        meeting.wait()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache.counters.errors == {}
    assert LIMIT // 2 < most <= LIMIT, most
    assert taken(str(directory)) <= cache.volume() <= LIMIT
    cache.close()


def test_a_smaller_limit_holds_from_the_start(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "cache", LIMIT)
    fill(cache, REF, 30)
    cache.close()
    smaller = ChunkCache(tmp_path / "cache", LIMIT // 2)
    assert smaller.volume() <= LIMIT // 2
    assert 0 < smaller.cached_bytes(REF) < 30 * CHUNK
    smaller.close()


def _flip_last(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        _flip_last,
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: os.truncate(path, 5),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
    ],
    ids=["flipped bit", "short", "header short", "zeros after a power failure", "long"],
)
def test_a_damaged_chunk_is_a_miss_and_is_dropped(cache: ChunkCache, damage: "object") -> None:
    put(cache, REF, 0)
    (path,) = value_files(cache)
    damage(path)  # type: ignore[operator]
    assert got(cache, REF, CHUNK, 0) is None
    assert value_files(cache) == []
    assert cache.counters.errors == {"check": 1}
    assert put(cache, REF, 0)
    assert got(cache, REF, CHUNK, 0) == chunk(0)


def test_the_file_of_another_chunk_is_not_taken_for_this_one(cache: ChunkCache) -> None:
    put(cache, REF, 0)
    (path,) = value_files(cache)
    put(cache, OTHER, 0)
    (other,) = set(value_files(cache)) - {path}
    shutil.copyfile(other, path)
    assert got(cache, REF, CHUNK, 0) is None


def test_a_cached_chunk_must_have_the_crc_of_the_archive(cache: ChunkCache) -> None:
    put(cache, REF, 0)
    crcs = zlib.crc32(chunk(1)).to_bytes(4, "little")
    assert got(cache, ObjectRef(REF.key, REF.etag, REF.size, chunk_size=CHUNK, crcs=crcs), CHUNK, 0) is None


def test_a_vanished_file_is_a_miss(cache: ChunkCache) -> None:
    put(cache, REF, 0)
    value_files(cache)[0].unlink()
    assert got(cache, REF, CHUNK, 0) is None
    assert put(cache, REF, 0)
    assert got(cache, REF, CHUNK, 0) == chunk(0)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_pickles_in_the_database_are_never_loaded(
    cache: ChunkCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(cache, REF, 0)
    with sqlite3.connect(os.path.join(cache.directory, "cache.db")) as planted:
        planted.execute("UPDATE Cache SET mode = 4, filename = NULL, value = ?", (pickle.dumps(_Bomb()),))
    planted.close()
    assert got(cache, REF, CHUNK, 0) is None
    assert not os.path.exists("exploded")


@pytest.mark.parametrize("name", ["../../secret.val", "0/../../secret.val", "secret.val"])
def test_names_in_the_database_lead_nowhere_else(cache: ChunkCache, tmp_path: Path, name: str) -> None:
    put(cache, REF, 0)
    secret = tmp_path / "secret.val"
    shutil.copyfile(value_files(cache)[0], secret)
    with sqlite3.connect(os.path.join(cache.directory, "cache.db")) as planted:
        planted.execute("UPDATE Cache SET filename = ?", (name,))
    planted.close()
    assert got(cache, REF, CHUNK, 0) is None
    cache.evict_all()
    assert secret.exists()


# -- a disk that fails -------------------------------------------------------------------------------------------


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond what a chunk's header needs: EFBIG in the place of ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_drops_puts_and_still_reads(cache: ChunkCache, caplog: pytest.LogCaptureFixture) -> None:
    fill(cache, REF, 2)
    caplog.set_level(logging.WARNING)
    with full_disk():
        results = [put(cache, REF, index) for index in (2, 3)]
        data = got(cache, REF, CHUNK, 0)
    assert results == [False, False]
    assert data == chunk(0)
    assert cache.counters.errors["write"] >= 2
    assert len([record for record in caplog.records if "write" in record.getMessage()]) == 1  # said once
    assert len(value_files(cache)) == 2  # nothing half-written stays
    assert put(cache, REF, 2)
    assert got(cache, REF, CHUNK, 2) == chunk(2)


def test_a_directory_that_cannot_be_made_is_a_cache_that_misses(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ChunkCache(tmp_path / "file" / "cache", LIMIT)
    assert not put(cache, REF, 0)
    assert got(cache, REF, CHUNK, 0) is None
    assert missing(cache, range(2)) == [0, 1]
    assert (cache.cached_bytes(REF), cache.volume(), cache.evict_all(), cache.evict_object(REF)) == (0, 0, 0, 0)
    assert cache.counters.errors == {"open": 1}
    cache.close()


def test_a_state_directory_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """By the cold process of a worker that was killed, which comes up when all is over."""
    cache = ChunkCache(tmp_path / "state" / "cache", LIMIT)
    assert not put(cache, REF, 0)
    assert list(tmp_path.iterdir()) == []
    cache.close()


def test_a_directory_that_vanishes_is_a_cache_that_misses(cache: ChunkCache) -> None:
    put(cache, REF, 0)
    shutil.rmtree(cache.directory)
    assert not put(cache, REF, 1)
    assert got(cache, REF, CHUNK, 0) is None
    assert got(cache, REF, CHUNK, 1) is None


def test_a_database_that_is_garbage_starts_empty(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "cache", LIMIT)
    fill(cache, REF, 3)
    cache.close()
    (tmp_path / "cache" / "cache.db").write_bytes(b"not a database" * 5000)
    cache = ChunkCache(tmp_path / "cache", LIMIT)
    assert got(cache, REF, CHUNK, 0) is None
    assert value_files(cache) == []
    assert put(cache, REF, 0)
    assert got(cache, REF, CHUNK, 0) == chunk(0)
    cache.close()


def test_a_database_that_is_damaged_while_open_is_a_cache_that_misses(cache: ChunkCache) -> None:
    fill(cache, REF, 20)
    with open(os.path.join(cache.directory, "cache.db"), "r+b") as database:
        database.write(b"\xff" * os.fstat(database.fileno()).st_size)
    wal = os.path.join(cache.directory, "cache.db-wal")
    os.truncate(wal, 0)
    results: list[bytes | None] = []

    def look() -> None:  # from a thread that has no connection yet
        results.extend(got(cache, REF, CHUNK, index) for index in range(20))
        put(cache, REF, 30)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert [data in (None, chunk(index)) for index, data in enumerate(results)] == [True] * 20


_WRITER = """
import sys
from tierfs.core.records import ObjectRef
from tierfs.stores.cache import ChunkCache
from tierfs.stores.chunkfile import running_crcs
cache = ChunkCache(sys.argv[1], int(sys.argv[2]))
size = int(sys.argv[3])
ref = ObjectRef("a/b", "etag", 1 << 30)
for count in range(1 << 20):
    index = count % 4000
    data = index.to_bytes(4, "little") * (size // 4)
    with cache.reserve(size) as reservation:
        assert reservation.put(ref, size, index, data, running_crcs(memoryview(data))), cache.counters
    if count == 40:
        print("filled", flush=True)
"""


def test_survives_kill_9_without_wrong_bytes_or_leftovers(tmp_path: Path) -> None:
    for _ in range(3):
        command = [sys.executable, "-c", _WRITER, str(tmp_path / "cache"), str(LIMIT), str(CHUNK)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"filled\n"
            writer.send_signal(signal.SIGKILL)
        cache = ChunkCache(tmp_path / "cache", LIMIT)
        assert cache.counters.errors == {}
        present = sorted(set(range(4000)) - set(missing(cache, range(4000))))
        assert len(present) > 10
        assert [got(cache, REF, CHUNK, index) for index in present] == [chunk(index) for index in present]
        assert len(value_files(cache)) == len(present)
        assert taken(cache.directory) <= LIMIT
        cache.close()


def test_the_cache_has_what_a_reservation_put_when_that_ends(cache: ChunkCache) -> None:
    with cache.reserve(2 * CHUNK, chunks=2) as reservation:
        assert [keep(reservation, REF, index, chunk(index)) for index in range(2)] == [True, True]
        assert missing(cache, range(2)) == [0, 1]
    assert [got(cache, REF, CHUNK, index) for index in range(2)] == [chunk(0), chunk(1)]
    assert cache.counters.misses == 0
