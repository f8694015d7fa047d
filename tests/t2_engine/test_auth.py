"""Who may speak to the API: the token and its file, and pages of other sites."""

import os
from base64 import b64encode
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tests.conftest import require
from tierfs.admin.auth import OF_THE_PAGE, OriginGate, TokenGate, read_token
from tierfs.core.errors import ConfigError

TOKEN = "a-token-of-some-length"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN + "\n")
    return path


def test_a_token_is_one_line_of_a_file_that_only_its_owner_reads(file: Path, tmp_path: Path) -> None:
    assert read_token(file) == TOKEN.encode()
    (tmp_path / "link").symlink_to(file)
    assert read_token(tmp_path / "link") == TOKEN.encode()
    file.chmod(0o400)
    assert read_token(file) == TOKEN.encode()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o601])
def test_a_token_that_others_may_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"{str(file)!r}, has mode {mode:04o}: others") as refused:
        read_token(file)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"x" * 1025, TOKEN.encode() + b"\n" + TOKEN.encode(), "töken-of-some-length".encode()]
)
def test_what_is_no_token_is_refused_and_not_quoted(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(file)) as refused:
        read_token(file)
    assert "ken-of-some" not in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path: Path, file: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "missing"):
        with pytest.raises(ConfigError, match=f"{str(path)!r}, (is not a regular file|cannot be read)"):
            read_token(path)


def test_a_token_of_somebody_else_is_refused(file: Path) -> None:
    require(os.geteuid() == 0, "giving files to another user needs root")
    os.chown(file, 54321, 54321)
    with pytest.raises(ConfigError, match="belongs to user 54321"):
        read_token(file)


async def everything(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers whatever it is asked."""
    await PlainTextResponse("welcome")(scope, receive, send)


async def asked(app: object, method: str, path: str, headers: list[tuple[str, str]]) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        return await http.request(method, path, headers=headers)


def basic(password: str) -> str:
    return "Basic " + b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize(
    "given",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        [TOKEN],
        [f"Bearer {TOKEN[:-1]}"],
        [f"Bearer {TOKEN}x"],
        [f"Bearer {TOKEN.upper()}"],
        [f"Bearer x {TOKEN}"],
        [f"Token {TOKEN}"],
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
        [f"Bearer {TOKEN}", "Bearer x"],
        [basic(TOKEN)],
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/healthz"), ("POST", "/x"), ("OPTIONS", "*"), ("GET", "/none")])
async def test_nothing_is_answered_without_the_token(method: str, path: str, given: list[str]) -> None:
    gate = TokenGate(everything, TOKEN.encode(), ("/page",))
    answer = await asked(gate, method, path, [("authorization", one) for one in given])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["kind"] == "Unauthorized"
    assert TOKEN not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_who_has_the_token_is_let_in(scheme: str) -> None:
    gate = TokenGate(everything, TOKEN.encode())
    assert (await asked(gate, "POST", "/x", [("authorization", f"{scheme} {TOKEN}")])).text == "welcome"


async def test_a_browser_may_give_the_token_as_a_password_for_the_page_alone() -> None:
    gate = TokenGate(everything, TOKEN.encode(), ("/page",))
    answer = await asked(gate, "GET", "/page/", [])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic realm=")
    for password, status in ((TOKEN, 200), ("x", 401), ("", 401)):
        assert (await asked(gate, "GET", "/page/", [("authorization", basic(password))])).status_code == status
    for garbage in ("Basic", "Basic !", "Basic " + b64encode(TOKEN.encode()).decode()):
        assert (await asked(gate, "GET", "/page/", [("authorization", garbage)])).status_code == 401
    assert (await asked(gate, "POST", "/page/", [("authorization", basic(TOKEN))])).status_code == 401
    assert (await asked(gate, "GET", "/", [("authorization", basic(TOKEN))])).status_code == 200


async def test_the_script_of_a_page_is_shown_figures_for_that_password() -> None:
    """A page of another site has the browser send the password too, but cannot have it send the header."""
    gate = TokenGate(everything, TOKEN.encode(), ("/page",), ("/shown",))
    password, header = ("authorization", basic(TOKEN)), (OF_THE_PAGE, "1")
    assert (await asked(gate, "GET", "/shown", [password, header])).status_code == 200
    assert (await asked(gate, "GET", "/shown", [header])).headers["www-authenticate"].startswith("Basic realm=")
    for method, path, headers in (
        ("GET", "/shown", [password]),
        ("POST", "/shown", [password, header]),
        ("OPTIONS", "/shown", [password, header]),
        ("GET", "/other", [password, header]),
        ("GET", "/shown", [("authorization", basic("x")), header]),
    ):
        assert (await asked(gate, method, path, headers)).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        [("host", "tierfs")],
        [("host", "localhost:8080"), ("origin", "http://localhost:8080")],
        [("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")],
        [("host", "[::1]:8080")],
        [("host", "mount.localhost")],
    ],
)
async def test_people_of_this_host_are_let_in(headers: list[tuple[str, str]]) -> None:
    assert (await asked(OriginGate(everything), "POST", "/x", headers)).text == "welcome"


@pytest.mark.parametrize(
    "headers",
    [
        [("host", "localhost:8080"), ("origin", "http://evil.example")],
        [("host", "localhost:8080"), ("origin", "http://localhost:9090")],
        [("host", "localhost:8080"), ("origin", "null")],
        [("host", "evil.example"), ("origin", "http://evil.example")],
        [("host", "evil.example:8080")],
        [("host", "127.0.0.1.evil.example")],
        [("host", "[::1")],
    ],
)
async def test_pages_of_other_sites_are_turned_away(headers: list[tuple[str, str]]) -> None:
    """Also those of a name that was led to this host by somebody else's DNS."""
    answer = await asked(OriginGate(everything), "POST", "/x", headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["kind"] == "Forbidden"
