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

#: How long to look for the next request before going through epoll: the time that a system call's caller needs.
_PATIENCE_US = 30
#: Requests in a row before the other tasks of the process get their turn.
_LONGEST_STREAK = 32
#: Tasks that stay although there is nothing to do for them; each has a buffer of a mebibyte.
_MOST_IDLE = 32


class Requests:
    """Hands out the right to read from /dev/fuse, and makes tasks for it: as many as there are requests held up.

    INVARIANT: at most one task waits for the descriptor; while tasks are held up, another one waits or is on its way.
    """

    def __init__(self, fd: int, answer: Callable[[], Awaitable[None]], on_end: Callable[[], None]) -> None:
        """`answer` answers requests one after the other, until wait() says that there are no more.

        `on_end` is called when the session is over: what is still waited for, nobody waits for.
        """
        self._fd = fd
        self._answer = answer
        self._on_end = on_end
        self._streak = 0
        self._has_reader = False
        self._is_relief_called = False
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
        if self._idle:
            trio.lowlevel.reschedule(self._idle.pop())
        elif self._nursery:
            self._nursery.start_soon(self._relieve)

    async def _relieve(self) -> None:
        self._is_relief_called = False
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
        self._is_relief_called = False
