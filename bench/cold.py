"""The cold part: every row for every reader, each on a fresh mount with an empty cache, and the table of it."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.cold_hot import BESIDE
from bench.cold_rows import BYTES, PLAIN, RAW, TIERFS, ColdRow, Line, at_most
from bench.cold_stage import Mounted, Stage, rclone, s3fs, tierfs
from bench.processes import cut_off_after, repeating
from bench.rows import MIB

COLD_ROWS: tuple[ColdRow, ...] = BYTES + BESIDE
_WATCH_S = 0.1
#: A mount that needs longer for a row hangs, or nobody would wait for it.
_TOO_LONG_S = 150.0
_MEMORY = Line("peak memory (PSS of the daemon and its children), in all of this", "MiB", "under 200", at_most(200))
_FUSE = "tierfs, plain FUSE"
#: By the name that --contenders takes; those that are mounted have a second name, the one in the table.
COLD_CONTENDERS = {
    "plain": PLAIN,
    "raw": RAW,
    "tierfs": TIERFS,
    "tierfs-fuse": _FUSE,
    "rclone": "rclone",
    "s3fs": "s3fs",
}


class Lined(Protocol):
    """A row, as far as its table cares."""

    @property
    def lines(self) -> tuple[Line, ...]:
        """What it measures."""


@dataclass(slots=True)
class ColdResults:
    """Values by line and contender, all rounds; peak memory by row and contender; and why something is missing."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    memory: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    failures: list[str] = field(default_factory=list)

    def medians(self, line: Line) -> dict[str, float]:
        """The medians of a line, by contender."""
        if line is _MEMORY:
            return {who: max(row.get(who, 0) for row in self.memory.values()) / MIB for who in self._watched()}
        return {who: statistics.median(values) for who, values in self.values[line.name].items()}

    def note_memory(self, row: str, who: str, seen: Sequence[int]) -> None:
        """Keep the most that was seen, bytes."""
        if seen:
            self.memory[row][who] = max(self.memory[row].get(who, 0), *seen)

    def _watched(self) -> set[str]:
        return {who for row in self.memory.values() for who in row}


def measure_cold(
    stage: Stage, rows: Sequence[ColdRow], names: Sequence[str], rounds: int, say: Callable[[str], None]
) -> Iterator[ColdResults]:
    """Every row, in rounds; within a row everybody in turns. Yields the same results again and again, as they grow."""
    results = ColdResults()
    who = [COLD_CONTENDERS[name] for name in names]
    for row in rows:
        for number in range(rounds):
            first = number % len(who)
            for one in [*who[first:], *who[:first]]:
                began = time.monotonic()
                _measure(stage, row, one, results)
                say(f"{row.name}: round {number + 1} of {rounds}: {one}: {time.monotonic() - began:.1f} s")
                yield results


def _measure(stage: Stage, row: ColdRow, who: str, results: ColdResults) -> None:
    try:
        values = _values(stage, row, who, results)
    except Exception as error:  # whatever befalls one contender, in boto3 or in a mount: the others go on
        failure = f"{who}: {row.name}: {str(error) or type(error).__name__}"
        if failure not in results.failures:
            results.failures.append(failure)
        return
    finally:
        stage.proxy.heal()
    for line, value in values.items():
        results.values[line][who].append(value)


def _values(stage: Stage, row: ColdRow, who: str, results: ColdResults) -> dict[str, float]:
    if who in (RAW, PLAIN):
        direct = row.raw if who == RAW else row.plain
        if direct is None:
            return {}
        stage.warm_server()
        stage.proxy.order(*row.faults)
        return direct(stage)
    if who in row.without:
        return {}
    with ExitStack() as exits:
        mounted = exits.enter_context(_mounted(stage, row, who))
        exits.callback(lambda: results.note_memory(row.name, who, mounted.memory))
        exits.enter_context(cut_off_after(_TOO_LONG_S, mounted.directory))
        stage.warm_server()
        stage.proxy.order(*row.faults)
        stage.settle()
        stage.proxy.reset_counts()
        if row.is_watched:
            exits.enter_context(repeating(mounted.look_at_memory, _WATCH_S))
        return row.act(stage, mounted)


def _mounted(stage: Stage, row: ColdRow, who: str) -> AbstractContextManager[Mounted]:
    match who:
        case "rclone":
            return rclone(stage, row.bucket)
        case "s3fs":
            return s3fs(stage, row.bucket)
        case _:
            mode = "off" if who == _FUSE else "auto"
            return tierfs(stage, f"--passthrough={mode}", *row.flags(stage), bucket=row.bucket, name=who)


def lines_of(rows: Sequence[Lined], results: ColdResults) -> list[Line]:
    """The lines of the table."""
    return [line for row in rows for line in row.lines] + ([_MEMORY] if results.memory else [])


def verdict(line: Line, medians: dict[str, float]) -> str:
    """Whether tierfs shows what it must; empty where nothing is asked or nothing was measured."""
    if not line.target or not any(name.startswith(TIERFS) for name in medians):
        return ""
    try:
        return "yes" if line.is_met(medians) else "NO"
    except KeyError:
        return ""  # it is to be compared with somebody who was not measured


def cold_as_json(rows: Sequence[Lined], results: ColdResults) -> dict[str, Any]:
    """Everything, with every value."""
    return {
        "peak_memory_bytes": results.memory,
        "failures": results.failures,
        "lines": [
            {
                "line": line.name,
                "unit": line.unit,
                "target": line.target,
                "met": verdict(line, results.medians(line)),
                "values": dict(results.values[line.name]),
            }
            for line in lines_of(rows, results)
        ],
    }
