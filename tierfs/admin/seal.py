"""What browsers are told with every answer: that it is to be shown, by what it came with, and for nothing else."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tierfs.admin import wire

_NOBODY_ELSE = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
#: An answer is no document, unless it is a page.
_NOTHING = f"default-src 'none'; {_NOBODY_ELSE}"
#: A page may use what it comes with, and ask this API alone.
_OWN = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"
#: Its script cannot make markup of text: names of files stay text, whatever they look like.
_PAGE = f"{_OWN}; img-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'; {_NOBODY_ELSE}"
#: Swagger UI has its pictures in its style sheet.
_DOCS = f"{_OWN}; img-src 'self' data:; {_NOBODY_ELSE}"


class Sealed:
    """Says with every answer what a browser may do with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = _policy_of(scope["path"] if scope["type"] == "http" else "")

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers["content-security-policy"] = policy
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
                headers["cross-origin-resource-policy"] = "same-origin"
                headers["cache-control"] = "no-store" if policy is _NOTHING else "no-cache"
            await send(message)

        await self._app(scope, receive, sealed)


def _policy_of(path: str) -> str:
    return _PAGE if path.startswith(wire.PAGE) else _DOCS if path.startswith(wire.DOCS) else _NOTHING
