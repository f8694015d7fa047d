"""The spawner and a worker, as the supervisor sees them. Standard library only."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field

from tierfs.core.errors import TierfsError
from tierfs.mount import channel
from tierfs.mount.channel import Message


class Spawner:
    """A process that forks workers; `module` is what it runs."""

    def __init__(self, module: str) -> None:
        self.channel, theirs = channel.pair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.version = ""

    def start(self) -> socket.socket:
        """Have a worker started; its channel. OSError when the spawner is gone."""
        ours, theirs = channel.pair()
        with theirs:
            channel.send(self.channel, {"start": True}, [theirs.fileno()])
        return ours

    def close(self) -> None:
        """Have it end; its workers go on."""
        self.channel.close()
        self.process.wait()


@dataclass
class Worker:
    """A worker as the supervisor sees it; `pidfd` is -1 until the spawner has forked it."""

    channel: socket.socket
    pid: int = 0
    pidfd: int = -1
    is_open: bool = True  # its channel
    served_at: float | None = None
    is_last: bool = False  # it said that nobody needs to go on
    is_handing_over: bool = False
    failure: Message = field(default_factory=dict)

    def close(self) -> None:
        """Forget it."""
        self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)

    def dismiss(self, failure: TierfsError) -> None:
        """Have one that does not serve yet end."""
        self.failure = {"failed": str(failure), "kind": type(failure).__name__}
        self.channel.shutdown(socket.SHUT_RDWR)
        self.is_open = False
