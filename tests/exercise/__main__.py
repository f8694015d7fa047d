"""Run the exerciser from the command line."""

import argparse
import secrets
import sys
from pathlib import Path

from tests.exercise.bursts import VIRTUAL, Exercise, run
from tests.exercise.command import Progress, verdict

MODES = {"passthrough": "required", "plain": "off", "virtual": VIRTUAL}


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

    def work(progress: Progress, keep: Path) -> str:
        mode = MODES[given.mode]
        exercise = Exercise(given.operations, given.seed, mode, given.burst, given.applications, keep, progress)
        result = run(exercise)
        refused = [f"  not moved: {count} x {reason}" for reason, count in result.operators.refused.most_common()]
        return "\n".join([f"no mismatch: {result}", *refused])

    return verdict(given.seed, work)


if __name__ == "__main__":
    sys.exit(main())
