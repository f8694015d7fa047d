"""`python -m bench`: measure, print the tables, take everything away again, also on Ctrl-C."""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import table
from bench.contenders import CONTENDERS, Contender, Missing, Options, version_of
from bench.measuring import measure_all
from bench.processes import MountError, peak_memory
from bench.rows import ROWS, Row
from tierfs import __version__


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="tierfs beside the plain directory and peers.")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender in each row (default 5)")
    parser.add_argument("--rows", default="", help="only rows whose names contain one of these words, with commas")
    parser.add_argument(
        "--contenders", default=",".join(CONTENDERS), help="who takes part, the first is compared with (default: all)"
    )
    parser.add_argument("--directory", type=Path, help="where to work: a disk, or /dev/shm (default: TMPDIR)")
    parser.add_argument("--pyfuse3-example", type=Path, metavar="FILE", help="passthroughfs.py of pyfuse3's examples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there")
    parser.add_argument("--list", action="store_true", help="say which rows and contenders there are")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.contenders.split(",") if name not in CONTENDERS]
    if unknown:
        parser.error(f"no such contender: {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    if chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    return chosen


def chosen_rows(words: str) -> list[Row]:
    """The rows whose names contain one of the words."""
    wanted = [word.strip() for word in words.split(",") if word.strip()]
    return [row for row in ROWS if not wanted or any(word in row.name for word in wanted)]


def say(text: str) -> None:
    """Progress goes to standard error: standard output is the tables."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def workplace(directory: Path | None) -> Iterator[Path]:
    """A directory for everything; it is removed unless something is still mounted below it."""
    base = Path(tempfile.mkdtemp(prefix="bench-", dir=directory)).resolve()
    base.chmod(0o755)
    try:
        yield base
    finally:
        if f" {base}/" in Path("/proc/self/mountinfo").read_text():
            say(f"something is still mounted below {base}: it stays")
        else:
            shutil.rmtree(base, ignore_errors=True)


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM ends the run like Ctrl-C."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    yield


def begin(names: list[str], options: Options, exits: ExitStack) -> list[Contender]:
    """Mount those who can take part; say why the others do not."""
    present = []
    for name in names:
        try:
            present.append(exits.enter_context(CONTENDERS[name](options)))
        except (Missing, MountError) as error:
            say(f"left out: {name}: {error}")
    return present


def environment(base: Path) -> dict[str, str]:
    """What the figures depend on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [fields for fields in mounts if base.is_relative_to(fields[1])]
    peers = {name: version_of(name) for name in ("mergerfs", "rclone", "s3fs")}
    return {
        "tierfs": __version__,
        "kernel": platform.release(),
        "processors": f"{os.cpu_count()}, {model[0].partition(':')[2].strip() if model else platform.machine()}",
        "python": platform.python_version(),
        "filesystem": max(inside, key=lambda fields: len(fields[1]))[2],
        **{name: version for name, version in peers.items() if version},
    }


def run(chosen: argparse.Namespace) -> int:
    """Measure and print."""
    rows = chosen_rows(chosen.rows)
    if not rows:
        say(f"no row is called so; there are {', '.join(row.name for row in ROWS)}")
        return 2
    with ExitStack() as exits:
        base = exits.enter_context(workplace(chosen.directory))
        # From here on a second Ctrl-C must not keep anything from being taken away.
        exits.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
        contenders = begin(chosen.contenders.split(","), Options(base, chosen.pyfuse3_example), exits)
        exits.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
        if not contenders:
            return 1
        results = measure_all(rows, contenders, chosen.rounds, say)
        memory = {contender.name: peak_memory(contender.pid) for contender in contenders if contender.pid}
        about = environment(base)
    print("\n".join(f"- {what}: {value}" for what, value in about.items()))
    for text in (table.speeds(results, rows, contenders), table.costs(results, rows, contenders, memory)):
        print(f"\n{text}" if text else "")
    for line in table.failures(results):
        print(f"\n{line}")
    if chosen.json:
        chosen.json.write_text(json.dumps(table.as_json(results, memory, about), indent=1) + "\n")
    return 0


def main() -> int:
    """The command. Exit status 130 when it was interrupted."""
    chosen = arguments()
    if chosen.list:
        print(
            "rows:", *(f"  {row.name}" for row in ROWS), "contenders:", *(f"  {name}" for name in CONTENDERS), sep="\n"
        )
        return 0
    try:
        with signals():
            return run(chosen)
    except KeyboardInterrupt:
        say("interrupted; everything was taken away again")
        return 130


if __name__ == "__main__":
    sys.exit(main())
