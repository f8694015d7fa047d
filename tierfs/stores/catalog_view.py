"""The catalog as another process may read it: all of it as it was at one moment, while the worker goes on writing."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tierfs.core.errors import CatalogError
from tierfs.core.records import Record, Tombstone
from tierfs.core.residency import Residency
from tierfs.stores.catalog_rows import COLUMNS, Tally, record_of, why_failed


class CatalogView:
    """One read transaction. Methods raise CatalogError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explaining():
            self._db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
            try:
                self._db.execute("BEGIN")
                self._db.execute("SELECT 1 FROM facts").fetchone()  # the transaction begins with its first look
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """End the transaction: until then the write-ahead log cannot shrink."""
        self._db.close()

    def records(self) -> Iterator[Record]:
        """All records, in the order of their paths."""
        with self._explaining():
            for row in self._db.execute(f"SELECT {COLUMNS} FROM records ORDER BY directory, name"):
                yield record_of(row)

    def tombstones(self) -> Iterator[Tombstone]:
        """The objects that the tree has given up."""
        with self._explaining():
            for row in self._db.execute("SELECT key, since_ns FROM tombstones"):
                yield Tombstone(*row)

    def pins(self) -> Iterator[bytes]:
        """The paths that an operator pinned."""
        with self._explaining():
            for (path,) in self._db.execute("SELECT path FROM pins"):
                yield path

    def tally_by_residency(self) -> tuple[dict[Residency, Tally], bool]:
        """Files and bytes by residency, and whether any is misplaced: one look at all records."""
        with self._explaining():
            rows = self._db.execute(
                "SELECT residency, count(*), sum(size), max(misplaced) FROM records GROUP BY residency"
            ).fetchall()
            tally = {Residency(residency): Tally(files, size) for residency, files, size, _ in rows}
            return tally, any(is_misplaced for *_, is_misplaced in rows)

    def count_tombstones(self) -> int:
        """How many objects the tree has given up."""
        with self._explaining():
            ((count,),) = self._db.execute("SELECT count(*) FROM tombstones").fetchall()
            return int(count)

    def misplaced(self) -> list[bytes]:
        """Paths of cold and mirrored files whose object has yet to follow a rename."""
        with self._explaining():
            rows = self._db.execute(
                "SELECT directory, name FROM records WHERE misplaced AND residency IN ('cold', 'mirrored')"
            )
            return [directory + b"/" + name if directory else name for directory, name in rows]

    def check_integrity(self) -> list[str]:
        """What SQLite itself finds wrong with the file."""
        with self._explaining():
            return [row for (row,) in self._db.execute("PRAGMA integrity_check") if row != "ok"]

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CatalogError(f"the catalog {self._path} cannot be read: {why_failed(error)}") from error
