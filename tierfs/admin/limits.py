"""Limits of one request: how large its body may be, and how long it may take to come."""

from collections.abc import MutableMapping
from typing import Any

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tierfs.admin.auth import refused

#: A list of 6,000 paths of 160 bytes: who has more of them says what they have in common.
LARGEST_BODY_BYTES = 1 << 20
#: How long a body may take to come.
BODY_SECONDS = 20.0


class BodyLimit:
    """Takes the whole body of a request before anything is done about it."""

    def __init__(self, app: ASGIApp, largest_bytes: int = LARGEST_BODY_BYTES, seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._largest_bytes = largest_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = None
        with trio.move_on_after(self._seconds) as patience:
            body = await self._body(receive)
        if patience.cancelled_caught:
            late = f"the body of the request did not come within {self._seconds:g} s"
            await refused("RequestTimeout", late, 408)(scope, receive, send)
        elif body is None:
            large = f"the request is larger than {self._largest_bytes} bytes: name fewer paths, or use globs"
            await refused("TooLarge", large, 413)(scope, receive, send)
        else:
            await self._app(scope, _Again(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The body; None when it is too large, what there is of it when the client hung up."""
        received = bytearray()
        while True:
            message: MutableMapping[str, Any] = await receive()
            received += message.get("body", b"")
            if len(received) > self._largest_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(received)


class _Again:
    """Gives out a body that was received, and then what comes after it."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}
