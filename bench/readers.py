"""Readers in a process of their own, so that their interpreter is not in the way of who measures meanwhile.

`python -m bench.readers [--step STEP] BYTES PATH...` reads BYTES of each file, a thread for each: the first file from
its begin, each next one STEP further on. Then it prints {"errors": {errno: count}, "slowest_s": seconds} as JSON.
"""

import argparse
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.rows import MIB, claim_memory


@contextmanager
def reading(paths: list[Path], size: int, step: int = 0) -> Iterator["subprocess.Popen[str]"]:
    """Readers that run while the block does; who wants their answer waits for them inside it."""
    command = [sys.executable, "-m", "bench.readers", f"--step={step}", str(size), *map(str, paths)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_range(path: Path, first: int, size: int) -> None:
    """Read a range in reads of at most 1 MiB. OSError."""
    buffer = memoryview(bytearray(min(MIB, size)))
    fd = os.open(path, os.O_RDONLY)
    try:
        end = first + size
        while first < end and (got := os.preadv(fd, [buffer[: min(MIB, end - first)]], first)):
            first += got
    finally:
        os.close(fd)


def read_all(paths: list[Path], size: int, step: int = 0) -> dict[str, int]:
    """Read so much of each file at the same time, each next one `step` further on; how often which error was met."""
    errors: Counter[str] = Counter()

    def read(path: Path, first: int) -> None:
        try:
            read_range(path, first, size)
        except OSError as error:
            errors[errno.errorcode.get(error.errno or 0, "?")] += 1

    threads = [threading.Thread(target=read, args=(path, order * step)) for order, path in enumerate(paths)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(errors)


def rate(paths: list[Path], size: int) -> float:
    """MiB/s of readers of so much of each file, all at the same time. OSError.

    Memory is there for the kernel's pages, and as much again for what the filesystem keeps itself.
    """
    claim_memory(2 * len(paths) * size)
    began = time.perf_counter()
    errors = read_all(paths, size)
    seconds = time.perf_counter() - began
    if errors:
        raise OSError(f"reads failed: {errors}")
    return len(paths) * size / MIB / seconds


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.readers", description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=0, help="how much further on each next reader begins")
    parser.add_argument("bytes", type=int)
    parser.add_argument("paths", type=Path, nargs="+")
    chosen = parser.parse_args()
    began = time.monotonic()
    errors = read_all(chosen.paths, chosen.bytes, chosen.step)
    print(json.dumps({"errors": errors, "slowest_s": time.monotonic() - began}))


if __name__ == "__main__":
    main()
