"""Listings while the directory changes: every name that stays is seen exactly once, and places can be returned to."""

import ctypes
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounting import Mount

pytestmark = pytest.mark.mount

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fdopendir.restype = _libc.readdir64.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
for _name in ("readdir64", "telldir", "rewinddir", "closedir"):
    getattr(_libc, _name).argtypes = (ctypes.c_void_p,)


class _Entry(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("length", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    )


class Directory:
    """An open directory, as readdir(3) and its relatives see it."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def read(self) -> tuple[bytes, int, int] | None:
        """The next name, its inode number and its type; None at the end."""
        found = _libc.readdir64(self._stream)
        if not found:
            return None
        entry = ctypes.cast(found, ctypes.POINTER(_Entry)).contents
        return entry.name, entry.ino, entry.type

    def names(self) -> list[bytes]:
        """The names from here on."""
        return [entry[0] for entry in iter(self.read, None)]

    def tell(self) -> int:
        """telldir(3)."""
        return int(_libc.telldir(self._stream))

    def seek(self, place: int) -> None:
        """seekdir(3)."""
        _libc.seekdir(self._stream, place)

    def rewind(self) -> None:
        """rewinddir(3)."""
        _libc.rewinddir(self._stream)


@contextmanager
def opened(path: Path) -> Iterator[Directory]:
    """Open a directory."""
    stream = _libc.fdopendir(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    try:
        yield Directory(stream)
    finally:
        _libc.closedir(stream)


def fill(mount: Mount, place: Path, hot: int, cold: int) -> set[bytes]:
    """Hot and cold files; their names."""
    directory = mount.plan.hot / place.name
    for number in range(hot + cold):
        (directory / f"{'cold' if number >= hot else 'hot'}-{number:05}").write_bytes(b"x")
    names = [f"cold-{number:05}" for number in range(hot, hot + cold)]
    mount.release(*(f"{place.name}/{name}" for name in names))
    return {name.name.encode() for name in directory.iterdir()} | {name.encode() for name in names}


def test_ten_thousand_names(mount: Mount, place: Path) -> None:
    """All are there, once, and any place can be returned to."""
    names = fill(mount, place, 9_500, 500)
    with opened(place) as listing:
        places = []
        while True:
            at = listing.tell()
            entry = listing.read()
            if entry is None:
                break
            places.append((at, entry[0]))
        found = [name for _, name in places]
        assert len(found) == 10_002
        assert set(found) == names | {b".", b".."}
        for at, name in places[::-613]:
            listing.seek(at)
            entry = listing.read()
            assert entry is not None
            assert entry[0] == name
    assert len(os.listdir(place)) == 10_000


def test_names_that_stay_are_seen_once(mount: Mount, place: Path) -> None:
    """While others are removed, made, renamed, released and restored between two calls."""
    names = fill(mount, place, 1500, 500)
    gone = {name for number, name in enumerate(sorted(names)) if number % 5 == 0}
    with opened(place) as listing:
        seen = [entry[0] for _, entry in zip(range(700), iter(listing.read, None), strict=False)]
        for name in gone:
            os.unlink(place / os.fsdecode(name))
        for number in range(500):
            (place / f"new-{number}").touch()
        os.rename(place / "hot-00001", place / "renamed")
        mount.release(f"{place.name}/hot-00002")
        mount.restore(f"{place.name}/cold-01501")
        seen += listing.names()
        stayed = names - gone - {b"hot-00001"}
        assert len(seen) == len(set(seen))
        assert stayed <= set(seen)
        listing.rewind()
        now = {name for name in listing.names() if name not in (b".", b"..")}
    assert now == stayed | {b"renamed"} | {f"new-{number}".encode() for number in range(500)}
    assert now == {os.fsencode(name) for name in os.listdir(place)}


def test_removing_everything_while_listing_it(mount: Mount, place: Path) -> None:
    """What rm -r does."""
    fill(mount, place, 1000, 300)
    with opened(place) as listing:
        while entry := listing.read():
            if entry[0] not in (b".", b".."):
                os.unlink(place / os.fsdecode(entry[0]))
    os.rmdir(place)
    assert not place.exists()


def test_inode_numbers_and_types_are_those_of_stat(mount: Mount, place: Path) -> None:
    """Also for cold files, and for the two names that every directory has."""
    (place / "directory").mkdir()
    (place / "link").symlink_to("nowhere")
    os.mkfifo(place / "fifo")
    (place / "hot").write_bytes(b"x")
    mount.make_cold(place / "cold", b"x")
    with opened(place) as listing:
        entries = {name: (ino, kind) for name, ino, kind in iter(listing.read, None)}
    assert entries.keys() == {b".", b"..", b"directory", b"link", b"fifo", b"hot", b"cold"}
    for name, (ino, kind) in entries.items():
        st = os.lstat(place / os.fsdecode(name))
        assert (st.st_ino, stat.S_IFMT(st.st_mode) >> 12) == (ino, kind), name


def test_listings_beside_changes(mount: Mount, place: Path) -> None:
    """Two readers list while two writers make and remove: no name twice, none of those that stay missing."""
    stay = fill(mount, place, 300, 100)
    stop = threading.Event()
    problems: list[str] = []

    def churn(prefix: str) -> None:
        while not stop.is_set():
            for number in range(30):
                (place / f"{prefix}{number}").touch()
            for number in range(30):
                (place / f"{prefix}{number}").unlink()

    def look() -> None:
        for _ in range(20):
            found = [os.fsencode(name) for name in os.listdir(place)]
            if len(found) != len(set(found)) or not stay <= set(found):
                problems.append(f"{len(found)} names, {len(set(found))} different, {len(stay - set(found))} missing")

    churners = [threading.Thread(target=churn, args=(prefix,)) for prefix in "ab"]
    lookers = [threading.Thread(target=look) for _ in range(2)]
    for thread in churners + lookers:
        thread.start()
    for thread in lookers:
        thread.join()
    stop.set()
    for thread in churners:
        thread.join()
    assert not problems
