"""Results as tables in Markdown, and as JSON."""

from collections.abc import Sequence
from typing import Any

from bench.cold import ColdResults, Lined, lines_of, verdict
from bench.contenders import Contender
from bench.measuring import SYNCS_ASKED, Cell, Results
from bench.rows import Row

_NOTHING = "-"


def speeds(results: Results, rows: Sequence[Row], contenders: Sequence[Contender]) -> str:
    """Medians, and how fast that is beside the first contender."""
    reference = contenders[0].name
    lines = []
    for row in rows:
        base = results[row, reference].median
        cells = []
        for contender in contenders:
            value = results[row, contender.name].median
            text = _NOTHING if value is None else _number(value)
            if value is not None and base is not None and contender.name != reference:
                text += f" ({row.speed(value, base):.2f})"
            cells.append(text)
        lines.append([f"{row.name}, {row.unit}", *cells])
    return _table(["", *(contender.name for contender in contenders)], lines)


def costs(results: Results, rows: Sequence[Row], contenders: Sequence[Contender], memory: dict[str, int]) -> str:
    """CPU milliseconds of each daemon in one action; for tierfs the requests that reached Python; peak memory."""
    daemons = [contender for contender in contenders if contender.pid]
    if not daemons:
        return ""
    lines = [[row.name, *(_cost(results[row, daemon.name]) for daemon in daemons)] for row in rows]
    lines.append(["peak memory, MiB", *(_number(memory[daemon.name] / (1 << 20)) for daemon in daemons)])
    return _table(["daemon: CPU ms", *(daemon.name for daemon in daemons)], lines)


def syncs(results: Results, rows: Sequence[Row], contenders: Sequence[Contender]) -> str:
    """Who really syncs: calls at the backing file."""
    counted = [row for row in rows if row.syncs]
    daemons = [contender for contender in contenders if contender.pid]
    if not counted or not daemons:
        return ""
    lines = []
    for row in counted:
        asked = SYNCS_ASKED if row.unit == "µs" else 1
        cells = [results[row, daemon.name].syncs for daemon in daemons]
        lines.append([row.name, str(asked), *(_NOTHING if cell is None else str(cell) for cell in cells)])
    return _table(["syncs at the backing file", "asked", *(daemon.name for daemon in daemons)], lines)


def cold(results: ColdResults, rows: Sequence[Lined], who: Sequence[str]) -> str:
    """Rows with several lines: medians, what tierfs must show, and whether it does."""
    lines = []
    for line in lines_of(rows, results):
        medians = results.medians(line)
        cells = [_number(medians[one]) if one in medians else _NOTHING for one in who]
        unit = f", {line.unit}" if line.unit else ""
        lines.append([f"{line.name}{unit}", *cells, line.target or _NOTHING, verdict(line, medians) or _NOTHING])
    return _table(["", *who, "target", "met"], lines)


def failures(results: Results) -> list[str]:
    """What is missing in the tables, and why."""
    return [f"{name}: {row.name}: {cell.failure}" for (row, name), cell in results.items() if cell.failure]


def as_json(results: Results, memory: dict[str, int]) -> dict[str, Any]:
    """Everything, with every value."""
    return {
        "peak_memory_bytes": memory,
        "cells": [
            {
                "row": row.name,
                "unit": row.unit,
                "contender": name,
                "values": [sample.value for sample in cell.samples],
                "median": cell.median,
                "cpu_seconds": cell.cpu_seconds,
                "requests": cell.requests,
                "syncs": cell.syncs,
                "failure": cell.failure,
            }
            for (row, name), cell in results.items()
        ],
    }


def _cost(cell: Cell) -> str:
    if cell.cpu_seconds is None:
        return _NOTHING
    text = f"{cell.cpu_seconds * 1e3:.1f}"
    if cell.requests is not None:
        data = cell.requests["read"] + cell.requests["write"]
        text += f"; {sum(cell.requests.values())} requests, {data} of them data"
    return text


def _number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def shown(cells: list[str]) -> str:
        padded = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([shown(head), shown(rule), *map(shown, lines)])
