"""Who may speak to the API: over TCP who has the token, over the Unix socket no page of somebody else's site.

The Unix socket asks the kernel who is there (see control). A browser of the owner's may get there too, through a
tunnel, and would send what any page in it asks for: so requests from pages of other origins, and for names that
somebody else's DNS may have led here, are turned away. Over TCP no browser sends a token by itself. It does send a
password that its user gave for a page of ours, also with what a page of another site asks for: so that opens what is
shown and changes nothing, and figures only with a header that no other site can have a browser send.
"""

import hmac
import ipaddress
import os
import re
import stat
from base64 import b64decode
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tierfs.admin import wire
from tierfs.core.errors import ConfigError
from tierfs.stores.ownership import own_users

#: Shorter ones can be guessed.
_SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_VISIBLE = re.compile(rb"[\x21-\x7e]+")
#: Of the status page's own requests: a page of another site would have to ask first (a preflight, which has no token).
OF_THE_PAGE = "x-tierfs-page"


def read_token(path: Path) -> bytes:
    """The token in a file that only its owner may read, root or this user. ConfigError, which never quotes it."""
    try:
        # O_NONBLOCK: it may be a fifo. A link is followed: that is how some systems put secrets in place.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            st = os.fstat(fd)
            why = _why_no_secret(st)
            token = b"" if why else file.read(_LONGEST_TOKEN + 2).strip()
    except OSError as error:
        why, token = f"cannot be read: {error.strerror}", b""
    if not why and not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN:
        why = f"holds no token of {_SHORTEST_TOKEN} to {_LONGEST_TOKEN} characters"
    if not why and not _VISIBLE.fullmatch(token):
        why = "holds something else than one line of visible ASCII characters"
    if why:
        raise ConfigError(f"the file of api_token_file, {str(path)!r}, {why}")
    return token


def _why_no_secret(st: os.stat_result) -> str:
    if not stat.S_ISREG(st.st_mode):
        return "is not a regular file"
    if st.st_uid not in own_users():
        return f"belongs to user {st.st_uid}"
    if st.st_mode & _OTHERS:
        return f"has mode {stat.S_IMODE(st.st_mode):04o}: others than its owner can get at it; make it 0600"
    return ""


class TokenGate:
    """Lets through who has the token, and answers 401 to everybody else, whatever it is that they ask for.

    `page_paths` may be fetched with the token as the password of HTTP Basic as well: they are the pages that a browser
    shows, and a browser asks its user for nothing else. So may `shown_paths`, by the script of such a page.
    """

    def __init__(
        self, app: ASGIApp, token: bytes, page_paths: tuple[str, ...] = (), shown_paths: tuple[str, ...] = ()
    ) -> None:
        self._app = app
        self._token = token
        self._page_paths = page_paths
        self._shown_paths = shown_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http" and not self._is_welcome(scope):
            await self._refusal(scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_welcome(self, scope: Scope) -> bool:
        given = Headers(scope=scope).getlist("authorization")
        if len(given) != 1:
            return False
        scheme, _, secret = given[0].partition(" ")
        if scheme.lower() == "basic" and self._takes_password(scope):
            try:
                secret = b64decode(secret.strip(), validate=True).decode("latin-1").partition(":")[2]
            except ValueError:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(secret.strip().encode("latin-1", "replace"), self._token)

    def _takes_password(self, scope: Scope) -> bool:
        """Whether a browser may ask for this with what its user typed."""
        path = str(scope["path"])
        if scope["method"] != "GET":
            return False
        is_page = bool(self._page_paths) and (path == "/" or path.startswith(self._page_paths))
        return is_page or (path.startswith(self._shown_paths) and OF_THE_PAGE in Headers(scope=scope))

    def _refusal(self, scope: Scope) -> Response:
        realm = 'Basic realm="tierfs: any user, the token as password"'
        challenge = realm if self._takes_password(scope) else "Bearer"
        return refused("Unauthorized", "over TCP every request carries Authorization: Bearer TOKEN", 401, challenge)


class OriginGate:
    """Turns away what a page of another site has a browser send, also one whose name was made to mean this host."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (why := why_foreign(Headers(scope=scope))):
            await refused("Forbidden", why, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def why_foreign(headers: Headers) -> str:
    """Why a request comes from a page of another site, as far as its headers tell; empty when it does not."""
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return f"{host!r} is not a host"
    if not _is_local(name):
        return f"{name!r} is a name of the network: use localhost, an address, or a name without dots"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return f"a page of {origin!r} asked for this"
    return ""


def _is_local(name: str) -> bool:
    """Whether no DNS but this network's own says what a name means."""
    if "." not in name or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def refused(kind: str, message: str, status: int, challenge: str = "") -> Response:
    """The answer to who may not come in; the connection ends with it."""
    body = wire.dump({"error": {"kind": kind, "message": message}})
    headers = {"connection": "close"} | ({"www-authenticate": challenge} if challenge else {})
    return Response(body, status, headers, "application/json")
