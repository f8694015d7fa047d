"""The REST API: files are moved, at once or as jobs; events."""

import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

import trio
from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tierfs.admin import shapes, wire
from tierfs.admin.answers import Mounted, answer, complaint, gone, inside, unless_hung_up
from tierfs.admin.control import cancel_on_hang_up
from tierfs.core.reports import EventReport, Outcome, Total, Verb

_TIERED = f"{wire.API}/tiered"
_SERVER_SENT = "text/event-stream"
#: Outcomes that one answer lists.
_MOST_LISTED = 1_000
#: How long a follower hears nothing before it is told that the connection lives.
_SILENCE_S = 15.0

_DIRECTORY = "it is a directory: recursive takes what is in it"
_STARTED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": shapes.Job,
        "description": "A job was begun.",
        "headers": {"Location": {"description": "Where to ask for it.", "schema": {"type": "string"}}},
    }
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One event a line; or server-sent events, for who accepts those.",
        "content": {wire.LINES: {"schema": {"type": "string"}}, _SERVER_SENT: {"schema": {"type": "string"}}},
    }
}


class Work:
    """Moves files for clients, and tells them what happens."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted

    def add_to(self, router: APIRouter) -> None:
        """Say which requests are answered."""
        add = router.add_api_route
        for verb in (self.archive, self.release, self.restore):
            route = f"{_TIERED}/{verb.__name__}"
            add(route, verb, methods=["POST"], response_model=shapes.Movement, responses=_STARTED, tags=["moving"])
        add(f"{_TIERED}/jobs", self.list_jobs, response_model=shapes.JobList, tags=["jobs"])
        add(f"{_TIERED}/jobs/{{job_id}}", self.get_job, response_model=shapes.JobDetail, tags=["jobs"])
        cancel = f"{_TIERED}/jobs/{{job_id}}/cancel"
        add(cancel, self.cancel_job, methods=["POST"], response_model=shapes.Job, tags=["jobs"])
        add(f"{_TIERED}/events", self.events, responses=_EVENTS, response_class=Response, tags=["events"])

    # -- moving --------------------------------------------------------------------------------------------------

    async def archive(self, which: shapes.Which, request: Request) -> Response:
        """Copy files to the store and verify them; the hot bytes stay."""
        return await self._move("archive", which, request)

    async def release(self, which: shapes.Which, request: Request) -> Response:
        """Archive files if need be, then drop their hot bytes."""
        return await self._move("release", which, request)

    async def restore(self, which: shapes.Which, request: Request) -> Response:
        """Bring cold files back to the hot tier."""
        return await self._move("restore", which, request)

    async def _move(self, verb: Verb, which: shapes.Which, request: Request) -> Response:
        """The answer comes when all is done; who hangs up before cancels what is not. A job goes on by itself."""
        paths = [inside(path) for path in which.paths()] or await self._mounted.listing.matching(which.patterns())
        if which.asynchronous:
            job = shapes.job_of(await self._mounted.operator.start_job(verb, paths, which.recursive))
            return answer(job, 202, {"location": job["href"]})
        moved = await unless_hung_up(request, lambda: self._moved(verb, paths, which.recursive))
        if moved is None:
            return gone()
        refused = next((one for one in moved.listed if one.path == paths[0]), None) if which.is_one_file else None
        if refused and (status := wire.status_of_outcome(refused)) != 200:
            reason = _DIRECTORY if refused.error == "IsADirectoryError" else refused.reason
            return complaint(refused.error or "TierfsError", f"{os.fsdecode(refused.path)!r}: {reason}", status)
        return answer(moved.as_json())

    async def _moved(self, verb: Verb, paths: list[bytes], recursive: bool) -> "_Moved":
        moved = _Moved()
        async with aclosing(self._mounted.operator.move(verb, paths, recursive)) as reports:
            async for report in reports:
                moved.add(report)
        return moved

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def list_jobs(self) -> Response:
        """The jobs that run, and the last that ended, the newest last."""
        return answer({"jobs": [shapes.job_of(one) for one in await self._mounted.operator.jobs()]})

    async def get_job(self, job_id: str) -> Response:
        """How far a job is, and what failed of it."""
        operator = self._mounted.operator
        job = shapes.job_of(await operator.job(job_id))
        return answer({**job, "failures": [shapes.moved_of(one) for one in await operator.job_failures(job_id)]})

    async def cancel_job(self, job_id: str) -> Response:
        """End a job soon: what it is moving now is taken back, what it had moved stands."""
        return answer(shapes.job_of(await self._mounted.operator.cancel_job(job_id)))

    # -- events --------------------------------------------------------------------------------------------------

    async def events(
        self,
        request: Request,
        after: Annotated[int, Query(ge=0, lt=1 << 63, description="The number of the last event that is known.")] = 0,
        follow: Annotated[bool, Query(description="Go on with what happens from now on.")] = False,
    ) -> Response:
        """What happened to the mount: the last events that are kept, as JSON lines, or as server-sent events.

        Numbers rise; who comes back says the last one that it has seen (or its browser does, as Last-Event-ID).
        """
        is_sent = _SERVER_SENT in request.headers.get("accept", "")
        after = max(after, wire.checked_number(request.headers.get("last-event-id")))
        return EventStream(self._mounted.operator.events(after, follow), is_sent)


class _Moved:
    """What became of the files of a request: counted, and the first of them one by one; there may be millions."""

    def __init__(self) -> None:
        self.listed: list[Outcome] = []
        self._total = Total(0, 0)
        self._counts: Counter[str] = Counter()

    def add(self, report: Total | Outcome) -> None:
        """Take into account what became of one more file."""
        if isinstance(report, Total):
            self._total = report
            return
        self._counts[report.result] += 1
        if len(self.listed) < _MOST_LISTED:
            self.listed.append(report)

    def as_json(self) -> shapes.Movement:
        """The answer."""
        return {
            "files": self._total.files,
            "bytes": self._total.bytes,
            "done": self._counts["done"],
            "unchanged": self._counts["unchanged"],
            "failed": self._counts["failed"],
            "segments": [shapes.moved_of(one) for one in self.listed],
            "omitted": self._counts.total() - len(self.listed),
        }


class EventStream(Response):
    """Events as they happen; who waits for the next one is told now and then that the connection lives."""

    def __init__(self, events: AsyncIterator[EventReport], is_sent: bool) -> None:
        super().__init__(media_type=_SERVER_SENT if is_sent else wire.LINES)
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"  # a proxy that buffered would hold events back
        self._events = events
        self._is_sent = is_sent
        self._is_sending = trio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_hang_up, receive, nursery.cancel_scope)
            if self._is_sent:
                nursery.start_soon(self._keep_alive, send)
            try:
                async for event in self._events:
                    await self._send(send, self._text_of(event))
            finally:
                if isinstance(self._events, AsyncGenerator):
                    await self._events.aclose()
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        while True:
            await trio.sleep(_SILENCE_S)
            await self._send(send, b": nothing happened\n\n")

    async def _send(self, send: Send, body: bytes) -> None:
        async with self._is_sending:
            await send({"type": "http.response.body", "body": body, "more_body": True})

    def _text_of(self, event: EventReport) -> bytes:
        line = wire.dump(asdict(event) | {"path": os.fsdecode(event.path)})
        return b"id: %d\nevent: %s\ndata: %s\n" % (event.number, event.kind.encode(), line) if self._is_sent else line
