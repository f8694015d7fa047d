"""The REST API: files of the tree, and pins."""

import os
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from tierfs.admin import shapes, wire
from tierfs.admin.answers import Mounted, answer, complaint, parameter, path_behind
from tierfs.core.reports import Outcome

_LARGEST_PAGE = 1_000
_SEGMENTS = f"{wire.API}/tiered/segments"
_PINS = f"{wire.API}/tiered/pins"
_ANY_PATH = "{path:any_path}"


class Segments:
    """Answers about files, one or many."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted

    def add_to(self, router: APIRouter) -> None:
        """Say which requests are answered."""
        add = router.add_api_route
        add(_SEGMENTS, self.list_segments, response_model=shapes.SegmentPage, tags=["segments"])
        add(f"{_SEGMENTS}/{_ANY_PATH}", self.get_segment, response_model=shapes.Segment, tags=["segments"])
        add(_PINS, self.list_pins, response_model=shapes.PinList, tags=["pins"])
        add(f"{_PINS}/{_ANY_PATH}", self.put_pin, methods=["PUT"], response_model=shapes.Pinned, tags=["pins"])
        add(f"{_PINS}/{_ANY_PATH}", self.delete_pin, methods=["DELETE"], response_model=shapes.Pinned, tags=["pins"])

    async def get_segment(self, path: str, request: Request) -> Response:
        """One file: where its bytes are, its object, and why it is not archived or not released yet.

        Any bytes of a name may be percent-encoded. A directory is no segment (409): list what is below it.
        """
        found = await self._mounted.listing.find(name := path_behind(request, f"{_SEGMENTS}/"))
        if found is None:
            return complaint("FileNotFoundError", f"no such file: {os.fsdecode(name)!r}", 404)
        return answer(shapes.segment_of(found, self._mounted.policy))

    async def list_segments(
        self,
        request: Request,
        prefix: Annotated[str, Query(description="What the paths begin with.")] = "",
        after: Annotated[str, Query(description="The path after which the page begins.")] = "",
        limit: Annotated[int, Query(ge=1, le=_LARGEST_PAGE, description="How many files a page has at most.")] = 100,
    ) -> Response:
        """Files in the byte order of their paths, a page at a time; `next` is where the following page is."""
        begin, behind = parameter(request, "prefix"), parameter(request, "after")
        listed = await self._mounted.listing.page(begin, behind, limit + 1)
        following = None
        if len(listed) > limit:
            last = listed[limit - 1].entry.path
            following = f"{_SEGMENTS}?{urlencode({'prefix': begin, 'after': last, 'limit': limit})}"
        segments = [shapes.segment_of(one, self._mounted.policy) for one in listed[:limit]]
        return answer({"segments": segments, "next": following})

    async def list_pins(self) -> Response:
        """What is never released: paths that were pinned, each with all below it, and the patterns of the settings."""
        pins = [{"segment_path": os.fsdecode(one), "href": shapes.href_of(one)} for one in self._mounted.listing.pins()]
        return answer({"pins": pins, "patterns": list(self._mounted.settings.pins)})

    async def put_pin(self, path: str, request: Request) -> Response:
        """Never release a file, or what is below a directory."""
        name = path_behind(request, f"{_PINS}/")
        [outcome] = [one async for one in self._mounted.operator.pin([name])]
        return self._pinned(outcome, is_pinned=True)

    async def delete_pin(self, path: str, request: Request) -> Response:
        """Take a pin away. 404 where there is none, 409 where a directory above or a pattern pins it."""
        name = path_behind(request, f"{_PINS}/")
        [outcome] = [one async for one in self._mounted.operator.unpin([name])]
        if outcome.result == "unchanged":
            is_covered = outcome.reason != "not pinned"
            kind, status = ("NotEligible", 409) if is_covered else ("FileNotFoundError", 404)
            return complaint(kind, f"{os.fsdecode(name)!r}: {outcome.reason}", status)
        return self._pinned(outcome, is_pinned=False)

    def _pinned(self, outcome: Outcome, is_pinned: bool) -> Response:
        if outcome.result == "failed":
            status = wire.status_of_outcome(outcome)
            return complaint(outcome.error, f"{os.fsdecode(outcome.path)!r}: {outcome.reason}", status)
        path = os.fsdecode(outcome.path)
        return answer({"segment_path": path, "pinned": is_pinned, "changed": outcome.result == "done"})
