"""Run a storm from the command line."""

import argparse
import secrets
import sys
from dataclasses import replace
from pathlib import Path

from tests.exercise.bursts import VIRTUAL
from tests.exercise.command import Progress, verdict
from tests.storm.process import ROLES
from tests.storm.storm import Storm, run
from tests.storm.strikes import HOW

MODES = {"passthrough": "required", "plain": "off", "virtual": VIRTUAL}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description="Workers die, applications go on.")
    parser.add_argument("--kills", type=int, default=50, help="how often the worker is killed or replaced")
    parser.add_argument("--how", choices=HOW, default="kill", help="whether it is killed, or an upgrade asked for")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what the applications do follows from it")
    parser.add_argument("--mode", choices=MODES, default="passthrough", help="how hot files are served")
    parser.add_argument("--between", type=float, default=2.0, help="seconds between two strikes, on average")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long it lasts at least")
    parser.add_argument("--roles", nargs="+", choices=ROLES, default=list(ROLES), help="the applications")
    return parser.parse_args()


def main() -> int:
    """0: no error, no mismatch. 1: there is one; what was found is said and kept."""
    given = arguments()

    def work(progress: Progress, keep: Path) -> str:
        mode = MODES[given.mode]
        storm = Storm(given.kills, given.seed, mode, given.how, given.between, given.seconds)
        storm = replace(storm, roles=given.roles, keep=keep, progress=progress)
        return str(run(storm))

    return verdict(given.seed, work)


if __name__ == "__main__":
    sys.exit(main())
