"""The spawner, a worker and the probe, as the supervisor sees them. Standard library only."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field

from tierfs.core.errors import MountError, TierfsError
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


class Probe:
    """Asks the mount again and again; `answers` can be read from when it was answered."""

    def __init__(self, mountpoint: str, pause_s: float) -> None:
        command = [sys.executable, "-m", "tierfs.mount.probe", mountpoint, str(pause_s)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout

    def fileno(self) -> int:
        """What becomes readable with each answer, and at its end."""
        return self._stdout.fileno()

    def was_answered(self) -> bool:
        """Take the answers; False when the probe is gone."""
        return bool(os.read(self.fileno(), 4096))

    def close(self) -> None:
        """Have it end, whatever it waits for."""
        self._process.kill()
        self._process.wait()
        self._stdout.close()


def failure_of(message: Message) -> TierfsError:
    """The error that a {"failed": sentence, "kind": class} message stands for."""
    from tierfs.core import errors

    kind = getattr(errors, str(message.get("kind")), MountError)
    return kind(message["failed"]) if issubclass(kind, TierfsError) else MountError(message["failed"])
