"""The way to a server, one step after the other: its name, its port, TLS or not, and what time it thinks it is."""

import http.client
import socket
import ssl
import time
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from tierfs.core.diagnosis import Diagnosis, Verdict, judge_clock

_PATIENCE_S = 10.0
_PORTS = {"http": 80, "https": 443}
_SUBJECT = "endpoint"
#: What a server says that was spoken to in the wrong way; some do, others close, or wait for more.
_BAD_REQUEST = 400


@dataclass(frozen=True, slots=True)
class _Place:
    scheme: str
    host: str
    port: int
    patience_s: float

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


@dataclass(frozen=True, slots=True)
class _Answer:
    """`at` is when it was made, by this host's clock."""

    status: int
    date: str | None
    at: float


def reach(endpoint: str, patience_s: float = _PATIENCE_S) -> Generator[Diagnosis, None, bool]:
    """Go to a server as a request would; whether it is worth sending one."""
    at = urlsplit(endpoint)
    scheme, host = at.scheme.lower(), at.hostname or ""
    try:
        port = at.port or _PORTS.get(scheme, 0)
    except ValueError:
        port = 0
    if not host or not port:
        remedy = "write endpoint_url as http://HOST:PORT or https://HOST"
        yield Diagnosis(_SUBJECT, Verdict.PROBLEM, f"{endpoint} is no address", "nothing can be asked", remedy)
        return False
    place = _Place(scheme, host, port, min(patience_s, _PATIENCE_S))
    if proxy := _proxy_of(place):
        yield from _connects(proxy, f"the proxy {proxy} of {place}")
        return True  # what is behind it, only requests can tell
    if not (yield from _connects(place, str(place))):
        return False
    return (yield from (_speaks_http(place) if scheme == "http" else _speaks_https(place)))


def _proxy_of(place: _Place) -> _Place | None:
    """The proxy that boto3 would use, from the environment (HTTPS_PROXY, NO_PROXY)."""
    if urllib.request.proxy_bypass(place.host):
        return None
    url = urllib.request.getproxies().get(place.scheme)
    at = urlsplit(url if url and "://" in url else f"http://{url}") if url else None
    if at is None or not at.hostname:
        return None
    return _Place(at.scheme, at.hostname, at.port or _PORTS.get(at.scheme, 80), place.patience_s)


def _connects(place: _Place, shown: str) -> Generator[Diagnosis, None, bool]:
    try:
        socket.create_connection((place.host, place.port), place.patience_s).close()
    except socket.gaierror as error:
        yield _problem(
            f"the name {place.host} cannot be resolved ({error.strerror})",
            "correct endpoint_url or region, or the resolver of this host (/etc/resolv.conf)",
        )
    except ConnectionRefusedError:
        yield _problem(
            f"{shown} refuses connections", "nothing listens there: start the server, or correct endpoint_url"
        )
    except TimeoutError:
        yield _problem(
            f"{shown} does not answer", "look at firewalls, routes and security groups; or correct endpoint_url"
        )
    except OSError as error:
        yield _problem(f"{shown} cannot be reached: {error.strerror}", "look at the network of this host")
    else:
        return True
    return False


def _problem(found: str, remedy: str) -> Diagnosis:
    meaning = "hot files do not notice; cold files cannot be read, nothing is archived"
    return Diagnosis(_SUBJECT, Verdict.PROBLEM, found, meaning, remedy)


def _speaks_http(place: _Place) -> Generator[Diagnosis, None, bool]:
    connection = http.client.HTTPConnection(place.host, place.port, timeout=place.patience_s)
    answer = _ask(connection)
    if not isinstance(answer, str) and answer.status != _BAD_REQUEST:
        yield Diagnosis(_SUBJECT, Verdict.OK, f"{place} answers, in plain HTTP")
        yield from _clock(answer)
        return True
    if _shakes_hands(place):
        yield _problem(f"{place} speaks TLS, and endpoint_url says http://", "write endpoint_url with https://")
        return False
    if isinstance(answer, str):
        yield _problem(f"{place} takes connections, and {answer}", "look at the server, and what is before it")
        return False
    yield Diagnosis(_SUBJECT, Verdict.OK, f"{place} answers, in plain HTTP")
    yield from _clock(answer)
    return True


def _speaks_https(place: _Place) -> Generator[Diagnosis, None, bool]:
    if not _shakes_hands(place):
        plain = _ask(http.client.HTTPConnection(place.host, place.port, timeout=place.patience_s))
        if isinstance(plain, str):
            found = f"{place} takes connections, and no TLS handshake"
            yield _problem(found, "look at the server, and at endpoint_url")
        else:
            yield _problem(
                f"{place} speaks plain HTTP, and endpoint_url says https://", "write endpoint_url with http://"
            )
        return False
    yield Diagnosis(_SUBJECT, Verdict.OK, f"{place} answers, with TLS")
    # Whether the certificate is one to trust is for boto3 to say, which has roots of its own.
    answer = _ask(http.client.HTTPSConnection(place.host, place.port, timeout=place.patience_s, context=_trusting()))
    if not isinstance(answer, str):
        yield from _clock(answer)
    return True


def _ask(connection: http.client.HTTPConnection) -> _Answer | str:
    """The answer to a request that needs no rights; in words, why there is none."""
    began = time.time()
    try:
        connection.request("HEAD", "/", headers={"User-Agent": "tierfs-doctor"})
        answer = connection.getresponse()
        return _Answer(answer.status, answer.getheader("Date"), (began + time.time()) / 2)
    except TimeoutError:
        return "then is silent"
    except (http.client.HTTPException, OSError):
        return "closes them without an answer of HTTP"
    finally:
        connection.close()


def _clock(answer: _Answer) -> Generator[Diagnosis, None, None]:
    try:
        told = parsedate_to_datetime(answer.date or "").timestamp() + 0.5  # whole seconds are told
    except (TypeError, ValueError):
        yield Diagnosis("clock", Verdict.SKIPPED, "the store does not tell the time")
        return
    yield judge_clock(answer.at - told)


def _shakes_hands(place: _Place) -> bool:
    """Whether a TLS handshake succeeds, with whatever certificate."""
    try:
        with (
            socket.create_connection((place.host, place.port), place.patience_s) as plain,
            _trusting().wrap_socket(plain, server_hostname=place.host),
        ):
            return True
    except OSError:
        return False


def _trusting() -> ssl.SSLContext:
    """Takes any certificate: nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
