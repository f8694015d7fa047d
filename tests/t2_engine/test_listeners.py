"""Connections over TCP: so many and no more, none without end, and no request that is too large."""

import socket

import pytest
import trio
from hypercorn.trio.worker_context import EventWrapper
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tierfs.admin import listeners
from tierfs.admin.later import Later
from tierfs.admin.limits import BodyLimit
from tierfs.admin.listeners import Patience, address_of, listen_tcp, serve_tcp
from tierfs.core.listen import ListenAddress, parse_listen

LARGE = b"x" * (32 << 20)  # more than sockets buffer


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body; /large with more than anybody takes by accident."""
    request = Request(scope, receive)
    body = LARGE if scope["path"] == "/large" else b"%d" % len(await request.body())
    await Response(body)(scope, receive, send)


async def begin(nursery: trio.Nursery, app: ASGIApp, patience: Patience | None = None) -> ListenAddress:
    listener = listen_tcp(parse_listen("127.0.0.1:0"))
    address = address_of(listener)
    await nursery.start(serve_tcp, app, listener, patience)
    return address


async def said(stream: trio.SocketStream) -> bytes:
    """All that is said until the end."""
    received = bytearray()
    async with stream:
        try:
            async for block in stream:
                received += block
        except trio.BrokenResourceError:
            pass
    return bytes(received)


async def asked(address: ListenAddress, sent: bytes) -> bytes:
    """What is said to a client that has sent something."""
    stream = await trio.open_tcp_stream(*address)
    try:
        await stream.send_all(sent)
    except trio.BrokenResourceError:
        pass  # it was refused before all of it was sent
    return await said(stream)


async def is_answered(address: ListenAddress) -> bool:
    """Whether a request is answered, or nobody let in."""
    answer = await asked(address, request("/", CLOSE))
    assert answer[9:12] in (b"200", b"")
    return bool(answer)


CLOSE = "Connection: close"


def request(path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def test_a_request_is_answered(nursery: trio.Nursery) -> None:
    answer = await asked(await begin(nursery, echo), request("/", CLOSE, body=b"four"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n4")


async def test_an_upgrade_to_http_2_is_not_taken(nursery: trio.Nursery) -> None:
    """Some clients offer it with every request."""
    address = await begin(nursery, echo)
    offer = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"]
    stream = await trio.open_tcp_stream(*address)
    await stream.send_all("\r\n".join(["GET / HTTP/1.1", "Host: x", *offer, "", ""]).encode())
    answer = bytes(await stream.receive_some(1000))
    assert answer.startswith(b"HTTP/1.1 200")
    await stream.aclose()


async def test_who_speaks_http_2_is_hung_up_on(nursery: trio.Nursery) -> None:
    address = await begin(nursery, echo, Patience(head_s=3600))
    settings = b"\0\0\6\4\0\0\0\0\0" + b"\0\4\0\0\0\0"  # INITIAL_WINDOW_SIZE 0: RFC 9113, 6.5
    with trio.fail_after(60):
        answer = await asked(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
    assert not answer.startswith(b"\0")


async def test_so_many_connections_and_no_more(nursery: trio.Nursery) -> None:
    address = await begin(nursery, echo, Patience(head_s=3600, connections=2))
    async with await trio.open_tcp_stream(*address) as first, await trio.open_tcp_stream(*address) as second:
        for stream in (first, second):  # both are known to be served
            await stream.send_all(request("/"))
            assert (await stream.receive_some(12)).startswith(b"HTTP/1.1 200")
        assert not await is_answered(address)
        await first.aclose()
        while not await is_answered(address):
            pass


@pytest.mark.parametrize("beginning", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_who_does_not_finish_a_head_is_dropped(nursery: trio.Nursery, beginning: bytes) -> None:
    assert await asked(await begin(nursery, echo, Patience(head_s=0.05)), beginning) == b""


async def test_who_does_not_take_an_answer_is_dropped(nursery: trio.Nursery) -> None:
    address = await begin(nursery, echo, Patience(piece_s=0.05, connections=1))
    slow = await trio.open_tcp_stream(*address)
    await slow.send_all(request("/large"))
    while not await is_answered(address):  # its place is free again
        pass
    assert len(await said(slow)) < len(LARGE)


async def test_an_answer_to_a_conversation_that_ends_is_no_defect() -> None:
    """Who hangs up at that moment, with a token or without, would have a traceback written into the log."""
    ours, theirs = trio.socket.socketpair()
    stream = trio.SocketStream(ours)
    with theirs, stream._send_conflict_detector:  # as while its end is sent
        watched = listeners.WatchedStream(stream, None, EventWrapper())
        with pytest.raises(trio.BrokenResourceError, match="ends"):
            await watched.send_all(b"answer")
    await stream.aclose()


@pytest.mark.parametrize(("size", "status"), [(10, b"200"), (11, b"413"), (1 << 20, b"413")])
async def test_a_body_that_is_too_large_is_refused(nursery: trio.Nursery, size: int, status: bytes) -> None:
    address = await begin(nursery, BodyLimit(echo, largest_bytes=10))
    answer = await asked(address, request("/", CLOSE, body=b"x" * size))
    # Who goes on sending may be cut off before it hears why.
    assert answer[9:12] == status or (size > 11 and not answer)


async def test_a_body_that_does_not_come_is_not_waited_for(nursery: trio.Nursery) -> None:
    address = await begin(nursery, BodyLimit(echo, seconds=0.05))
    answer = await asked(address, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nx")
    assert answer[9:12] == b"408"


async def test_an_address_that_is_taken_is_an_error() -> None:
    with listen_tcp(parse_listen("127.0.0.1:0")) as first, pytest.raises(OSError, match="in use"):
        listen_tcp(address_of(first))


async def test_the_next_listener_has_the_address_at_once(nursery: trio.Nursery) -> None:
    """Also when connections of the one before are still winding down."""
    listener = listen_tcp(parse_listen("127.0.0.1:0"))
    address = address_of(listener)
    async with trio.open_nursery() as first:
        await first.start(serve_tcp, echo, listener)
        assert await is_answered(address)
        first.cancel_scope.cancel()
    again = listen_tcp(address)
    await nursery.start(serve_tcp, echo, again)
    assert await is_answered(address)


async def test_ipv6_is_an_address_like_another(nursery: trio.Nursery) -> None:
    try:
        listener = listen_tcp(parse_listen("[::1]:0"))
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert listener.family == socket.AF_INET6
    await nursery.start(serve_tcp, echo, listener)
    assert await is_answered(address_of(listener))


async def test_an_application_is_built_once_and_when_it_is_asked(nursery: trio.Nursery) -> None:
    built: list[int] = []

    def build() -> ASGIApp:
        built.append(1)
        return echo

    address = await begin(nursery, Later(build))
    assert built == []
    answers: list[bytes] = []

    async def ask() -> None:
        answers.append(await asked(address, request("/", CLOSE)))

    async with trio.open_nursery() as clients:
        for _ in range(3):
            clients.start_soon(ask)
    assert [answer[9:12] for answer in answers] == [b"200"] * 3
    assert built == [1]
