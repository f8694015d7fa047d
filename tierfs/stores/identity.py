"""Who a state directory is, to everyone who meets what it wrote."""

import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

from tierfs.core.lease import Owner

_NAME = "identity"
_MACHINE_ID = Path("/etc/machine-id")


def owner_of(state: Path, mountpoint: str, session: str) -> Owner:
    """The owner that a mount with this state directory is. OSError.

    A copy of the directory is another owner: the identity has the inode number of its file.
    """
    path = state / _NAME
    with suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(uuid.uuid4().hex)
            file.flush()
            os.fsync(fd)
    host = socket.gethostname()
    where = f"host {host}, mounted at {mountpoint}, state directory {state}, pid {os.getpid()}"
    return Owner(identity_of(state), _machine() or host, session, where)


def identity_of(state: Path) -> str:
    """The identity of a state directory that has one. OSError."""
    path = state / _NAME
    return f"{path.read_text()}-{path.stat().st_ino:x}"


def _machine() -> str:
    try:
        return _MACHINE_ID.read_text().strip()
    except OSError:
        return ""
