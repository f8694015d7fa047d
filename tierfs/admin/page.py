"""The page to try the API: Swagger UI, from a package, with nothing from elsewhere; and what browsers are told."""

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tierfs.admin import wire

_PACKAGE = "fastapi_offline"
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tierfs API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="swagger-ui.css">
</head>
<body>
<main id="page"></main>
<script src="swagger-ui-bundle.js"></script>
<script src="start.js"></script>
</body>
</html>
"""
_START = """\
SwaggerUIBundle({
  url: "../openapi.json",
  dom_id: "#page",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""

#: An answer is no document, unless it is the page; that may use what it comes with, and ask this API alone.
_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_OF_THE_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


Handler = Callable[..., Awaitable[Response]]


class Page:
    """Serves the page. The files of Swagger UI are found without importing the package that has them."""

    def __init__(self) -> None:
        spec = find_spec(_PACKAGE)
        assert spec is not None, f"{_PACKAGE} is a dependency"
        assert spec.origin is not None
        self._directory = Path(spec.origin).parent / "static"

    def add_to(self, app: FastAPI) -> None:
        """Say which requests are answered."""
        routes: dict[str, Handler] = {"": self.redirect, "/": self.page, "/start.js": self.start, "/{name}": self.asset}
        for path, handler in routes.items():
            app.add_api_route(wire.PAGE + path, handler, include_in_schema=False)

    async def redirect(self) -> Response:
        """Links in the page are relative to it."""
        return RedirectResponse(f"{wire.PAGE}/")

    async def page(self) -> Response:
        """The page itself."""
        return HTMLResponse(_HTML)

    async def start(self) -> Response:
        """What begins it: no script stands in the page."""
        return Response(_START, media_type="text/javascript")

    async def asset(self, name: str) -> Response:
        """A file of Swagger UI."""
        if name not in _ASSETS:
            return Response(status_code=404)
        return FileResponse(self._directory / name, media_type=_ASSETS[name])


class Sealed:
    """Says with every answer that it is to be shown, and for nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"].startswith(wire.PAGE)

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers["content-security-policy"] = _OF_THE_PAGE if is_page else _NOTHING
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
                headers["cache-control"] = "no-cache" if is_page else "no-store"
            await send(message)

        await self._app(scope, receive, sealed)
