"""`python -m tests.crashes`: run the crash matrix and print it. Exit status 1 when a point fails.

python -m tests.crashes [--way WAY]... [--only WORDS] [--brief]      WAY: crash, "cold process", power, ...
"""

import argparse
import os
import signal
import sys
import tempfile
import time

from tests.crashes.matrix import Way, one_of_each, points, run, table


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    parser.add_argument("--way", action="append", type=Way, choices=list(Way), help="default: all of them")
    parser.add_argument("--only", default="", help="points whose name contains this")
    parser.add_argument("--brief", action="store_true", help="one point for each step, as the tests do it")
    arguments = parser.parse_args()
    wanted = [point for point in points(arguments.way or list(Way)) if arguments.only in str(point)]
    if arguments.brief:
        wanted = one_of_each(wanted)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no mount is left behind
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tierfs-c-") as home:
        os.chmod(home, 0o711)
        tempfile.tempdir = home
        os.environ["TIERFS_RUNTIME_DIR"] = os.path.join(home, "run")
        results = list(run(wanted))
        tempfile.tempdir = None
    print(table(results))
    print(f"{time.monotonic() - started:.0f} s")
    return any(result.failure for result in results)


if __name__ == "__main__":
    sys.exit(main())
