"""The measurement: rounds over rows over contenders, and what each of them used."""

import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bench.contenders import Contender
from bench.processes import cpu_seconds
from bench.rows import Impossible, Row

#: A contender that needed more than this for a row, seconds, is not asked for it again: one value has to do.
_TOO_LONG_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One action: its value in the row's unit, CPU seconds of the daemon, and requests that reached it."""

    value: float
    cpu_seconds: float | None = None
    requests: Counter[str] | None = None


@dataclass(slots=True)
class Cell:
    """One contender in one row. `failure` says why there is nothing, or nothing more."""

    samples: list[Sample] = field(default_factory=list)
    failure: str = ""

    @property
    def median(self) -> float | None:
        """The median of the values."""
        return statistics.median(sample.value for sample in self.samples) if self.samples else None

    @property
    def cpu_seconds(self) -> float | None:
        """The median of the CPU time."""
        used = [sample.cpu_seconds for sample in self.samples if sample.cpu_seconds is not None]
        return statistics.median(used) if used else None

    @property
    def requests(self) -> Counter[str] | None:
        """What reached the daemon in the first round: it does not vary but for what the kernel happened to know."""
        return self.samples[0].requests if self.samples else None


Results = dict[tuple[Row, str], Cell]


def measure(row: Row, contender: Contender) -> Sample:
    """One action of one contender; the files are made before and removed after, untimed. OSError, Impossible."""
    directory = contender.directory / "row"
    directory.mkdir()
    try:
        count = max(row.count // contender.share, min(row.least, row.count))
        act = row.make(directory, count)
        requests = Counter(contender.requests()) if contender.requests else None
        used = cpu_seconds(contender.pid) if contender.pid else None
        began = time.perf_counter()
        act()
        seconds = time.perf_counter() - began
        reached = Counter(contender.requests()) - requests if contender.requests and requests is not None else None
        cpu = cpu_seconds(contender.pid) - used if contender.pid and used is not None else None
        return Sample(row.value(count, seconds), cpu, reached)
    finally:
        shutil.rmtree(directory)


def measure_all(
    rows: Iterable[Row], contenders: Sequence[Contender], rounds: int, say: Callable[[str], None]
) -> Results:
    """Every row of every contender, in turns; who begins changes with the round, so that nobody is always first."""
    rows = list(rows)
    results: Results = {(row, contender.name): Cell() for row in rows for contender in contenders}
    for number in range(rounds):
        for row in rows:
            say(f"round {number + 1} of {rounds}: {row.name}")
            first = number % len(contenders)
            for contender in [*contenders[first:], *contenders[:first]]:
                _fill(results[row, contender.name], row, contender)
    return results


def _fill(cell: Cell, row: Row, contender: Contender) -> None:
    if cell.failure:
        return
    if row.count // contender.share < row.least and row.unit != "MiB/s":
        cell.failure = "takes too long on an object store"
        return
    began = time.perf_counter()
    try:
        cell.samples.append(measure(row, contender))
    except Impossible as error:
        cell.failure = str(error)
    except OSError as error:
        cell.failure = error.strerror or str(error)
    if time.perf_counter() - began > _TOO_LONG_S and not cell.failure:
        cell.failure = f"more than {_TOO_LONG_S:g} s: measured once only"
