"""What the command lines of long runs have in common: a line that says how far it is, and a verdict."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.mounting import MountFailed

Progress = Callable[[str], None]

#: Between two lines of progress where they cannot replace each other, seconds.
_PAUSE_S = 30.0


def verdict(seed: str, work: Callable[[Progress, Path], str]) -> int:
    """Run `work`, which is told where to put evidence, and print what it says. 0, 1 after a failure, 130 when
    it was interrupted."""
    # Whoever ends it, in the background of a shell too, has nothing left behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    keep = Path(tempfile.gettempdir(), f"tierfs-evidence-{seed}-{os.getpid()}")
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="e-") as runtime:
        os.environ["TIERFS_RUNTIME_DIR"] = runtime
        try:
            said = work(_progress(), keep)
        except (AssertionError, MountFailed) as failure:
            print("\n".join([f"FAILED: {failure}", *getattr(failure, "__notes__", [])]))
            return 1
        except KeyboardInterrupt:
            return 130
    print(said)
    return 0


def _progress() -> Progress:
    is_terminal = sys.stderr.isatty()
    said = time.monotonic()

    def say(line: str) -> None:
        nonlocal said
        if is_terminal:
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - said > _PAUSE_S:
            said = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    return say
