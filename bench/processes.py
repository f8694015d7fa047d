"""Mounts of other programs, and what a process has used: started, waited for, and always taken away again."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tierfs.mount import kernel

_START_S = 60.0
_STOP_S = 30.0


class MountError(Exception):
    """A contender did not come up, and what it said."""


@contextmanager
def mounting(
    command: list[str],
    mountpoint: Path,
    environment: dict[str, str] | None = None,
    is_serving: Callable[[], bool] = lambda: True,
) -> Iterator[int]:
    """Run a program that mounts and stays in the foreground; yields its process id when the mount serves. MountError.

    `is_serving` is asked once the mount is there.
    """
    mountpoint.mkdir(parents=True, exist_ok=True)
    log = mountpoint.with_name(mountpoint.name + ".log")
    with log.open("wb") as out:
        # A session of its own: Ctrl-C is for us, and we take the mount away before the program.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_S
        while not (is_mounted(mountpoint) and is_serving()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise MountError(f"it does not serve (status {process.poll()}): {_last_words(log)}")
            time.sleep(0.02)
        yield process.pid
    finally:
        _end(process, mountpoint)


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted at exactly this place; its filesystem is not asked."""
    return kernel.mounted_at(str(mountpoint)) is not None


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _end(process: "subprocess.Popen[bytes]", mountpoint: Path) -> None:
    if is_mounted(mountpoint):
        try:
            kernel.unmount(str(mountpoint))
        except OSError:
            kernel.unmount(str(mountpoint), lazy=True)
    for end in (process.terminate, process.kill):
        try:
            process.wait(_STOP_S)
            return
        except subprocess.TimeoutExpired:
            end()
    process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time that the threads of a process have used, seconds (/proc/PID/task/TID/schedstat, nanoseconds)."""
    used = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            used += int(path.read_text().split()[0])
    return used / 1e9


def peak_memory(pid: int) -> int:
    """The most memory that a process ever had resident, bytes (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
