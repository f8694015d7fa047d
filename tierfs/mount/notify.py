"""What the supervisor says to systemd, and the descriptors that systemd keeps for it. Standard library only.

    supervisor                                        systemd
      READY, STATUS, WATCHDOG, RELOADING, STOPPING  ----->  systemctl status; restarts what is silent for too long
      FDSTORE and a descriptor                      ----->  keeps it until FDSTOREREMOVE, or until the unit is stopped
                                   LISTEN_FDS       <-----  gives what it keeps to the next process of the unit

The protocol is sd_notify(3), sd_pid_notify_with_fds(3) and sd_listen_fds(3): datagrams of lines to a Unix socket.
"""

import errno
import os
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from contextlib import suppress

#: The variables by which systemd speaks to the process that it starts, and to no other one.
VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "FDSTORE",
)

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_NAME = re.compile(r"[ -9;-~]{1,255}")  # printable ASCII without a colon (sd_pid_notify_with_fds(3))
_LONGEST_STATUS_BYTES = 2048  # systemd ignores a datagram of more than 4096 bytes, whatever is in it
_LONGEST_BACKLOG = 8192
#: The manager is behind with reading (unix(7)): what was not taken now is taken a moment later.
_PASSING = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR, errno.ETOOMANYREFS})


class Notifier:
    """Speaks to the systemd that started this process; where none did, every method does nothing.

    No method blocks or raises. A message that the manager has no room for waits, in order, and goes out before the next
    one; one that cannot be sent at all is lost, and the first such loss is said on standard error.

    INVARIANT: a descriptor that waits to be stored is a duplicate; the caller may close its own.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Take systemd's variables out of `environment`, so that no child takes itself for the service."""
        given = {name: environment.pop(name) for name in VARIABLES if name in environment}
        self._address = _address_of(given.get("NOTIFY_SOCKET", ""))
        self._socket = _open_socket() if self._address else None
        self._watchdog_s = _watchdog_of(given)
        self._stored = _received(given)
        self._backlog: deque[tuple[bytes, int]] = deque()
        self._has_lost = False

    @property
    def is_managed(self) -> bool:
        """Whether a service manager listens: only then is anything stored."""
        return self._socket is not None

    @property
    def watchdog_interval_s(self) -> float | None:
        """Seconds of silence after which systemd ends this process; None: it never does. Ping at half of it."""
        return self._watchdog_s

    def stored(self) -> dict[str, int]:
        """The descriptors that came with the start, by name, close-on-exec. systemd still keeps its own of each.

        The caller owns them. Of several with one name the one stored last is here, the others are closed.
        """
        return dict(self._stored)

    def ready(self, status: str = "") -> None:
        """The service serves; also ends a reload."""
        self._send({"READY": "1", **_status(status)})

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(_status(text))

    def reloading(self, status: str = "") -> None:
        """An upgrade has begun; `ready` ends it. The time is what Type=notify-reload wants to know (systemd 253)."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send({"RELOADING": "1", "MONOTONIC_USEC": str(now_us), **_status(status)})

    def stopping(self, status: str = "") -> None:
        """The service ends."""
        self._send({"STOPPING": "1", **_status(status)})

    def watchdog(self) -> None:
        """Alive: systemd waits another watchdog_interval_s."""
        self._send({"WATCHDOG": "1"})

    def main_pid(self, pid: int) -> None:
        """Another process is the service from now on."""
        self._send({"MAINPID": str(pid)})

    def store(self, name: str, fd: int) -> None:
        """Have systemd keep a descriptor for the next process of this unit. Remove the name first if it is in use.

        FDPOLL=0 (systemd 246): without it a descriptor that polls as hung up or failed is dropped.
        """
        if _NAME.fullmatch(name):
            self._send({"FDSTORE": "1", "FDPOLL": "0", "FDNAME": name}, fd)
        else:
            self._lose(f"{name!r} cannot be the name of a descriptor")

    def remove(self, name: str) -> None:
        """Have systemd close every descriptor that it keeps under this name."""
        if _NAME.fullmatch(name):
            self._send({"FDSTOREREMOVE": "1", "FDNAME": name})

    def flush(self) -> bool:
        """Send what waits; whether nothing waits any more. To be called until it does before a hand-over."""
        while self._backlog:
            message, fd = self._backlog[0]
            if not self._try(message, fd):
                return False
            self._backlog.popleft()
            if fd >= 0:
                os.close(fd)
        return True

    def close(self) -> None:
        """Give the socket back, and the duplicates that wait; the descriptors of `stored` are the caller's."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        while self._backlog:
            _, fd = self._backlog.popleft()
            if fd >= 0:
                os.close(fd)

    def _send(self, fields: Mapping[str, str], fd: int = -1) -> None:
        if self._socket is None or not fields:
            return
        message = "\n".join(f"{name}={value}" for name, value in fields.items()).encode(errors="replace")
        if self.flush() and self._try(message, fd):
            return
        if len(self._backlog) >= _LONGEST_BACKLOG:
            self._lose("systemd does not read what it is told")
            return
        try:
            self._backlog.append((message, os.dup(fd) if fd >= 0 else -1))
        except OSError as error:
            self._lose(f"a descriptor cannot be stored: {error.strerror}")

    def _try(self, message: bytes, fd: int) -> bool:
        """Whether this message needs no further try: it was sent, or is lost for good."""
        if self._socket is None:
            return True
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))] if fd >= 0 else []
        try:
            self._socket.sendmsg([message], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
        except OSError as error:
            if error.errno in _PASSING:
                return False
            self._lose(f"{message.splitlines()[0].decode()}: {error.strerror}")
        return True

    def _lose(self, why: str) -> None:
        if not self._has_lost:
            self._has_lost = True
            with suppress(OSError, ValueError):
                print(f"tierfs: systemd cannot be told everything: {why}", file=sys.stderr, flush=True)


def is_kept(name: str, environment: Mapping[str, str]) -> bool:
    """Whether systemd has kept a descriptor for this process; nothing is taken out of `environment`."""
    is_ours = _number(environment, "LISTEN_PID") == os.getpid()
    return is_ours and name in environment.get("LISTEN_FDNAMES", "").split(":")


def _status(text: str) -> dict[str, str]:
    """STATUS as one line that is short enough."""
    line = " ".join(text.split()).encode(errors="replace")[:_LONGEST_STATUS_BYTES]
    return {"STATUS": line.decode(errors="ignore")} if line else {}


def _address_of(given: str) -> str | bytes:
    """The manager's socket as socket(2) wants it: a path, or an abstract name; empty for what is neither."""
    if given.startswith("@"):
        return b"\0" + os.fsencode(given[1:])
    return given if given.startswith("/") else ""


def _open_socket() -> socket.socket | None:
    """Opened once: later there may be no descriptor left to open one."""
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError:
        return None


def _number(given: Mapping[str, str], name: str) -> int:
    text = given.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _watchdog_of(given: Mapping[str, str]) -> float | None:
    """WATCHDOG_USEC in seconds, unless it is meant for another process (sd_watchdog_enabled(3))."""
    microseconds = _number(given, "WATCHDOG_USEC")
    is_ours = given.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return microseconds / 1e6 if microseconds and is_ours else None


def _received(given: Mapping[str, str]) -> dict[str, int]:
    """LISTEN_FDS by name, unless they are meant for another process."""
    if _number(given, "LISTEN_PID") != os.getpid():
        return {}
    names = given.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, int] = {}
    for position in range(_number(given, "LISTEN_FDS")):
        fd = _FIRST_FD + position
        name = names[position] if position < len(names) and names[position] else f"unknown-{position}"
        with suppress(OSError):
            os.set_inheritable(fd, False)
            if name in found:  # systemd lists first what was stored last
                os.close(fd)
            else:
                found[name] = fd
    return found
