"""`python -m bench.watched`: what being watched costs a mount's hot throughput.

One mount; an application works in windows of some seconds, and in every other one somebody watches: the status page
asks what it asks, Prometheus scrapes, both as often as they do by default, a shell reads each xattr of a file every
second. Neighbouring windows are compared, in turns, so that what else the machine does falls on
both. The share of its time that the thread which answers the kernel spends on watchers is measured beside it, while the
application rests: it is what they can take away, and does not depend on chance.
"""

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.scrapes import large_mount
from tierfs.admin import registry, wire

_STATUS_PAGE_S = 5.0
_SCRAPE_S = 15.0
_SHELL_S = 1.0
_BEGIN_S = 2.0  # an interpreter and its libraries
_XATTRS = ("state", "object", "etag", "cached", "pinned", "reason")
_OF_THE_PAGE = ("stats?quick=true", "activity", "jobs", "events?after=0")
_BLOCK = b"x" * 4096


def watch(mountpoint: str, path: str) -> None:
    """Watch until ended."""
    with registry.short_path(registry.slot_of(mountpoint) / registry.SOCKET_NAME) as socket:
        transport = httpx.HTTPTransport(uds=str(socket))
        with httpx.Client(transport=transport, base_url="http://tierfs", timeout=60) as asker:
            due = {_page: 0.0, _scrape: 0.0, _shell: 0.0}
            every = {_page: _STATUS_PAGE_S, _scrape: _SCRAPE_S, _shell: _SHELL_S}
            while True:
                for look, at in due.items():
                    if time.monotonic() >= at:
                        due[look] = time.monotonic() + every[look]
                        look(asker, mountpoint, path)
                time.sleep(max(0.0, min(due.values()) - time.monotonic()))


def _page(asker: httpx.Client, _mountpoint: str, _path: str) -> None:
    for what in _OF_THE_PAGE:
        asker.get(f"{wire.API}/tiered/{what}").raise_for_status()


def _scrape(asker: httpx.Client, _mountpoint: str, _path: str) -> None:
    asker.get(wire.METRICS).raise_for_status()


def _shell(_asker: httpx.Client, _mountpoint: str, path: str) -> None:
    for name in _XATTRS:
        try:
            os.getxattr(path, f"user.tierfs.{name}")
        except OSError:
            continue  # a hot file has no object


@contextmanager
def watching(mountpoint: str, path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Somebody watches, in a process of its own, as long as the block runs."""
    command = [sys.executable, "-m", "bench.watched", "--watch", mountpoint, str(path)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield process
            if process.poll() is not None:
                raise RuntimeError(f"who should have watched has ended with status {process.returncode}")
        finally:
            process.kill()


def reopened(directory: Path, until: float) -> int:
    """Open files, read 4 KiB of each, close them; how many."""
    count = 0
    names = [str(directory / f"f{number:07d}") for number in range(500)]
    while time.perf_counter() < until:
        fd = os.open(names[count % len(names)], os.O_RDONLY)
        os.pread(fd, 4096, 0)
        os.close(fd)
        count += 1
    return count


def made(directory: Path, until: float) -> int:
    """Create files, write 4 KiB, remove them; how many."""
    count, name = 0, str(directory / "made")
    while time.perf_counter() < until:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.write(fd, _BLOCK)
        os.close(fd)
        os.unlink(name)
        count += 1
    return count


def appended(directory: Path, until: float) -> int:
    """Append 4 KiB to an open file, which is made shorter again from time to time; how many."""
    count = 0
    fd = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while time.perf_counter() < until:
            if count % 10_000 == 0:
                os.ftruncate(fd, 0)
            os.write(fd, _BLOCK)
            count += 1
    finally:
        os.close(fd)
    return count


WORK: dict[str, Callable[[Path, float], int]] = {
    "open, read, close": reopened,
    "create, write, unlink": made,
    "append 4 KiB": appended,
}


def compared(mountpoint: str, work: Callable[[Path, float], int], rounds: int, window_s: float) -> dict[str, Any]:
    """How fast it is watched, beside not watched: the median of the rounds, and where it is with 95 % certainty."""
    directory = Path(mountpoint, "d00000")
    ratios, rates = [], []
    with watching(mountpoint, directory / "f0000007") as watcher:
        time.sleep(_BEGIN_S)
        for index in range(rounds):
            found: dict[bool, float] = {}
            for is_watched in (index % 2 == 0, index % 2 == 1):
                watcher.send_signal(signal.SIGCONT if is_watched else signal.SIGSTOP)
                found[is_watched] = _rate(work, directory, window_s)
            ratios.append(found[True] / found[False])
            rates.append(found[False])
        watcher.send_signal(signal.SIGCONT)
    return {"per_second": statistics.median(rates), "ratio": statistics.median(ratios), "within": _within(ratios)}


def _rate(work: Callable[[Path, float], int], directory: Path, window_s: float) -> float:
    began = time.perf_counter()
    count = work(directory, began + window_s)
    return count / (time.perf_counter() - began)


def _within(ratios: list[float]) -> tuple[float, float]:
    """Between which of the ordered values the median is with 95 % certainty, whatever their distribution."""
    ordered, count = sorted(ratios), len(ratios)
    skipped, below = 0, 0.5**count
    while below < 0.025 and skipped < count // 2:
        skipped += 1
        below += math.comb(count, skipped) * 0.5**count
    first = max(skipped - 1, 0)
    return ordered[first], ordered[count - 1 - first]


def share(mountpoint: str, pid: int, seconds: float) -> dict[str, float]:
    """How much of its time the thread that answers the kernel spends, per cent, watched and not, without other work."""

    def spent() -> float:
        before, began = _cpu_ns(pid), time.perf_counter()
        time.sleep(seconds)
        return (_cpu_ns(pid) - before) / (time.perf_counter() - began) / 1e7

    unwatched = spent()
    with watching(mountpoint, Path(mountpoint, "d00000", "f0000007")):
        time.sleep(_BEGIN_S)
        return {"unwatched": unwatched, "watched": spent()}


def _cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


def measure(home: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    with large_mount(home, asked.files) as client:
        pid = client.status()["worker_pid"]
        found: dict[str, Any] = {"files": asked.files}
        found["answering thread, per cent"] = share(client.mountpoint, pid, 6 * _SCRAPE_S)
        for name, work in WORK.items():
            found[name] = compared(client.mountpoint, work, asked.rounds, asked.window)
            print(name, found[name], file=sys.stderr, flush=True)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.watched", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="hot files of the mount (default 10,000)")
    parser.add_argument("--rounds", type=int, default=60, help="pairs of windows of each kind of work (default 60)")
    parser.add_argument("--window", type=float, default=2.0, help="seconds of a window (default 2)")
    parser.add_argument("--directory", type=Path, help="where to work: a disk, or /dev/shm (default: TMPDIR)")
    parser.add_argument("--watch", help=argparse.SUPPRESS)
    parser.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.watch:
        watch(asked.watch, asked.path)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what stands is taken away
    home = Path(tempfile.mkdtemp(prefix="tierfs-w-", dir=asked.directory))
    try:
        print(json.dumps(measure(home, asked), indent=1))
    finally:
        shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
