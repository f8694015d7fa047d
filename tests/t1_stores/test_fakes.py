"""The doubles do what tests rely on; that they keep the contract is in test_cold_contract."""

import threading

import pytest

from tests.fakes import BytesSource, FaultyStore, HeldStore, MemoryStore, no_progress
from tierfs.core.errors import IntegrityError, ObjectMissing, StoreUnavailable
from tierfs.stores.cold import ColdStore, ObjectInfo


def put(store: ColdStore, key: str, body: bytes) -> ObjectInfo:
    return store.put(key, BytesSource(body), {}, no_progress)


def read(store: ColdStore, info: ObjectInfo) -> bytes:
    return b"".join(store.get(info.key, 0, info.size, info.etag))


def test_a_fault_comes_as_often_as_asked_and_for_its_key() -> None:
    store = FaultyStore(MemoryStore())
    info = put(store, "a", b"abc")
    store.fail("get", StoreUnavailable("down"), times=2, key="a")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            read(store, info)
    assert read(store, info) == b"abc"
    store.fail("head", StoreUnavailable("down"), times=None)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.head("a")
    store.heal()
    assert store.head("a") == info
    assert store.calls[:2] == [("put", "a"), ("get", "a")]


def test_only_the_answer_is_lost() -> None:
    store = FaultyStore(MemoryStore())
    store.fail("put", StoreUnavailable("no answer"), after_effect=True)
    with pytest.raises(StoreUnavailable):
        put(store, "a", b"abc")
    assert read(store, store.head("a")) == b"abc"
    store.fail("delete", StoreUnavailable("no answer"), after_effect=True)
    with pytest.raises(StoreUnavailable):
        store.delete("a")
    with pytest.raises(ObjectMissing):
        store.head("a")


def test_bodies_are_spoilt_at_the_named_byte() -> None:
    store = FaultyStore(MemoryStore(block_size=4))
    info = put(store, "a", b"0123456789")
    store.corrupt_next_get(at=5)
    assert read(store, info) == b"01234" + bytes([ord("5") ^ 1]) + b"6789"
    store.cut_next_get(after=6)
    blocks = store.get("a", 0, 10, info.etag)
    assert [next(blocks), next(blocks)] == [b"0123", b"45"]
    with pytest.raises(IntegrityError):
        next(blocks)
    assert read(store, info) == b"0123456789"


def test_held_calls_wait_for_their_release() -> None:
    store = HeldStore(MemoryStore())
    info = put(store, "a", b"abc")
    store.hold("get")
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(read(store, info))) for _ in range(2)]
    for thread in threads:
        thread.start()
    store.wait_until_waiting(2)
    assert store.waiting == [("get", "a")] * 2
    assert store.head("a") == info
    store.release("get")
    for thread in threads:
        thread.join()
    assert results == [b"abc", b"abc"]
    assert store.waiting == []
