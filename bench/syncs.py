"""Who really syncs: the fsync and fdatasync calls of a daemon, counted by strace while one action runs, not timed."""

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.processes import family
from bench.rows import Impossible

#: `PID fsync(7</path/of/the/file>) = 0`; a call that another thread interrupts is shown in two lines, named once.
_CALL = re.compile(r"\b(?:fsync|fdatasync)\(\d+<(?P<path>[^>]*)>")
_ATTACH_S = 20.0


def syncs_during(act: Callable[[], None], pid: int, name: str) -> int:
    """How often the daemon `pid` synced files called `name` while `act` ran. Impossible.

    Only the backing file has that name: syncs of a daemon's own database are not counted.
    """
    program = shutil.which("strace")
    if program is None:
        raise Impossible("the syncs cannot be counted: strace is not installed")
    traced = family(pid)
    with tempfile.TemporaryFile("w+") as said:
        trace = subprocess.Popen(
            [program, "-f", "-y", "-e", "trace=fsync,fdatasync", *(f"--attach={one}" for one in traced)],
            stdin=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        try:
            _wait_until_attached(trace, traced)
            act()
        finally:
            trace.send_signal(signal.SIGINT)  # strace lets go of the daemon
            trace.wait()
        said.seek(0)
        return sum(Path(match["path"]).name == name for match in _CALL.finditer(said.read()))


def _wait_until_attached(trace: "subprocess.Popen[bytes]", pids: list[int]) -> None:
    """Every thread has a tracer (/proc/PID/task/TID/status), so that nothing is missed."""
    deadline = time.monotonic() + _ATTACH_S
    while not all(_is_traced(pid) for pid in pids):
        if trace.poll() is not None or time.monotonic() > deadline:
            raise Impossible("the syncs cannot be counted: strace may not attach to the daemon")
        time.sleep(0.02)


def _is_traced(pid: int) -> bool:
    tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return all("TracerPid:\t0\n" not in text for text in tasks)
