"""Runs examinations side by side, each in a process of its own: one that hangs is said to hang, and holds up nobody.

A thread would not do: who waits for a dead mount or a lost NFS server in the kernel cannot be ended, and would keep the
whole process with it.
"""

import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field

from tierfs.core.diagnosis import Diagnosis, Verdict

_BLOCK = 1 << 16
#: Ctrl-C, a terminal that is closed, a service that is stopped: what was begun is still taken back.
_ENDINGS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
#: What hangs ends by itself so many seconds after its patience, where the doctor is gone who would end it.
_GRACE_S = 30

#: Tells what it finds. It is closed when nobody listens any more, and then takes back what it has begun.
Diagnoses = Generator[Diagnosis, None, None]


@dataclass(frozen=True, slots=True)
class Examination:
    """What looks at `subject`; it may be silent for `patience_s` before it counts as hanging."""

    subject: str
    run: Callable[[], Diagnoses]
    patience_s: float = 15.0


@dataclass(slots=True)
class _Case:
    """An examination under way. INVARIANT: `fd` is open until `is_done`."""

    examination: Examination
    pid: int
    fd: int
    heard_at: float
    text: bytes = b""
    found: list[Diagnosis] = field(default_factory=list)
    is_done: bool = False

    def hear(self, data: bytes) -> None:
        """What the process says: a line for each diagnosis."""
        self.heard_at = time.monotonic()
        *lines, self.text = (self.text + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self.found.append(Diagnosis(**(told | {"verdict": Verdict(told["verdict"])})))


def examine(examinations: list[Examination]) -> Iterator[Diagnosis]:
    """What they find, in their order, as soon as it can be said. OSError where no process can be started."""
    cases: list[_Case] = []
    for one in examinations:
        cases.append(_begin(one, cases))
    with selectors.DefaultSelector() as selector:
        for case in cases:
            selector.register(case.fd, selectors.EVENT_READ, case)
        for case in cases:
            said = 0
            while not case.is_done or said < len(case.found):
                yield from case.found[said:]
                said = len(case.found)
                if not case.is_done:
                    _wait(selector, cases)


def _begin(examination: Examination, before: list[_Case]) -> _Case:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in (reading, *(case.fd for case in before)):
            os.close(fd)  # else who writes to us would not notice that the doctor is gone
        _run(examination, writing)
    os.close(writing)
    return _Case(examination, pid, reading, time.monotonic())


def _run(examination: Examination, out: int) -> None:
    """The process: it ends here, whatever happens."""
    try:
        is_ending = _noted_endings()
        signal.alarm(round(examination.patience_s) + _GRACE_S)
        with closing(examination.run()) as found:
            for diagnosis in found:
                os.write(out, json.dumps(asdict(diagnosis)).encode() + b"\n")
                if is_ending():
                    break
                signal.alarm(round(examination.patience_s) + _GRACE_S)
    except Exception as error:
        failed = Diagnosis(
            examination.subject,
            Verdict.WARNING,
            f"it could not be looked at: {type(error).__name__}: {error}",
            "the doctor met something that it does not know",
            "look yourself, and tell the authors of tierfs",
        )
        with suppress(OSError):
            os.write(out, json.dumps(asdict(failed)).encode() + b"\n")
    finally:
        os._exit(0)


def _noted_endings() -> Callable[[], bool]:
    """Have the process end between two diagnoses, not within a request whose answer says what is to be taken back."""
    noted: list[int] = []
    for number in _ENDINGS:
        signal.signal(number, lambda number, _frame: noted.append(number))
    return lambda: bool(noted)


def _wait(selector: selectors.BaseSelector, cases: list[_Case]) -> None:
    """Until one of them says something, ends, or has been silent for too long."""
    waiting = [case for case in cases if not case.is_done]
    deadline = min(case.heard_at + case.examination.patience_s for case in waiting)
    for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
        case: _Case = key.data
        if data := os.read(case.fd, _BLOCK):
            case.hear(data)
        else:
            _end(selector, case)
            os.waitpid(case.pid, 0)
    now = time.monotonic()
    for case in waiting:
        if not case.is_done and now >= case.heard_at + case.examination.patience_s:
            case.found.append(_hanging(case))
            _end(selector, case)
            with suppress(ProcessLookupError):
                os.kill(case.pid, signal.SIGKILL)  # and nobody waits: it ends when the kernel lets go of it
            os.waitpid(case.pid, os.WNOHANG)


def _end(selector: selectors.BaseSelector, case: _Case) -> None:
    selector.unregister(case.fd)
    os.close(case.fd)
    case.is_done = True


def _hanging(case: _Case) -> Diagnosis:
    after = f" after {case.found[-1].subject}" if case.found else ""
    return Diagnosis(
        case.examination.subject,
        Verdict.PROBLEM,
        f"no answer within {case.examination.patience_s:g} s{after}",
        "what was asked hangs: a mount that nobody serves, a network filesystem or a server that is away",
        "look at `tierfs status`, at the disks and at the network; who uses the same path hangs, too",
    )
