"""Long work as it goes: a progress bar on a terminal, plain lines in a pipe."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager

import click

from tierfs.cli.rendering import is_terminal, shown_absolute, shown_path, shown_size
from tierfs.core.reports import Outcome, Total

Report = Total | Outcome


class Tally:
    """What became of the files so far; `done` is the verb in the past tense."""

    def __init__(self, done: str) -> None:
        self.done = done
        self.files = 0
        self.bytes = 0
        self.unchanged = 0
        self.failed = 0

    def count(self, outcome: Outcome) -> None:
        """Take one outcome into account."""
        self.files += outcome.result == "done"
        self.unchanged += outcome.result == "unchanged"
        self.failed += outcome.result == "failed"
        self.bytes += outcome.bytes

    def summary(self) -> str:
        """One line for the end."""
        parts = [f"{self.files} {self.done}" + (f" ({shown_size(self.bytes)})" if self.bytes else "")]
        parts += [f"{self.unchanged} unchanged"] if self.unchanged else []
        parts += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(parts)


def follow(
    mountpoint: str, reports: Generator[Report, None, None] | Generator[Outcome, None, None], tally: Tally
) -> None:
    """Show reports as they come; an error or an interrupt closes them, which ends the work in the mount."""
    with closing(reports):
        if is_terminal():
            _follow_on_terminal(mountpoint, reports, tally)
        else:
            _follow_in_pipe(mountpoint, reports, tally)


class Meter:
    """How far work is, on a terminal; in a pipe nothing is shown."""

    def __init__(self, show: Callable[[str, int, int | None], None]) -> None:
        self.show = show


@contextmanager
def metering() -> Iterator[Meter]:
    """A meter that is gone after the block. What is printed in the block appears above it."""
    if not is_terminal():
        yield Meter(lambda _what, _done, _total: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(what: str, done: int, total: int | None) -> None:
            count = f"{done} of {total}" if total is not None else f"{done}" if done else ""
            progress.update(task, description=f"{what} {count}".rstrip(), completed=done, total=total)

        yield Meter(show)


def _follow_in_pipe(mountpoint: str, reports: Iterable[Report], tally: Tally) -> None:
    for report in reports:
        if isinstance(report, Outcome):
            tally.count(report)
            click.echo(_line(mountpoint, report, tally.done), err=report.result == "failed")


def _follow_on_terminal(mountpoint: str, reports: Iterable[Report], tally: Tally) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(tally.done, total=None)
        for report in reports:
            if isinstance(report, Total):
                progress.update(task, total=report.files, description=f"{tally.done} of {shown_size(report.bytes)}")
            else:
                tally.count(report)
                progress.advance(task)
                if report.result == "failed":
                    progress.console.out(_line(mountpoint, report, tally.done), highlight=False)


def _line(mountpoint: str, outcome: Outcome, done: str) -> str:
    name = shown_path(shown_absolute(mountpoint, outcome.path))
    if outcome.result == "failed":
        return f"tierfs: {name}: {outcome.reason or 'failed'}"
    size = f" ({shown_size(outcome.bytes)})" if outcome.bytes else ""
    why = f": {outcome.reason}" if outcome.reason else ""
    return f"{done} {name}{size}" if outcome.result == "done" else f"unchanged {name}{why}"
