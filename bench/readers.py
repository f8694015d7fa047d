"""Readers in a process of their own, so that their interpreter is not in the way of who measures meanwhile.

`python -m bench.readers FIRST BYTES PATH...` reads BYTES from FIRST of each file, a thread for each, once or, with
`--again`, until it is ended; then it prints {"errors": {errno: count}, "slowest_s": seconds} as JSON.
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

MIB = 1 << 20


@contextmanager
def reading(paths: list[Path], first: int, size: int, again: bool = False) -> Iterator["subprocess.Popen[str]"]:
    """Readers that run while the block does; who wants their answer waits for them inside it."""
    command = [sys.executable, "-m", "bench.readers", *(["--again"] if again else []), str(first), str(size)]
    process = subprocess.Popen(
        [*command, *map(str, paths)],
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


def read_all(paths: list[Path], first: int, size: int) -> dict[str, int]:
    """Read the same range of each file at the same time; how often which error was met."""
    errors: Counter[str] = Counter()

    def read(path: Path) -> None:
        try:
            read_range(path, first, size)
        except OSError as error:
            errors[errno.errorcode.get(error.errno or 0, "?")] += 1

    threads = [threading.Thread(target=read, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(errors)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.readers", description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="begin anew until ended")
    parser.add_argument("first", type=int)
    parser.add_argument("bytes", type=int)
    parser.add_argument("paths", type=Path, nargs="+")
    chosen = parser.parse_args()
    began = time.monotonic()
    errors = read_all(chosen.paths, chosen.first, chosen.bytes)
    while chosen.again:
        errors = read_all(chosen.paths, chosen.first, chosen.bytes)
    print(json.dumps({"errors": errors, "slowest_s": time.monotonic() - began}))


if __name__ == "__main__":
    main()
