"""The port of the cold tier: what the engine asks of an object store.

Implementations are blocking and safe to call from several threads at once; the engine decides where they run.
Every method raises only `tierfs.core.errors.StoreError` and its subclasses. Keys are complete (the prefix of the
mount is already in them). ETags are compared as opaque strings without their quotes.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from tierfs.core.errors import BucketMissing, NoLease, StoreError, StoreUnavailable
from tierfs.core.histogram import Histogram


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of one object; sizes in bytes, times in nanoseconds since the epoch."""

    key: str
    size: int
    etag: str
    version_id: str | None = None
    modified_ns: int = 0
    storage_class: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def plain_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """User metadata as every store keeps it: names in lower case, with "-" for "_".

    They travel as HTTP headers: some servers change the case, radosgw changes "_", some proxies drop such names.
    """
    return {name.lower().replace("_", "-"): value for name, value in metadata.items()}


class Source(Protocol):
    """Bytes to upload: `read_at` gives exactly `size` bytes, fewer only at the end of the file."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, size: int) -> bytes: ...


#: Called now and then during long calls with the bytes moved since the last call; may raise to stop the transfer.
Progress = Callable[[int], None]


@dataclass(slots=True)
class StoreCounters:
    """Running totals since the store was opened: bytes on the wire by direction, and requests by kind.

    `first_byte` is how long GETs took until their answer began, without those that were never answered. `failures` by
    kind are those of requests that failed, by the class of the error; one that was sent again is counted each time.
    `answered` by kind is how long requests took to a good answer, with those that were sent again in between; of GETs
    there is `first_byte`.
    """

    bytes_uploaded: int = 0
    bytes_downloaded: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    first_byte: Histogram = field(default_factory=Histogram)
    failures: dict[str, dict[str, int]] = field(default_factory=dict)
    answered: dict[str, Histogram] = field(default_factory=dict)


class Meter:
    """Keeps the totals of a store; safe to use from threads."""

    def __init__(self) -> None:
        self.totals = StoreCounters()
        self._lock = threading.Lock()

    def count_request(self, kind: str) -> None:
        """A request leaves."""
        with self._lock:
            self.totals.requests[kind] = self.totals.requests.get(kind, 0) + 1

    def count_failure(self, kind: str, error: type[StoreError]) -> None:
        """A request failed, or the body of its answer did."""
        with self._lock:
            reasons = self.totals.failures.setdefault(kind, {})
            reasons[error.__name__] = reasons.get(error.__name__, 0) + 1

    def count_bytes(self, uploaded: int = 0, downloaded: int = 0) -> None:
        """Bytes went over the wire."""
        with self._lock:
            self.totals.bytes_uploaded += uploaded
            self.totals.bytes_downloaded += downloaded

    def count_answer(self, kind: str, took_ns: int) -> None:
        """A request had a good answer, so long after it was made."""
        with self._lock:
            self.totals.answered.setdefault(kind, Histogram()).observe(took_ns)

    def count_first_byte(self, waited_ns: int) -> None:
        """The answer to a GET began, so long after it was asked for."""
        with self._lock:
            self.totals.first_byte.observe(waited_ns)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of keys that were to be deleted: `gone` (or never there), or why not. The others were not tried."""

    gone: tuple[str, ...] = ()
    failures: Mapping[str, StoreError] = field(default_factory=dict)


def delete_each(delete: Callable[[str], None], keys: Sequence[str], at_once: int = 1) -> Deleted:
    """ColdStore.delete_many() by single deletions, so many at the same time. One that is not answered ends it.

    NoLease, and whatever is no StoreError, is raised.
    """
    gone: list[str] = []
    failures: dict[str, StoreError] = {}

    def delete_one(key: str) -> None:
        try:
            delete(key)
        except NoLease:
            raise
        except StoreError as error:
            failures[key] = error
        else:
            gone.append(key)

    with ThreadPoolExecutor(at_once) if at_once > 1 else nullcontext() as pool:
        for first in range(0, len(keys), at_once):
            list((pool.map if pool else map)(delete_one, keys[first : first + at_once]))
            if any(isinstance(error, StoreUnavailable | BucketMissing) for error in failures.values()):
                break
    return Deleted(tuple(gone), failures)


class ColdStore(Protocol):
    """An object store: whole objects in, byte ranges out."""

    @property
    def counters(self) -> StoreCounters: ...

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        """Upload `source` as `key`, replacing any object there, and return what a HEAD afterwards says of it.

        What `source` and `progress` raise passes through.

        Reads `source` once, from front to back. Size, and every checksum that the store keeps, are compared
        with what was read: IntegrityError when they differ. An upload that fails leaves no parts behind, or is gone on
        with when the same bytes are put again, or is removed by tidy().
        """
        ...

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        """Stream the bytes [start, stop) of the object whose ETag is `etag`, in blocks of any size.

        ObjectChanged when the ETag or the length differs, ObjectMissing, StoreUnavailable when a connection breaks in
        the body; a body that ends early is an error, never the end.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Describe one object, user metadata included (see plain_metadata). ObjectMissing."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix`, in any order; metadata is left empty."""
        ...

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        """Copy an object, metadata included, inside the store, and return what a HEAD of the copy says.

        ObjectChanged when the source is no longer the one described; IntegrityError when the sizes differ.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete an object; deleting one that is not there succeeds."""
        ...

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        """Delete objects with as few requests as the store takes; which are gone, and which could not be deleted.

        What is raised is about all of them: some may be gone.
        """
        ...

    def probe(self) -> tuple[str, ...]:
        """Check that the store can be reached and used; return, in sentences, what it cannot do.

        BucketMissing, AccessDenied, StoreUnavailable or StoreRefused when it cannot be used at all.
        """
        ...

    def tidy(self) -> None:
        """Remove what uploads that nobody goes on with have left, if they were begun here: nobody else's."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...
