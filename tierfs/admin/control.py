"""The control API: HTTP on a Unix socket, inside the worker's trio loop.

    GET  /api/v1/status?quick=true                        one JSON object; quick: for who asks every few seconds
    GET  /api/v1/activity                                 one JSON object
    POST /api/v1/list                {paths, recursive}   entries; an outcome for a path that is not there
    POST /api/v1/archive|release|restore {paths, recursive}   a total, then one outcome per file
    POST /api/v1/leave                                    everything is pinned and restored: as restore
    POST /api/v1/pin|unpin           {paths}              outcomes
    POST /api/v1/evict               {paths: [...]|null}  outcomes; null: the whole cache
    GET  /api/v1/plan                                     planned actions
    POST /api/v1/cost                {prices: text|null}  one JSON object; prices: a table, null: that of the mount
    POST /api/v1/check               {deep, repair, bytes_per_second}   findings; deep: a total, an outcome per object
    GET  /api/v1/events?after=NUMBER&follow=true          events; follow: also those to come, until the client hangs up
    GET  /api/v1/jobs                                     jobs
    POST /api/v1/jobs                {verb, paths, recursive}   the job that was begun
    GET  /api/v1/jobs/ID                                  the job, and an outcome for each file that failed
    DELETE /api/v1/jobs/ID                                the job, which is cancelled
    GET  /metrics                                         the text format of Prometheus (see metrics)

All others answer with JSON lines (see wire). An error before the first line is {"error": {kind, message}} with a
status code; one in the middle is the last line. A client that hangs up cancels what it asked for.

Who may speak: the user who runs the mount, and root. The socket has mode 0600, and the kernel is asked for the peer's
credentials on every connection, so that a runtime directory on a filesystem without modes changes nothing.
"""

import json
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tierfs.admin import metrics, wire
from tierfs.admin.auth import OriginGate
from tierfs.admin.listeners import Connections, Starting
from tierfs.admin.registry import short_path
from tierfs.admin.service import Service
from tierfs.core.errors import ControlError, TierfsError
from tierfs.core.reports import Report, Verb

_LOG = logging.getLogger(__name__)

#: A request is a list of paths: 100,000 of 160 bytes.
_LARGEST_REQUEST_BYTES = 16 << 20
_BACKLOG = 64


async def serve(
    service: Service,
    socket_path: Path,
    others: ASGIApp | None = None,
    *,
    task_status: Starting = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control API until cancelled; started when the socket accepts connections. OSError.

    `others` answers what the control API has no route for. A socket that an earlier worker left is replaced in one
    step: a client meets the old one or the new one.
    """
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listen(socket_path)))
    mine = socket_path.stat().st_ino
    app = application(service)
    connections = Connections(OriginGate(beside(app, others) if others else app), _is_welcome)
    try:
        async with listener:
            # The socket listens since `listen`: a client that connects from here on is served.
            task_status.started()
            await connections.serve(listener)
    finally:
        # The next worker may have put its own socket there already.
        if socket_path.exists() and socket_path.stat().st_ino == mine:
            socket_path.unlink(missing_ok=True)


def listen(socket_path: Path) -> socket.socket:
    """A listening Unix socket that only its owner (and root) may connect to. OSError."""
    fresh = socket_path.with_name(f"{socket_path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(fresh) as name:
            listener.bind(name)
        # Until listen(2), nobody can connect: there is no moment at which the mode matters and is not yet set.
        fresh.chmod(0o600)
        listener.listen(_BACKLOG)
        fresh.replace(socket_path)
    except BaseException:
        listener.close()
        fresh.unlink(missing_ok=True)
        raise
    return listener


def _is_welcome(connection: trio.socket.SocketType) -> bool:
    """Whether the peer is this user or root: SO_PEERCRED, struct ucred {pid, uid, gid} (unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.geteuid())


def application(service: Service) -> Starlette:
    """The ASGI application over a service."""
    routes = [
        Route(f"{wire.API}/status", _answering(_status, service), methods=["GET"]),
        Route(f"{wire.API}/activity", _answering(_activity, service), methods=["GET"]),
        Route(f"{wire.API}/plan", _answering(_plan, service), methods=["GET"]),
        Route(wire.METRICS, _answering(answer_metrics, service), methods=["GET"]),
        Route(f"{wire.API}/events", _answering(_events, service), methods=["GET"]),
        Route(f"{wire.API}/jobs", _answering(_jobs, service), methods=["GET"]),
        Route(f"{wire.API}/jobs/{{id}}", _answering(_job, service), methods=["GET"]),
        Route(f"{wire.API}/jobs/{{id}}", _answering(_cancel_job, service), methods=["DELETE"]),
    ]
    posts: dict[str, _Handler] = {
        "list": _list,
        "archive": partial(_move, "archive"),
        "release": partial(_move, "release"),
        "restore": partial(_move, "restore"),
        "leave": _leave,
        "pin": _pin,
        "unpin": _unpin,
        "evict": _evict,
        "cost": _cost,
        "check": _check,
        "jobs": _start_job,
    }
    routes += [Route(f"{wire.API}/{name}", _answering(do, service), methods=["POST"]) for name, do in posts.items()]
    return Starlette(routes=routes)


def beside(app: Starlette, others: ASGIApp) -> ASGIApp:
    """An application for the paths that it has routes for, and another one for all other paths."""
    routes = [route.path_regex for route in app.routes if isinstance(route, Route)]

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        is_known = scope["type"] != "http" or any(route.match(scope["path"]) for route in routes)
        await (app if is_known else others)(scope, receive, send)

    return either


_Handler = Callable[[Service, Request], Awaitable[Response]]


async def _status(service: Service, request: Request) -> Response:
    is_quick = wire.checked_flag(request.query_params.get("quick"))
    return Response(wire.dump(await service.status(is_quick)), media_type="application/json")


async def _activity(service: Service, _request: Request) -> Response:
    return Response(wire.dump(await service.activity()), media_type="application/json")


async def answer_metrics(service: Service, request: Request) -> Response:
    """What is counted, in the format that the scraper reads."""
    body, media_type = await metrics.scrape(await service.measure(), request.headers.get("accept", ""))
    return Response(body, headers={"content-type": media_type})


async def _list(service: Service, request: Request) -> Response:
    paths, recursive = await _paths_of(request)
    return _Lines(service.list_entries(paths, recursive))


async def _move(verb: Verb, service: Service, request: Request) -> Response:
    paths, recursive = await _paths_of(request)
    return _Lines(service.move(verb, paths, recursive))


async def _leave(service: Service, _request: Request) -> Response:
    return _Lines(service.leave())


async def _pin(service: Service, request: Request) -> Response:
    paths, _ = await _paths_of(request)
    return _Lines(service.pin(paths))


async def _unpin(service: Service, request: Request) -> Response:
    paths, _ = await _paths_of(request)
    return _Lines(service.unpin(paths))


async def _evict(service: Service, request: Request) -> Response:
    body = await _body_of(request)
    paths = None if body.get("paths") is None else _checked_paths(body)
    return _Lines(await service.evict(paths))


async def _plan(service: Service, _request: Request) -> Response:
    return _Lines(await service.plan())


async def _cost(service: Service, request: Request) -> Response:
    prices = (await _body_of(request)).get("prices")
    if prices is not None and not isinstance(prices, str):
        raise ControlError(f"prices is the text of a table, or null, not {prices!r}")
    return Response(wire.dump(await service.costs(prices)), media_type="application/json")


async def _check(service: Service, request: Request) -> Response:
    body = await _body_of(request)
    return _Lines(service.check(wire.checked_order(body)))


async def _events(service: Service, request: Request) -> Response:
    query = request.query_params
    return _Lines(service.events(wire.checked_number(query.get("after")), wire.checked_flag(query.get("follow"))))


async def _start_job(service: Service, request: Request) -> Response:
    body = await _body_of(request)
    verb, (paths, recursive) = wire.checked_verb(body.get("verb")), _checked_order(body)
    return _Lines([await service.start_job(verb, paths, recursive)])


async def _jobs(service: Service, _request: Request) -> Response:
    return _Lines(await service.jobs())


async def _job(service: Service, request: Request) -> Response:
    job_id = request.path_params["id"]
    return _Lines([await service.job(job_id), *await service.job_failures(job_id)])


async def _cancel_job(service: Service, request: Request) -> Response:
    return _Lines([await service.cancel_job(request.path_params["id"])])


def _answering(do: _Handler, service: Service) -> Callable[[Request], Awaitable[Response]]:
    """The one place where errors become answers."""

    async def answer(request: Request) -> Response:
        try:
            return await do(service, request)
        except (TierfsError, OSError) as error:
            return refusal(error)
        except Exception as error:
            _LOG.exception("A defect of tierfs met %s", request.url.path)
            return refusal(error)

    return answer


def refusal(error: BaseException) -> Response:
    """The answer that says an error, with its status."""
    body = wire.dump(wire.error_to_json(error))
    return Response(body, status_code=wire.status_of(error), media_type="application/json")


class _Lines(Response):
    """Reports as JSON lines, sent as they come; the producer is cancelled when the client hangs up."""

    def __init__(self, reports: AsyncIterator[Report] | Sequence[Report]) -> None:
        super().__init__(media_type=wire.LINES)
        del self.headers["content-length"]
        self._reports = reports if isinstance(reports, AsyncIterator) else _each(reports)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_hang_up, receive, nursery.cancel_scope)
            try:
                await self._send_all(scope, receive, send)
            finally:
                # A generator that is left to the garbage collector could not clean up asynchronously.
                if isinstance(self._reports, AsyncGenerator):
                    await self._reports.aclose()
            nursery.cancel_scope.cancel()

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The status line waits for the first report, so that an error before it has a status code of its own."""
        is_started = False
        try:
            async for report in self._reports:
                if not is_started:
                    is_started = True
                    await self._start(send)
                await send({"type": "http.response.body", "body": wire.dump(wire.to_json(report)), "more_body": True})
        except Exception as error:
            if not isinstance(error, TierfsError | OSError):
                _LOG.exception("A defect of tierfs met %s", scope["path"])
            if not is_started:
                await refusal(error)(scope, receive, send)
                return
            line = wire.dump(wire.error_to_json(error))
            await send({"type": "http.response.body", "body": line, "more_body": True})
        if not is_started:
            await self._start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


async def _each(reports: Sequence[Report]) -> AsyncGenerator[Report, None]:
    for report in reports:
        yield report


async def cancel_on_hang_up(receive: Receive, scope: trio.CancelScope) -> None:
    """End what is done for a client when nobody waits for it any more."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _paths_of(request: Request) -> tuple[list[bytes], bool]:
    return _checked_order(await _body_of(request))


def _checked_order(body: Mapping[str, object]) -> tuple[list[bytes], bool]:
    recursive = body.get("recursive", False)
    if not isinstance(recursive, bool):
        raise ControlError(f"recursive is true or false, not {recursive!r}")
    return _checked_paths(body), recursive


def _checked_paths(body: Mapping[str, object]) -> list[bytes]:
    paths = body.get("paths")
    if not isinstance(paths, list):
        raise ControlError("the request has no list of paths")
    return [wire.checked_path(path) for path in paths]


async def _body_of(request: Request) -> Mapping[str, object]:
    received = bytearray()
    try:
        async for block in request.stream():
            received += block
            if len(received) > _LARGEST_REQUEST_BYTES:
                raise ControlError(f"the request is larger than {_LARGEST_REQUEST_BYTES} bytes: name fewer paths")
    except ClientDisconnect:
        raise ControlError("the client hung up in the middle of its request") from None
    try:
        body = json.loads(received)
    except ValueError as error:
        raise ControlError(f"the request is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ControlError("the request is not a JSON object")
    return body
