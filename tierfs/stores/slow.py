"""Says which requests to a store are slow: what is measured is how long nothing was heard of it, not how long it took.

So a large object over a thin line is not slow, nor one whose rate is limited: between two pieces, the time is ours.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import TypeVar

from tierfs.core.reports import happened
from tierfs.stores.cold import ColdStore, Deleted, ObjectInfo, Progress, Source, StoreCounters

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class _Watch:
    """One request: when it began, and the longest silence until now; times on the host's monotonic clock."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.began_ns = self._since_ns = clock()
        self.silence_ns = 0

    def heard(self) -> None:
        """The store said something, or is through."""
        self.silence_ns = max(self.silence_ns, self._clock() - self._since_ns)
        self.resumed()

    def resumed(self) -> None:
        """From now on it is the store again who is waited for."""
        self._since_ns = self._clock()

    def took_ns(self) -> int:
        """All of the time since its beginning."""
        return self._clock() - self.began_ns


class SlowStore:
    """ColdStore in front of another one: logs each request in which that was silent for `limit_ns`; 0: none."""

    def __init__(self, inner: ColdStore, limit_ns: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._inner = inner
        self._limit_ns = limit_ns
        self._clock = clock

    @property
    def counters(self) -> StoreCounters:
        """Those of the store behind."""
        return self._inner.counters

    @contextmanager
    def _watching(self, operation: str, what: str) -> Iterator[_Watch]:
        watch = _Watch(self._clock)
        try:
            yield watch
        finally:
            watch.heard()
            if 0 < self._limit_ns <= watch.silence_ns:
                took_ns = watch.took_ns()
                _log.warning(
                    "slow: %s of %s took %.1f s, in which it waited %.1f s for the store",
                    *(operation, what, took_ns / 1e9, watch.silence_ns / 1e9),
                    extra=happened("slow", duration_ns=took_ns),
                )

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        with self._watching("PUT", key) as watch:

            def told(moved: int) -> None:
                watch.heard()
                progress(moved)
                watch.resumed()

            return self._inner.put(key, source, metadata, told)

    def get(
        self, key: str, start: int, stop: int, etag: str, version_id: str | None = None
    ) -> Generator[bytes, None, None]:
        """Stream the bytes [start, stop); see ColdStore. Closing the generator closes the one behind."""
        with self._watching("GET", key) as watch:
            yield from _watched(self._inner.get(key, start, stop, etag, version_id), watch)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._watching("LIST", prefix or "all") as watch:
            yield from _watched(self._inner.list(prefix), watch)

    def head(self, key: str) -> ObjectInfo:
        with self._watching("HEAD", key):
            return self._inner.head(key)

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        with self._watching("COPY", key):
            return self._inner.copy(source, key)

    def delete(self, key: str) -> None:
        with self._watching("DELETE", key):
            self._inner.delete(key)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        with self._watching("DELETE", f"{len(keys)} objects"):
            return self._inner.delete_many(keys)

    def tidy(self) -> None:
        with self._watching("tidying up", "uploads"):
            self._inner.tidy()

    def probe(self) -> tuple[str, ...]:
        """The self-test is many requests, and nobody waits for it."""
        return self._inner.probe()

    def close(self) -> None:
        self._inner.close()


def _watched(things: Iterator[_T], watch: _Watch) -> Iterator[_T]:
    """The same things; what happens between two of them is not the store's."""
    with closing(things) if isinstance(things, Generator) else nullcontext():
        for thing in things:
            watch.heard()
            yield thing
            watch.resumed()


@contextmanager
def saying_slow(operation: str, limit_ns: int) -> Iterator[None]:
    """A call of the chunk cache: said when it waited `limit_ns` for its disk; 0: never."""
    began_ns = time.monotonic_ns()
    yield
    took_ns = time.monotonic_ns() - began_ns
    if 0 < limit_ns <= took_ns:
        text = "slow: %s of the chunk cache took %.1f s: it waited for the cache's disk"
        _log.warning(text, operation, took_ns / 1e9, extra=happened("slow", duration_ns=took_ns))
