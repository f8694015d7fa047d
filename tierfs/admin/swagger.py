"""The page to try the API: Swagger UI, from a package, with nothing from elsewhere."""

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

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
<main id="docs"></main>
<script src="swagger-ui-bundle.js"></script>
<script src="start.js"></script>
</body>
</html>
"""
_START = """\
SwaggerUIBundle({
  url: "../openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""

Handler = Callable[..., Awaitable[Response]]


class Swagger:
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
            app.add_api_route(wire.DOCS + path, handler, include_in_schema=False)

    async def redirect(self) -> Response:
        """Links in the page are relative to it."""
        return RedirectResponse(f"{wire.DOCS}/")

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
