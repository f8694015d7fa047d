"""The worker: the process that serves a mount; and the spawner, which is the same program before it forks.

Started by the supervisor through the spawner; see tierfs.mount.supervisor for what they say to each other.
"""

import logging
import os
import resource
import socket
import sys
from contextlib import ExitStack
from typing import Any

import trio

from tierfs import __version__
from tierfs.admin.logs import start_logging
from tierfs.core.config import Settings
from tierfs.core.errors import TierfsError
from tierfs.mount import channel, spawner, tap
from tierfs.mount.received import Received
from tierfs.mount.session import Session
from tierfs.serving import Serving
from tierfs.wiring import Parts

log = logging.getLogger("tierfs")


async def run(line: socket.socket) -> None:
    """Talk to the supervisor and serve until the mount is gone. TierfsError, OSError, EOFError."""
    received = Received.of(line)
    start_logging(received.request)
    with ExitStack() as exits:
        parts = Parts(received.request, received.hot, received.session, exits)
        parts.wire(exits)
        serving = Serving(parts, received, line)
        async with trio.open_nursery() as nursery:
            if received.fuse is None:
                await nursery.start(parts.cold_process.serve)
                await serving.prepare()
                channel.send(line, {"prepared": True})
                _, (fuse_fd, *_) = channel.receive(line)
            else:
                fuse_fd = received.fuse
                nursery.start_soon(parts.cold_process.serve)
                serving.prepare_quickly()
            await serving.serve(fuse_fd)
            await serving.leave()
            parts.filesystem.close()
            nursery.cancel_scope.cancel()


def work(line: socket.socket) -> int:
    """Be a worker until the mount is taken away. Exit status 0 then, 1 when it could not be served."""
    os.umask(0)
    _raise_descriptor_limit()
    tap.take_precedence()
    try:
        trio.run(run, line)
    except (TierfsError, OSError, EOFError, BaseExceptionGroup) as error:
        first = _first(error)
        if not isinstance(first, TierfsError | OSError | EOFError):
            log.exception("a defect of tierfs ended the worker")
        log.error("%s", first)
        _tell(line, {"failed": str(first), "kind": type(first).__name__})
        return 1
    _tell(line, {"leaving": "gone"})
    return 0


def why_not_fit(request: dict[str, Any], session: int) -> str:
    """Why this version cannot go on with a mount; empty when it can."""
    try:
        Settings.model_validate(request["settings"])
        Session(session).close()
    except (TierfsError, ValueError, KeyError) as error:
        return f"tierfs {__version__} cannot go on with this mount: {error}"
    return ""


def main() -> int:
    """Be the spawner of a mount's workers, and, in each of its children, a serving."""
    with socket.socket(fileno=int(sys.argv[1])) as supervisor:
        return spawner.serve(supervisor, __version__, work, why_not_fit)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _tell(line: socket.socket, message: dict[str, Any]) -> None:
    try:
        channel.send(line, message)
    except OSError:
        log.debug("the supervisor is gone")


def _raise_descriptor_limit() -> None:
    """A descriptor for each of the applications' handles, and more: as many as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
