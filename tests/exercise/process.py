"""An application as a process: takes orders as JSON lines on standard input, and answers each with one line.

    python -m tests.exercise.process ROOT SEED HABITS NOTE

{"do": "run", "count": N}, {"do": "settle"} and {"do": "verify"} are answered with {"operations", "counts"}, or with
{"failure": TEXT}, after which it does nothing more. NOTE is a file that holds the number of the operation
at any time, also when a signal ends the process.
"""

import faulthandler
import json
import mmap
import signal
import struct
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from tests.exercise.application import Application
from tests.exercise.habits import HABITS
from tests.exercise.witness import Mismatch
from tests.model import Node

_NUMBER = struct.Struct("<Q")


class Works(Protocol):
    """An application as its process sees it; `operations` is the number of the one that it is at."""

    operations: int
    counts: Counter[str]

    def make_directories(self) -> None: ...
    def step(self) -> None: ...
    def verify(self) -> None: ...
    def settle(self) -> None: ...
    def history(self, node: Node | None) -> str: ...
    def everything_remembered(self) -> Iterator[str]: ...


def main(arguments: list[str]) -> None:
    """Until there are no more orders."""
    root, seed, habits, note = arguments
    serve(Application(Path(root), seed, HABITS[habits]), Path(note))


def serve(
    application: Works,
    note: Path,
    after_step: Callable[[], None] = lambda: None,
    more: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Take orders for an application until there are no more. `more` is added to each answer."""
    faulthandler.enable()
    with open(note, "w+b") as file:
        file.truncate(mmap.PAGESIZE)
        number = mmap.mmap(file.fileno(), mmap.PAGESIZE)
    for line in sys.stdin:
        try:
            _obey(application, json.loads(line), number, after_step)
        except (Mismatch, OSError) as error:
            told = (
                f"{error}" if isinstance(error, Mismatch) else f"{traceback.format_exc()}\n{application.history(None)}"
            )
            sys.stderr.writelines(f"{line}\n" for line in application.everything_remembered())
            _answer({"failure": f"{datetime.now():%F %T.%f} {told}"})
            signal.pause()  # nothing is closed: the mount is looked at as it is
        _answer({"operations": application.operations, "counts": application.counts} | more())


def _obey(application: Works, order: dict[str, Any], number: mmap.mmap, after_step: Callable[[], None]) -> None:
    match order["do"]:
        case "make":
            application.make_directories()
        case "run":
            for _ in range(order["count"]):
                _NUMBER.pack_into(number, 0, application.operations + 1)
                application.step()
                after_step()
        case "settle":
            application.settle()
        case "verify":
            application.verify()


def operation_of(note: Path) -> int:
    """The number of the operation that an application is at."""
    try:
        (number,) = _NUMBER.unpack_from(note.read_bytes())
    except struct.error:
        return 0
    return int(number)


def _answer(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
