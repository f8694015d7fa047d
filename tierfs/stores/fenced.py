"""A cold store that is written to only while its lease holds. Reads go through in any case."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tierfs.core.lease import Fence
from tierfs.stores.cold import ColdStore, Deleted, ObjectInfo, Progress, Source, StoreCounters


class FencedStore:
    """ColdStore in front of another one: put, copy and deletions ask `fence` first. The one behind asks it again, right
    before each request. `on_close` is told whether no write is under way, before the store is closed.
    """

    def __init__(self, inner: ColdStore, fence: Fence, on_close: Callable[[bool], None]) -> None:
        self._inner = inner
        self._fence = fence
        self._on_close = on_close
        self._lock = threading.Lock()
        self._writes = 0

    @property
    def counters(self) -> StoreCounters:
        """Those of the store behind."""
        return self._inner.counters

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._fence()
        with self._lock:
            self._writes += 1
        try:
            yield
        finally:
            with self._lock:
                self._writes -= 1

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        with self._writing():
            return self._inner.put(key, source, metadata, progress)

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        return self._inner.get(key, start, stop, etag, version_id)

    def head(self, key: str) -> ObjectInfo:
        return self._inner.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        with self._writing():
            return self._inner.copy(source, key)

    def delete(self, key: str) -> None:
        with self._writing():
            self._inner.delete(key)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        with self._writing():
            return self._inner.delete_many(keys)

    def probe(self) -> tuple[str, ...]:
        """The self-test: NoLease in the middle of it leaves what it learned unsaid."""
        return self._inner.probe()

    def tidy(self) -> None:
        """Needs no lease: nobody else's uploads can be meant."""
        self._inner.tidy()

    def close(self) -> None:
        with self._lock:
            is_idle = not self._writes
        self._on_close(is_idle)
        self._inner.close()
