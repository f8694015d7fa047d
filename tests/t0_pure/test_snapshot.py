"""Snapshots as text: what is written comes back, what is damaged is refused, nothing leads out of the tree."""

import json
import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.errors import CatalogError, IntegrityError
from tierfs.core.keys import is_reserved
from tierfs.core.records import Attributes, HotIno, Identity, Ino, ObjectRef, Record, Tombstone
from tierfs.core.residency import Residency
from tierfs.core.snapshot import (
    Entry,
    Footer,
    Header,
    HotName,
    Pin,
    footer_line,
    header_line,
    key_of_snapshot,
    line_of,
    parse_header,
    parse_line,
    taken_at,
)

PREFIX = "p/"

numbers = st.integers(0, 2**62)
names = st.binary(min_size=1, max_size=8).filter(lambda n: n not in (b".", b"..") and not set(n) & set(b"/\0"))
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
xattrs = st.dictionaries(names, st.binary(max_size=9), max_size=3).map(lambda found: tuple(sorted(found.items())))
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=9).map(lambda key: PREFIX + key)
users = st.integers(0, 2**32 - 2)
attributes = st.builds(
    Attributes, st.integers(0, 0o7777).map(lambda mode: stat.S_IFREG | mode), users, users, *[numbers] * 4, xattrs
)
objects = st.builds(
    ObjectRef, keys, st.text(max_size=5), numbers, st.none() | st.text(max_size=5), numbers, st.binary(), st.binary()
)
records = st.builds(
    Record,
    path=paths,
    ino=st.just(Ino(0)),
    residency=st.sampled_from(Residency),
    attributes=attributes,
    object=st.none() | objects,
    identity=st.none() | st.builds(Identity, numbers, numbers, numbers, numbers),
    misplaced=st.booleans(),
    restored_ns=numbers,
)
hot_names = st.builds(HotName, paths | st.just(b""), st.integers(0, 0xFFFF), users, users, numbers, xattrs, names)
entries = st.one_of(records, hot_names, st.builds(Pin, paths), st.builds(Tombstone, keys, numbers))

ENTRY = Record(
    b"d/\xff",
    Ino(0),
    Residency.MIRRORED,
    Attributes(stat.S_IFREG | 0o640, 1, 2, 3, 4, 5, 6, ((b"user.k", b"\0v"),)),
    ObjectRef("p/d/%FF", "e", 3, None, 4, b"s" * 32, b"crcs"),
    Identity(HotIno(7), 3, 5, 6),
)


@given(entries)
def test_an_entry_comes_back_from_its_line(entry: Entry) -> None:
    line = line_of(entry, PREFIX)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert parse_line(line, PREFIX) == entry


def test_a_line_is_readable_without_tierfs() -> None:
    assert json.loads(line_of(ENTRY, PREFIX)) == {
        "file": "d/\udcff",
        "residency": "mirrored",
        "mode": "100640",
        "uid": 1,
        "gid": 2,
        "mtime_ns": 5,
        "xattrs": {"user.k": "AHY="},
        "size": 3,
        "atime_ns": 4,
        "ctime_ns": 6,
        "object": {
            "key": "d/%FF",
            "etag": "e",
            "size": 3,
            "version": None,
            "sha256": "73" * 32,
            "chunk_size": 4,
            "crcs": "Y3Jjcw==",
        },
        "identity": [7, 3, 5, 6],
    }


def test_a_copy_of_the_bucket_has_other_keys() -> None:
    stored = ENTRY.object
    assert stored
    moved = parse_line(line_of(ENTRY, PREFIX), "elsewhere/")
    assert moved == replace(ENTRY, object=replace(stored, key="elsewhere/d/%FF"))


def test_first_and_last_line() -> None:
    header, footer = Header(1_234, "tierfs 1"), Footer(5, "00ff")
    assert parse_header(header_line(header)) == header
    assert parse_line(footer_line(footer), PREFIX) == footer


def test_a_format_of_the_future_is_refused_in_words() -> None:
    with pytest.raises(CatalogError, match="has format 2; this tierfs reads 1"):
        parse_header(b'{"tierfs-snapshot": 2}\n')


@pytest.mark.parametrize("line", [b"", b"[]\n", b"nothing\n", b"{}\n", b'{"tierfs-snapshot":1}\n', b"\xff\n"])
def test_what_is_no_header(line: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_header(line)


A_NAME: dict[str, object] = {"name": "d", "mode": "40755", "uid": 0, "gid": 0, "mtime_ns": 0}


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a/../b", ".", "a\0b", "", "n" * 300])
@pytest.mark.parametrize("kind", ["file", "name", "pin"])
def test_no_path_leads_out_of_the_tree(path: str, kind: str) -> None:
    line = {
        "file": json.loads(line_of(ENTRY, PREFIX)) | {"file": path},
        "name": A_NAME | {"name": path},
        "pin": {"pin": path},
    }[kind]
    if (kind, path) == ("name", ""):
        return  # the root
    with pytest.raises(IntegrityError):
        parse_line(json.dumps(line).encode(), PREFIX)


OBJECT = json.loads(line_of(ENTRY, PREFIX))["object"]


@pytest.mark.parametrize(
    "damage",
    [
        {"mode": "20666"},  # a device file
        {"mode": "120777"},
        {"mode": "-1"},
        {"uid": -1},
        {"uid": 2**32 - 1},
        {"gid": 2**40},
        {"size": -1},
        {"mtime_ns": 2**63},
        {"atime_ns": -(2**63) - 1},
        {"restored_ns": 2**63},
        {"identity": [1, 2, 3, 2**63]},
        {"xattrs": {"user.\0": ""}},
        {"xattrs": {"": ""}},
        {"xattrs": {"user." + "n" * 300: ""}},
        {"object": OBJECT | {"key": "\udcff"}},
        {"object": OBJECT | {"key": ["k"]}},
        {"object": OBJECT | {"size": 2**63}},
    ],
)
def test_what_no_file_can_have(damage: dict[str, object]) -> None:
    """Whoever may write to the bucket may write snapshots: what nothing can have is refused, and not met later."""
    with pytest.raises(IntegrityError):
        parse_line(json.dumps(json.loads(line_of(ENTRY, PREFIX)) | damage).encode(), PREFIX)


@pytest.mark.parametrize(
    "damage",
    [
        {"mode": "-1"},
        {"mode": "777777777777"},
        {"uid": -1},
        {"gid": 2**40},
        {"mtime_ns": 2**70},
        {"xattrs": {"a\0": ""}},
        {"target": "a\0b"},
    ],
)
def test_what_no_name_can_have(damage: dict[str, object]) -> None:
    with pytest.raises(IntegrityError):
        parse_line(json.dumps(A_NAME | damage).encode(), PREFIX)


@pytest.mark.parametrize("key", ["\udcff", 5, None])
def test_what_no_removed_object_can_have(key: object) -> None:
    with pytest.raises(IntegrityError):
        parse_line(json.dumps({"gone": key, "since_ns": 0}).encode(), PREFIX)


@pytest.mark.parametrize(
    "damage", [{"mode": "rwx"}, {"residency": "tepid"}, {"object": {"key": 1}}, {"xattrs": 5}, {"identity": [1]}]
)
def test_a_damaged_line(damage: dict[str, object]) -> None:
    with pytest.raises(IntegrityError):
        parse_line(json.dumps(json.loads(line_of(ENTRY, PREFIX)) | damage).encode(), PREFIX)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_keys_of_snapshots_sort_as_their_times(one: int, other: int) -> None:
    first, second = key_of_snapshot(PREFIX, one), key_of_snapshot(PREFIX, other)
    assert (one < other) == (first < second)
    assert taken_at(PREFIX, first) == one
    assert is_reserved(PREFIX, first)


@pytest.mark.parametrize("key", ["p/.tierfs/snapshots/", "p/.tierfs/snapshots/x.jsonl.gz", "p/1.jsonl.gz", "", "p/a"])
def test_other_keys_are_no_snapshots(key: str) -> None:
    assert taken_at(PREFIX, key) is None
