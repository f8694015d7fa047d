"""Runs the calls of the cold side in a process of its own, which is started again when it dies.

Why: Python lets one thread run at a time and takes turns every 5 ms. Signing requests, reading answers and the cache's
database in the process that answers the kernel would show up as milliseconds in the opens of hot files.
"""

import logging
import os
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress
from itertools import count
from typing import Any

import outcome
import trio

from tierfs.core.errors import MountError, StoreUnavailable
from tierfs.core.reports import happened
from tierfs.engine.calls import Call
from tierfs.engine.frames import Unpacker, pack

_log = logging.getLogger("tierfs")

_MODULE = "tierfs.cold"
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_LEAVING_S = 3.0  # to give the lease back and close the cache; killed after that: the lease runs out by itself
_RECEIVED_AT_ONCE = 1 << 16
#: Many threads that receive a block each, one after the other: two heaps serve them all, instead of one for each.
_MALLOC = {"MALLOC_ARENA_MAX": "2"}


class ColdProcess:
    """Runs calls in another process; `configuration` is what that one is told of the mount. See Calls.

    `restarts` counts how often it ended and was started again. With `is_known` the mount is there already, and a first
    start that fails is tried again as well.

    INVARIANT: what a call keeps is kept until the other process says that the call is over, or is gone itself.
    """

    def __init__(self, configuration: object, memory_fd: int, is_known: bool = False) -> None:
        self.restarts = 0
        self._configuration = configuration
        self._memory_fd = memory_fd
        self._numbers = count()
        self._waiting: dict[int, _Waiting] = {}
        self._line: _Line | None = None
        self._was_ready = self._is_lease_kept = is_known
        self.ready = trio.Event()  # once; it may be gone again
        self._scope = trio.CancelScope()

    # -- calls ---------------------------------------------------------------------------------------------------

    async def run(self, call: Call) -> Any:
        """See Calls. StoreUnavailable when the other process is not there, or dies over it."""
        if self._line is None:
            raise StoreUnavailable("the process that talks to the store is being started again")
        number = next(self._numbers)
        waiting = self._waiting[number] = _Waiting(call)
        line = self._line
        line.send(("call", number, call.name, call.arguments, call.fd is not None), call.fd)
        call.connect(lambda: line.send(("end", number)))
        try:
            await waiting.done.wait()
        except trio.Cancelled:
            call.end()
            raise
        assert waiting.result is not None
        return waiting.result.unwrap()

    def keep_lease(self, is_kept: bool) -> None:
        """Whether the mount goes on when the process ends, and its lease with it: then that is not given back."""
        self._is_lease_kept = is_kept
        if self._line:
            self._line.send(("keep_lease", is_kept))

    # -- the process ---------------------------------------------------------------------------------------------

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the process until cancelled. What it refuses at its first start (TierfsError) is raised."""
        pause_s = _FIRST_PAUSE_S
        with self._scope:
            while True:
                began = trio.current_time()
                error = await self._serve_one(task_status)
                task_status = trio.TASK_STATUS_IGNORED
                extra = happened("cold-process", before="running", after="gone")
                _log.error("%s; it is started again", error, extra=extra)
                self.restarts += 1
                pause_s = _FIRST_PAUSE_S if trio.current_time() - began > _LONGEST_PAUSE_S else pause_s * 2
                await trio.sleep(min(pause_s, _LONGEST_PAUSE_S))

    def end_soon(self, seconds: float) -> None:
        """Give what is under way so long, then end the process: the calls fail."""
        self._scope.deadline = trio.current_time() + seconds

    async def _serve_one(self, task_status: trio.TaskStatus[None]) -> StoreUnavailable:
        """Start a process and talk to it until it is gone; returns why."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                fds = (theirs.fileno(), self._memory_fd)
                command = (sys.executable, "-m", _MODULE, *map(str, fds))
                process = await trio.lowlevel.open_process(
                    command, stdin=subprocess.DEVNULL, pass_fds=fds, env={**_MALLOC, **os.environ}
                )
            try:
                await self._talk(_Line(ours), task_status)
            finally:
                self._line = None
                ours.close()  # that is how it learns that it may go
                await _wait_gone(process)
                gone = StoreUnavailable(f"the process that talks to the store ended ({_how(process.returncode)})")
                waiting, self._waiting = self._waiting, {}
                for one in waiting.values():
                    one.finish(outcome.Error(StoreUnavailable(str(gone))))
        if not self._was_ready:
            raise MountError(str(gone))
        return gone

    async def _talk(self, line: "_Line", task_status: trio.TaskStatus[None]) -> None:
        line.send(("configuration", self._configuration))
        line.send(("keep_lease", self._is_lease_kept))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.send_backlog)
            async for message in line:
                match message:
                    case ("ready",):
                        self._line, self._was_ready = line, True
                        if self.restarts:
                            extra = happened("cold-process", before="gone", after="running")
                            _log.info("the process that talks to the store is there again", extra=extra)
                        self.ready.set()
                        task_status.started()
                    case ("refused", Exception() as error):
                        if not self._was_ready:
                            raise error
                        _log.error("%s", error)  # a mount that serves goes on, and tries again
                    case ("log", int(level), str(name), str(text), dict(extra)):
                        logging.getLogger(name).log(level, "%s", text, extra=extra)
                    case ("event", int(number), event):
                        self._waiting[number].call.happened(event)
                    case ("returned", int(number), value):
                        self._waiting.pop(number).finish(outcome.Value(value))
                    case ("raised", int(number), Exception() as error):
                        self._waiting.pop(number).finish(outcome.Error(error))
            nursery.cancel_scope.cancel()


async def _wait_gone(process: trio.Process) -> None:
    """Until a process has gone; one that does not go by itself is killed."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(_LEAVING_S):
            await process.wait()
        process.kill()
        await process.wait()


class _Waiting:
    """A call that the other process has."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.done = trio.Event()
        self.result: outcome.Outcome[Any] | None = None

    def finish(self, result: "outcome.Outcome[Any]") -> None:
        self.result = result
        self.done.set()


class _Line:
    """Our end of the socket: messages with descriptors out, at once where the socket takes them; messages in."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._unpacker = Unpacker()
        self._backlog: deque[tuple[bytes, int | None]] = deque()
        self._has_backlog = trio.Event()

    def send(self, message: tuple[object, ...], fd: int | None = None) -> None:
        """Send, or keep until the socket takes it. A descriptor must stay open until its message was answered."""
        self._backlog.append((pack(message), fd))
        self._send_what_goes()
        if self._backlog:
            self._has_backlog.set()

    async def send_backlog(self) -> None:
        """Send what did not go at once, until cancelled."""
        while True:
            await self._has_backlog.wait()
            self._has_backlog = trio.Event()
            while self._backlog:
                await trio.lowlevel.wait_writable(self._socket)
                self._send_what_goes()

    def _send_what_goes(self) -> None:
        # The other end being gone shows where it is read from.
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._backlog:
                data, fd = self._backlog[0]
                sent = socket.send_fds(self._socket, [data], [fd] if fd is not None else [])
                if sent == len(data):
                    self._backlog.popleft()
                else:
                    self._backlog[0] = (data[sent:], None)

    def __aiter__(self) -> "_Line":
        self._messages: deque[tuple[object, ...]] = deque()
        return self

    async def __anext__(self) -> tuple[object, ...]:
        while not self._messages:
            await trio.lowlevel.wait_readable(self._socket)
            with suppress(BlockingIOError):
                try:
                    data = self._socket.recv(_RECEIVED_AT_ONCE)
                except ConnectionResetError:
                    data = b""
                if not data:
                    raise StopAsyncIteration
                self._messages.extend(self._unpacker.feed(data))
        return self._messages.popleft()


def _how(status: int | None) -> str:
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
