"""The proxy that makes faults does what it is told, and nothing else, in front of a server that checks signatures."""

import base64
import hashlib
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from tests.conftest import require
from tests.faults import Fault, Faults, Kind
from tests.proxy import Proxy, in_front_of
from tests.servers import REGION, S3Server, ServerMissing, rclone

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MIB = 1 << 20
BODY = bytes(range(256)) * (4 * MIB // 256)
BUCKET = "proxied"
#: What boto3 makes of a connection that breaks before an answer.
BREAKS = (botocore.exceptions.ConnectionClosedError, botocore.exceptions.ConnectionError)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    try:
        with rclone() as server:
            server.create_bucket(BUCKET)
            yield server
    except ServerMissing as missing:
        require(False, str(missing))


@pytest.fixture(scope="module")
def running(server: S3Server) -> Iterator[Proxy]:
    with in_front_of(server) as proxy:
        yield proxy


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    running.heal()
    running.reset_counts()
    yield running
    running.heal()


@contextmanager
def connected(proxy: Proxy, timeout_s: float) -> Iterator["S3Client"]:
    """boto3 without retries: it shows what came."""
    config = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        read_timeout=timeout_s,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = boto3.Session(proxy.server.access_key, proxy.server.secret_key, region_name=REGION)
    with closing(session.client("s3", endpoint_url=proxy.url, config=config)) as client:
        yield client


@pytest.fixture
def client(proxy: Proxy) -> Iterator["S3Client"]:
    """One that waits long, and an object."""
    with connected(proxy, 60.0) as client:
        client.put_object(Bucket=BUCKET, Key="a/file", Body=BODY)
        proxy.reset_counts()
        yield client


def get(client: "S3Client", **more: str) -> bytes:
    """The object, whole."""
    with closing(client.get_object(Bucket=BUCKET, Key="a/file", **more)["Body"]) as body:  # type: ignore[arg-type]
        return body.read()


def test_what_is_not_struck_passes_unchanged(proxy: Proxy, client: "S3Client") -> None:
    """Signatures hold, bodies of all kinds pass in both ways on one connection, and are counted."""
    client.put_object(Bucket=BUCKET, Key="b/ü %", Body=BODY[:1000])
    assert client.get_object(Bucket=BUCKET, Key="b/ü %")["Body"].read() == BODY[:1000]
    assert get(client) == BODY
    assert get(client, Range="bytes=10-99") == BODY[10:100]
    assert client.head_object(Bucket=BUCKET, Key="a/file")["ContentLength"] == len(BODY)
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["a/file", "b/ü %"]
    client.delete_object(Bucket=BUCKET, Key="b/ü %")
    counts = proxy.counts()
    assert counts.requests == {"PUT": 1, "GET": 4, "HEAD": 1, "DELETE": 1}
    assert (counts.up, counts.faults) == (1000, {})
    assert counts.down > len(BODY) + 1000 + 90
    while proxy.counts().open != 1:  # those of other tests are still being closed
        pass


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalError"), (503, "SlowDown"), (403, "AccessDenied"), (404, "NoSuchKey"), (412, "PreconditionFailed")],
)
def test_errors_are_those_of_s3(proxy: Proxy, client: "S3Client", status: int, code: str) -> None:
    """Status and XML; the server behind hears nothing; uploads are refused too; the connection stays."""
    proxy.order(Fault.refusal(status, code, key=f"{BUCKET}/a/*", count=3))
    with pytest.raises(ClientError) as failed:
        get(client)
    assert failed.value.response["Error"]["Code"] == code
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    with pytest.raises(ClientError):
        client.put_object(Bucket=BUCKET, Key="a/file", Body=BODY * 2)
    with pytest.raises(ClientError) as failed:
        client.head_object(Bucket=BUCKET, Key="a/file")
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert get(client) == BODY
    counts = proxy.counts()
    assert counts.faults == {"status": 3}


@pytest.mark.parametrize(
    ("kind", "errors"),
    [
        (Kind.RESET, botocore.exceptions.ConnectionClosedError),
        (Kind.RESET_IN_BODY, botocore.exceptions.ResponseStreamingError),
        (Kind.TRUNCATE, (botocore.exceptions.ResponseStreamingError, botocore.exceptions.IncompleteReadError)),
        (Kind.BLACK_HOLE, botocore.exceptions.ReadTimeoutError),
        (Kind.STALL, botocore.exceptions.ReadTimeoutError),
    ],
)
def test_connections_that_break(
    proxy: Proxy, client: "S3Client", kind: Kind, errors: type[Exception] | tuple[type[Exception], ...]
) -> None:
    """What boto3 makes of it; the next request is served, and nothing of the broken one stays."""
    proxy.order(Fault(kind, method="GET", count=1))
    with connected(proxy, 1.0 if kind in (Kind.BLACK_HOLE, Kind.STALL) else 60.0) as other, pytest.raises(errors):
        get(other)
    assert get(client) == BODY
    assert proxy.counts().faults == {kind: 1}


def test_bodies_that_are_not_right(proxy: Proxy, client: "S3Client") -> None:
    """One bit at the place that was asked for; or fewer bytes, which the answer announces."""
    proxy.order(Fault(Kind.CORRUPT, at=MIB + 1, count=1), Fault(Kind.SHORTEN, at=100))
    wrong = [index for index, (got, sent) in enumerate(zip(get(client), BODY, strict=True)) if got != sent]
    assert wrong == [MIB + 1]
    assert get(client) == BODY[:100]
    assert get(client, Range="bytes=1-50") == BODY[1:51]
    proxy.heal()
    assert get(client) == BODY


def test_answers_about_an_object_that_are_not_right(proxy: Proxy, client: "S3Client") -> None:
    """Another ETag, with the body as it is; a HEAD that says half the size."""
    right = client.head_object(Bucket=BUCKET, Key="a/file")
    proxy.order(Fault(Kind.ETAG, count=2), Fault(Kind.SHORTEN, method="HEAD"))
    answer = client.get_object(Bucket=BUCKET, Key="a/file")
    with closing(answer["Body"]) as body:
        assert body.read() == BODY
    assert answer["ETag"] != right["ETag"]
    assert client.head_object(Bucket=BUCKET, Key="a/file")["ETag"] == answer["ETag"]
    assert client.head_object(Bucket=BUCKET, Key="a/file")["ContentLength"] == len(BODY) // 2
    proxy.heal()
    again = client.head_object(Bucket=BUCKET, Key="a/file")
    assert (again["ETag"], again["ContentLength"]) == (right["ETag"], len(BODY))


def test_uploads_that_go_wrong(proxy: Proxy, client: "S3Client") -> None:
    """One bit on the way, which the server finds out; a break in the middle; an answer that does not come back."""
    body = BODY[:MIB]
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    proxy.order(Fault(Kind.CORRUPT_UPLOAD, method="PUT"))
    with pytest.raises(ClientError, match="BadDigest"):
        client.put_object(Bucket=BUCKET, Key="a/sent", Body=body, ContentMD5=md5)
    proxy.order(Fault(Kind.RESET_UPLOAD, method="PUT"))
    with pytest.raises(BREAKS):
        client.put_object(Bucket=BUCKET, Key="a/sent", Body=body, ContentMD5=md5)
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=BUCKET, Key="a/sent")
    proxy.order(Fault(Kind.LOST_ANSWER, count=2))
    with pytest.raises(BREAKS):
        client.put_object(Bucket=BUCKET, Key="a/sent", Body=body, ContentMD5=md5)
    with pytest.raises(BREAKS):
        client.delete_object(Bucket=BUCKET, Key="a/file")
    assert client.get_object(Bucket=BUCKET, Key="a/sent")["Body"].read() == body
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=BUCKET, Key="a/file")
    client.delete_object(Bucket=BUCKET, Key="a/sent")


def test_nobody_listens(proxy: Proxy, client: "S3Client") -> None:
    """Connections that there are end, new ones are refused, the port is the same afterwards."""
    assert get(client) == BODY
    proxy.order(Fault(Kind.REFUSE))
    with pytest.raises(ConnectionRefusedError), closing(new_connection(proxy)) as other:
        other.recv(1)
    with pytest.raises(EndpointConnectionError):
        get(client)
    proxy.heal()
    assert get(client) == BODY


def test_orders_let_go_what_is_held(proxy: Proxy, client: "S3Client") -> None:
    """A request in a black hole is never answered; the connection is closed when the hole is."""
    proxy.order(Fault(Kind.BLACK_HOLE))
    with closing(new_connection(proxy)) as held:
        held.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while not proxy.counts().requests:
            pass
        proxy.heal()
        assert held.recv(1) == b""


def test_slow_ways_carry_the_same(proxy: Proxy, client: "S3Client") -> None:
    """Latency and bandwidth change no byte; they are counted, and a fault besides them counts too."""
    proxy.order(Fault.latency(0.001), Fault.latency(0.001), Fault.bandwidth(400 * MIB), Fault.slow_down(count=1))
    with pytest.raises(ClientError):
        get(client)
    assert get(client) == BODY
    assert proxy.counts().faults == {"latency": 4, "bandwidth": 2, "status": 1}


def new_connection(proxy: Proxy) -> socket.socket:
    at = urlsplit(proxy.url)
    return socket.create_connection((at.hostname, at.port))


def test_faults_are_chosen_by_method_key_number_and_chance() -> None:
    """The same seed, the same faults; the first that ends a request wins."""
    faults = Faults([Fault.slow_down(method="GET", key="b/a*", skip=1, count=2), Fault(Kind.RESET, probability=0.5)], 7)
    met = [faults.judge(method, key).ending for method, key in [("GET", "b/a")] * 4 + [("PUT", "b/a"), ("GET", "b/x")]]
    assert [fault.kind if fault else None for fault in met[1:3]] == [Kind.STATUS] * 2
    assert all(fault is None or fault.kind is Kind.RESET for fault in met[:1] + met[3:])
    chances = [[Faults([Fault(Kind.RESET, probability=0.5)], seed) for _ in range(2)] for seed in (1, 2)]
    runs = [[[dice.judge("GET", "k").ending is None for _ in range(50)] for dice in pair] for pair in chances]
    assert runs[0][0] == runs[0][1] != runs[1][0]
    assert 10 < sum(runs[0][0]) < 40
