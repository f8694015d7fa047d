"""A mount that has several lives: it is killed, and made again over what it left; its store can be made to fail.

Its worker alone is killed, too, which is no end: the next one takes over.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from tests.faults import Fault, Kind
from tests.mounting import Mount, Plan, directory, mounted
from tests.proxy import Proxy, in_front_of
from tests.servers import rclone
from tierfs.core.errors import ControlError, StoreUnavailable

_BUCKET = "model"
_METHODS = {"put": "PUT", "get": "GET", "head": "HEAD", "copy": "PUT", "delete": "POST"}
_FLAGS = (
    "--chunk-size=4",
    "--read-ahead=64",
    "--min-size=1",
    "--policy-interval=100ms",
    "--max-retries=0",
    "--breaker-failures=0",
    "--auto-archive",
    "--warm-after=0s",
    "--cold-after=0s",
    "--settle=0s",
)
_MILLISECOND = 0.001
#: How long, in seconds, it may take until another worker answers on a busy machine.
_PATIENCE_S = 120.0

T = TypeVar("T")


class Lives:
    """One directory, one bucket, and the mount of them that is alive."""

    def __init__(self, plan: Plan, proxy: Proxy) -> None:
        self._plan = plan
        self._proxy = proxy
        self._life = ExitStack()
        self.mount: Mount = self._life.enter_context(mounted(plan))
        self._killer: threading.Timer | None = None
        self._is_ending = False

    def kill_during(self, call: Callable[[], object], patience: int) -> None:
        """Let a call run for `patience` milliseconds, then kill -9 the whole mount, and mount again.

        OSError is let go.
        """
        self._is_ending = True
        thread = threading.Thread(target=_quietly, args=(call,))
        thread.start()
        thread.join(patience * _MILLISECOND)
        self.mount.kill_all()
        thread.join()
        self._is_ending = False
        self.end()
        self.mount = self._life.enter_context(mounted(self._plan))

    def kill_worker_in(self, patience: int) -> None:
        """kill -9 the worker in so many milliseconds, whatever is under way then."""
        self._wait_killed()
        worker = int(self.answered(self.mount.status)["worker_pid"])
        self._killer = threading.Timer(patience * _MILLISECOND, _kill, (worker,))
        self._killer.start()

    def answered(self, call: Callable[[], T]) -> T:
        """What an operator is told; who was cut off because the worker was killed asks the next one."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return call()
            except (ControlError, StoreUnavailable):
                if self._is_ending:  # there is no next one until the call is over
                    raise
                assert time.monotonic() < deadline, self.mount.log.read_text(errors="replace")[-2000:]
                time.sleep(_MILLISECOND)

    def _wait_killed(self) -> None:
        if self._killer:
            self._killer.join()

    def fail(self, operation: str, after_effect: bool) -> None:
        """Let the next request of a kind fail, with or without having been carried out."""
        # Many objects are deleted by a request about the bucket.
        key = f"{_BUCKET}*" if operation == "delete" else f"{_BUCKET}/*"
        match = {"method": _METHODS[operation], "key": key, "count": 1}
        if after_effect and operation not in ("get", "head"):
            self._proxy.order(Fault(Kind.LOST_ANSWER, **match))
        else:
            self._proxy.order(Fault.refusal(500, "InternalError", **match))

    def heal(self) -> None:
        """The store works again."""
        self._proxy.heal()

    def end(self) -> None:
        """Take the mount away."""
        self._wait_killed()
        self._life.close()


@contextmanager
def lives(*flags: str) -> Iterator[Lives]:
    """A mount of an empty directory and an empty bucket on a real server, behind a proxy."""
    with directory() as home, rclone() as server, in_front_of(server) as proxy:
        server.create_bucket(_BUCKET)
        where = ("--endpoint-url", proxy.url, *_FLAGS, *flags)
        one = Lives(Plan(Path(home), store=f"s3://{_BUCKET}", flags=where, environment=server.environment), proxy)
        try:
            yield one
        finally:
            one.end()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # the whole mount was killed before
        os.kill(pid, signal.SIGKILL)


def _quietly(call: Callable[[], object]) -> None:
    with suppress(OSError, ControlError, StoreUnavailable):
        call()
