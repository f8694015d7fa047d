"""Run the exerciser from the command line."""

import argparse
import os
import secrets
import sys
import tempfile
from pathlib import Path

from tests.exercise.bursts import Exercise, run
from tests.mounting import MountFailed

MODES = {"passthrough": "required", "plain": "off"}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.exercise", description="Random I/O, compared.")
    parser.add_argument("--operations", type=int, default=1_000_000, help="how many, of all applications together")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what the applications do follows from it")
    parser.add_argument("--mode", choices=MODES, default="passthrough", help="how hot files are served")
    parser.add_argument("--burst", type=int, default=50_000, help="operations between two mounts")
    parser.add_argument("--applications", type=int, default=4, help="processes that do them")
    return parser.parse_args()


def main() -> int:
    """0: no mismatch. 1: there is one, or another failure; what was found is said and kept."""
    given = arguments()
    is_terminal = sys.stderr.isatty()

    def progress(line: str) -> None:
        if is_terminal:
            print(f"\r{line}", end="", file=sys.stderr, flush=True)

    keep = Path(tempfile.gettempdir(), f"tierfs-exercise-{given.seed}-{os.getpid()}")
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="e-") as runtime:
        os.environ["TIERFS_RUNTIME_DIR"] = runtime
        exercise = Exercise(
            given.operations, given.seed, MODES[given.mode], given.burst, given.applications, keep, progress
        )
        try:
            result = run(exercise)
        except (AssertionError, MountFailed) as failure:
            print("\n".join([f"FAILED: {failure}", *getattr(failure, "__notes__", [])]))
            return 1
    print(f"no mismatch: {result}")
    for reason, count in result.operators.refused.most_common():
        print(f"  not moved: {count} x {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
