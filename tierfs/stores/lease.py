"""Keeps the lease of a prefix: takes it, renews it, and says before each write whether it still holds.

Lives in the process that writes, so that one that was stopped for an hour finds out before its next request: check()
compares two clocks and asks nobody. A lease that ran out because the store was away is good again once the store has
granted another renewal of the same epoch; one that somebody else took is gone for as long as the mount lasts.
"""

import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tierfs.core.errors import NoLease, ObjectChanged, StoreError
from tierfs.core.lease import Claim, Found, Lease, Owner, Refusal, Take, explain, plan_claim, renewed
from tierfs.core.reports import LeaseReport, happened
from tierfs.core.steps import step

_log = logging.getLogger(__name__)

#: Where the store compares nothing: between writing a lease and reading it back, in nanoseconds.
_PAUSE_NS = 500_000_000
_TRIES = 5
_LONGEST_PAUSE_NS = 5_000_000_000  # between two tries to take a lease
#: The process of a worker that was killed ends by itself, a moment later: looks for that, and seconds between them.
_LOOKS, _LOOK_S = 40, 0.05
_LOCK = "writer.lock"
_SESSION = "writer.session"

#: Two clocks, in nanoseconds: the one that no pause of the host stops, and the one that people set.
Instant = tuple[int, int]


def read_clocks() -> Instant:
    """Now. A host that slept shows in the first clock, a virtual machine that was paused in the second."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()


class LeasePlace(Protocol):
    """The one object that a lease is. Every method raises StoreError."""

    @property
    def name(self) -> str:
        """The place in words."""
        ...

    def read(self) -> Found | None:
        """What is there."""
        ...

    def write(self, text: str, tag: str | None) -> str:
        """Replace the text that has this tag, None for none; the new tag. ObjectChanged when something else is there.

        Where is_exact() says no, others may come between the look and the write.
        """
        ...

    def is_exact(self, text: str) -> bool:
        """Whether write() compares and writes in one step; asked after a write of `text`, which may be repeated."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """Whose lease it is to be, for how long it is good, and where its owner keeps what belongs to it alone."""

    owner: Owner
    ttl_ns: int
    state: Path


@dataclass(frozen=True, slots=True)
class _Term:
    """When requests may begin: from the one instant until before the other, by either clock."""

    begin: Instant
    end: Instant

    def covers(self, now: Instant) -> bool:
        return now[0] >= self.begin[0] and now[0] < self.end[0] and now[1] < self.end[1]


class LeaseKeeper:
    """The lease of one mount. check() is safe and cheap from any thread.

    INVARIANT: check() passes only while the store has granted this owner's epoch less than `ttl_ns` ago, counted from
    before it was asked.
    """

    def __init__(self, place: LeasePlace, terms: Terms, clocks: Callable[[], Instant] = read_clocks) -> None:
        self._place = place
        self._terms = terms
        self._clocks = clocks
        self._lock = threading.RLock()  # one request about the lease at a time
        self._ended = threading.Event()
        self._is_decided = threading.Event()
        self._thread: threading.Thread | None = None
        self._writer_lock: int | None = None
        self._term: _Term | None = None
        self._begin: Instant = (0, 0)
        self._lease: Lease | None = None
        self._tag: str | None = None
        self._marks: set[str] = set()  # of what may be there when it is ours
        self._is_exact = True
        self._refusal: Refusal | None = None
        self._trouble = "it was not asked for yet"
        self.is_kept = False  # another process of this mount goes on with it
        if self._was_held():  # the process before this one died
            self._start()

    # -- before each write ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """A Fence: NoLease unless a request that changes the store may begin now.

        Waits where the process before this one had the lease and the store is just being asked.
        """
        if self._thread and not self._is_decided.is_set():
            self._is_decided.wait(_LONGEST_PAUSE_NS / 1e9)
        term = self._term
        if term is None or not term.covers(self._clocks()):
            raise NoLease(f"nothing is written now: {self.report().reason}")

    def report(self) -> LeaseReport:
        """The lease for a person."""
        term, lease, refusal, now = self._term, self._lease, self._refusal, self._clocks()
        epoch, taken_ns = (lease.epoch, lease.taken_ns) if lease else (0, 0)
        if refusal:
            return LeaseReport(
                "lost" if refusal.is_final else "refused", epoch, taken_ns, explain(refusal, self._place.name)
            )
        if term is None:
            reason = f"{self._place.name} could not be asked for its lease: {self._trouble}"
            return LeaseReport("unreached", epoch, taken_ns, reason)
        if term.covers(now):
            return LeaseReport("held", epoch, taken_ns)
        if now[0] < term.begin[0]:
            wait_s = (term.begin[0] - now[0]) / 1e9
            reason = f"the mount that had the lease of {self._place.name} may still write for {wait_s:.0f} s"
            return LeaseReport("waiting", epoch, taken_ns, reason)
        reason = f"the lease of {self._place.name} ran out, because it could not be renewed: {self._trouble}"
        return LeaseReport("lapsed", epoch, taken_ns, reason)

    # -- taking, keeping, giving back ----------------------------------------------------------------------------

    def claim(self, is_forced: bool = False) -> LeaseReport:
        """Ask for the lease now, and keep it from here on; what came of it. `is_forced`: see core.lease.Claim."""
        self._tick(is_forced)
        self._start()
        return self.report()

    def end(self, is_idle: bool) -> None:
        """Write nothing any more, and give the lease back: not while a request is under way, nor one that is kept."""
        self._ended.set()
        self._is_decided.set()
        with self._lock:
            term, self._term = self._term, None
            is_free = is_idle and not self.is_kept
            if self._lease and self._refusal is None and is_free and term and term.covers(self._clocks()):
                try:
                    free = replace(renewed(self._lease, _mark(), self._clocks()[1]), is_free=True)
                    with step("lease.free"):
                        self._write(free, self._tag)
                except StoreError as error:
                    _log.info("the lease of %s runs out by itself: %s", self._place.name, error)
            self._place.close()
            if self._writer_lock is not None:
                os.close(self._writer_lock)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tierfs-lease", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            if self._refusal and self._refusal.is_final:
                return
            if self._lease is None or self._is_due():
                self._tick(False)
            self._ended.wait(min(self._terms.ttl_ns // 3, _LONGEST_PAUSE_NS) / 1e9)

    def _is_due(self) -> bool:
        """A third of the time is over; or it is to be found out what became of a renewal."""
        term, now = self._term, self._clocks()
        return term is None or self._trouble != "" or term.end[0] - now[0] < self._terms.ttl_ns * 3 // 4

    def _tick(self, is_forced: bool) -> None:
        before = self.report()
        with self._lock:
            if self._ended.is_set():
                return
            try:
                if self._lease is None:
                    self._claim(is_forced)
                else:
                    self._renew(self._lease)
                self._trouble = ""
            except StoreError as error:
                self._trouble = str(error)
            except OSError as error:  # of the state directory
                self._trouble = f"{error.strerror} ({error.filename})"
            finally:
                self._is_decided.set()
        after = self.report()
        if after.state != before.state and (after.state != "refused" or self._thread):
            level = logging.INFO if after.state == "held" else logging.WARNING
            extra = happened("lease", before=before.state, after=after.state)
            _log.log(level, "the lease of %s is %s %s", self._place.name, after.state, after.reason, extra=extra)

    def _claim(self, is_forced: bool) -> None:
        """Take the lease if it may be taken. StoreError."""
        for _ in range(_TRIES):
            began = self._clocks()
            found = self._place.read()
            claim = Claim(self._terms.owner, began[1], self._was_held(), self._is_alone(), is_forced)
            match plan_claim(found, claim):
                case Refusal() as refusal:
                    self._refusal = refusal
                    return
                case Take(epoch, wait_ns):
                    ttl_ns, begins_ns = self._terms.ttl_ns, began[1] + wait_ns
                    taken = Lease(epoch, self._terms.owner, _mark(), began[1], began[1], ttl_ns, begins_ns)
                    try:
                        with step("lease.take"):
                            tag = self._write(taken, found.tag if found else None)
                        is_ours = self._is_ours(taken, tag, began)
                    except ObjectChanged:
                        continue
                    if is_ours:
                        self._remember()
                        self._refusal = None
                        self._begin = (began[0] + wait_ns, began[1])
                        self._granted(taken, began)
                        return
        raise NoLease(f"{self._place.name} changes hands all the time")

    def _is_ours(self, taken: Lease, tag: str, began: Instant) -> bool:
        """Whether nobody came between; where the store cannot tell, by reading back after a pause."""
        self._tag = tag
        self._is_exact = self._place.is_exact(taken.format())
        if self._is_exact:
            return True
        _log.warning(
            "%s has no conditional writes: two mounts that begin at the same moment are told apart by reading back",
            self._place.name,
        )
        if self._clocks()[0] - began[0] > _PAUSE_NS:
            return False  # too slow: who asks now may have read before this was written
        time.sleep(_PAUSE_NS / 1e9)
        found = self._place.read()
        self._tag = found.tag if found else None
        return found is not None and found.lease is not None and found.lease.mark == taken.mark

    def _renew(self, lease: Lease) -> None:
        """Have the same epoch for another while. StoreError."""
        for _ in range(_TRIES):
            began = self._clocks()
            is_sure = self._is_exact and not self._trouble and self._term is not None and self._term.covers(began)
            if not is_sure:
                found = self._place.read()
                if found and (found.lease is None or found.lease.mark not in self._marks):
                    self._term = None
                    self._refusal = Refusal(found.lease, found.age_ns, is_final=True)
                    return
                self._tag = found.tag if found else None
            try:
                later = renewed(lease, _mark(), began[1])
                with step("lease.renew"):
                    self._tag = self._write(later, self._tag)
            except ObjectChanged as error:
                self._trouble = str(error)
                continue
            self._granted(later, began)
            return
        raise NoLease(f"{self._place.name} changes hands all the time")

    def _write(self, lease: Lease, tag: str | None) -> str:
        self._marks.add(lease.mark)
        return self._place.write(lease.format(), tag)

    def _granted(self, lease: Lease, began: Instant) -> None:
        ttl_ns = self._terms.ttl_ns
        self._lease, self._marks = lease, {lease.mark}
        self._term = _Term(self._begin, (began[0] + ttl_ns, began[1] + ttl_ns))

    # -- what is kept in the state directory ---------------------------------------------------------------------

    def _is_alone(self) -> bool:
        """Whether the process that wrote for this state directory before is gone; from then on, others wait for us."""
        if self._writer_lock is None:
            fd = os.open(self._terms.state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for _ in range(_LOOKS):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(_LOOK_S)
                else:
                    self._writer_lock = fd
                    return True
            os.close(fd)
        return self._writer_lock is not None

    def _was_held(self) -> bool:
        """Whether this session has had the lease, perhaps in another process."""
        try:
            return (self._terms.state / _SESSION).read_text() == self._terms.owner.session
        except OSError:
            return False

    def _remember(self) -> None:
        fresh = self._terms.state / f"{_SESSION}.new"
        with step("lease.remember"):
            fresh.write_text(self._terms.owner.session)
            fresh.replace(self._terms.state / _SESSION)


def _mark() -> str:
    return uuid.uuid4().hex
