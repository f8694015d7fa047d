"""Who answers the kernel runs before those who fetch."""

import os

from tests.mounting import Mount


def niceness(pid: int) -> list[int]:
    """Of all threads of a process, the first one's first."""
    threads = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    return [os.getpriority(os.PRIO_PROCESS, thread) for thread in threads]


def test_only_the_thread_that_answers_the_kernel_is_preferred(mount: Mount) -> None:
    status = mount.status()
    first, *others = niceness(status["worker_pid"])
    assert first == -10
    assert set(others + niceness(status["cold_pid"])) <= {os.nice(0)}
