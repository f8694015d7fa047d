"""A cold store that may not be there yet: it is opened when it is first needed, and tried again until it can be.

A disk that is not mounted, or a server that is down, is then a problem for cold reads alone.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from tierfs.stores.cold import ColdStore, Deleted, ObjectInfo, Progress, Source, StoreCounters


class LateStore:
    """ColdStore in front of the one that `open_store` gives; until that succeeds, its errors are those of opening."""

    def __init__(self, open_store: Callable[[], ColdStore]) -> None:
        self._open_store = open_store
        self._store: ColdStore | None = None
        self._lock = threading.Lock()
        self._before = StoreCounters()

    @property
    def counters(self) -> StoreCounters:
        """Those of the store; zeros until it is there."""
        return self._store.counters if self._store else self._before

    def _opened(self) -> ColdStore:
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        return self._opened().put(key, source, metadata, progress)

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        return self._opened().get(key, start, stop, etag, version_id)

    def head(self, key: str) -> ObjectInfo:
        return self._opened().head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._opened().list(prefix)

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        return self._opened().copy(source, key)

    def delete(self, key: str) -> None:
        self._opened().delete(key)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        return self._opened().delete_many(keys)

    def probe(self) -> tuple[str, ...]:
        return self._opened().probe()

    def tidy(self) -> None:
        self._opened().tidy()

    def close(self) -> None:
        with self._lock:
            if self._store:
                self._store.close()
