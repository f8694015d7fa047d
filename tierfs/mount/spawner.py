"""The spawner: a process that has imported all that a worker needs, and forks one in milliseconds.

    supervisor                            spawner
                         <------------      ready, with the version that it would start
      start, a socket    ------------>      fork(2): the child is a worker, with the socket as its channel
                         <------------      started, with a pidfd

Python takes a second to import a worker. The spawner has done that before one is needed, shares its memory with the
worker until one of them writes, and needs no disk to start the next one. It ends with the supervisor.
"""

import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from tierfs.mount import channel

#: Runs a worker over its channel, and returns its exit status.
Run = Callable[[socket.socket], int]
#: Says why a mount (its request, its session) cannot be gone on with by this version; empty when it can.
Fits = Callable[[channel.Message, int], str]


def serve(supervisor: socket.socket, version: str, run: Run, fits: Fits) -> int:
    """Fork workers until the supervisor is gone; in a worker, return its exit status."""
    gc.collect()
    gc.freeze()  # what is there now stays: the collector need not touch, and so copy, its pages
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the supervisor
        signal.signal(number, signal.SIG_IGN)
    channel.send(supervisor, {"ready": version})
    workers: dict[int, int] = {}
    while True:
        poll = select.poll()
        poll.register(supervisor, select.POLLIN)
        for fd in workers:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll():
            if fd in workers:
                _reap(fd, workers.pop(fd))
                continue
            try:
                message, descriptors = channel.receive(supervisor)
            except EOFError:
                return 0
            if "fits" in message:
                channel.send(supervisor, {"fits": fits(message["fits"], descriptors.pop())})
            for descriptor in descriptors:
                pid = os.fork()
                if pid == 0:
                    return _become_worker(supervisor, [*workers], descriptor, run)
                workers[_announce(supervisor, pid, descriptor)] = pid


def _become_worker(supervisor: socket.socket, others: list[int], descriptor: int, run: Run) -> int:
    supervisor.close()
    for fd in others:
        os.close(fd)
    with socket.socket(fileno=descriptor) as own:
        return run(own)


def _announce(supervisor: socket.socket, pid: int, descriptor: int) -> int:
    os.close(descriptor)
    pidfd = os.pidfd_open(pid)
    with suppress(OSError):
        channel.send(supervisor, {"started": pid}, [pidfd])
    return pidfd


def _reap(pidfd: int, pid: int) -> None:
    os.close(pidfd)
    with suppress(ChildProcessError):
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            print(f"tierfs: the worker (pid {pid}) was killed by {signal.Signals(-code).name}", file=sys.stderr)
