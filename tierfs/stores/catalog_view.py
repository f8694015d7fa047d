"""The catalog as another process may read it: all of it as it was at one moment, while the worker goes on writing."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tierfs.core.errors import CatalogError
from tierfs.core.records import Record, Tombstone
from tierfs.core.residency import Residency
from tierfs.stores.catalog_rows import COLUMNS, IS_WITHOUT_HOT_BYTES, Tally, record_of, why_failed


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

    def mirrored(self) -> Iterator[tuple[bytes, int]]:
        """Paths of mirrored files, and their bytes."""
        with self._explaining():
            rows = self._db.execute("SELECT directory, name, size FROM records WHERE residency = 'mirrored'")
            for directory, name, size in rows:
                yield directory + b"/" + name if directory else name, int(size)

    def object_sizes(self) -> dict[int, int]:
        """How many objects of each size the files of the tree have, older versions of hot files among them."""
        with self._explaining():
            having = "residency != 'lost' AND etag != ''"
            rows = self._db.execute(f"SELECT object_size, count(*) FROM records WHERE {having} GROUP BY object_size")
            return {int(size): int(count) for size, count in rows}

    def tally(self, residencies: Iterable[Residency]) -> Tally:
        """Files of these residencies, and their bytes."""
        names = [str(residency) for residency in residencies]
        return self._sum("size", f"residency IN ({', '.join('?' * len(names))})", *names)

    def restored_within(self, age_ns: int) -> Tally:
        """Files that came back, and were not changed since, and whose object was younger than that by then."""
        return self._sum("size", "residency = 'mirrored' AND restored_ns BETWEEN 1 AND mtime_ns + ?", age_ns)

    def rewritten_since(self, since_ns: int) -> Tally:
        """Hot files that have an older version in the bucket, whose bytes are from after that."""
        return self._sum("object_size", "residency = 'hot' AND etag != '' AND mtime_ns > ?", since_ns)

    def _sum(self, column: str, where: str, *values: int | str) -> Tally:
        with self._explaining():
            query = f"SELECT count(*), coalesce(sum({column}), 0) FROM records WHERE {where}"
            files, size = self._db.execute(query, values).fetchone()
            return Tally(int(files), int(size))

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
