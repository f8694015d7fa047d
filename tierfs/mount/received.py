"""What a worker is given when it begins."""

import socket
from dataclasses import dataclass
from typing import Any

from tierfs.core.records import Fd
from tierfs.mount.channel import receive


@dataclass(frozen=True, slots=True)
class Received:
    """What the supervisor gives a worker; `fuse` only where the mount is there already."""

    request: dict[str, Any]
    hot: Fd
    session: int
    fuse: int | None
    parked: dict[str, Fd]

    @classmethod
    def of(cls, line: socket.socket) -> "Received":
        """Read it from the channel. EOFError."""
        message, (hot, session, *fuse) = receive(line)
        parked: dict[str, Fd] = {}
        for _ in range(message["parts"]):
            part, descriptors = receive(line)
            parked.update(zip(part["parked"], map(Fd, descriptors), strict=True))
        return cls(message["request"], Fd(hot), session, fuse[0] if fuse else None, parked)
