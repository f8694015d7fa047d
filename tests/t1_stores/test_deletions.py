"""Deletions of many objects, against servers that do not take them, or take some."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.fakes import BytesSource, FaultyStore, MemoryStore, no_progress
from tests.scripted import Answer, ScriptedServer, http, refusal, scripted
from tierfs.core.errors import AccessDenied, IntegrityError, NoLease, StoreError, StoreUnavailable
from tierfs.stores.breaker import BreakerRules, BreakerStore
from tierfs.stores.s3 import S3Store
from tierfs.stores.s3_deletions import is_plain
from tierfs.stores.s3_wire import S3Settings

GONE = http(204)


@contextmanager
def store_that_hears(*answers: Answer) -> Iterator[tuple[S3Store, ScriptedServer]]:
    with scripted(*answers) as server:
        store = S3Store(S3Settings("b", endpoint_url=server.endpoint_url, timeout_s=60.0, max_retries=0))
        yield store, server
        store.close()


def answer(gone: Sequence[str] = (), **codes: str) -> Answer:
    said = [f"<Deleted><Key>{key}</Key></Deleted>" for key in gone]
    said += [f"<Error><Key>{key}</Key><Code>{code}</Code></Error>" for key, code in codes.items()]
    return http(200, f"<DeleteResult>{''.join(said)}</DeleteResult>".encode(), Content_Type="application/xml")


def test_each_key_has_an_answer_of_its_own() -> None:
    said = answer(["a"], b="AccessDenied", c="NoSuchKey", d="InternalError")
    with store_that_hears(said) as (store, server):
        deleted = store.delete_many(["a", "b", "c", "d"])
    assert sorted(deleted.gone) == ["a", "c"]
    assert {key: type(error) for key, error in deleted.failures.items()} == {"b": AccessDenied, "d": StoreUnavailable}
    assert len(server.requests) == 1


def test_keys_that_the_answer_leaves_out_are_deleted_one_by_one() -> None:
    """Also where a server says 200 to a request that it does not know."""
    with store_that_hears(answer(["a", "never asked for"]), GONE) as (store, server):
        assert sorted(store.delete_many(["a", "b", "c"]).gone) == ["a", "b", "c"]
    assert sorted(request.split()[:2] for request in server.requests[1:]) == [["DELETE", "/b/b"], ["DELETE", "/b/c"]]


@pytest.mark.parametrize(
    "refused",
    [
        refusal(501, "NotImplemented"),
        refusal(405, "MethodNotAllowed"),
        refusal(400, "MalformedXML"),
        refusal(400, "InvalidDigest"),
        http(404),
    ],
)
def test_a_server_that_deletes_only_one_by_one_is_not_asked_again(refused: Answer) -> None:
    with store_that_hears(refused, GONE) as (store, server):
        for _ in range(2):
            assert sorted(store.delete_many(["a", "b"]).gone) == ["a", "b"]
    assert [request.split()[0] for request in server.requests] == ["POST", *["DELETE"] * 4]


@pytest.mark.parametrize(
    ("refused", "kind"), [(refusal(403, "AccessDenied"), AccessDenied), (http(503), StoreUnavailable)]
)
def test_what_is_about_all_of_them_is_raised(refused: Answer, kind: type[StoreError]) -> None:
    with store_that_hears(refused) as (store, server), pytest.raises(kind):
        store.delete_many(["a", "b"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("key", [" a", "a ", "a\u3000", "a\nb", "a\rb"])
def test_keys_that_xml_may_change_go_by_themselves(key: str) -> None:
    assert not is_plain(key)
    with store_that_hears(GONE) as (store, server):
        assert store.delete_many([key]).gone == (key,)
    assert [request.split()[0] for request in server.requests] == ["DELETE"]


def objects(*keys: str) -> MemoryStore:
    memory = MemoryStore()
    for key in keys:
        memory.put(key, BytesSource(b"x"), {}, no_progress)
    return memory


def test_one_that_is_not_answered_ends_it_and_the_others_are_not_tried() -> None:
    memory = objects("a", "b", "c")
    store = FaultyStore(memory)
    store.fail("delete", IntegrityError("odd"), key="a")
    store.fail("delete", StoreUnavailable("no answer"), key="b")
    deleted = store.delete_many(["a", "b", "c"])
    assert (deleted.gone, list(deleted.failures)) == ((), ["a", "b"])
    assert set(memory.objects) == {"a", "b", "c"}


def test_without_a_lease_nothing_is_deleted() -> None:
    store = FaultyStore(objects("a"))
    store.fail("delete", NoLease("not yours"))
    with pytest.raises(NoLease):
        store.delete_many(["a"])


def test_the_breaker_counts_what_was_not_answered_at_all() -> None:
    store = FaultyStore(objects("a", "b"))
    breaker = BreakerStore(store, BreakerRules(failures=1))
    store.fail("delete", StoreUnavailable("no answer"), key="b")
    assert list(breaker.delete_many(["a", "b"]).failures) == ["b"]
    assert breaker.writes.health().state == "closed"
    store.fail("delete", StoreUnavailable("no answer"), key="b")
    assert list(breaker.delete_many(["b"]).failures) == ["b"]
    assert breaker.writes.health().state == "open"
    with pytest.raises(StoreUnavailable):
        breaker.delete_many(["b"])
