"""The measurement: rounds over rows over contenders, and what each of them used."""

import itertools
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.contenders import Contender
from bench.processes import settled_cpu_seconds
from bench.rows import Impossible, Row
from bench.syncs import syncs_during
from tierfs.core.errors import ControlError

#: Syncs that an application asks for while they are counted; a file that is written once is synced once.
SYNCS_ASKED = 20
#: A directory that could not be removed must not be in the way of the next round.
_NUMBERS = itertools.count()
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
    """One contender in one row. `failure` says why there is nothing, or nothing more.

    `syncs`: fsync and fdatasync calls at the backing file while the application made SYNCS_ASKED of them.
    """

    samples: list[Sample] = field(default_factory=list)
    failure: str = ""
    syncs: int | None = None

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


@contextmanager
def _prepared(row: Row, contender: Contender) -> Iterator[Path]:
    """A directory for a row; it is removed after, unless what is in it stays for the next round."""
    directory = contender.directory / (row.stays or f"row{next(_NUMBERS)}")
    directory.mkdir(exist_ok=bool(row.stays))
    try:
        yield directory
    finally:
        if not row.stays:
            shutil.rmtree(directory)


def measure(row: Row, contender: Contender) -> Sample:
    """One action of one contender; the files are made before and removed after, untimed. OSError, Impossible."""
    with _prepared(row, contender) as directory:
        count = row.count_for(contender.share, contender.is_remote)
        act = row.make(directory, count)
        requests = Counter(contender.requests()) if contender.requests else None
        used = settled_cpu_seconds(contender.pid) if contender.pid else None
        began = time.perf_counter()
        act()
        seconds = time.perf_counter() - began
        cpu = settled_cpu_seconds(contender.pid) - used if contender.pid and used is not None else None
        reached = Counter(contender.requests()) - requests if contender.requests and requests is not None else None
        return Sample(row.value(count, seconds), cpu, reached)


def count_syncs(row: Row, contender: Contender) -> int | None:
    """The fsync and fdatasync calls that reach the backing file of an action that makes SYNCS_ASKED. As measure()."""
    if not contender.pid:
        return None
    with _prepared(row, contender) as directory:
        act = row.make(directory, SYNCS_ASKED if row.unit == "µs" else row.least)
        return syncs_during(act, contender.pid, "file")


def measure_all(
    rows: Iterable[Row], contenders: Sequence[Contender], rounds: int, say: Callable[[str], None]
) -> Iterator[Results]:
    """Every row of every contender, in turns; who begins changes with the round, so that nobody is always first.

    Yields the same results again and again, as they grow.
    """
    rows = list(rows)
    results: Results = {(row, contender.name): Cell() for row in rows for contender in contenders}
    for number in range(rounds):
        for row in rows:
            say(f"round {number + 1} of {rounds}: {row.name}")
            first = number % len(contenders)
            for contender in [*contenders[first:], *contenders[:first]]:
                _fill(results[row, contender.name], row, contender)
                yield results
    for row in rows:
        if row.syncs:
            say(f"who syncs: {row.name}")
            for contender in contenders:
                cell = results[row, contender.name]
                with _failing_into(cell):
                    cell.syncs = count_syncs(row, contender)
    yield results


def _fill(cell: Cell, row: Row, contender: Contender) -> None:
    if cell.failure:
        return
    if row.unit == "ms" and contender.is_remote:
        cell.failure = "takes too long on an object store"
        return
    began = time.perf_counter()
    with _failing_into(cell):
        cell.samples.append(measure(row, contender))
    if time.perf_counter() - began > _TOO_LONG_S and not cell.failure:
        cell.failure = f"more than {_TOO_LONG_S:g} s: measured once only"


@contextmanager
def _failing_into(cell: Cell) -> Iterator[None]:
    """A contender that fails, or is gone, has its reason in the table; the others go on."""
    try:
        yield
    except Impossible as error:
        cell.failure = str(error)
    except ControlError as error:
        cell.failure = f"its daemon is gone: {error}"
    except OSError as error:
        cell.failure = error.strerror or str(error)
