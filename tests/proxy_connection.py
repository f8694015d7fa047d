"""One connection of the fault proxy: HTTP/1.1 from the client to the server behind, and back.

Heads are read and passed on as they came, byte by byte, since a signature covers them. Bodies that are passed
unchanged go from socket to socket through a pipe (splice), so they never enter Python.
"""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from fcntl import fcntl
from typing import Protocol
from urllib.parse import unquote

from tests.faults import Fault, Faults, Kind, Verdict

_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 1 << 20
_SO_MAX_PACING_RATE = 47  # socket(7) does not have it; TCP paces by itself where the queue discipline does not
_UNPACED = (1 << 64) - 1
_HEAD_BYTES = 64 << 10
_ANOTHER = str.maketrans("0123456789abcdef", "123456789abcdef0")  # every digit of an ETag
_REASONS = {403: "Forbidden", 404: "Not Found", 412: "Precondition Failed", 500: "Internal Server Error"}


#: These leave the body of an answer as it is.
_NOT_OF_THE_BODY = (Kind.ETAG, Kind.DATE, Kind.CORRUPT_UPLOAD, Kind.RESET_UPLOAD, Kind.LOST_ANSWER)


class Closed(Exception):
    """One side closed the connection, or it is to be closed."""


@dataclass(slots=True)
class Counts:
    """What passed since the start or the last reset. `down` and `up` are bytes of bodies as sent on; `open` is now."""

    connections: int = 0
    open: int = 0
    down: int = 0
    up: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Regime:
    """Faults that hold; `ended`, an eventfd, is readable once others do."""

    faults: Faults
    ended: int

    def hold(self, client: socket.socket) -> None:
        """Return when other faults hold or the client hangs up."""
        poll = select.poll()
        poll.register(client, select.POLLRDHUP)
        poll.register(self.ended, select.POLLIN)
        poll.poll()


class House(Protocol):
    """What a connection knows of the proxy."""

    upstream: tuple[str, int]

    @property
    def regime(self) -> "Regime": ...

    def count(self, change: Callable[[Counts], None]) -> None:
        """Change the counts, alone."""
        ...


class Peer:
    """One end: a socket, and what was read of it too early."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.early = b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pace(self, bytes_per_s: int) -> None:
        """Let the kernel send this fast; 0: as fast as it can."""
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, (bytes_per_s or _UNPACED).to_bytes(8, "little"))

    def read_some(self, size: int) -> bytes:
        """At least a byte. Closed."""
        data, self.early = self.early[:size], self.early[size:]
        data = data or self.socket.recv(size)
        if not data:
            raise Closed
        return data

    def read_until(self, mark: bytes) -> bytes:
        """All up to and with the mark. Closed."""
        data = self.early
        while (end := data.find(mark)) < 0:
            more = self.socket.recv(8192)
            if not more or len(data) > _HEAD_BYTES:
                raise Closed
            data += more
        end += len(mark)
        self.early = data[end:]
        return data[:end]

    def reset(self) -> None:
        """Close with RST: what is still under way is lost."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request or an answer; names of headers in lower case."""

    raw: bytes
    words: list[str]
    headers: dict[str, str]

    @classmethod
    def read(cls, peer: Peer) -> "Head":
        """The next one. Closed."""
        raw = peer.read_until(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(raw, first.split(" ", 2), {name.lower(): value.strip() for name, _, value in pairs})

    @property
    def key(self) -> str:
        """BUCKET/KEY of a request."""
        return unquote(self.words[1].partition("?")[0]).lstrip("/")

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        return int(self.headers["content-length"]) if "content-length" in self.headers else None

    @property
    def wants_to_stay(self) -> bool:
        """Whether its sender keeps the connection."""
        connection = self.headers.get("connection", "").lower()
        return "keep-alive" in connection if "HTTP/1.0" in self.words else "close" not in connection

    def with_length(self, length: int) -> bytes:
        """The head, announcing another length."""
        return self._with(b"Content-Length", b"%d" % length)

    def spoiled(self, fault: Fault | None) -> bytes:
        """The head as a fault of heads wants it."""
        kind = fault and fault.kind
        if fault and kind is Kind.SHORTEN and self.length is not None:
            return self.with_length(self.length // 2 if fault.at is None else fault.at)
        if kind is Kind.ETAG and "etag" in self.headers:
            return self._with(b"ETag", self.headers["etag"].translate(_ANOTHER).encode("latin-1"))
        if fault and kind is Kind.DATE and "date" in self.headers:
            then = parsedate_to_datetime(self.headers["date"]) + timedelta(seconds=fault.seconds)
            return self._with(b"Date", format_datetime(then, usegmt=True).encode())
        return self.raw

    def _with(self, name: bytes, value: bytes) -> bytes:
        mark, new = name.lower() + b":", name + b": " + value
        lines = self.raw.split(b"\r\n")
        return b"\r\n".join(new if line.lower().startswith(mark) else line for line in lines)


class Connection(threading.Thread):
    """Serves one client until one of both sides closes."""

    def __init__(self, house: House, client: socket.socket) -> None:
        super().__init__(daemon=True)
        self._house = house
        self._client = Peer(client)
        self._server: Peer | None = None
        self._pipe = os.pipe2(os.O_CLOEXEC)
        fcntl(self._pipe[1], _F_SETPIPE_SZ, _PIPE_BYTES)

    def run(self) -> None:
        """Request after request."""
        try:
            with suppress(Closed, OSError):
                while self._exchange():
                    pass
        finally:
            for end in self._pipe:
                os.close(end)
            for peer in (self._client, self._server):
                if peer:
                    peer.socket.close()
            self._house.count(_left)

    def cut(self) -> None:
        """End it from another thread."""
        for peer in (self._client, self._server):
            if peer:
                with suppress(OSError):
                    peer.socket.shutdown(socket.SHUT_RDWR)

    # -- one request ---------------------------------------------------------------------------------------------

    def _exchange(self) -> bool:
        request = Head.read(self._client)
        method = request.words[0]
        regime = self._house.regime
        verdict = regime.faults.judge(method, request.key)
        self._house.count(lambda counts: _add(counts, method, verdict))
        if verdict.seconds:
            time.sleep(verdict.seconds)
        ending = verdict.ending
        if ending and ending.kind is Kind.RESET:
            self._client.reset()
            return False
        if ending and ending.kind is Kind.BLACK_HOLE:
            regime.hold(self._client.socket)
            return False
        if ending and ending.kind is Kind.STATUS:
            return self._refuse(request, ending)
        return self._pass(request, verdict, regime)

    def _refuse(self, request: Head, fault: Fault) -> bool:
        if "expect" not in request.headers:
            self._drain(request)
        body = fault.body(request.key)
        reason = _REASONS.get(fault.status, "Service Unavailable")
        head = (
            f"HTTP/1.1 {fault.status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._client.socket.sendall(head.encode() + (b"" if request.words[0] == "HEAD" else body))
        return request.wants_to_stay

    def _drain(self, request: Head) -> None:
        if request.is_chunked:
            raise Closed
        left = request.length or 0
        while left:
            left -= len(self._client.read_some(min(left, _PIPE_BYTES)))

    def _pass(self, request: Head, verdict: Verdict, regime: Regime) -> bool:
        client, server = self._client, self._connected()
        client.pace(verdict.bytes_per_s)
        server.pace(verdict.bytes_per_s)
        server.socket.sendall(request.raw)
        answer = None
        if "expect" in request.headers and self._is_answered(server):
            answer = Head.read(server)
            if answer.words[1] == "100":
                client.socket.sendall(answer.raw)
                answer = None
        is_whole = answer is None
        if answer is None:
            self._upload(request, client, server, verdict.ending)
            answer = Head.read(server)
        if verdict.ending and verdict.ending.kind is Kind.LOST_ANSWER:
            client.reset()
            return False
        self._answer(request, answer, server, verdict.ending)
        if verdict.ending and verdict.ending.kind is Kind.STALL:
            regime.hold(client.socket)
            return False
        return is_whole and request.wants_to_stay and answer.wants_to_stay

    def _is_answered(self, server: Peer) -> bool:
        """Whether the server speaks before the client sends its body.

        A Go server that refuses says nothing before it has the body, and boto3 sends that unasked after a second.
        """
        if self._client.early:
            return False
        poll = select.poll()
        poll.register(server.socket, select.POLLIN)
        poll.register(self._client.socket, select.POLLIN)
        return server.socket.fileno() in dict(poll.poll())

    def _answer(self, request: Head, answer: Head, server: Peer, fault: Fault | None) -> None:
        client = self._client
        if request.words[0] == "HEAD" or answer.words[1] in ("204", "304"):
            client.socket.sendall(answer.spoiled(fault))
        elif answer.length is not None:
            self._spoiled(answer, server, answer.length, fault)
        elif answer.is_chunked:
            client.socket.sendall(answer.raw)
            self._body(answer, server, client, self._count_down)
        else:
            client.socket.sendall(answer.raw)
            while True:
                self._count_down(self._some(server, client, _PIPE_BYTES))

    def _spoiled(self, answer: Head, server: Peer, length: int, fault: Fault | None) -> None:
        """An answer whose length is known, as the fault wants it."""
        client, kind = self._client, fault and fault.kind
        is_whole = fault is None or kind in _NOT_OF_THE_BODY
        at = length if is_whole or fault is None else fault.place_in(length)
        client.socket.sendall(answer.with_length(at) if kind is Kind.SHORTEN else answer.spoiled(fault))
        self._bytes(server, client, at, self._count_down)
        if kind is Kind.CORRUPT and at < length:
            byte = server.read_some(1)[0]
            client.socket.sendall(bytes([byte ^ 1]))
            self._count_down(1)
            self._bytes(server, client, length - at - 1, self._count_down)
        elif kind is Kind.RESET_IN_BODY:
            client.reset()
            raise Closed
        elif kind is Kind.SHORTEN:
            self._server = None  # the rest of its body is still in it
            server.socket.close()
        elif kind is Kind.TRUNCATE:
            raise Closed

    def _upload(self, request: Head, client: Peer, server: Peer, fault: Fault | None) -> None:
        """The body of a request, as the fault wants it; one without a body is passed as it is."""
        kind, length = fault and fault.kind, request.length or 0
        if fault is None or not length or kind not in (Kind.CORRUPT_UPLOAD, Kind.RESET_UPLOAD):
            self._body(request, client, server, self._count_up)
            return
        at = min(fault.place_in(length), length - 1)
        self._bytes(client, server, at, self._count_up)
        if kind is Kind.RESET_UPLOAD:
            client.reset()
            raise Closed
        server.socket.sendall(bytes([client.read_some(1)[0] ^ 1]))
        self._count_up(1)
        self._bytes(client, server, length - at - 1, self._count_up)

    # -- bodies --------------------------------------------------------------------------------------------------

    def _body(self, head: Head, source: Peer, target: Peer, count: Callable[[int], None]) -> None:
        if not head.is_chunked:
            self._bytes(source, target, head.length or 0, count)
            return
        while True:
            line = source.read_until(b"\r\n")
            target.socket.sendall(line)
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            self._bytes(source, target, size + 2, count)
        while line != b"\r\n":  # trailers
            line = source.read_until(b"\r\n")
            target.socket.sendall(line)

    def _bytes(self, source: Peer, target: Peer, left: int, count: Callable[[int], None]) -> None:
        while left:
            moved = self._some(source, target, left)
            left -= moved
            count(moved)

    def _some(self, source: Peer, target: Peer, most: int) -> int:
        if source.early:
            data = source.read_some(most)
            target.socket.sendall(data)
            return len(data)
        moved = os.splice(source.socket.fileno(), self._pipe[1], min(most, _PIPE_BYTES))
        if not moved:
            raise Closed
        left = moved
        while left:
            left -= os.splice(self._pipe[0], target.socket.fileno(), left)
        return moved

    def _connected(self) -> Peer:
        """The server, which may have closed an idle connection meanwhile."""
        if self._server:
            poll = select.poll()
            poll.register(self._server.socket, select.POLLIN)
            if poll.poll(0):
                self._server.socket.close()
                self._server = None
        if self._server is None:
            self._server = Peer(socket.create_connection(self._house.upstream))
        return self._server

    def _count_down(self, moved: int) -> None:
        def change(counts: Counts) -> None:
            counts.down += moved

        self._house.count(change)

    def _count_up(self, moved: int) -> None:
        def change(counts: Counts) -> None:
            counts.up += moved

        self._house.count(change)


def _add(counts: Counts, method: str, verdict: Verdict) -> None:
    counts.requests[method] = counts.requests.get(method, 0) + 1
    for fault in verdict.struck:
        counts.faults[fault.kind] = counts.faults.get(fault.kind, 0) + 1


def _left(counts: Counts) -> None:
    counts.open -= 1
