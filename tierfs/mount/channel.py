"""How the processes of a mount speak to each other: JSON messages over a socket pair, with descriptors.

Standard library only: the supervisor uses it. A message is one packet, so none is ever read in part.
"""

import array
import json
import signal
import socket
from collections.abc import Iterable
from typing import Any

Message = dict[str, Any]

#: Descriptors in one message (SCM_MAX_FD of the kernel is 253).
MOST_DESCRIPTORS = 200
_LONGEST = 1 << 17


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends; what is sent at one arrives at the other whole and in order."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: Message, descriptors: list[int] | None = None) -> None:
    """Send a message, and descriptors with it. OSError when the other side is gone."""
    socket.send_fds(channel, [json.dumps(message).encode()], descriptors or [])


def receive(channel: socket.socket) -> tuple[Message, list[int]]:
    """Receive a message and the descriptors that came with it. EOFError when the other side is gone.

    BlockingIOError where the channel does not block and nothing is there.
    """
    room = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
    try:
        data, ancillary, _, _ = channel.recvmsg(_LONGEST, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        data, ancillary = b"", []
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if not data:
        raise EOFError("the other process is gone")
    message: Message = json.loads(data)
    return message, list(descriptors)


def signals(numbers: Iterable[int]) -> socket.socket:
    """Catch signals from now on; their numbers, a byte each, can be read from what is returned."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.detach())
    for number in numbers:
        signal.signal(number, lambda _number, _frame: None)
    return reading
