"""Doubles of the cold tier: a store in memory, and wrappers with the same face that fail or wait on command."""

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tierfs.core.errors import IntegrityError, ObjectChanged, ObjectMissing
from tierfs.stores.cold import (
    ColdStore,
    Deleted,
    Meter,
    ObjectInfo,
    Progress,
    Source,
    StoreCounters,
    delete_each,
    plain_metadata,
)

#: A test that waits for longer than this, in seconds, has hung.
PATIENCE_S = 120.0


class BytesSource:
    """A Source: bytes in memory; counts what was read, in order."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.reads: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        return len(self._content)

    def read_at(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return self._content[offset : offset + size]


def no_progress(_moved: int) -> None:
    """A Progress that nobody looks at."""


class MemoryStore:
    """ColdStore in a dict. ETags are new with every put; times count puts, so that runs are repeatable."""

    def __init__(self, block_size: int = 64 << 10) -> None:
        #: A deletion removes what has the name of a directory of the key, too, as rclone does.
        self.deletes_above = False
        self._meter = Meter()
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self.block_size = block_size
        self._generation = 0
        self._lock = threading.Lock()

    @property
    def counters(self) -> StoreCounters:
        return self._meter.totals

    @property
    def objects(self) -> dict[str, bytes]:
        """The bodies by key, as they are now."""
        with self._lock:
            return {key: body for key, (_, body) in self._objects.items()}

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        blocks = []
        for offset in range(0, source.size, self.block_size):
            blocks.append(source.read_at(offset, min(self.block_size, source.size - offset)))
            progress(len(blocks[-1]))
        body = b"".join(blocks)
        if len(body) != source.size:
            raise IntegrityError(f"cannot write object {key} in memory: the file became shorter while it was read")
        self._meter.count_request("PutObject")
        self._meter.count_bytes(uploaded=len(body))
        return self._store(key, body, metadata)

    def _store(self, key: str, body: bytes, metadata: Mapping[str, str]) -> ObjectInfo:
        with self._lock:
            self._generation += 1
            info = ObjectInfo(
                key,
                len(body),
                etag=f"memory-{self._generation}",
                modified_ns=self._generation * 1_000_000_000,
                metadata=plain_metadata(metadata),
            )
            self._objects[key] = info, body
        return info

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        if start >= stop:
            return
        info, body = self._find("GetObject", key)
        if (etag and info.etag != etag) or info.size < stop:
            raise ObjectChanged(f"cannot read object {key} in memory: it was overwritten")
        self._meter.count_first_byte(0)
        for offset in range(start, stop, self.block_size):
            block = body[offset : min(offset + self.block_size, stop)]
            self._meter.count_bytes(downloaded=len(block))
            yield block

    def head(self, key: str) -> ObjectInfo:
        return self._find("HeadObject", key)[0]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._meter.count_request("ListObjectsV2")
        with self._lock:
            found = [info for key, (info, _) in self._objects.items() if key.startswith(prefix)]
        for info in found:
            yield replace(info, metadata={})

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        info, body = self._find("CopyObject", source.key)
        if (info.etag, info.size) != (source.etag, source.size):
            raise ObjectChanged(f"cannot copy object {source.key} in memory: it was overwritten")
        return self._store(key, body, info.metadata)

    def delete(self, key: str) -> None:
        self._meter.count_request("DeleteObject")
        with self._lock:
            self._delete(key)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        self._meter.count_request("DeleteObjects")
        with self._lock:
            for key in keys:
                self._delete(key)
        return Deleted(tuple(keys))

    def _delete(self, key: str) -> None:
        self._objects.pop(key, None)
        parts = key.split("/")
        for end in range(1, len(parts)) if self.deletes_above else ():
            self._objects.pop("/".join(parts[:end]), None)

    def tidy(self) -> None:
        pass

    def probe(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        """Nothing to close."""

    def _find(self, kind: str, key: str) -> tuple[ObjectInfo, bytes]:
        self._meter.count_request(kind)
        with self._lock:
            if key not in self._objects:
                raise ObjectMissing(f"cannot read object {key} in memory: it does not exist")
            return self._objects[key]


class _Wrapper:
    """A ColdStore that asks a subclass before, and tells it after, each call to the store that it wraps."""

    def __init__(self, inner: ColdStore) -> None:
        self.inner = inner

    @property
    def counters(self) -> StoreCounters:
        return self.inner.counters

    @contextmanager
    def _around(self, operation: str, key: str) -> Iterator[None]:
        yield

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        with self._around("put", key):
            return self.inner.put(key, source, metadata, progress)

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        with self._around("get", key):
            blocks = self.inner.get(key, start, stop, etag, version_id)
        yield from blocks

    def head(self, key: str) -> ObjectInfo:
        with self._around("head", key):
            return self.inner.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._around("list", prefix):
            found = self.inner.list(prefix)
        yield from found

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        with self._around("copy", key):
            return self.inner.copy(source, key)

    def delete(self, key: str) -> None:
        with self._around("delete", key):
            self.inner.delete(key)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        return delete_each(self.delete, keys)

    def tidy(self) -> None:
        with self._around("tidy", ""):
            self.inner.tidy()

    def probe(self) -> tuple[str, ...]:
        with self._around("probe", ""):
            return self.inner.probe()

    def close(self) -> None:
        self.inner.close()


@dataclass(slots=True)
class _Fault:
    operation: str
    error: Exception
    times: int | None
    key: str | None
    after_effect: bool

    def is_for(self, operation: str, key: str) -> bool:
        return self.times != 0 and operation == self.operation and self.key in (None, key)


class FaultyStore(_Wrapper):
    """Fails on command: before the effect, or after it, as when only the answer is lost; spoils bodies."""

    def __init__(self, inner: ColdStore) -> None:
        super().__init__(inner)
        self.calls: list[tuple[str, str]] = []
        self._faults: list[_Fault] = []
        self._spoilt: deque[tuple[str, int]] = deque()
        self._lock = threading.Lock()

    def fail(
        self,
        operation: str,
        error: Exception,
        *,
        times: int | None = 1,
        key: str | None = None,
        after_effect: bool = False,
    ) -> None:
        """Let the next calls (`times=None`: all) of put, get, head, list, copy, delete or probe raise `error`."""
        with self._lock:
            self._faults.append(_Fault(operation, error, times, key, after_effect))

    def cut_next_get(self, after: int) -> None:
        """Let the next get end after so many bytes, as a connection that dies does."""
        self._spoilt.append(("cut", after))

    def corrupt_next_get(self, at: int = 0) -> None:
        """Flip a bit of the byte at this place of the next get's answer."""
        self._spoilt.append(("flip", at))

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()
            self._spoilt.clear()

    @contextmanager
    def _around(self, operation: str, key: str) -> Iterator[None]:
        with self._lock:
            self.calls.append((operation, key))
            fault = next((fault for fault in self._faults if fault.is_for(operation, key)), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
        if fault is not None and not fault.after_effect:
            raise fault.error
        yield
        if fault is not None:
            raise fault.error

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        blocks = super().get(key, start, stop, etag, version_id)
        how, at = self._spoilt.popleft() if self._spoilt else ("", 0)
        position = 0
        for block in blocks:
            inside = at - position
            if how and 0 <= inside < len(block):
                if how == "cut":
                    yield block[:inside]
                    raise IntegrityError(f"cannot read object {key}: the answer ends early")
                block = block[:inside] + bytes([block[inside] ^ 1]) + block[inside + 1 :]
            position += len(block)
            yield block


class HeldStore(_Wrapper):
    """Lets calls wait until a test lets them go, so that a test decides what happens while one is under way."""

    def __init__(self, inner: ColdStore) -> None:
        super().__init__(inner)
        self._changed = threading.Condition()
        self._held: set[str] = set()
        self._waiting: list[tuple[str, str]] = []

    @property
    def waiting(self) -> list[tuple[str, str]]:
        """The calls that wait now: operation and key."""
        with self._changed:
            return list(self._waiting)

    def hold(self, *operations: str) -> None:
        """Let calls of these operations wait from now on."""
        with self._changed:
            self._held.update(operations)

    def release(self, *operations: str) -> None:
        """Let the waiting calls of these operations go, and later ones pass; of all operations when none is named."""
        with self._changed:
            self._held.difference_update(operations or tuple(self._held))
            self._changed.notify_all()

    def wait_until_waiting(self, count: int = 1) -> None:
        """Block until so many calls wait."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiting) >= count, PATIENCE_S):
                raise TimeoutError(f"{len(self._waiting)} calls wait, not {count}")

    @contextmanager
    def _around(self, operation: str, key: str) -> Iterator[None]:
        call = operation, key
        with self._changed:
            if operation in self._held:
                self._waiting.append(call)
                self._changed.notify_all()
                try:
                    if not self._changed.wait_for(lambda: operation not in self._held, PATIENCE_S):
                        raise TimeoutError(f"nobody released {operation} of {key}")
                finally:
                    self._waiting.remove(call)
        yield
