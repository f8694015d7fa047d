"""Several applications at once, each in its process; who does not answer is told from who found something."""

import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.exercise.process import operation_of

#: Longest silence of an application, in seconds: a batch is a fraction of a second, but on a busy machine.
_PATIENCE_S = 180.0
_BATCH = 1000


class Failure(AssertionError):
    """A mismatch, an error that no plain directory gives, or a silence; the message tells it all."""


@dataclass(frozen=True, slots=True)
class Member:
    """One application."""

    name: str
    seed: str
    note: Path
    process: "subprocess.Popen[str]"

    def send(self, order: dict[str, Any]) -> None:
        """Give it an order; it must have answered the one before."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # its answer says why
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Its answer. Failure."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            raise Failure(f"{self} ended with {status} in operation {operation_of(self.note)}")
        answer: dict[str, Any] = json.loads(line)
        if "failure" in answer:
            raise Failure(f"{self}: {answer['failure']}")
        return answer

    def __str__(self) -> str:
        return f"application {self.name} (seed {self.seed})"

    def whereabouts(self) -> str:
        """What it does now, as the kernel says."""
        found = [f"{self} is silent, in operation {operation_of(self.note)}"]
        for name in ("wchan", "syscall", "stack"):
            with suppress(OSError):
                found.append(f"{name}: {Path(f'/proc/{self.process.pid}/{name}').read_text().strip()}")
        return "\n".join(found)


class Team:
    """All applications of a mount."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._answers: dict[str, dict[str, Any]] = {}

    @property
    def operations(self) -> int:
        """Operations done by all, since they were started."""
        return sum(answer["operations"] for answer in self._answers.values())

    def counts(self) -> Counter[str]:
        """What else they counted."""
        together: Counter[str] = Counter()
        for answer in self._answers.values():
            together.update(answer["counts"])
        return together

    def answers(self) -> list[dict[str, Any]]:
        """The last answer of each."""
        return list(self._answers.values())

    def each(self, what: str) -> None:
        """Let all do something, and wait for it. Failure."""
        self._work({member.name: iter([{"do": what}]) for member in self._members}, lambda: None)

    def run(self, operations: int, progress: Callable[[], None]) -> None:
        """Let them do so many operations, shared equally. Failure."""
        share = operations // len(self._members)
        batches = [_BATCH] * (share // _BATCH) + [share % _BATCH]
        orders = {m.name: iter([{"do": "run", "count": count} for count in batches]) for m in self._members}
        self._work(orders, progress)

    def run_while(self, is_so: Callable[[], bool], batch: int, progress: Callable[[], None]) -> None:
        """Let them do batches of operations as long as a condition holds. Failure."""

        def batches() -> Iterator[dict[str, Any]]:
            while is_so():
                yield {"do": "run", "count": batch}

        self._work({member.name: batches() for member in self._members}, progress)

    @contextmanager
    def ended_on_failure(self) -> Iterator[None]:
        """When the block fails, the applications end before what they have open is in anybody's way."""
        try:
            yield
        except BaseException:
            for member in self._members:
                _end(member.process)
            raise

    def _work(self, orders: dict[str, Iterator[dict[str, Any]]], progress: Callable[[], None]) -> None:
        with selectors.DefaultSelector() as answers:
            for member in self._members:
                if order := next(orders[member.name], None):
                    assert member.process.stdout
                    answers.register(member.process.stdout, selectors.EVENT_READ, member)
                    member.send(order)
            while answers.get_map():
                ready = answers.select(_PATIENCE_S)
                if not ready:
                    raise Failure("\n".join(key.data.whereabouts() for key in answers.get_map().values()))
                for key, _ in ready:
                    self._answers[key.data.name] = key.data.receive()
                    if order := next(orders[key.data.name], None):
                        key.data.send(order)
                    else:
                        answers.unregister(key.fileobj)
                progress()


@contextmanager
def team(
    root: Path, seed: str, habits: Sequence[str], evidence: Path, module: str = "tests.exercise.process"
) -> Iterator[Team]:
    """An application for each of these habits, in root/a0 and so on. They end with the block.

    `module` is what runs as their process.
    """
    members: list[Member] = []
    try:
        for number, habit in enumerate(habits):
            name, own_seed = f"a{number}", f"{seed}/{number}"
            note = evidence / f"{name}.operation"
            command = [sys.executable, "-m", module, str(root / name), own_seed, habit, str(note)]
            with (evidence / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd=Path(__file__).parents[2],
                    env=os.environ | {"PYTHONFAULTHANDLER": "1"},
                )
            members.append(Member(name, own_seed, note, process))
        yield Team(members)
    finally:
        for member in members:
            _end(member.process)


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    with process, suppress(BrokenPipeError):
        process.communicate()
