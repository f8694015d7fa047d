"""Calls of the cold side, and the simplest who runs them: threads of this process. See engine.coldprocess."""

from collections.abc import Callable
from typing import Any, Protocol

import trio

from tierfs.core.records import Fd
from tierfs.engine.coldside import OF_THE_CACHE, ColdSide, Job

_CACHE_THREADS = 4  # each holds a connection to the cache's database
_THREADS = 1000  # the engine's own limits are lower


def _ignore(_event: object) -> bool:
    """Nobody listens."""
    return True


class Call:
    """One call of the cold side: the name of a method of ColdSide, and what it is given.

    `on_event` is called in the trio thread with what the call tells, in order, before its result is there; it answers
    whether the call should go on. `fd` is lent for as long as the call runs. `kept` is whatever must not go away while
    it runs.
    """

    def __init__(
        self,
        name: str,
        *arguments: object,
        on_event: Callable[[Any], bool] = _ignore,
        fd: Fd | None = None,
        kept: object = None,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.on_event = on_event
        self.fd = fd
        self.kept = kept
        self._is_ended = False
        self._end: Callable[[], None] | None = None

    def connect(self, end: Callable[[], None]) -> None:
        """It runs now, and `end` reaches it."""
        self._end = end
        if self._is_ended:
            end()

    def happened(self, event: object) -> None:
        """It tells something."""
        if not self.on_event(event):
            self.end()

    def end(self) -> None:
        """It may stop, now or when it has begun: nobody is interested any more."""
        self._is_ended = True
        if self._end:
            self._end()


class Calls(Protocol):
    """Who runs calls. Before `ready`, those of a worker that has just taken over fail."""

    ready: trio.Event

    async def run(self, call: Call) -> Any:
        """What the call returns or raises. One that is cancelled here is told to end, and not waited for."""
        ...


class InThreads:
    """Runs calls in threads of this process: for tests, and for what is over soon."""

    def __init__(self, side: ColdSide) -> None:
        self.ready = trio.Event()
        self.ready.set()
        self._side = side
        self._of_the_cache = trio.CapacityLimiter(_CACHE_THREADS)
        self._others = trio.CapacityLimiter(_THREADS)

    async def run(self, call: Call) -> Any:
        """See Calls."""
        token = trio.lowlevel.current_trio_token()
        job = Job(lambda event: token.run_sync_soon(call.happened, event))
        call.connect(job.stop.set)
        given = call.arguments if call.fd is None else (call.fd, *call.arguments)
        limiter = self._of_the_cache if call.name in OF_THE_CACHE else self._others
        try:
            return await trio.to_thread.run_sync(
                getattr(self._side, call.name), job, *given, abandon_on_cancel=True, limiter=limiter
            )
        finally:
            job.stop.set()
