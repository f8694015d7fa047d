"""Waiting for requests: one task waits for /dev/fuse, and goes on with the next request without a detour if it can.

pyfuse3 takes a lock, arms epoll and switches tasks for every request, which costs more than most operations. An
application that has its answer usually asks again within microseconds: whoever has just answered looks for that
request first, and only then goes through trio. pyfuse3 looks the function up by name, so it can be given this one.

A task that is held up in an operation must not hold up the others: before a task takes a request it sees to it that
another one is ready to run, which takes over as soon as the first one really waits.
"""

import trio

from tierfs.mount import tap

#: How long to look for the next request before going through epoll: the time that a system call's caller needs.
_PATIENCE_US = 30
#: Requests in a row before the other tasks of the process get their turn.
_LONGEST_STREAK = 32


class Requests:
    """Hands out the right to read from /dev/fuse. INVARIANT: at most one task waits for the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._streak = 0
        self._has_reader = False
        self._is_relief_called = False
        self._idle: list[trio.lowlevel.Task] = []  # a stack: few tasks, and few buffers, do most of the work

    async def wait(self) -> bool:
        """Return when there is a request to read."""
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
            await self._park()

    def _call_relief(self) -> None:
        if self._idle and not self._is_relief_called:
            self._is_relief_called = True
            trio.lowlevel.reschedule(self._idle.pop())

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        self._idle.append(task)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._is_relief_called = False
