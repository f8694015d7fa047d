"""`python -m bench.scrapes`: what it costs that somebody looks, on a mount with many files.

Measures how long a scrape of /metrics and a `status` take, and how long an operation that the worker answers (statfs,
which the kernel asks for each time) takes meanwhile: the worst of them is how long the loop was held up.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import mounting
from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.core.errors import ControlError

_FILES_OF_A_DIRECTORY = 1000
_PAUSE_S = 0.001
_LOOKED = re.compile(r'^tiered_storage_policy_passes_total\{.*result="done"\} [1-9]', re.MULTILINE)
_LOOKED_S = 600.0


def make_files(directory: Path, count: int) -> None:
    """Small files, a thousand in each directory."""
    for first in range(0, count, _FILES_OF_A_DIRECTORY):
        inside = directory / f"d{first // _FILES_OF_A_DIRECTORY:05d}"
        inside.mkdir(parents=True)
        for number in range(first, min(first + _FILES_OF_A_DIRECTORY, count)):
            (inside / f"f{number:07d}").write_bytes(b"x")


@contextmanager
def large_mount(home: Path, count: int) -> Iterator[Client]:
    """A mount with so many hot files, whose policy has looked at them once and does nothing for a while."""
    hot, mountpoint, bucket = home / "hot", home / "mnt", home / "bucket"
    for path in (hot, bucket):
        path.mkdir()
    make_files(hot, count)
    command = [sys.executable, "-m", "tierfs", "mount", f"file://{bucket}", str(mountpoint), "--hot", str(hot)]
    command += ["--state", str(home / "state"), "--foreground", "--warm-after", "52w", "--cold-after", "52w"]
    client = Client(str(mountpoint), registry.slot_of(str(mountpoint)) / registry.SOCKET_NAME)
    with mounting(command, mountpoint, is_serving=lambda: _is_answering(client)):
        deadline = time.monotonic() + _LOOKED_S
        while not _LOOKED.search(client.metrics()):
            if time.monotonic() > deadline:
                raise TimeoutError("the policy did not end its first pass")
            time.sleep(1)
        yield client


def _is_answering(client: Client) -> bool:
    try:
        return bool(client.metrics())
    except ControlError:
        return False


def timed(action: Callable[[], object]) -> float:
    """How long something takes, milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def of_operations(mountpoint: str, is_over: Callable[[], bool]) -> list[float]:
    """How long statfs takes, again and again until it is over; milliseconds."""
    found = []
    while not is_over():
        found.append(timed(lambda: os.statvfs(mountpoint)))
        time.sleep(_PAUSE_S)
    return found


def summed_up(durations: list[float]) -> dict[str, float]:
    """Of some durations: the median, the one that 99 % and 99.9 % do not exceed, and the longest."""
    ordered = sorted(durations)
    return {
        "count": len(ordered),
        "p50": statistics.median(ordered),
        "p99": ordered[int(0.99 * (len(ordered) - 1))],
        "p99.9": ordered[int(0.999 * (len(ordered) - 1))],
        "max": ordered[-1],
    }


def looked_at(client: Client, what: str, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """How long looking takes, in a process of its own, and operations meanwhile."""
    command = [sys.executable, "-m", "bench.scrapes", "--look", what, "--rounds", str(rounds), client.mountpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        operations = of_operations(client.mountpoint, lambda: process.poll() is not None)
        assert process.stdout
        looks: list[float] = json.loads(process.stdout.read())
    return summed_up(looks), summed_up(operations)


def worker_ms(client: Client, what: str, rounds: int) -> float:
    """What one look takes of the processor in the thread that answers the kernel, which does nothing else now."""
    pid = client.status()["worker_pid"]
    schedstat = Path(f"/proc/{pid}/task/{pid}/schedstat")  # its first word: nanoseconds on a processor
    before = int(schedstat.read_text().split()[0])
    look(client.mountpoint, what, rounds)
    return (int(schedstat.read_text().split()[0]) - before) / rounds / 1e6


def look(mountpoint: str, what: str, rounds: int) -> list[float]:
    """How long each of so many looks takes."""
    client = Client(mountpoint, registry.slot_of(mountpoint) / registry.SOCKET_NAME)
    actions: dict[str, Callable[[], object]] = {"metrics": client.metrics, "status": client.status, "nothing": _rest}
    return [timed(actions[what]) for _ in range(rounds)]


def _rest() -> None:
    time.sleep(0.05)


def measure(home: Path, files: int, rounds: int) -> dict[str, Any]:
    """All of it, in milliseconds."""
    with large_mount(home, files) as client:
        found: dict[str, Any] = {"files": files, "metrics_bytes": len(client.metrics())}
        for what in ("nothing", "metrics", "status"):
            looks, operations = looked_at(client, what, rounds)
            found[what] = {"looks": looks, "statfs": operations, "worker_ms": worker_ms(client, what, rounds)}
        return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scrapes", description=__doc__)
    parser.add_argument("--files", type=int, default=100_000, help="hot files of the mount (default 100,000)")
    parser.add_argument("--rounds", type=int, default=100, help="looks of each kind (default 100)")
    parser.add_argument("--directory", type=Path, help="where to work: a disk, or /dev/shm (default: TMPDIR)")
    parser.add_argument("--look", help=argparse.SUPPRESS)
    parser.add_argument("mountpoint", nargs="?", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.look:
        print(json.dumps(look(asked.mountpoint, asked.look, asked.rounds)))
        return 0
    home = Path(tempfile.mkdtemp(prefix="tierfs-s-", dir=asked.directory))
    try:
        print(json.dumps(measure(home, asked.files, asked.rounds), indent=1))
    finally:
        shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
