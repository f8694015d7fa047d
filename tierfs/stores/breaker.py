"""A circuit breaker before a cold store: one that does not answer is spared, tried now and then, and heals by itself.

What happens when is decided by functions of a frozen record (Circuit); Breaker is the lock around it; BreakerStore has
the face of the store behind. Only StoreUnavailable counts as a failure: a refusal, a missing object or damaged bytes
are answers. Reads and writes have a circuit each: a store that is full still serves reads.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import TypeVar

from tierfs.core.errors import NoLease, StoreError, StoreSpared, StoreUnavailable
from tierfs.core.reports import StoreHealth, happened
from tierfs.stores.cold import ColdStore, Deleted, ObjectInfo, Progress, Source, StoreCounters

_log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_PAUSE_NS = 250_000_000


class State(StrEnum):
    """Requests pass; or are refused until the next try; or wait for how a try ends."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(Enum):
    """How far a request came. HEARD comes before the end of those that take long."""

    HEARD = auto()
    ANSWERED = auto()
    FAILED = auto()
    ABANDONED = auto()  # its caller gave up before there was an answer


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """`failures` in a row open the circuit (0: never); the pause between tries doubles up to `longest_pause_ns`."""

    failures: int = 5
    longest_pause_ns: int = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of a store; times on one monotonic clock.

    `failures` are those in a row, `tries` those of them since it opened at `since_ns`; no try before `try_at_ns`.
    """

    state: State = State.CLOSED
    failures: int = 0
    tries: int = 0
    since_ns: int = 0
    try_at_ns: int = 0
    trouble: str = ""


def plan_request(circuit: Circuit, rules: BreakerRules, now_ns: int) -> Circuit | None:
    """The circuit once a request was let through, None when it is refused.

    One that changes OPEN to HALF_OPEN is a try. One that hangs does not keep others off for ever.
    """
    if circuit.state is State.CLOSED:
        return circuit
    if now_ns < circuit.try_at_ns:
        return None
    return replace(circuit, state=State.HALF_OPEN, try_at_ns=now_ns + rules.longest_pause_ns)


def plan_event(circuit: Circuit, event: Event, is_try: bool, now_ns: int) -> Circuit:
    """The circuit after a request told something, but for failures: see plan_failure."""
    if event is Event.ABANDONED:
        is_next_free = is_try and circuit.state is State.HALF_OPEN
        return replace(circuit, state=State.OPEN, try_at_ns=now_ns) if is_next_free else circuit
    if event is Event.HEARD and circuit.state is State.CLOSED:
        return circuit  # it may still fail in the middle, as those before
    return Circuit()


def plan_failure(
    circuit: Circuit, rules: BreakerRules, is_try: bool, now_ns: int, jitter: float, trouble: str
) -> Circuit:
    """The circuit after a request failed; `jitter` in [0, 1) takes up to half of the pause."""
    failed = replace(circuit, failures=circuit.failures + 1, trouble=trouble)
    opens = circuit.state is State.CLOSED and 0 < rules.failures <= failed.failures
    if not opens and not (circuit.state is State.HALF_OPEN and is_try):
        return failed  # begun before it opened: says nothing new
    pause_ns = min(rules.longest_pause_ns, _FIRST_PAUSE_NS << min(circuit.tries, 32))
    return replace(
        failed,
        state=State.OPEN,
        tries=circuit.tries + 1,
        since_ns=now_ns if opens else circuit.since_ns,
        try_at_ns=now_ns + int(pause_ns * (1 - jitter / 2)),
    )


def refusal(circuit: Circuit, now_ns: int) -> str:
    """Why a request is refused, for a person."""
    since, wait = (now_ns - circuit.since_ns) / 1e9, max(0, circuit.try_at_ns - now_ns) / 1e9
    return (
        f"the store is not asked now: it failed {circuit.failures} times in a row and is spared since {since:.1f} s; "
        f"the next try is in {wait:.1f} s; its last answer was: {circuit.trouble}"
    )


#: What a request that takes long calls as soon as the store said anything.
Heard = Callable[[], None]


class Breaker:
    """One circuit, safe to use from threads. INVARIANT: nothing but the decision happens under the lock."""

    def __init__(self, name: str, rules: BreakerRules, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._name = name
        self._rules = rules
        self._clock = clock
        self._lock = threading.Lock()
        self._circuit = Circuit()
        self._opened = self._refused = 0

    @contextmanager
    def request(self, is_refusable: bool = True) -> Iterator[Heard]:
        """The block is one request: let through or refused (StoreSpared), and judged by how it ends."""
        is_try = self._admit(is_refusable)
        is_heard = False

        def heard() -> None:
            nonlocal is_heard
            if not is_heard:
                is_heard = True
                self._tell(Event.HEARD, is_try)

        try:
            yield heard
        except StoreUnavailable as error:
            if not is_heard:  # an answer that broke off proves neither that the store works nor that it does not
                error.wait_ns = self._tell(Event.FAILED, is_try, str(error))
            raise
        except NoLease:
            self._tell(Event.ABANDONED, is_try)
            raise
        except StoreError:
            self._tell(Event.ANSWERED, is_try)
            raise
        except BaseException:
            self._tell(Event.ANSWERED if is_heard else Event.ABANDONED, is_try)
            raise
        else:
            self._tell(Event.ANSWERED, is_try)

    def health(self) -> StoreHealth:
        """The circuit for a person: times since the epoch."""
        with self._lock:
            circuit, opened, refused = self._circuit, self._opened, self._refused
        epoch_ns = time.time_ns() - self._clock()
        is_closed = circuit.state is State.CLOSED
        return StoreHealth(
            state=circuit.state.value,
            failures=circuit.failures,
            since_ns=0 if is_closed else epoch_ns + circuit.since_ns,
            next_try_ns=0 if is_closed else epoch_ns + circuit.try_at_ns,
            reason=circuit.trouble,
            opened=opened,
            refused=refused,
        )

    def _admit(self, is_refusable: bool) -> bool:
        """Whether the request is a try. StoreSpared when it is refused."""
        now_ns = self._clock()
        with self._lock:
            before = self._circuit
            after = plan_request(before, self._rules, now_ns)
            if after:
                self._circuit = after
                return after is not before
            if not is_refusable:
                return False
            self._refused += 1
        spared = StoreSpared(refusal(before, now_ns))
        spared.wait_ns = max(0, before.try_at_ns - now_ns)
        raise spared

    def _tell(self, event: Event, is_try: bool, trouble: str = "") -> int | None:
        """Returns nanoseconds until the next try, if requests are refused until then."""
        now_ns, jitter = self._clock(), random.random()
        with self._lock:
            before = self._circuit
            if event is Event.FAILED:
                after = plan_failure(before, self._rules, is_try, now_ns, jitter, trouble)
            else:
                after = plan_event(before, event, is_try, now_ns)
            self._circuit = after
            opens = before.state is State.CLOSED and after.state is State.OPEN
            self._opened += opens
        if opens:
            extra = happened("breaker", before="closed", after="open")
            text = "%s: the store failed %d times in a row and is spared: %s"
            _log.warning(text, self._name, after.failures, trouble, extra=extra)
        elif before.state is not State.CLOSED and after.state is State.CLOSED:
            spared_s, failures = (now_ns - before.since_ns) / 1e9, before.failures
            extra = happened("breaker", before="open", after="closed", duration_ns=now_ns - before.since_ns)
            text = "%s: the store answers again, after %.1f s and %d failures"
            _log.warning(text, self._name, spared_s, failures, extra=extra)
        return None if after.state is State.CLOSED else max(0, after.try_at_ns - now_ns)


class BreakerStore:
    """ColdStore in front of another one: fails at once while the other one does not answer."""

    def __init__(self, inner: ColdStore, rules: BreakerRules) -> None:
        self.reads = Breaker("reads", rules)
        self.writes = Breaker("writes", rules)
        self._inner = inner

    @property
    def counters(self) -> StoreCounters:
        """Those of the store behind."""
        return self._inner.counters

    def health(self) -> dict[str, StoreHealth]:
        """The state of both circuits."""
        return {"reads": self.reads.health(), "writes": self.writes.health()}

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        with self.writes.request() as heard:

            def progress_heard(moved: int) -> None:
                if moved:
                    heard()
                progress(moved)

            return self._inner.put(key, source, metadata, progress_heard)

    def get(
        self, key: str, start: int, stop: int, etag: str, version_id: str | None = None
    ) -> Generator[bytes, None, None]:
        """Stream the bytes [start, stop); see ColdStore. Closing the generator closes the one behind."""
        if start >= stop:
            return  # the store is not asked, so it is not judged
        with self.reads.request() as heard:
            blocks = self._inner.get(key, start, stop, etag, version_id)
            yield from _telling(blocks, heard)

    def head(self, key: str) -> ObjectInfo:
        with self.reads.request():
            return self._inner.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self.reads.request() as heard:
            yield from _telling(self._inner.list(prefix), heard)

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        with self.writes.request():
            return self._inner.copy(source, key)

    def delete(self, key: str) -> None:
        with self.writes.request():
            self._inner.delete(key)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        """See ColdStore. One deletion that was answered says that the store works."""
        deleted = Deleted()
        try:
            with self.writes.request():
                deleted = self._inner.delete_many(keys)
                for error in () if deleted.gone else deleted.failures.values():
                    if isinstance(error, StoreUnavailable):
                        raise error
        except StoreUnavailable:
            if not deleted.failures:
                raise
        return deleted

    def tidy(self) -> None:
        with self.writes.request():
            self._inner.tidy()

    def probe(self) -> tuple[str, ...]:
        """The self-test is never refused: it is rare, and somebody wants to know."""
        with self.reads.request(is_refusable=False):
            return self._inner.probe()

    def close(self) -> None:
        self._inner.close()


def _telling(things: Iterator[T], heard: Heard) -> Iterator[T]:
    """The same things; the first one says that the store was heard."""
    with closing(things) if isinstance(things, Generator) else nullcontext():
        for thing in things:
            heard()
            yield thing
