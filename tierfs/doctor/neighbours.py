"""The mounts of this host: whether the kernel has them, somebody serves them, and they answer. None is touched."""

import http.client
import socket
from pathlib import Path

from tierfs.admin import registry
from tierfs.core.diagnosis import Diagnosis, Verdict
from tierfs.core.errors import ControlError
from tierfs.doctor.examination import Diagnoses
from tierfs.mount import kernel

_PATIENCE_S = 5.0
_WAITING = {"T": "stopped by a signal", "t": "stopped by a debugger", "D": "waiting for a disk", "Z": "dead"}


def examine_neighbours() -> Diagnoses:
    """Every mount that is registered."""
    try:
        mounts = registry.mounts()
    except ControlError as error:
        meaning = "`tierfs status` and the other commands find no mount"
        remedy = "make the directory yours alone, or name another with TIERFS_RUNTIME_DIR"
        yield Diagnosis("mounts", Verdict.PROBLEM, str(error), meaning, remedy)
        return
    for mount in mounts:
        yield _judge(mount)
    if not mounts:
        yield Diagnosis("mounts", Verdict.OK, "none on this host")


def _judge(mount: registry.Mount) -> Diagnosis:
    subject, place = f"mount {mount.mountpoint}", mount.mountpoint
    at = kernel.mounted_at(place)
    is_there = at is not None and at.filesystem_type == kernel.FILESYSTEM_TYPE
    if not mount.is_alive:
        found = "nobody serves it" if is_there else "its processes are gone, and the mount with them"
        meaning = "whoever uses it gets ENOTCONN" if is_there else "only its entry in the registry is left"
        return Diagnosis(subject, Verdict.PROBLEM, found, meaning, f"`tierfs umount {place}`, then mount again")
    if not is_there:
        meaning = "it is being taken away by its last user, or another namespace has it"
        return Diagnosis(subject, Verdict.WARNING, "it is served, and not mounted here", meaning, "look at `mount`")
    if why := _silence(mount):
        state = _state_of(mount.worker_pid)
        found = f"its worker (pid {mount.worker_pid}{f', {state}' if state else ''}) {why}"
        remedy = f"look into {mount.state_directory}/tierfs.log; killing the worker is harmless, the next one goes on"
        return Diagnosis(subject, Verdict.PROBLEM, found, "whoever uses the mount waits", remedy)
    return Diagnosis(subject, Verdict.OK, f"served by version {mount.version}, answers")


def _silence(mount: registry.Mount) -> str:
    """Why the worker gives no answer of HTTP, whatever it is; empty when it does."""
    connection = _Local("tierfs", timeout=_PATIENCE_S)
    connection.path = registry.socket_of(mount.mountpoint)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except TimeoutError:
        return f"does not answer within {_PATIENCE_S:g} s"
    except PermissionError:
        return ""  # it belongs to another user, who may ask it
    except (OSError, http.client.HTTPException) as error:
        return f"cannot be asked: {error}"
    finally:
        connection.close()
    return ""


class _Local(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    path: Path

    def connect(self) -> None:
        """Connect to the socket at `path`. OSError."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE_S)
        with registry.short_path(self.path) as name:
            self.sock.connect(name)


def _state_of(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "gone"
    return _WAITING.get(text.rpartition(b")")[2].split()[0].decode(), "")
