"""Waiting for requests: one task waits for /dev/fuse, and goes on with the next request without a detour if it can.

pyfuse3 takes a lock, arms epoll and switches tasks for every request, which costs more than most operations. An
application that has its answer usually asks again within microseconds: whoever has just answered looks for that
request first, and only then goes through trio. pyfuse3 looks the function up by name, so it can be given this one.

A task that is held up in an operation must not hold up the others: before a task takes a request it sees to it that
another one is ready to run, which takes over as soon as the first one really waits. When all are held up there is one
more: a fixed number of them would be a number of cold reads that freezes the mount.
"""

from collections.abc import Awaitable, Callable

import trio

from tierfs.mount import tap
from tierfs.mount.slow import HeldUp

#: How long to look for the next request before going through epoll: the time that a system call's caller needs.
_PATIENCE_US = 30
#: Requests in a row before the other tasks of the process get their turn.
_LONGEST_STREAK = 32
#: Tasks that stay although there is nothing to do for them; each has a buffer of a mebibyte.
_MOST_IDLE = 32


class Requests:
    """Hands out the right to read from /dev/fuse, and makes tasks for it: as many as there are requests held up.

    INVARIANT: at most one task waits for the descriptor; while tasks are held up, another one waits or is on its way.
    INVARIANT: `_caller` is the task that took the last request, unless it is noticed already or through with it.
    """

    def __init__(
        self, fd: int, answer: Callable[[], Awaitable[None]], on_end: Callable[[], None], held_up: HeldUp
    ) -> None:
        """`answer` answers requests one after the other, until wait() says that there are no more.

        `on_end` is called when the session is over: what is still waited for, nobody waits for. `held_up` is told
        whose request waits.
        """
        self._fd = fd
        self._answer = answer
        self._on_end = on_end
        self._streak = 0
        self._has_reader = False
        self._is_relief_called = False
        self._caller: trio.lowlevel.Task | None = None  # who called for it
        self._held_up = held_up
        self._waiting = held_up.since_ns
        self._idle: list[trio.lowlevel.Task] = []  # a stack: few tasks, and few buffers, do most of the work
        self._relievers: set[trio.lowlevel.Task] = set()
        self._nursery: trio.Nursery | None = None

    async def serve(self, first: Callable[[], Awaitable[None]]) -> None:
        """Answer requests in `first` and in as many more tasks as it takes, until all have found the session's end."""
        async with trio.open_nursery() as self._nursery:
            await first()
            self._on_end()

    async def wait(self) -> bool:
        """Return when there is a request to read; False when the task is not needed any more."""
        if self._waiting:
            self._came_back()
        while True:
            may_go_on = self._streak < _LONGEST_STREAK and not self._has_reader
            if may_go_on and tap.is_readable(self._fd, _PATIENCE_US):
                self._streak += 1
                self._call_relief()
                return True
            self._streak = 0
            if not self._has_reader:
                self._has_reader = True
                try:
                    await trio.lowlevel.wait_readable(self._fd)
                except trio.ClosedResourceError:
                    return False
                finally:
                    self._has_reader = False
                self._caller = trio.lowlevel.current_task()  # whoever called before did not need it
                self._call_relief()
                return True
            if len(self._idle) >= _MOST_IDLE and (task := trio.lowlevel.current_task()) in self._relievers:
                self._relievers.remove(task)
                return False
            await self._park()

    def _call_relief(self) -> None:
        if self._is_relief_called:
            return
        self._is_relief_called = True
        self._caller = trio.lowlevel.current_task()
        if self._idle:
            trio.lowlevel.reschedule(self._idle.pop())
        elif self._nursery:
            self._nursery.start_soon(self._relieve)

    def _relief_came(self) -> None:
        """Somebody else goes on: where nobody reads, whoever called has a request that it waits with."""
        self._is_relief_called = False
        if not self._has_reader:
            self._held_up.notice(self._caller)

    def _came_back(self) -> None:
        """This task may have waited with its request, and goes on before the relief came that another one called."""
        task = trio.lowlevel.current_task()
        self._held_up.forget(task)
        if self._is_relief_called and not self._has_reader and self._caller is not task:
            self._held_up.notice(self._caller)
            self._caller = task

    async def _relieve(self) -> None:
        self._relief_came()
        task = trio.lowlevel.current_task()
        self._relievers.add(task)
        try:
            await self._answer()
            if task in self._relievers:  # it was not sent away
                self._on_end()
        finally:
            self._relievers.discard(task)

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        self._idle.append(task)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._held_up.forget(task)
        self._relief_came()
