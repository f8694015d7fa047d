"""Who answers the kernel runs before those who fetch."""

import os
import subprocess
import sys

from tests.mounting import Mount


def niceness(pid: int) -> list[int]:
    """Of all threads of a process, the first one's first."""
    threads = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    return [os.getpriority(os.PRIO_PROCESS, thread) for thread in threads]


def is_allowed() -> bool:
    """Whether this host lets us prefer a process."""
    command = [sys.executable, "-c", "import os; os.setpriority(os.PRIO_PROCESS, 0, -10)"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_only_the_thread_that_answers_the_kernel_is_preferred(mount: Mount) -> None:
    status = mount.status()
    first, *others = niceness(status["worker_pid"])
    assert first == (-10 if is_allowed() else os.nice(0))
    assert set(others + niceness(status["cold_pid"])) <= {os.nice(0)}
