"""Mounts of other programs, and what a process has used: started, waited for, and always taken away again."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tierfs.mount import kernel

_START_S = 60.0
_STOP_S = 30.0
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h
#: A family that used almost nothing for so long rests.
_REST_S = 0.01


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
            cut_off(mountpoint)
    for end in (process.terminate, process.kill):
        try:
            process.wait(_STOP_S)
            return
        except subprocess.TimeoutExpired:
            end()
    process.wait()


def cut_off(mountpoint: Path) -> None:
    """Nobody waits for an answer any more, and the mount is out of sight."""
    at = kernel.mounted_at(str(mountpoint))
    if at and at.filesystem_type.startswith("fuse"):
        with suppress(OSError):
            Path("/sys/fs/fuse/connections", str(at.minor), "abort").write_text("1")
    with suppress(OSError):
        kernel.unmount(str(mountpoint), lazy=True)


@contextmanager
def cut_off_after(seconds: float, mountpoint: Path) -> Iterator[None]:
    """A mount that is still at it by then is cut off: what waits for it fails, and the block with it. MountError."""
    timer = threading.Timer(seconds, cut_off, [mountpoint])
    timer.start()
    try:
        yield
    except OSError as error:
        if timer.is_alive():
            raise
        raise MountError(f"cut off after {seconds:g} s: {error}") from None
    finally:
        timer.cancel()


@contextmanager
def repeating(action: Callable[[], None], pause_s: float) -> Iterator[None]:
    """Do something again and again, in a thread, while the block runs; once more at its end."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(pause_s):
            action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        action()


def family(pid: int) -> list[int]:
    """A process and its descendants: what serves one mount may be several."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in parentheses, may hold anything; the parent is the second field after it.
            parent = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that a family has used, ended threads included, seconds."""
    used = 0.0
    for member in family(pid):
        with suppress(OSError):
            # The CPU clock of another process, as clock_getcpuclockid(3) makes it: exact, and it counts ended threads.
            used += time.clock_gettime((~member << 3) | _CPUCLOCK_SCHED)
    return used


def settled_cpu_seconds(pid: int) -> float:
    """The same once the family rests, or after a second: close(2) and write-back do not wait for the daemon."""
    before = cpu_seconds(pid)
    for _ in range(100):
        time.sleep(_REST_S)
        now = cpu_seconds(pid)
        if now - before < _REST_S / 100:
            return now
        before = now
    return before


def peak_memory(pid: int) -> int:
    """The most memory that each process of a family ever had resident, bytes (VmHWM), summed: never too little."""
    return sum(_status_kib(member, "VmHWM:") for member in family(pid)) * 1024


def proportional_memory(pid: int) -> int:
    """What a family has in memory now, bytes (PSS): what several share is counted once."""
    used = 0
    for member in family(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    used += int(line.split()[1]) * 1024
    return used


def _status_kib(pid: int, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
