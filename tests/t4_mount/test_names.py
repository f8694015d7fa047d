"""Names are bytes: whatever ext4 takes goes to the bucket and comes back."""

import os
from pathlib import Path

import pytest

from tests.mounting import Mount

pytestmark = pytest.mark.mount

NAMES = {
    "newline": b"a\nb",
    "control characters": bytes(range(1, 32)) + b"\x7f",
    "invalid UTF-8": b"\xff\xfe-\x80\xc3(",
    "surrogate in UTF-8": b"\xed\xa0\x80",
    "percent": b"100%",
    "percent that looks escaped": b"a%0Ab%2F",
    "255 bytes": b"x" * 255,
    "255 bytes, each escaped": b"\x01" * 255,
    "255 bytes of UTF-8": "é".encode() * 127 + b"x",
    "three dots": b"...",
    "a space at the end": b"name ",
    "a dash": b"-rf",
    "reserved for tierfs": b".tierfs",
    "quotes": b"'\"`$(x)\\",
    "U+FFFF": "\uffff".encode(),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_goes_cold_and_comes_back(mount: Mount, place: Path, name: bytes) -> None:
    """The listing, the bytes, and a file below a directory of that name are the same in both tiers."""
    above = os.fsencode(place)
    file, below = os.path.join(above, b"f", name), os.path.join(above, b"d", name, name)
    for path in (file, below):
        os.makedirs(os.path.dirname(path))
        Path(os.fsdecode(path)).write_bytes(name)
    too_long = [o for o in mount.settled("release", mount.inside(above), recursive=True) if o.result == "failed"]
    assert all("too long" in outcome.reason or "longer than" in outcome.reason for outcome in too_long), too_long
    for path in (file, below):
        assert os.listdir(os.path.dirname(path)) == [name]
        assert Path(os.fsdecode(path)).read_bytes() == name
    moved = os.path.join(above, b"moved")
    os.rename(file, moved)
    os.rename(moved, file)
    assert os.listdir(os.path.join(above, b"f")) == [name]
    if len(name) < 255 or name.startswith(b"x"):
        assert mount.residency(mount.inside(file)) == "cold"


def test_names_that_differ_in_case_or_normal_form_are_different_files(mount: Mount, place: Path) -> None:
    names = ["a", "A", "é", "e\u0301"]
    for name in names:
        (place / name).write_text(name)
    mount.release(mount.inside(place), recursive=True)
    assert sorted(os.listdir(place)) == sorted(names)
    assert [(place / name).read_text() for name in names] == names


def test_a_name_of_256_bytes_is_too_long(place: Path) -> None:
    with pytest.raises(OSError, match="name too long"):
        (place / ("x" * 256)).touch()
