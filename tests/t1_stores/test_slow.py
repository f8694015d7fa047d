"""Requests in which nothing is heard of a store for too long are said; those that carry much are not."""

from collections.abc import Iterator, Mapping

import pytest

from tests.fakes import BytesSource, MemoryStore, no_progress
from tierfs.core.errors import StoreUnavailable
from tierfs.stores.cold import ObjectInfo, Progress, Source
from tierfs.stores.slow import SlowStore

BODY = b"0123456789"
SECOND = 10**9


class Clock:
    """The time, which passes as a test says."""

    def __init__(self) -> None:
        self.now_ns = 5

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)


class LateStore(MemoryStore):
    """Lets time pass before each block and each answer."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(block_size=4)
        self.clock = clock
        self.late_s = 0.0

    def head(self, key: str) -> ObjectInfo:
        self.clock.pass_s(self.late_s)
        return super().head(key)

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        for block in super().get(key, start, stop, etag, version_id):
            self.clock.pass_s(self.late_s)
            yield block

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        for _ in range(3):
            self.clock.pass_s(self.late_s)
            progress(1)
        return super().put(key, source, metadata, no_progress)


class World:
    """A late store, and what is said of it."""

    def __init__(self, limit_ns: int = SECOND) -> None:
        self.clock = Clock()
        self.late = LateStore(self.clock)
        self.store = SlowStore(self.late, limit_ns, self.clock)
        self.info = self.store.put("key", BytesSource(BODY), {}, no_progress)

    def read(self, pause_s: float = 0.0) -> bytes:
        blocks = []
        for block in self.store.get("key", 0, len(BODY), self.info.etag):
            blocks.append(block)
            self.clock.pass_s(pause_s)
        return b"".join(blocks)


def test_a_silence_is_said_with_what_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.late.late_s = 1.5
    assert world.read() == BODY
    world.store.head("key")
    assert caplog.messages == [
        "slow: GET of key took 4.5 s, in which it waited 1.5 s for the store",
        "slow: HEAD of key took 1.5 s, in which it waited 1.5 s for the store",
    ]
    assert [record.event["kind"] for record in caplog.records] == ["slow", "slow"]  # type: ignore[attr-defined]


def test_much_is_not_slow_and_who_takes_its_time_is_not_the_store(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.late.late_s = 0.9
    assert world.read(pause_s=60) == BODY
    world.store.put("other", BytesSource(BODY), {}, lambda _moved: world.clock.pass_s(60))
    assert caplog.messages == []


def test_an_answer_that_is_an_error_is_slow_as_well(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.late.late_s = 2
    with pytest.raises(StoreUnavailable):
        world.store.put("key", BytesSource(BODY), {}, _refuse)
    assert caplog.messages == ["slow: PUT of key took 2.0 s, in which it waited 2.0 s for the store"]


def _refuse(_moved: int) -> None:
    raise StoreUnavailable("no")


def test_nothing_is_said_where_it_is_turned_off(caplog: pytest.LogCaptureFixture) -> None:
    world = World(limit_ns=0)
    world.late.late_s = 2
    assert world.read() == BODY
    assert caplog.messages == []


def test_a_reader_that_stops_closes_the_store_s_answer() -> None:
    world = World()
    blocks = world.store.get("key", 0, len(BODY), world.info.etag)
    assert next(blocks) == BODY[:4]
    blocks.close()
    with pytest.raises(StopIteration):
        next(blocks)
