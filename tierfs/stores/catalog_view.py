"""The catalog as another process may read it: all of it as it was at one moment, while the worker goes on writing."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tierfs.core.errors import CatalogError
from tierfs.core.records import Record, Tombstone
from tierfs.stores.catalog_rows import COLUMNS, IS_WITHOUT_HOT_BYTES, record_of, why_failed


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

    def cold_names(self, directory: bytes) -> Iterator[bytes]:
        """The names of the files of a directory that have no hot bytes."""
        query = f"SELECT name FROM records WHERE directory = ? AND {IS_WITHOUT_HOT_BYTES}"
        with self._explaining():
            for (name,) in self._db.execute(query, (directory,)):
                yield name

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
