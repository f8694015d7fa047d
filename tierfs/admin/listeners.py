"""Connections to the API, each served by hypercorn's inner class.

hypercorn's own serve() shields what it sends from cancellation: a client that stops reading would hold up the end of
the worker. So the connections are ours, and cancellation closes them. Over TCP, where a client may be anybody, there
are so many at a time and no more, and one that neither sends nor takes what it is sent is dropped.
"""

import logging
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import trio
from hypercorn.config import Config
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp

from tierfs.core.listen import ListenAddress

_LOG = logging.getLogger(__name__)

_BACKLOG = 64
#: A pause after which a dead peer is looked for, and between the looks, and how many of them: tcp(7).
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
#: What must have gone out within the time that a client is given.
_PIECE_BYTES = 64 << 10


class Starting(Protocol):
    """What a nursery's start() hands to a task."""

    def started(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long clients are waited for, in seconds, and how many are served at the same time.

    `head_s`: for a request to begin and its head to be complete; `piece_s`: for 64 KiB of an answer to be taken.
    """

    head_s: float = 10.0
    piece_s: float = 20.0
    connections: int = 32


def everybody(_connection: trio.socket.SocketType) -> bool:
    """Whoever connects may speak; what they may ask for is decided for each request."""
    return True


class Connections:
    """The conversations with clients of one listener. `patience` None: with people of this host, who may pause."""

    def __init__(
        self, app: ASGIApp, is_welcome: Callable[[trio.socket.SocketType], bool], patience: Patience | None = None
    ) -> None:
        self._config = Config()
        self._config.errorlog = _LOG
        self._config.loglevel = "WARNING"
        self._config.include_server_header = False
        if patience:
            self._config.keep_alive_timeout = patience.head_s
        self._app: Any = wrap_app(cast("Any", app), self._config.wsgi_max_body_size, "asgi")
        self._is_welcome = is_welcome
        self._patience = patience
        self._open = 0

    async def serve(self, listener: trio.SocketListener) -> None:
        """Serve until cancelled."""
        await trio.serve_listeners(self._converse, [listener])

    async def _converse(self, stream: trio.SocketStream) -> None:
        """Speak HTTP with one client."""
        is_full = self._patience is not None and self._open >= self._patience.connections
        if is_full or not self._is_welcome(stream.socket):
            await stream.aclose()
            return
        self._open += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_close_when_cancelled, stream)
                context = WorkerContext(None)
                piece_s = self._patience.piece_s if self._patience else None
                watched = cast("Any", WatchedStream(stream, piece_s, cast("EventWrapper", context.terminated)))
                await _Server(self._app, self._config, context, ConnectionState(cast("Any", {})), watched)
                nursery.cancel_scope.cancel()
        except Exception:
            # One broken conversation must not end the worker, which serves the mount.
            _LOG.exception("A connection to the control API broke")
        finally:
            self._open -= 1


class _Http1(H11Protocol):
    """HTTP/1.1 and nothing else, whatever is offered.

    In HTTP/2 a client may let nothing of an answer through, not even of a 401, and the stream is silent for ever: its
    connection would be one of a few. And one connection would be as many requests at a time as it likes.
    """

    async def _check_protocol(self, event: object) -> None:
        """An upgrade that is offered is not taken."""


class _Server(TCPServer):
    """hypercorn's, which speaks what `_Http1` speaks."""

    async def _read_data(self) -> None:
        whole = self.protocol
        whole.protocol = _Http1(
            *(whole.app, whole.config, whole.context, whole.task_group, whole.state),
            *(whole.ssl, whole.client, whole.server, whole.send),
        )
        await super()._read_data()


class WatchedStream:
    """A stream that says when its peer has hung up, or is given up: hypercorn would keep it until it is idle for long.

    `piece_s` is how long the peer may leave 64 KiB of an answer to itself, None for as long as it likes.
    """

    def __init__(self, stream: trio.SocketStream, piece_s: float | None, hung_up: EventWrapper) -> None:
        self.socket = stream.socket
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._stream = stream
        self._piece_s = math.inf if piece_s is None else piece_s
        self._hung_up = hung_up

    async def receive_some(self, most: int) -> bytes:
        """What comes next, nothing at the end. BrokenResourceError, ClosedResourceError."""
        data = b""
        try:
            data = bytes(await self._stream.receive_some(most))
        finally:
            if not data:
                await self._hung_up.set()
        return data

    async def send_all(self, data: bytes) -> None:
        """Send all of it. BrokenResourceError where the peer does not take it."""
        for begin in range(0, len(data), _PIECE_BYTES):
            with trio.move_on_after(self._piece_s) as patience:
                await self._send(data[begin : begin + _PIECE_BYTES])
            if patience.cancelled_caught:
                self.socket.close()
                raise trio.BrokenResourceError(f"the client took nothing for {self._piece_s:g} s")

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BusyResourceError:  # hypercorn sends one thing at a time: what goes on is the end
            raise trio.BrokenResourceError("the conversation ends") from None


async def _close_when_cancelled(stream: trio.SocketStream) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stream.socket.close()


def listen_tcp(address: ListenAddress) -> socket.socket:
    """A listening socket at an address of this host. OSError.

    A worker takes over the address of the one that just ended (SO_REUSEADDR); of one that lives nobody can take it.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # what is accepted has it from here
        for option, value in _KEEPALIVE:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address.host, address.port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> ListenAddress:
    """Where a socket listens: with the port that the kernel chose, where none was asked for."""
    return ListenAddress(*listener.getsockname()[:2])


async def serve_tcp(
    app: ASGIApp,
    listener: socket.socket,
    patience: Patience | None = None,
    *,
    task_status: Starting = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application over TCP until cancelled; the socket is closed then."""
    async with trio.SocketListener(trio.socket.from_stdlib_socket(listener)) as ours:
        task_status.started()
        await Connections(app, everybody, patience or Patience()).serve(ours)
