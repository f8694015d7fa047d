"""A database on the mount, cold and written again, next to one that gets the same statements on a plain directory."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.mounting import Mount
from tests.t5_apps.conftest import MakeMount, need, run

_ROWS = 20_000


@pytest.fixture(scope="module")
def mount(make_mount: MakeMount) -> Iterator[Mount]:
    with make_mount("sqlite") as made:
        yield made


def _fill(path: Path, journal: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        with database:
            database.execute("CREATE TABLE lines (id INTEGER PRIMARY KEY, at INTEGER, text TEXT)")
            database.execute("CREATE INDEX by_at ON lines (at)")
            rows = (
                (number, number * 7919 % 10_007, f"line {number} " + "x" * (number % 300)) for number in range(_ROWS)
            )
            database.executemany("INSERT INTO lines VALUES (?, ?, ?)", rows)


def _change(path: Path, journal: str) -> None:
    """More of everything that a database does to its file: updates in the middle, deletes, growth, a vacuum."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode={journal}")
        for step in range(20):
            with database:
                database.execute("UPDATE lines SET text = text || ? WHERE at % 20 = ?", (f" changed in {step}", step))
        with database:
            database.execute("DELETE FROM lines WHERE id % 3 = 0")
            database.execute("INSERT INTO lines (at, text) SELECT at, upper(text) FROM lines WHERE id < 5000")
        database.execute("VACUUM")


def _dump(path: Path) -> str:
    """Everything in it, read by another program, which checks it first."""
    assert run("sqlite3", "-readonly", path, "PRAGMA integrity_check") == "ok\n"
    return run("sqlite3", "-readonly", path, ".dump")


@pytest.mark.parametrize("journal", ["delete", "persist", "wal"])
def test_database_goes_cold_and_is_written_again(mount: Mount, tmp_path: Path, journal: str) -> None:
    need("sqlite3")
    name = f"{journal}.db"
    here, there = tmp_path / name, mount.path / name
    for path in (here, there):
        _fill(path, journal)
    mount.release(name)
    mount.evict()
    assert mount.residency(name) == "cold"
    if journal != "wal":  # a reader of a WAL database writes, to its index: that brings it back
        with closing(sqlite3.connect(f"file:{there}?mode=ro", uri=True)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("SELECT count(*) FROM lines").fetchone() == (_ROWS,)
        assert mount.residency(name) == "cold", "reading brought it back"
    for path in (here, there):
        _change(path, journal)
    assert mount.residency(name) == "hot"
    assert _dump(there) == _dump(here)
    mount.release_all()
    assert mount.residency(name) == "cold"
    assert _dump(there) == _dump(here)


def test_point_query_in_a_cold_database_reads_a_part_of_it(mount: Mount) -> None:
    path = mount.path / "large.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE lines (id INTEGER PRIMARY KEY, text TEXT)")
        database.executemany(
            "INSERT INTO lines VALUES (?, ?)", ((number, f"{number:0>4000}") for number in range(10_000))
        )
    size = path.stat().st_size
    mount.release("large.db")
    mount.evict()
    before = mount.downloaded()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        assert database.execute("SELECT text FROM lines WHERE id = 7777").fetchone() == (f"{7777:0>4000}",)
    assert mount.downloaded() - before < size // 4


def test_two_writers_take_turns_in_wal_mode_while_the_policy_looks_on(make_mount: MakeMount) -> None:
    # The policy would take every file at once: the database must stay hot for as long as it is open.
    ages = ("--auto-archive", "--warm-after", "0s", "--cold-after", "0s", "--policy-interval", "100ms")
    with make_mount("sqlite-policy", *ages) as mount:
        path = mount.path / "busy.db"
        with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(path)) as other:
            assert one.execute("PRAGMA journal_mode=wal").fetchone() == ("wal",)
            with one:
                one.execute("CREATE TABLE counts (writer TEXT, number INTEGER)")
            for number in range(300):
                for writer, database in (("one", one), ("other", other)):
                    with database:
                        database.execute("INSERT INTO counts VALUES (?, ?)", (writer, number))
            assert one.execute("SELECT count(*) FROM counts").fetchone() == (600,)
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("SELECT sum(number) FROM counts").fetchone() == (2 * sum(range(300)),)
