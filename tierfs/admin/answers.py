"""What all parts of the REST API do alike: read paths out of a request, answer, give up for who has hung up."""

import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import trio
from starlette.requests import Request
from starlette.responses import Response

from tierfs.admin import wire
from tierfs.admin.control import cancel_on_hang_up
from tierfs.core.config import Settings
from tierfs.core.errors import ControlError
from tierfs.core.profiles import policy_of
from tierfs.engine.listing import Listing
from tierfs.engine.observed import Facts
from tierfs.engine.service import Operator

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Mounted:
    """The mount that the API is about."""

    operator: Operator
    listing: Listing
    settings: Settings

    @property
    def facts(self) -> Facts:
        """Where it is, and who serves it."""
        return self.operator.facts

    @property
    def policy(self) -> str:
        """Which policy its files are under."""
        return policy_of(self.settings.profile)


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as ASCII JSON."""
    return Response(wire.dump(value), status, headers, "application/json")


def complaint(kind: str, message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal in a sentence."""
    return answer({"error": {"kind": kind, "message": message}}, status, headers)


def path_behind(request: Request, route: str) -> bytes:
    """The rest of a request's path behind a route, as bytes. FileNotFoundError where no file can have it.

    The path that a framework hands over is text, and has lost what is not UTF-8.
    """
    whole = unquote_to_bytes(request.scope["raw_path"])
    return inside(whole.removeprefix(route.encode()))


def inside(path: bytes) -> bytes:
    """The path, if it is one inside the tree. FileNotFoundError."""
    try:
        return wire.checked_path(os.fsdecode(path))
    except ControlError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path)) from None


def parameter(request: Request, name: str) -> bytes:
    """A parameter of the query as bytes; the last one counts, as in the rest of the query. Empty without one."""
    query = request.scope["query_string"].decode("latin-1")
    values = dict(parse_qsl(query, keep_blank_values=True, encoding="utf-8", errors="surrogateescape"))
    return os.fsencode(values.get(name, ""))


async def unless_hung_up(request: Request, work: Callable[[], Awaitable[_T]]) -> _T | None:
    """Do something for as long as the client waits for it; None when it did not wait. The request was read."""
    result: _T | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_hang_up, request.receive, nursery.cancel_scope)
        result = await work()
        nursery.cancel_scope.cancel()
    return result


def gone() -> Response:
    """For who does not hear it."""
    return Response(status_code=499)
