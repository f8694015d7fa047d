"""The REST API: typed routes, described by OpenAPI. Importing this module loads FastAPI: see later.

What is asked is checked by FastAPI and pydantic; answers are made as ASCII JSON here. Handlers are asynchronous, all of
them: others would run in threads, beside the engine that is not made for those.
"""

import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import trio
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import TypeAdapter
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from tierfs.admin import shapes, wire
from tierfs.admin.answers import Mounted, answer, complaint
from tierfs.admin.control import answer_metrics, refusal
from tierfs.admin.limits import BodyLimit
from tierfs.admin.page import Page
from tierfs.admin.rest_segments import Segments
from tierfs.admin.rest_work import Work
from tierfs.admin.seal import Sealed
from tierfs.admin.shapes_activity import Activity
from tierfs.admin.shapes_cost import Cost
from tierfs.admin.swagger import Swagger
from tierfs.core.errors import TierfsError
from tierfs.core.toml import shown
from tierfs.engine.measures import Measures

_LOG = logging.getLogger(__name__)

_TIERED = f"{wire.API}/tiered"
_MOST_PLANNED = 1_000
#: How long /readyz waits for what is known of the store.
_PATIENCE_S = 2.0

_ABOUT = """\
What `tierfs` does for an operator, over HTTP. Paths are relative to the mountpoint, sizes are bytes, times are seconds
since the epoch. A byte of a path that is not UTF-8 is `%XX` in a URL and a lone surrogate in JSON."""

#: What may go wrong anywhere, and whose fault it is. References, because a model of its own for each status of each
#: route takes half a second to build.
_REFUSED = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": _REFUSED}
    for status, text in {
        400: "The request makes no sense.",
        401: "Over TCP: no token, or another one.",
        403: "The operating system or a rule refuses it.",
        404: "There is no such thing; a path outside the tree is not there either.",
        405: "Not with this method.",
        408: "The body did not come in time.",
        409: "The rules forbid it now; the message is the reason.",
        410: "The bytes of the file are nowhere.",
        413: "The body is too large.",
        422: "The request is not of the form that is described here.",
        429: "A budget is spent.",
        500: "A defect of tierfs, or its local disks fail.",
        502: "The store does not do what it was asked.",
        503: "The store cannot be reached.",
        504: "The store did not answer in time.",
    }.items()
}


class AnyPath(PathConvertor):
    """A path, whatever characters are in it: names may hold line breaks."""

    regex = "(?s:.*)"


class Answering(APIRoute):
    """A route, and the one place where the errors of its handler become answers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except (HTTPException, RequestValidationError):
                raise
            except (TierfsError, OSError) as error:
                return refusal(error)
            except Exception as error:
                first = _only(error)
                if not isinstance(first, TierfsError | OSError):
                    _LOG.exception("A defect of tierfs met %s", request.url.path)
                return refusal(first)

        return answered


class Overview:
    """Answers about the mount as a whole."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted

    def add_to(self, router: APIRouter) -> None:
        """Say which requests are answered."""
        add = router.add_api_route
        add("/healthz", self.health, response_model=shapes.Health, tags=["health"])
        add("/readyz", self.readiness, response_model=shapes.Readiness, tags=["health"])
        text: dict[int | str, Any] = {
            200: {"description": "The text format of Prometheus.", "content": {"text/plain": {}}}
        }
        add(wire.METRICS, self.metrics, responses=text, response_class=Response, tags=["health"])
        add(f"{_TIERED}/stats", self.stats, response_model=shapes.Stats, tags=["overview"])
        add(f"{_TIERED}/activity", self.activity, response_model=Activity, tags=["overview"])
        add(f"{_TIERED}/plan", self.plan, response_model=shapes.Plan, tags=["overview"])
        add(f"{_TIERED}/cost", self.cost, response_model=Cost, tags=["overview"])
        add(f"{wire.API}/config", self.configuration, response_model=shapes.Configuration, tags=["overview"])

    async def health(self) -> Response:
        """The worker answers: its loop, which serves the kernel too, has a turn for everybody."""
        facts = self._mounted.facts
        return answer({"status": "ok", "version": facts.version, "worker_pid": facts.worker_pid})

    async def readiness(self) -> Response:
        """The mount serves: there is nobody to answer this before it does.

        A store that is away is no reason not to be ready: hot files do not need it. What is known of it is said.
        """
        measured: Measures | None = None
        with trio.move_on_after(_PATIENCE_S):
            measured = await self._mounted.operator.measure()
        state = _store_state(measured)
        return answer({"status": "ready", "mountpoint": self._mounted.facts.mountpoint, "store": state})

    async def metrics(self, request: Request) -> Response:
        """What is counted, for Prometheus: see docs/METRICS.md."""
        return await answer_metrics(self._mounted.operator, request)

    async def stats(
        self,
        quick: Annotated[bool, Query(description="Do not look at hot files for it where that takes a while.")] = False,
    ) -> Response:
        """The mount in figures. A segment is a regular file.

        `as_of_ns` in `status` says when all hot files were last looked at: quickly asked, that may be a while ago.
        """
        return answer(stats_of(await self._mounted.operator.status(quick)))

    async def activity(self) -> Response:
        """What goes on right now, and how the tiers filled: quick, to be asked every second.

        Times are nanoseconds since the epoch. Totals begin with the worker, at `since_ns`: rates are made of two looks,
        and where `since_ns` is another one, there is no rate between them.
        """
        return answer(await self._mounted.operator.activity())

    async def plan(
        self,
        limit: Annotated[int, Query(ge=0, le=_MOST_PLANNED, description="How many actions are listed at most.")] = 100,
    ) -> Response:
        """What the policy would do now, and why; changes nothing."""
        actions = await self._mounted.operator.plan()
        listed = [
            {"segment_path": os.fsdecode(one.path), "verb": one.verb, "size_bytes": one.size, "reason": one.reason}
            for one in actions[:limit]
        ]
        size = sum(one.size for one in actions)
        return answer({"files": len(actions), "bytes": size, "actions": listed, "omitted": len(actions) - len(listed)})

    async def cost(self) -> Response:
        """What the tree costs now, would cost all hot and under the policy, and what the last day's requests did.

        Looks at all files; dollars are decimal numbers as text.
        """
        return answer(await self._mounted.operator.costs(None))

    async def configuration(self) -> Response:
        """What the mount was made with: where everything is, and every setting. Nothing in it is secret."""
        facts = self._mounted.facts
        where = {name: getattr(facts, name) for name in ("mountpoint", "hot_directory", "state_directory", "version")}
        settings = {name: shown(value) for name, value in self._mounted.settings.model_dump(mode="json").items()}
        return answer({**where, "store": shown(facts.store), "settings": settings})


def stats_of(status: Mapping[str, Any]) -> shapes.Stats:
    """The figures of the issue's stats, out of those of `status`."""
    hot, warm, cold, lost = (status[name] for name in ("hot", "warm", "cold", "lost"))
    return {
        "total_segments": hot["files"] + warm["files"] + cold["files"],
        "hot_segments": hot["files"],
        "warm_segments": warm["files"],
        "cold_segments": cold["files"],
        "archived_segments": warm["files"] + cold["files"] - lost["files"],
        "lost_segments": lost["files"],
        "total_size_bytes": hot["bytes"] + warm["bytes"] + cold["bytes"],
        "hot_bytes": hot["bytes"],
        "warm_bytes": warm["bytes"],
        "cold_bytes": cold["bytes"],
        "status": dict(status),
    }


def _store_state(measured: Measures | None) -> shapes.StoreState:
    if measured is None or not measured.cold.health:
        return {"is_known": False, "reads": "", "writes": "", "lease": "", "reason": ""}
    health, lease = {kind: asdict(one) for kind, one in measured.cold.health.items()}, measured.cold.lease
    reasons = [*(one["reason"] for one in health.values()), lease.reason if lease else ""]
    return {
        "is_known": True,
        "reads": health.get("reads", {}).get("state", ""),
        "writes": health.get("writes", {}).get("state", ""),
        "lease": lease.state if lease else "",
        "reason": next(filter(None, reasons), ""),
    }


def application(mounted: Mounted) -> ASGIApp:
    """The ASGI application over a mount, with its description and its pages."""
    register_url_convertor("any_path", AnyPath())
    app = FastAPI(
        title="tierfs",
        version=mounted.facts.version,
        description=_ABOUT,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_REFUSALS,
        # Over TCP the token is checked before anything here is reached: this is for the description.
        dependencies=[Depends(HTTPBearer(auto_error=False, description="Over TCP; the Unix socket asks for none."))],
    )
    app.router.route_class = Answering
    for part in (Overview(mounted), Segments(mounted), Work(mounted)):
        part.add_to(app.router)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(RequestValidationError, _not_understood)
    description = wire.dump(_described(app))

    async def openapi() -> Response:
        return Response(description, media_type="application/json")

    app.add_api_route(wire.OPENAPI, openapi, include_in_schema=False)
    Page().add_to(app)
    Swagger().add_to(app)
    return Sealed(BodyLimit(app))


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document."""
    description = app.openapi()
    schemas = description["components"]["schemas"]
    refusal = TypeAdapter(shapes.Refusal).json_schema(ref_template="#/components/schemas/{model}")
    schemas |= refusal.pop("$defs") | {"Refusal": refusal}
    return description


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "ControlError")
    headers = {"allow": ", ".join(sorted(_methods_of(request)))} if error.status_code == 405 else error.headers
    return complaint(kind, f"{error.detail}: {wire.OPENAPI} says what there is", error.status_code, headers)


def _methods_of(request: Request) -> set[str]:
    """What a path is served with: each method has a route of its own, and the framework names those of one."""
    routes = [one for one in request.app.routes if isinstance(one, APIRoute)]
    path = request.scope["path"]
    return {method for one in routes if one.path_regex.match(path) for method in one.methods or ()}


async def _not_understood(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    sentences = [
        f"{'.'.join(map(str, one['loc']))}: {str(one['msg']).removeprefix('Value error, ')}" for one in error.errors()
    ]
    return complaint("ControlError", "; ".join(sentences), 422)


def _only(error: BaseException) -> BaseException:
    """The error in a group of one, as nurseries raise it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
