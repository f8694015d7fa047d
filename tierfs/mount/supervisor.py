"""The supervisor: owns the mount, starts the worker, waits. Standard library only, and as little of it as possible.

    supervisor                              worker
      request, hot directory  ------------>   opens catalog, cache and store; recovers
                              <------------   prepared
      mount(2)
      mounted, /dev/fuse      ------------>   answers INIT
                              <------------   serving

Both speak JSON lines over a socket pair; descriptors travel with the line that names them. When the worker ends
because the mount was taken away, so does the supervisor. When the worker dies otherwise, the supervisor leaves the
mount where it is: applications get an error, not an empty directory.
"""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tierfs.core.errors import MountError, TierfsError
from tierfs.mount import kernel

_LONGEST_LINE = 1 << 20

Report = dict[str, Any]


def run(request: Report, report: Callable[[Report], None]) -> int:
    """Mount, serve until the mount is taken away, and return the worker's exit status. MountError before it serves.

    `request` has mountpoint, hot, source, read_only, allow_other and worker (a module to run); the rest is for the
    worker alone. `report` is told {"serving": pid} once.
    """
    hot = os.open(request["hot"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    channel, worker = _start_worker(request, hot)
    try:
        _expect(channel, worker, "prepared")
        fuse = _mount(request)
        try:
            send_line(channel, {"mounted": True}, [fuse])
            _expect(channel, worker, "serving")
        except BaseException:
            with contextlib.suppress(OSError):
                kernel.unmount(request["mountpoint"], lazy=True)
            raise
    except BaseException:
        channel.close()
        worker.wait()
        raise
    limits = kernel.raise_limits(request["mountpoint"])
    _on_signals(request["mountpoint"])
    send_line(channel, {"limits_raised": limits})
    report({"serving": worker.pid})
    status = worker.wait()
    # Held until here: with the last descriptor the kernel would cut the connection off.
    os.close(fuse)
    os.close(hot)
    return status


def send_line(channel: socket.socket, message: Report, descriptors: list[int] | None = None) -> None:
    """Send one JSON line, and descriptors with it."""
    data = json.dumps(message).encode() + b"\n"
    sent = socket.send_fds(channel, [data], descriptors or [])
    channel.sendall(data[sent:])


def receive_line(channel: socket.socket) -> tuple[Report, list[int]]:
    """Receive one JSON line and the descriptors that came with it. EOFError when the other side is gone."""
    data = b""
    descriptors: list[int] = []
    while not data.endswith(b"\n"):
        # One byte at a time would be exact; lines alternate in this protocol, so none is ever read too far.
        more, fds, _, _ = socket.recv_fds(channel, _LONGEST_LINE, 4)
        if not more:
            raise EOFError("the other process is gone")
        data, descriptors = data + more, [*descriptors, *fds]
    message: Report = json.loads(data)
    return message, descriptors


def _start_worker(request: Report, hot: int) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", request["worker"], str(theirs.fileno())]
        worker = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    send_line(ours, request, [hot])
    return ours, worker


def _expect(channel: socket.socket, worker: "subprocess.Popen[bytes]", what: str) -> None:
    try:
        message, _ = receive_line(channel)
    except (EOFError, ConnectionError):
        raise MountError(f"the worker ended before it served (status {worker.wait()}); its log says why") from None
    if "failed" in message:
        raise failure_of(message)
    if what not in message:
        raise MountError(f"the worker said {message} instead of {what!r}")


def failure_of(message: Report) -> TierfsError:
    """The error that a {"failed": sentence, "kind": class} line stands for."""
    from tierfs.core import errors

    kind = getattr(errors, str(message.get("kind")), MountError)
    return kind(message["failed"]) if issubclass(kind, TierfsError) else MountError(message["failed"])


def _mount(request: Report) -> int:
    mountpoint = request["mountpoint"]
    options = kernel.MountOptions(mountpoint, request["source"], request["read_only"], request["allow_other"])
    try:
        return kernel.mount(options)
    except OSError as error:
        remedy = {
            errno.EPERM: "mount as root, or install fuse3",
            errno.EBUSY: "something is mounted there already; unmount it first",
            errno.ENOENT: "is the module fuse loaded (modprobe fuse)?",
            errno.ENODEV: "is the module fuse loaded (modprobe fuse)?",
        }.get(error.errno or 0, "see dmesg")
        raise MountError(f"{mountpoint} cannot be mounted: {error.strerror}; {remedy}") from None


def _on_signals(mountpoint: str) -> None:
    """SIGTERM and SIGINT ask for an orderly unmount. A busy mount stays: its users would lose their files."""

    def unmount(_number: int, _frame: object) -> None:
        try:
            kernel.unmount(mountpoint)
        except OSError as error:
            who = ", ".join(kernel.holders(mountpoint)) if error.errno == errno.EBUSY else ""
            print(f"tierfs: {mountpoint} stays mounted: {error.strerror} {who}".rstrip(), file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, unmount)
    signal.signal(signal.SIGINT, unmount)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def main() -> int:
    """The background supervisor: the request comes in on standard input, the report goes out on descriptor argv[1]."""
    out = int(sys.argv[1])
    request = json.load(sys.stdin)

    def report(message: Report) -> None:
        with os.fdopen(out, "w") as stream:
            print(json.dumps(message), file=stream, flush=True)

    try:
        return run(request, report)
    except (TierfsError, OSError) as error:
        report({"failed": str(error), "kind": type(error).__name__})
        return 1


if __name__ == "__main__":
    sys.exit(main())
