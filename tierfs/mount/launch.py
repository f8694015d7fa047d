"""What `tierfs mount` and `tierfs umount` do: check the request, start the supervisor, wait until the mount serves."""

import errno
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tierfs.core.config import MountRequest
from tierfs.core.errors import ConfigError, MountError
from tierfs.mount import kernel, notify, supervisor
from tierfs.mount.workers import failure_of
from tierfs.stores.state import make_state_directory

WORKER = "tierfs.worker"
LOG_NAME = "tierfs.log"
_STOP_PATIENCE_S = 30.0
_PASSING_S = 1.0  # whoever just looks at a file, the probe among them, holds a mount for a moment


def start(request: MountRequest) -> int:
    """Mount. Returns 0 when the mount serves, in the foreground the worker's exit status when it ended.

    ConfigError, MountError, StoreError: the mount was not made, and nothing of it is left. A mount that systemd has
    kept is gone on with: there is nothing to check, and nobody who would answer at its mountpoint.
    """
    if not is_gone_on_with():
        check(request)
    message = message_of(request)
    if request.foreground:
        return supervisor.run(message, lambda _report: None)
    log = os.open(Path(request.state, LOG_NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    reading, writing = os.pipe()
    with os.fdopen(reading) as reports:
        process = subprocess.Popen(
            [sys.executable, "-m", supervisor.__name__, str(writing)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd="/",
            # What systemd says is for the process that it started, which ends when the mount serves.
            env={name: value for name, value in os.environ.items() if name not in notify.VARIABLES},
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        os.close(log)
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(json.dumps(message).encode())
        line = reports.readline()
    if not line:
        raise MountError(f"the supervisor ended before the mount served; {Path(request.state, LOG_NAME)} says why")
    answer = json.loads(line)
    if "failed" in answer:
        process.wait()
        raise failure_of(answer)
    process.returncode = 0  # it goes on without us: no warning about a child that was not waited for
    return 0


def is_gone_on_with() -> bool:
    """Whether this process is the next supervisor of a mount that systemd has kept."""
    return notify.is_kept("fuse", os.environ)


def message_of(request: MountRequest) -> dict[str, Any]:
    """The request as the supervisor and the worker read it."""
    settings = request.settings
    allow_other = os.geteuid() == 0 if settings.allow_other is None else settings.allow_other
    return {
        "mountpoint": request.mountpoint,
        "hot": request.hot,
        "state": request.state,
        "source": request.store_url,
        "read_only": settings.read_only,
        "allow_other": allow_other,
        "worker": WORKER,
        "foreground": request.foreground,
        "take_over": request.take_over,
        "settings": settings.model_dump(mode="json"),
    }


def check(request: MountRequest) -> None:
    """Everything that can be known to be wrong before a process is started. ConfigError, MountError."""
    mountpoint, hot, state = request.mountpoint, request.hot, request.state
    at = kernel.mounted_at(mountpoint)
    if at and at.filesystem_type == kernel.FILESYSTEM_TYPE:
        raise MountError(f"{mountpoint} is a tierfs mount already; `tierfs umount {mountpoint}` takes it away")
    for what, path in (("mountpoint", mountpoint), ("hot directory", hot)):
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            raise MountError(f"the {what} {path} cannot be used: {error.strerror}; make it first") from None
        if not stat.S_ISDIR(mode):
            raise MountError(f"the {what} {path} is not a directory")
    real_state, real_hot, real_mountpoint = map(os.path.realpath, (state, hot, mountpoint))
    for name, path in (("hot directory", real_hot), ("mountpoint", real_mountpoint)):
        if real_state == path or real_state.startswith(path.rstrip("/") + "/"):
            raise ConfigError(f"the state directory {state} lies inside the {name} {path}: choose another --state")
    if real_hot != real_mountpoint and real_hot.startswith(real_mountpoint.rstrip("/") + "/"):
        raise ConfigError(f"the hot directory {hot} lies inside the mountpoint {mountpoint}: the mount would cover it")
    if not request.in_place and os.listdir(mountpoint):
        raise MountError(f"the mountpoint {mountpoint} is not empty and the mount would hide what is in it")
    make_state_directory(Path(state))


def stop(mountpoint: str, lazy: bool = False) -> None:
    """Unmount and wait until the supervisor is done. MountError; when busy it names the processes."""
    deadline = time.monotonic() + _PASSING_S
    while True:
        try:
            kernel.unmount(mountpoint, lazy)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise MountError(f"{mountpoint} cannot be unmounted: {error.strerror}") from None
            holders = kernel.holders(mountpoint)
            if not holders and time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            who = ", ".join(holders) or "a process that this user cannot see"
            raise MountError(f"{mountpoint} is busy: {who}; stop them, or detach it with --lazy") from None
        return


def wait_until_gone(pid: int) -> None:
    """Wait until a process of a mount that was taken away has ended. MountError when it does not."""
    deadline = time.monotonic() + _STOP_PATIENCE_S
    while _is_running(pid):
        if time.monotonic() > deadline:
            raise MountError(f"it is unmounted, but its process {pid} still runs after {_STOP_PATIENCE_S:g} s")
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")
