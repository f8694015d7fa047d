"""Faults of an S3 server and of the network before it, and which of them a request meets. Pure but for the dice."""

import random
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Self

#: What S3 says with each code; others carry their own name as the message.
_MESSAGES = {
    "AccessDenied": "Access Denied",
    "ExpiredToken": "The provided token has expired.",
    "InternalError": "We encountered an internal error. Please try again.",
    "NoSuchBucket": "The specified bucket does not exist",
    "NoSuchKey": "The specified key does not exist.",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold",
    "ServiceUnavailable": "Service is unable to handle request.",
    "SlowDown": "Please reduce your request rate.",
}


class Kind(StrEnum):
    """What goes wrong. Those of the body meet answers with a Content-Length only; S3 sends objects so."""

    LATENCY = "latency"  # `seconds` pass before the request is passed on; several add up
    BANDWIDTH = "bandwidth"  # the connection carries `bytes_per_s` each way; the least holds
    STATUS = "status"  # S3's error with `status` and `code`; the server never hears of the request
    RESET = "reset"  # the connection is reset before an answer
    BLACK_HOLE = "black-hole"  # accepted, never answered
    RESET_IN_BODY = "reset-in-body"  # reset before byte `at` of the body
    TRUNCATE = "truncate"  # closed before byte `at`, though more was announced
    SHORTEN = "shorten"  # only `at` bytes, and announced as such; a HEAD says that the object is as short
    CORRUPT = "corrupt"  # byte `at` is another one
    CORRUPT_UPLOAD = "corrupt-upload"  # byte `at` of what is sent is another one, where the server checks it
    RESET_UPLOAD = "reset-upload"  # reset before byte `at` of what is sent
    LOST_ANSWER = "lost-answer"  # carried out, and reset in place of the answer
    ETAG = "etag"  # the answer carries another ETag
    DATE = "date"  # the answer carries a Date that is `seconds` ahead
    STALL = "stall"  # nothing from byte `at` on
    REFUSE = "refuse"  # nobody listens; holds for all, ends the connections that there are


_ENDINGS = frozenset(Kind) - {Kind.LATENCY, Kind.BANDWIDTH, Kind.REFUSE}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with the requests that match.

    `method` and `key` are shell patterns; `key` is for BUCKET/KEY, without the query. Of those that match, the first
    `skip` pass, then `count` (None: all) are struck, each with `probability`. `at` None is the middle of the body.
    """

    kind: Kind
    method: str = "*"
    key: str = "*"
    probability: float = 1.0
    skip: int = 0
    count: int | None = None
    seconds: float = 0.0
    bytes_per_s: int = 0
    status: int = 500
    code: str = "InternalError"
    at: int | None = None

    @classmethod
    def latency(cls, seconds: float, **match: Any) -> Self:
        """Each request is `seconds` late."""
        return cls(Kind.LATENCY, seconds=seconds, **match)

    @classmethod
    def bandwidth(cls, bytes_per_s: int, **match: Any) -> Self:
        """Each connection carries `bytes_per_s`, as real S3 does."""
        return cls(Kind.BANDWIDTH, bytes_per_s=bytes_per_s, **match)

    @classmethod
    def refusal(cls, status: int, code: str, **match: Any) -> Self:
        """Each request is answered with an error."""
        return cls(Kind.STATUS, status=status, code=code, **match)

    @classmethod
    def slow_down(cls, **match: Any) -> Self:
        """S3's way to ask for fewer requests."""
        return cls.refusal(503, "SlowDown", **match)

    @classmethod
    def expired(cls, **match: Any) -> Self:
        """The credentials have expired."""
        return cls.refusal(403, "ExpiredToken", **match)

    @classmethod
    def unseen(cls, **match: Any) -> Self:
        """An object that is there is not seen yet."""
        return cls.refusal(404, "NoSuchKey", **match)

    @classmethod
    def no_bucket(cls, **match: Any) -> Self:
        """The bucket was deleted."""
        return cls.refusal(404, "NoSuchBucket", **match)

    @classmethod
    def date(cls, seconds: float, **match: Any) -> Self:
        """The server's clock is ahead."""
        return cls(Kind.DATE, seconds=seconds, **match)

    def matches(self, method: str, key: str) -> bool:
        """Whether a request is one of those meant."""
        return fnmatchcase(method, self.method) and fnmatchcase(key, self.key)

    def place_in(self, length: int) -> int:
        """Where in a body of this length it strikes."""
        return min(length, length // 2 if self.at is None else self.at)

    def to_json(self) -> dict[str, Any]:
        """The fault as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The fault that JSON tells; what is missing has its default."""
        return cls(**{**told, "kind": Kind(told["kind"])})

    def body(self, key: str) -> bytes:
        """S3's XML for STATUS."""
        message = _MESSAGES.get(self.code, self.code)
        text = f"<Code>{self.code}</Code><Message>{message}</Message><Key>{key}</Key><RequestId>0</RequestId>"
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{text}</Error>'.encode()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one request meets: a delay, a bandwidth (0: any), and at most one thing that ends or spoils it."""

    seconds: float = 0.0
    bytes_per_s: int = 0
    ending: Fault | None = None
    struck: tuple[Fault, ...] = ()


class Faults:
    """The faults in force. Seeded: the same requests in the same order meet the same. Safe to use from threads."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 0) -> None:
        self.all = tuple(faults)
        self._lock = threading.Lock()
        self._matched = [0] * len(self.all)
        self._struck = [0] * len(self.all)
        self._dice = [random.Random(f"{seed}/{index}") for index in range(len(self.all))]

    @property
    def is_refusing(self) -> bool:
        """Whether nobody listens."""
        return any(fault.kind is Kind.REFUSE for fault in self.all)

    def judge(self, method: str, key: str) -> Verdict:
        """What this request meets; it counts."""
        with self._lock:
            struck = [fault for index, fault in enumerate(self.all) if self._strikes(index, method, key)]
        rates = [fault.bytes_per_s for fault in struck if fault.kind is Kind.BANDWIDTH]
        endings = [fault for fault in struck if fault.kind in _ENDINGS]
        return Verdict(
            seconds=sum(fault.seconds for fault in struck if fault.kind is Kind.LATENCY),
            bytes_per_s=min(rates, default=0),
            ending=endings[0] if endings else None,
            struck=tuple(fault for fault in struck if fault not in endings[1:]),
        )

    def _strikes(self, index: int, method: str, key: str) -> bool:
        fault = self.all[index]
        if fault.kind is Kind.REFUSE or not fault.matches(method, key):
            return False
        self._matched[index] += 1
        if self._matched[index] <= fault.skip or (fault.count is not None and self._struck[index] >= fault.count):
            return False
        if self._dice[index].random() >= fault.probability:
            return False
        self._struck[index] += 1
        return True
