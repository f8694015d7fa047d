"""The catalog: what is put in comes out, what is not committed does not, counters are what is there."""

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.errors import CatalogError
from tierfs.core.keys import key_of
from tierfs.core.records import Attributes, HotIno, Identity, Ino, ObjectRef, Record, Tombstone
from tierfs.core.residency import WITHOUT_HOT_BYTES, Residency
from tierfs.stores.catalog import Catalog
from tierfs.stores.catalog_rows import Rename, record_of, row_of
from tierfs.stores.catalog_view import CatalogView

STORE = "s3://bucket/p"
COLD, HOT, MIRRORED = Residency.COLD, Residency.HOT, Residency.MIRRORED
ATTRIBUTES = Attributes(stat.S_IFREG | 0o644, 1, 2, 10, 3, 4, 5, ((b"user.\xff", b"\0v"),))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog(tmp_path / "catalog.sqlite", STORE)
    yield catalog
    assert catalog._directories == catalog._count_directories()
    assert not catalog.check_integrity()
    catalog.close()


def record(path: bytes, ino: int, residency: Residency = COLD, key: str | None = "") -> Record:
    stored = None if key is None else ObjectRef(key or key_of("k-", path), "etag", 10, None, 4, b"s" * 32, b"c" * 12)
    return Record(path, Ino(ino), residency, ATTRIBUTES, stored, Identity(HotIno(ino), 10, 4, 5))


def paths(catalog: Catalog) -> set[bytes]:
    return {found.path for found in catalog.records()}


numbers = st.integers(0, 2**62)
any_bytes = st.binary(max_size=20)
records = st.builds(
    Record,
    path=st.binary(min_size=1, max_size=20).filter(lambda path: not path.startswith(b"/") and not path.endswith(b"/")),
    ino=numbers,
    residency=st.sampled_from(Residency),
    attributes=st.builds(
        Attributes,
        *[numbers] * 7,
        st.lists(st.tuples(any_bytes, any_bytes), max_size=3).map(tuple),
    ),
    object=st.none() | st.builds(ObjectRef, st.text(max_size=9), st.text(max_size=9), numbers, st.none() | st.text()),
    identity=st.none() | st.builds(Identity, numbers, numbers, numbers, numbers),
    misplaced=st.booleans(),
    restored_ns=numbers,
)


@given(records)
def test_a_record_is_its_row(one: Record) -> None:
    if one.object:
        one = replace(one, object=replace(one.object, sha256=b"s", crcs=b"1234"))
    assert record_of(row_of(one)) == one


def test_records_come_back_after_reopening(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "c", STORE)
    kept = [record(b"a", 1), record(b"d/\xff\n", 2, MIRRORED), record(b"d/e/b", 3, HOT, None)]
    for one in kept:
        catalog.put(one)
    catalog.change_pins((), (b"d", b""))
    catalog.bury("gone", 7)
    catalog.state_fact("scanned", "yes")
    catalog.sync()
    catalog.close()
    catalog = Catalog(tmp_path / "c", STORE)
    assert sorted(catalog.records(), key=lambda one: one.ino) == kept
    assert catalog.get(b"d/\xff\n") == catalog.get_by_ino(Ino(2)) == catalog.get_by_key("k-d/%FF%0A") == kept[1]
    assert catalog.pins() == {b"d", b""}
    assert catalog.tombstones() == [Tombstone("gone", 7)]
    assert catalog.fact("scanned") == "yes"
    assert catalog.highest_ino() == 3
    assert sorted(catalog.directories()) == [b"", b"d", b"d/e"]
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o600
    catalog.close()


def test_directories_are_ranges(catalog: Catalog) -> None:
    """Names that sort around the slash do not belong to a directory."""
    for ino, path in enumerate([b"d", b"d/a", b"d/e/b", b"d-x/a", b"d0/a", b"d\xff/a", b"e/d/a"], 10):
        catalog.put(record(path, ino))
    assert {one.path for one in catalog.records_below(b"d")} == {b"d/a", b"d/e/b"}
    assert {one.name for one in catalog.list_cold(b"d")} == {b"a"}
    assert {one.name for one in catalog.list_cold(b"")} == {b"d"}
    assert catalog.has_below(b"d/e")
    assert not catalog.has_below(b"d/e/b")
    assert len(catalog.records_below(b"")) == 7


def test_only_what_has_no_hot_bytes_is_listed_as_cold(catalog: Catalog) -> None:
    for ino, residency in enumerate(Residency, 1):
        catalog.put(record(b"d/" + residency.encode(), ino, residency))
    cold = {one.name for one in catalog.list_cold(b"d")}
    assert cold == {residency.encode() for residency in WITHOUT_HOT_BYTES}
    assert catalog.has_cold(b"d")
    assert not catalog.has_cold(b"e")
    assert catalog.tally()[COLD] == (1, 10)


def test_counters_survive_a_rollback(catalog: Catalog) -> None:
    catalog.put(record(b"d/a", 1))
    with pytest.raises(CatalogError, match="UNIQUE"):
        catalog.put(record(b"e/b", 1))
    assert catalog.directories() == [b"d"]
    assert catalog.get(b"e/b") is None
    catalog.put(record(b"e/b", 2))
    catalog.remove(b"d/a", 0)
    catalog.drop(b"nothing")
    assert catalog.directories() == [b"e"]


def test_removing_buries_and_dropping_does_not(catalog: Catalog) -> None:
    catalog.put(record(b"a", 1))
    catalog.put(record(b"b", 2))
    catalog.put(record(b"c", 3, HOT, None))
    catalog.remove(b"a", 5)
    catalog.drop(b"b")
    catalog.remove(b"c", 5)
    assert catalog.tombstones() == [Tombstone("k-a", 5)]
    assert catalog.is_buried("k-a")
    catalog.exhume("k-a")
    assert not catalog.is_buried("k-a")
    assert paths(catalog) == set()


def test_what_names_a_key_again_exhumes_it(catalog: Catalog) -> None:
    catalog.bury("new", 1)
    catalog.put_and_bury(record(b"a", 1, key="new"), "old", 2)
    assert [tombstone.key for tombstone in catalog.tombstones()] == ["old"]


# -- renames -------------------------------------------------------------------------------------------------------


def test_a_directory_takes_its_records_along(catalog: Catalog) -> None:
    for ino, path in enumerate([b"d/a", b"d/e/b", b"dd/c"], 1):
        catalog.put(record(path, ino))
    rename = Rename(b"d", b"x/y", 99, False)
    catalog.intend(rename)
    assert catalog.intended() == [rename]
    catalog.follow(rename, 0)
    assert paths(catalog) == {b"x/y/a", b"x/y/e/b", b"dd/c"}
    assert catalog.intended() == []
    assert all(one.misplaced == (one.path != b"dd/c") for one in catalog.records())
    assert catalog.get_by_ino(Ino(1)) == replace(record(b"d/a", 1), path=b"x/y/a", misplaced=True)
    assert len(catalog.misplaced()) == 2


def test_what_is_renamed_over_is_buried(catalog: Catalog) -> None:
    catalog.put(record(b"a", 1))
    catalog.put(record(b"b", 2))
    catalog.follow(Rename(b"a", b"b", 0, False), 7)
    assert paths(catalog) == {b"b"}
    assert catalog.tombstones() == [Tombstone("k-b", 7)]


def test_exchanging_a_directory_and_a_file(catalog: Catalog) -> None:
    for ino, path in enumerate([b"d/a", b"d/e/b", b"f"], 1):
        catalog.put(record(path, ino))
    catalog.follow(Rename(b"d", b"f", 0, True), 0)
    assert paths(catalog) == {b"f/a", b"f/e/b", b"d"}
    assert not catalog.tombstones()
    catalog.follow(Rename(b"d", b"f", 0, True), 0)
    assert paths(catalog) == {b"d/a", b"d/e/b", b"f"}


def test_a_rename_that_did_not_happen(catalog: Catalog) -> None:
    catalog.put(record(b"a", 1))
    rename = Rename(b"a", b"b", 1, False)
    catalog.intend(rename)
    catalog.withdraw(rename)
    assert catalog.intended() == []
    assert paths(catalog) == {b"a"}


def test_a_cold_file_moves_and_dooms_what_is_hot(catalog: Catalog) -> None:
    catalog.put(record(b"a", 1))
    catalog.put(record(b"b", 2, HOT))
    catalog.move_cold(b"a", b"b", HotIno(55), 3)
    assert catalog.doomed() == [(b"b", 55)]
    assert catalog.get(b"b") == replace(record(b"a", 1), path=b"b", misplaced=True)
    assert catalog.tombstones() == [Tombstone("k-b", 3)]
    catalog.spare(b"b")
    assert catalog.doomed() == []
    with pytest.raises(CatalogError, match="no record of a"):
        catalog.move_cold(b"a", b"c", None, 0)
    assert catalog.doomed() == []


# -- the file ------------------------------------------------------------------------------------------------------


def test_it_belongs_to_one_store(tmp_path: Path) -> None:
    Catalog(tmp_path / "c", STORE).close()
    with pytest.raises(CatalogError, match="belongs to s3://bucket/p, not to s3://other"):
        Catalog(tmp_path / "c", "s3://other")


def test_another_version_is_not_read(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "c", STORE)
    catalog.state_fact("version", "999")
    catalog.close()
    with pytest.raises(CatalogError, match="has version 999"):
        Catalog(tmp_path / "c", STORE)


def test_what_is_not_committed_is_not_there(tmp_path: Path) -> None:
    """A process that is killed leaves its write-ahead log: another one reads what was committed, and no more."""
    catalog = Catalog(tmp_path / "c", STORE)
    catalog.put(record(b"a", 1))
    catalog._db.execute("BEGIN IMMEDIATE")
    catalog._put(record(b"b", 2))
    for name in ("c", "c-wal"):
        (tmp_path / f"copy{name[1:]}").write_bytes((tmp_path / name).read_bytes())
    catalog._db.execute("ROLLBACK")
    catalog.close()
    other = Catalog(tmp_path / "copy", STORE)
    assert paths(other) == {b"a"}
    other.close()


def test_it_can_be_read_while_it_is_used(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "c", STORE)
    catalog.put(record(b"a", 1))
    with sqlite3.connect(f"file:{tmp_path / 'c'}?mode=ro", uri=True) as reader:
        assert reader.execute("SELECT count(*) FROM records").fetchone() == (1,)
        catalog.put(record(b"b", 2))
    reader.close()
    catalog.close()


def test_pages_are_all_records_in_order_and_what_is_put_at_once_is_there(catalog: Catalog) -> None:
    names = [b"%s%d" % (directory, number) for directory in (b"", b"a/", b"a/b/", b"b/") for number in range(5)]
    catalog.put_all(record(name, ino) for ino, name in enumerate(names, 1))
    pages = list(catalog.pages(3))
    assert [len(page) for page in pages] == [3] * 6 + [2]
    assert [found.path for page in pages for found in page] == sorted(
        names, key=lambda name: name.rpartition(b"/")[::2]
    )


def test_the_catalog_may_change_between_two_pages(catalog: Catalog) -> None:
    catalog.put_all(record(b"f%d" % number, number) for number in range(1, 10))
    met = []
    for page in catalog.pages(2):
        for found in page:
            met.append(found.path)
            catalog.drop(found.path)
    assert met == [b"f%d" % number for number in range(1, 10)]


def test_a_view_is_the_catalog_of_one_moment(catalog: Catalog) -> None:
    catalog.put(record(b"a", 1))
    catalog.bury("k-gone", 5)
    catalog.change_pins((), [b"a"])
    view = CatalogView(catalog.path)
    catalog.put(record(b"b", 2))
    catalog.remove(b"a", 6)
    try:
        assert [found.path for found in view.records()] == [b"a"]
        assert list(view.tombstones()) == [Tombstone("k-gone", 5)]
        assert list(view.pins()) == [b"a"]
        assert view.check_integrity() == []
    finally:
        view.close()


def test_a_damaged_catalog_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"no database" * 1000)
    for make in (lambda: Catalog(path, STORE), lambda: CatalogView(path)):
        with pytest.raises(CatalogError, match="not a database; `tierfs rebuild"):
            make()
