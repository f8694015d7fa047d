"""The S3 store against answers that real servers give on bad days only, and the rules by which answers are read."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes import BytesSource, no_progress
from tests.scripted import Answer, http, refusal, scripted
from tests.servers import SECRET_KEY, free_port
from tests.t1_stores.conftest import BUCKET, Backend, s3_backend
from tierfs.core.errors import (
    AccessDenied,
    BucketMissing,
    ConfigError,
    IntegrityError,
    ObjectChanged,
    ObjectMissing,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from tierfs.stores.cold import ObjectInfo
from tierfs.stores.s3 import S3Store
from tierfs.stores.s3_answers import MIB, Abilities, TransferSizes, check_range, is_md5, plan_part_size, plan_threads
from tierfs.stores.s3_wire import S3Settings

BODY = b"0123456789"
MD5 = hashlib.md5(BODY).hexdigest()
CRC32 = base64.b64encode(zlib.crc32(BODY).to_bytes(4, "big")).decode()
DATE = "Sat, 21 Nov 2026 03:58:05 GMT"


def open_store(endpoint_url: str, **settings: Any) -> S3Store:
    return S3Store(S3Settings("b", **{"endpoint_url": endpoint_url, "timeout_s": 60.0, "max_retries": 0, **settings}))


@contextmanager
def store_that_hears(*answers: Answer, **settings: Any) -> Iterator[S3Store]:
    with scripted(*answers) as server:
        store = open_store(server.endpoint_url, **settings)
        yield store
        store.close()


def get(store: S3Store, start: int = 2, stop: int = 5, etag: str = MD5) -> bytes:
    return b"".join(store.get("some/key", start, stop, etag))


def put(store: S3Store, body: bytes = BODY) -> ObjectInfo:
    return store.put("some/key", BytesSource(body), {}, no_progress)


def ranged(body: bytes = b"234", etag: str = MD5, content_range: str = "bytes 2-4/10", **kind: Any) -> Answer:
    return http(206, body, ETag=f'"{etag}"', Content_Range=content_range, **kind)


def head(**headers: str) -> Answer:
    """The answer to a HEAD of BODY."""
    length = int(headers.pop("length", str(len(BODY))))
    return http(200, b"", length=length, **{"ETag": f'"{MD5}"', "Last_Modified": DATE, **headers})


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (400, "ExpiredToken", AccessDenied, "renew"),
        (403, "AccessDenied", AccessDenied, "policy"),
        (403, "InvalidAccessKeyId", AccessDenied, "credentials"),
        (403, "SignatureDoesNotMatch", AccessDenied, "credentials"),
        (403, "RequestTimeTooSkewed", AccessDenied, "clock"),
        (403, "InvalidObjectState", StoreRefused, "thaw"),
        (401, "Unauthorized", AccessDenied, "credentials"),
        (404, "NoSuchKey", ObjectMissing, "some/key"),
        (404, "NoSuchVersion", ObjectMissing, "some/key"),
        (404, "NoSuchBucket", BucketMissing, "create the bucket"),
        (412, "PreconditionFailed", ObjectChanged, "some/key"),
        (416, "InvalidRange", ObjectChanged, "some/key"),
        (400, "RequestTimeout", StoreUnavailable, "tried again"),
        (429, "TooManyRequests", StoreUnavailable, "tried again"),
        (503, "SlowDown", StoreUnavailable, "fewer requests"),
        (500, "InternalError", StoreUnavailable, "tried again"),
        (502, "", StoreUnavailable, "tried again"),
        (501, "NotImplemented", StoreRefused, "NotImplemented"),
        (400, "InvalidRequest", StoreRefused, "InvalidRequest"),
        (400, "BadDigest", IntegrityError, "BadDigest"),
        (301, "PermanentRedirect", StoreRefused, "region"),
        (302, "302", StoreRefused, "endpoint_url"),
    ],
)
def test_every_refusal_is_the_right_error(status: int, code: str, kind: type[StoreError], words: str) -> None:
    with store_that_hears(refusal(status, code, "why the store does not")) as store:
        with pytest.raises(StoreError, match=words) as caught:
            get(store)
        assert type(caught.value) is kind
        assert "bucket b at http://127.0.0.1:" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [http(502, b"<html>Bad Gateway"), http(500), http(503, b"\xff\xfe not xml")])
def test_errors_of_a_proxy_are_worth_a_retry(answer: Answer) -> None:
    for use in (get, put, lambda store: list(store.list("")), lambda store: store.head("some/key")):
        with store_that_hears(answer) as store, pytest.raises(StoreUnavailable):
            use(store)


@pytest.mark.parametrize("page", [b"<html><body>Log in here</body></html>", b"<html><p>Log in<br>", b"", b"{}"])
def test_a_page_of_something_else_is_not_an_empty_bucket(page: bytes) -> None:
    uses: list[Callable[[S3Store], object]] = [
        lambda store: list(store.list("")),
        lambda store: store.head("some/key"),
        lambda store: put(store, b"x" * (5 * MIB + 1)),
        lambda store: store.probe(),
    ]
    for use in uses:
        with (
            store_that_hears(http(200, page), sizes=TransferSizes(part=5 * MIB)) as store,
            pytest.raises(StoreUnavailable),
        ):
            use(store)


def test_a_body_that_ends_early() -> None:
    with store_that_hears(ranged(b"23", length=3)) as store, pytest.raises(StoreUnavailable, match="some/key"):
        get(store)


def test_a_connection_that_dies_in_mid_body() -> None:
    with store_that_hears(ranged(b"23", length=3, then="reset")) as store, pytest.raises(StoreError, match="some/key"):
        get(store)


def test_a_body_that_stalls() -> None:
    stalled = ranged(b"23", length=3, then="hang")
    with store_that_hears(stalled, timeout_s=0.2) as store, pytest.raises(StoreUnavailable, match="silent"):
        get(store)


def test_a_store_that_is_silent() -> None:
    with store_that_hears(Answer(b"", "hang"), timeout_s=0.2) as store, pytest.raises(StoreUnavailable, match="silent"):
        get(store)


def test_a_store_that_hangs_up() -> None:
    with store_that_hears(Answer(b"")) as store, pytest.raises(StoreUnavailable, match="connection"):
        get(store)


def test_nobody_listens() -> None:
    store = open_store(f"http://127.0.0.1:{free_port()}")
    for use in (
        lambda: get(store),
        lambda: put(store),
        store.probe,
        lambda: store.head("a"),
        lambda: list(store.list("")),
    ):
        with pytest.raises(StoreUnavailable, match="nothing answers"):
            use()
    store.close()


def test_a_store_that_was_busy_is_asked_again() -> None:
    with store_that_hears(refusal(503, "SlowDown"), head(), max_retries=1) as store:
        assert store.head("some/key").size == len(BODY)
        assert store.counters.requests == {"HeadObject": 2}
        assert store.counters.failures == {"HeadObject": {"StoreUnavailable": 1}}
        assert {name: one.count for name, one in store.counters.answered.items()} == {"HeadObject": 1}


def test_a_read_is_left_to_who_knows_whether_somebody_still_waits() -> None:
    with store_that_hears(refusal(503, "SlowDown"), ranged(), max_retries=1) as store:
        with pytest.raises(StoreUnavailable, match="SlowDown"):
            get(store)
        assert store.counters.requests == {"GetObject": 1}
        assert store.counters.failures == {"GetObject": {"StoreUnavailable": 1}}
        assert get(store) == b"234"


def test_every_way_to_fail_is_counted_once() -> None:
    """No connection, a refusal, a body that ends early, an answer to another question."""
    answers = (Answer(b""), refusal(403, "AccessDenied"), ranged(b"23", length=3), ranged(etag="other"), ranged())
    with store_that_hears(*answers) as store:
        for kind in (StoreUnavailable, AccessDenied, StoreUnavailable, ObjectChanged):
            with pytest.raises(kind):
                get(store)
        assert get(store) == b"234"
        assert store.counters.requests == {"GetObject": 5}
        assert store.counters.failures == {"GetObject": {"StoreUnavailable": 2, "AccessDenied": 1, "ObjectChanged": 1}}


def test_a_missing_object_in_a_missing_bucket() -> None:
    with store_that_hears(http(404)) as store, pytest.raises(BucketMissing, match="create the bucket"):
        store.head("some/key")
    with store_that_hears(http(404), http(200)) as store, pytest.raises(ObjectMissing, match="some/key"):
        store.head("some/key")
    # A policy that does not let us look at the bucket leaves the first answer standing, an outage does not.
    with store_that_hears(http(404), http(403)) as store, pytest.raises(ObjectMissing):
        store.head("some/key")
    with store_that_hears(http(404), http(503)) as store, pytest.raises(StoreUnavailable):
        store.head("some/key")


def test_a_list_that_never_ends() -> None:
    page = b"""<?xml version="1.0"?><ListBucketResult><Name>b</Name><IsTruncated>true</IsTruncated>
        <NextContinuationToken>same</NextContinuationToken></ListBucketResult>"""
    with store_that_hears(http(200, page)) as store, pytest.raises(StoreRefused, match="more objects"):
        list(store.list(""))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (ranged(etag="0" * 32), ObjectChanged),
        (http(206, b"234", Content_Range="bytes 2-4/10"), ObjectChanged),
        (ranged(b"23", content_range="bytes 2-3/4"), ObjectChanged),
        (ranged(content_range="bytes 3-5/10"), StoreRefused),
        (ranged(content_range="garbage"), StoreRefused),
        (ranged(b"2345", content_range="bytes 2-4/10"), IntegrityError),
        (http(200, BODY, ETag=MD5), StoreRefused),
    ],
)
def test_an_answer_to_another_question_is_refused(answer: Answer, kind: type[StoreError]) -> None:
    with store_that_hears(answer) as store, pytest.raises(kind, match="some/key"):
        get(store)


def test_answers_that_are_right_in_another_way() -> None:
    with store_that_hears(http(200, b"234", ETag=MD5, Content_Range="bytes 2-4/10")) as store:
        assert get(store) == b"234"
    with store_that_hears(http(200, BODY, ETag=MD5)) as store:
        assert get(store, 0, 10) == BODY
    with store_that_hears(ranged(content_range="bytes 2-4/*")) as store:
        assert get(store) == b"234"
    # A CRC of the whole object in the answer to a range, as rclone and AWS send it, is not one of the range.
    with store_that_hears(ranged(x_amz_checksum_crc32=CRC32)) as store:
        assert get(store) == b"234"


def test_what_was_written_and_is_not_seen_yet_is_not_missing() -> None:
    """A store that shows new objects late: neither the copy's source nor the file may be taken for lost."""
    accepted, late = http(200, b"", ETag=f'"{MD5}"'), http(404, b"")
    error = pytest.raises(IntegrityError, match="not there yet")
    with store_that_hears(accepted, late, http(200, b"")) as store, error:
        put(store)
    copied = f"<CopyObjectResult><ETag>{MD5}</ETag></CopyObjectResult>".encode()
    with store_that_hears(head(), http(200, copied), late, http(200, b"")) as store, error:
        store.copy(ObjectInfo("some/key", len(BODY), MD5), "another/key")


def test_an_object_that_is_shown_and_not_found_to_be_copied_is_not_missing() -> None:
    """The file must not be lost, not even until the store is asked the next time."""
    body = b"<Error><Code>NoSuchKey</Code></Error>"
    source = ObjectInfo("some/key", len(BODY), MD5)
    error = pytest.raises(IntegrityError, match="does not find it to copy it")
    with store_that_hears(head(), http(404, body), head()) as store, error:
        store.copy(source, "another/key")
    with (
        store_that_hears(head(), http(404, body), http(404, b""), http(200, b"")) as store,
        pytest.raises(ObjectMissing),
    ):
        store.copy(source, "another/key")


def test_an_upload_is_compared_with_what_the_store_says() -> None:
    stored = http(200, ETag=f'"{MD5}"')
    with store_that_hears(stored, head(x_amz_checksum_crc32=CRC32)) as store:
        assert put(store) == ObjectInfo("some/key", 10, MD5, modified_ns=1_795_233_485_000_000_000)
    wrong: list[tuple[Answer, Answer, str]] = [
        (http(200, ETag=f'"{"0" * 32}"'), head(), "MD5"),
        (stored, head(length="9"), "9"),
        (stored, head(ETag='"another"'), "another"),
        (stored, head(x_amz_checksum_crc32="AAAAAA=="), "CRC32"),
    ]
    for first, second, words in wrong:
        with store_that_hears(first, second) as store, pytest.raises(IntegrityError, match=words):
            put(store)


def test_etags_of_encrypted_objects_prove_nothing_and_hurt_nothing() -> None:
    other = "f" * 32
    encrypted: dict[str, Any] = {"ETag": f'"{other}"', "x_amz_server_side_encryption": "aws:kms"}
    with store_that_hears(http(200, **encrypted), head(**encrypted)) as store:
        assert put(store).etag == other
    # A composite checksum, and one of parts, is no CRC of the object.
    with store_that_hears(http(200, ETag=MD5), head(x_amz_checksum_crc32="AAAAAA==-3")) as store:
        put(store)


def test_a_stopped_upload_tells_what_it_could_not_remove() -> None:
    created = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    with store_that_hears(
        http(200, created), refusal(500, "InternalError"), sizes=TransferSizes(part=5 * MIB)
    ) as store:
        with pytest.raises(StoreUnavailable) as caught:
            put(store, b"x" * (5 * MIB + 1))
        assert "u1" in "".join(caught.value.__notes__)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store("http://127.0.0.1:1")
    with pytest.raises(AccessDenied, match="credentials"):
        store.probe()
    store.close()


@pytest.fixture(scope="module")
def strict() -> Iterator[Backend]:
    """A real server that checks credentials."""
    with s3_backend("rclone") as backend:
        yield backend


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(strict: Backend, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "wrongwrongwrong")
    store = strict.open()
    for use in (store.probe, lambda: store.head("a"), lambda: list(store.list(""))):
        with pytest.raises(AccessDenied, match=BUCKET) as caught:
            use()
        assert "wrongwrongwrong" not in str(caught.value)
        assert SECRET_KEY not in str(caught.value)
    store.close()


@pytest.mark.parametrize("endpoint_url", ["http://user:topsecret@127.0.0.1:9", "no-url", "http://"])
def test_an_endpoint_that_is_none(endpoint_url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(endpoint_url)
    assert "topsecret" not in str(caught.value)


def test_a_read_only_self_test_writes_nothing(strict: Backend) -> None:
    assert strict.server is not None
    store = S3Store(S3Settings(BUCKET, endpoint_url=strict.server.endpoint_url, read_only=True))
    assert store.probe() == ()
    assert store.counters.requests == {"ListObjectsV2": 1, "GetObject": 1}
    store.close()


def test_a_bucket_that_can_only_be_read() -> None:
    page = b"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated></ListBucketResult>"
    with store_that_hears(http(200, page), refusal(403, "AccessDenied")) as store:
        (sentence,) = store.probe()
        assert "nothing can be archived" in sentence


def test_the_modes_of_checksums() -> None:
    for mode, sent in (("auto", True), ("when_required", False)):
        with store_that_hears(http(200, ETag=MD5), head(), checksum=mode) as store:
            seen: list[dict[str, Any]] = []
            store._wire._client.meta.events.register(
                "before-send.s3.PutObject", lambda request, seen=seen, **_: seen.append(dict(request.headers))
            )
            put(store)
        headers = {name.lower() for name in seen[0]}
        assert "content-md5" in headers
        assert ("x-amz-checksum-crc32" in headers) == sent
        assert "content-encoding" not in headers  # no aws-chunked, which several servers break on


def test_parts_grow_so_that_they_are_never_too_many() -> None:
    sizes = TransferSizes()
    assert plan_part_size(17 * MIB, sizes) == 16 * MIB
    assert plan_part_size(160_000 * MIB, sizes) == 16 * MIB
    for size in (160_000 * MIB + 1, 1 << 40, 5 << 40):
        part = plan_part_size(size, sizes)
        assert -(-size // part) <= 10_000
        assert part % MIB == 0
        assert part <= 5 << 30
    assert [plan_threads(part * MIB, sizes) for part in (16, 17, 32, 33, 600)] == [4, 3, 2, 1, 1]


def test_what_looks_like_an_md5() -> None:
    assert is_md5(MD5, {})
    assert is_md5(MD5, {"ServerSideEncryption": "AES256"})
    assert not is_md5(MD5, {"ServerSideEncryption": "aws:kms"})
    assert not is_md5(MD5, {"SSECustomerAlgorithm": "AES256"})
    assert not is_md5(f"{MD5}-2", {})
    assert Abilities().crc32
    check_range({"ETag": MD5, "ContentLength": 1, "ContentRange": "bytes 5-5/6"}, 5, 6, MD5)


@pytest.mark.parametrize("status", [301, 302, 307])
def test_an_address_that_redirects_everything(status: int) -> None:
    """A web server that wants https: boto3 alone would ask for the bucket's region for ever."""
    with store_that_hears(http(status, Location="https://127.0.0.1:1/")) as store:
        for use in (get, put, lambda store: list(store.list("")), lambda store: store.head("some/key"), S3Store.probe):
            with pytest.raises(StoreRefused, match="endpoint_url"):
                use(store)
