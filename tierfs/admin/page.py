"""The status page: files of the package, which ask the API themselves. No file knows anything of the mount."""

from importlib import resources

from fastapi import FastAPI
from starlette.responses import RedirectResponse, Response

from tierfs.admin import wire

_DIRECTORY = "status_page"
_START = "page.html"
_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Page:
    """Serves the page, as it was when the worker began: an upgrade on the disk is that of the next worker."""

    def __init__(self) -> None:
        found = resources.files(__package__) / _DIRECTORY
        self._files = {one.name: one.read_bytes() for one in found.iterdir() if one.name.partition(".")[2] in _KINDS}

    def add_to(self, app: FastAPI) -> None:
        """Say which requests are answered."""
        for path in ("/", wire.PAGE):
            app.add_api_route(path, self.redirect, include_in_schema=False)
        app.add_api_route(f"{wire.PAGE}/", self.page, include_in_schema=False)
        app.add_api_route(f"{wire.PAGE}/{{name}}", self.file, include_in_schema=False)

    async def redirect(self) -> Response:
        """Who names the mount alone wants to see how it is. Links in the page are relative to it."""
        return RedirectResponse(f"{wire.PAGE}/")

    async def page(self) -> Response:
        """The page itself."""
        return await self.file(_START)

    async def file(self, name: str) -> Response:
        """One of its files."""
        content = self._files.get(name)
        if content is None:
            return Response(status_code=404)
        return Response(content, media_type=_KINDS[name.partition(".")[2]])
