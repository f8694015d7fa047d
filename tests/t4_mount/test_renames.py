"""Renames over both tiers, beyond errnos: contents, residency, what is below a directory, what the bucket holds."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.operations import EXCHANGE, NOREPLACE, below, rename2

pytestmark = pytest.mark.mount

STATES = ("hot", "warm", "cold")
_PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    """The bucket follows renames soon."""
    with directory() as home, mounted(Plan(home, flags=("--policy-interval", "100ms"))) as made:
        yield made


def put(mount: Mount, path: Path, state: str, content: bytes) -> None:
    """A file of this content in this state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if state != "hot":
        mount.archive(mount.inside(path))
    if state == "cold":
        mount.release(mount.inside(path))


def tier_of(mount: Mount, path: Path) -> str:
    """hot, warm or cold."""
    return mount.entry(mount.inside(path)).tier.value


@pytest.mark.parametrize(("first", "second"), list(itertools.product(STATES, STATES)))
def test_files_keep_their_state(mount: Mount, place: Path, first: str, second: str) -> None:
    """Renamed, exchanged, exchanged back, and renamed over each other; again after a release, and restored."""
    a, b, c = place / "a", place / "b", place / "c"
    put(mount, a, first, b"first" * 2000)
    put(mount, b, second, b"second" * 2000)
    a.rename(c)
    assert (tier_of(mount, c), tier_of(mount, b)) == (first, second)
    rename2(str(c), str(b), EXCHANGE)
    assert (tier_of(mount, c), tier_of(mount, b)) == (second, first)
    assert (c.read_bytes(), b.read_bytes()) == (b"second" * 2000, b"first" * 2000)
    with pytest.raises(FileExistsError):
        rename2(str(b), str(c), NOREPLACE)
    mount.release(mount.inside(b))
    assert b.read_bytes() == b"first" * 2000
    b.rename(c)
    assert os.listdir(place) == ["c"]
    assert c.read_bytes() == b"first" * 2000
    mount.restore(mount.inside(c))
    assert (tier_of(mount, c), c.read_bytes()) == ("warm", b"first" * 2000)


@pytest.mark.parametrize("exchange", [False, True])
def test_directories_take_what_is_below_with_them(mount: Mount, place: Path, exchange: bool) -> None:
    """Hot, warm and cold files at any depth keep state, content and inode number; so they do after a second rename."""
    content = {}
    for state, depth in itertools.product(STATES, ("", "x/", "x/y/")):
        path = place / "from" / depth / f"{state}-file"
        put(mount, path, state, f"{state} {depth}".encode() * 500)
        content[f"{depth}{state}-file"] = (state, path.stat().st_ino, path.read_bytes())
    put(mount, place / "to" / "cold-other", "cold", b"other" * 2000)
    if exchange:
        rename2(str(place / "from"), str(place / "to"), EXCHANGE)
        assert (place / "from" / "cold-other").read_bytes() == b"other" * 2000
        assert tier_of(mount, place / "from" / "cold-other") == "cold"
    else:
        with pytest.raises(OSError, match="not empty"):
            (place / "from").rename(place / "to")
        (place / "to" / "cold-other").unlink()
        (place / "from").rename(place / "to")
        assert os.listdir(place) == ["to"]
    (place / "to" / "x").rename(place / "to" / "z")
    for name, (state, ino, body) in content.items():
        path = place / "to" / name.replace("x/", "z/", 1)
        assert (tier_of(mount, path), path.stat().st_ino, path.read_bytes()) == (state, ino, body)


def test_a_directory_of_cold_files_is_not_empty(mount: Mount, place: Path) -> None:
    """Though the hot directory holds none of them."""
    put(mount, place / "d" / "cold", "cold", b"cold" * 2000)
    with pytest.raises(OSError, match="not empty"):
        (place / "d").rmdir()
    (place / "empty").mkdir()
    with pytest.raises(OSError, match="not empty"):
        (place / "empty").rename(place / "d")
    (place / "d" / "cold").unlink()
    (place / "empty").rename(place / "d")
    (place / "d").rmdir()


def test_the_bucket_follows() -> None:
    """After the next policy passes every object lies under the key of its file's name, and none is left over."""
    with directory() as home, mounted(Plan(home, flags=("--policy-interval", "100ms"))) as mount:
        for number, state in enumerate(STATES):
            put(mount, mount.path / "d" / state, state, bytes([number]) * 5000)
        put(mount, mount.path / "gone", "cold", b"gone" * 2000)
        (mount.path / "gone").unlink()
        (mount.path / "d").rename(mount.path / "e")
        rename2(str(mount.path / "e" / "warm"), str(mount.path / "e" / "cold"), EXCHANGE)
        _wait_for_the_bucket(mount, {"e/warm", "e/cold"})
        assert (mount.path / "e/warm").read_bytes() == bytes([2]) * 5000
        assert (mount.path / "e/cold").read_bytes() == bytes([1]) * 5000
        assert (mount.plan.bucket / "e/warm").read_bytes() == bytes([2]) * 5000
        assert not mount.check()


def _wait_for_the_bucket(mount: Mount, keys: set[str]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    found: set[str] = set()
    while time.monotonic() < deadline:
        files = (Path(path) for path in below(mount.plan.bucket) if Path(path).is_file())
        found = {str(path.relative_to(mount.plan.bucket)) for path in files}
        if {key for key in found if not key.startswith(".")} == keys and not mount.status()["queue"]["deletions"]:
            return
        time.sleep(0.01)
    raise AssertionError(f"the bucket holds {found}, and should hold {keys}")
