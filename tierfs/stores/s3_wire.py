"""One bucket by boto3: requests out, answers in, and what went wrong in sentences.

boto3 signs, retries and reuses connections; what an answer means is decided in s3_answers.
"""

import hashlib
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as boto
import urllib3.exceptions
from botocore import xform_name
from botocore.config import Config
from botocore.parsers import ResponseParserError

from tierfs.core.errors import ConfigError, StoreError
from tierfs.core.lease import Fence, unfenced
from tierfs.stores.cold import Meter
from tierfs.stores.s3_answers import Refuted, TransferSizes, advise, classify, sentence
from tierfs.stores.s3_failures import explain
from tierfs.stores.s3_lease import WRITES

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

#: Time to connect, in seconds, where the setting allows more: a host that does not answer by then is down.
CONNECT_S = 10.0
_FIRST_FAILURE = 300  # HTTP status: a redirect is none of S3's answers


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach one bucket.

    `timeout_s` is the longest silence of one request, `read_timeout_s` that of a GET, which is never sent again here:
    its caller has a deadline, and knows whether somebody still waits. `prefix` is where the self-test writes, unless
    `read_only`; `pending` a directory for what a crash must not make forgotten (stores.s3_pending).
    """

    bucket: str
    region: str | None = None
    endpoint_url: str | None = None
    path_style: bool | None = None
    pool_size: int = 32
    timeout_s: float = 30.0
    read_timeout_s: float = 30.0
    max_retries: int = 5
    checksum: Literal["auto", "when_required"] = "auto"
    storage_class: str | None = None
    prefix: str = ""
    read_only: bool = False
    sizes: TransferSizes = field(default_factory=TransferSizes)
    pending: Path | None = None

    @property
    def place(self) -> str:
        """The bucket in words."""
        return f"bucket {self.bucket} at {self.endpoint_url or 'AWS'}"


class S3Wire:
    """One bucket by boto3: counts requests as they leave, and turns everything that can go wrong into StoreErrors.

    `fence` is asked before each request that writes; what it raises passes through.
    """

    def __init__(self, settings: S3Settings, session: boto3.Session, meter: Meter, fence: Fence = unfenced) -> None:
        self._settings = settings
        self._fence = fence
        self.meter = meter
        self._client = _connect(settings, session)
        self._client.meta.events.register("before-send.s3", self._count_request)
        self._client.meta.events.register("response-received.s3", self._count_failure)
        self._client.meta.events.register("before-call.s3.HeadBucket", _follow_no_redirect)
        self._client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)

    @property
    def endpoint(self) -> str:
        """The URL that requests go to."""
        return str(self._client.meta.endpoint_url)

    @property
    def region(self) -> str:
        """The region that requests are signed for."""
        return str(self._client.meta.region_name)

    def call(self, operation: str, key: str = "", **arguments: Any) -> dict[str, Any]:
        """One request about the bucket, or about the object `key`; copies come from the same bucket. StoreError."""
        about: dict[str, Any] = {"Bucket": self._settings.bucket} | ({"Key": key} if key else {})
        if "CopySource" in arguments:
            arguments["CopySource"] = {**arguments["CopySource"], "Bucket": self._settings.bucket}
        began_ns = time.monotonic_ns()
        with self.telling(operation, key):
            answer: dict[str, Any] = getattr(self._client, operation)(**about, **arguments)
        if operation != "get_object":  # who reads its body counts it
            self.meter.count_answer(_request_name(operation), time.monotonic_ns() - began_ns)
        body = arguments.get("Body")
        if isinstance(body, bytes):
            self.meter.count_bytes(uploaded=len(body))
        return answer

    @contextmanager
    def telling(self, operation: str, key: str) -> Iterator[None]:
        """Turn what goes wrong in the block into one of core/errors, with a sentence for a person.

        What a source or a progress callback raises passes through untouched.
        """
        try:
            yield
        except Refuted as error:
            raise self._tell(operation, key, error.kind, error.why) from error
        except boto.ClientError as error:
            raise self._refused(operation, key, error) from error
        except (boto.BotoCoreError, ResponseParserError, urllib3.exceptions.HTTPError) as error:
            kind, why = explain(error)
            raise self._tell(operation, key, kind, why) from error

    @contextmanager
    def receiving(self, operation: str, key: str) -> Iterator[None]:
        """telling(), for the body of an answer: its head was no failure, what goes wrong from here on is."""
        try:
            with self.telling(operation, key):
                yield
        except StoreError as error:
            self.meter.count_failure(_request_name(operation), type(error))
            raise

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _count_request(self, event_name: str, **_: Any) -> None:
        # Called for every attempt: retries cost money too, and may come long after the first one.
        operation = event_name.rpartition(".")[2]
        if operation in WRITES:
            self._fence()
        self.meter.count_request(operation)

    def _count_failure(
        self, event_name: str, parsed_response: dict[str, Any] | None, exception: Exception | None, **_: Any
    ) -> None:
        # Called for every attempt, as before-send is, with the answer or with what came in its place.
        name = event_name.rpartition(".")[2]
        if isinstance(exception, StoreError):
            return  # the fence: the request was not sent
        if exception:
            self.meter.count_failure(name, explain(exception)[0])
        elif parsed_response:
            status = int(parsed_response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if status >= _FIRST_FAILURE:
                code = str(parsed_response.get("Error", {}).get("Code", ""))
                self.meter.count_failure(name, classify(status, code, xform_name(name)))

    def _refused(self, operation: str, key: str, error: boto.ClientError) -> StoreError:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        told = error.response.get("Error", {})
        code = str(told.get("Code", ""))
        kind = classify(status, code, operation)
        text = str(told.get("Message") or "").rstrip(". ")
        why = f"{text} ({code})" if text and text != code else f"the store answered {code or status}"
        return self._tell(operation, key, kind, why, advise(code, kind))

    def _tell(
        self, operation: str, key: str, kind: type[StoreError], why: str, advice: str | None = None
    ) -> StoreError:
        advice = advise("", kind) if advice is None else advice
        return kind(sentence(operation, key, self._settings.place, why, advice))


def _request_name(operation: str) -> str:
    """S3's name of a request, as it is counted, by boto3's name of the method."""
    return "".join(part.capitalize() for part in operation.split("_"))


def _follow_no_redirect(context: dict[str, Any], **_: Any) -> None:
    """boto3 answers a redirect with HeadBucket, to learn the region: when that redirects too, it recurses."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """boto3 sends a CRC32 of the keys to delete; what is older than that insists on Content-MD5."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = b64encode(digest).decode()


def open_session(settings: S3Settings) -> boto3.Session:
    """A session of our own: boto3's default one belongs to whoever made it. ConfigError."""
    try:
        return boto3.Session(region_name=settings.region)
    except boto.BotoCoreError as error:
        raise ConfigError(f"cannot use {settings.place}: {error}") from error


def _connect(settings: S3Settings, session: boto3.Session) -> "S3Client":
    """A client; nothing is sent yet. ConfigError."""
    if settings.endpoint_url and urlsplit(settings.endpoint_url).username is not None:
        # Not repeated in the message, and never in a later one.
        raise ConfigError("credentials do not belong into endpoint_url: let boto3 find them (environment, profile)")
    path_style = settings.path_style if settings.path_style is not None else settings.endpoint_url is not None
    config = Config(
        connect_timeout=min(CONNECT_S, settings.timeout_s),
        read_timeout=settings.timeout_s,
        max_pool_connections=settings.pool_size,
        retries={"mode": "standard", "total_max_attempts": settings.max_retries + 1},
        s3={"addressing_style": "path" if path_style else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        user_agent_extra="tierfs",
    )
    try:
        return session.client("s3", endpoint_url=settings.endpoint_url, config=config)
    except (boto.BotoCoreError, ValueError) as error:
        raise ConfigError(f"cannot use {settings.place}: {error}") from error
