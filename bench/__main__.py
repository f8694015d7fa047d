"""`python -m bench`: measure, print the tables, take everything away again, also on Ctrl-C."""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from bench import table
from bench.cold import COLD_CONTENDERS, COLD_ROWS, cold_as_json, measure_cold
from bench.cold_rows import ColdRow
from bench.cold_stage import SMALL, Sizes, staged
from bench.contenders import CONTENDERS, Contender, Missing, Options, version_of
from bench.kafka import begin_nodes, measure_kafka
from bench.kafka_nodes import KAFKA_CONTENDERS
from bench.kafka_nodes import SMALL as SMALL_KAFKA
from bench.kafka_nodes import Sizes as KafkaSizes
from bench.kafka_nodes import staged as staged_kafka
from bench.kafka_rows import KAFKA_ROWS, KafkaRow
from bench.measuring import measure_all
from bench.processes import MountError, peak_memory
from bench.rows import ROWS, Row
from tierfs import __version__

AnyRow = TypeVar("AnyRow", Row, ColdRow, KafkaRow)
Grown = TypeVar("Grown")
#: Tables and sentences, and the same as JSON; None when there was nothing to measure, which was said.
Answer = tuple[list[str], dict[str, Any]] | None
Part = Callable[[argparse.Namespace, Path, ExitStack], Answer]
#: Filesystems over others: the kernel refuses their files as backing files.
_STACKED = ("overlay", "ecryptfs", "fuseblk")


_HOW = """\
Prints tables in Markdown on standard output, progress on standard error: medians of all rounds and, in parentheses, how
fast that is beside the first contender (1 is as fast, 0.5 half as fast), what the daemons used, and who really syncs.
In each round everybody does each row once, in turns. docs/BENCHMARKS.md says what the rows mean.

Needs root to empty the kernel's caches, /dev/fuse, a filesystem below --directory that allows passthrough, and a
machine that does nothing else. Peers that are not installed are left out.

examples:
  python -m bench --directory /dev/shm                          everything, some minutes
  python -m bench --contenders plain,tierfs --rows stat,rename  two contenders in some rows
  python -m bench --cold --directory /dev/shm                   reads of cold files, from an S3 server behind a proxy
  python -m bench --cold --small --rows 'first byte'            one of them, with smaller files, to try it out
  python -m bench --kafka --directory /dev/shm                  a Kafka broker, hot and with history in the bucket
  python -m bench --kafka --rows start --segments 5000          its start with 5,000 cold segments
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Benchmark: tierfs beside the plain directory and beside other filesystems.",
        epilog=_HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cold", action="store_true", help="measure reads of cold files instead of hot ones")
    parser.add_argument("--kafka", action="store_true", help="measure a Kafka broker over each contender's directory")
    parser.add_argument(
        "--segments", type=int, help="with --kafka: cold segments of a broker that starts (default 500)"
    )
    parser.add_argument("--small", action="store_true", help="with --cold, --kafka: a few MiB, to try the rows out")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender in each row (default 3)")
    parser.add_argument("--rows", default="", help="only rows whose names contain one of these words, with commas")
    parser.add_argument(
        "--contenders", default="", help="who takes part, with commas; the first is compared with (default: all)"
    )
    parser.add_argument("--directory", type=Path, help="where to work: a disk, or /dev/shm (default: TMPDIR)")
    parser.add_argument("--pyfuse3-example", type=Path, metavar="FILE", help="passthroughfs.py of pyfuse3's examples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there")
    parser.add_argument("--list", action="store_true", help="say which rows and contenders there are")
    chosen = parser.parse_args()
    if chosen.cold and chosen.kafka:
        parser.error("--cold and --kafka are two benchmarks")
    known = list(_table_of(chosen)[1])
    chosen.contenders = chosen.contenders.split(",") if chosen.contenders else known
    unknown = [name for name in chosen.contenders if name not in known]
    if unknown:
        parser.error(f"no such contender: {', '.join(unknown)}; there are {', '.join(known)}")
    if chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    if chosen.directory and not chosen.directory.is_dir():
        parser.error(f"--directory: {chosen.directory} is not a directory")
    return chosen


def _table_of(chosen: argparse.Namespace) -> tuple[Sequence[Row | ColdRow | KafkaRow], Sequence[str]]:
    """The rows, and the contenders by the names that --contenders takes."""
    if chosen.kafka:
        return KAFKA_ROWS, list(KAFKA_CONTENDERS)
    if chosen.cold:
        return COLD_ROWS, list(COLD_CONTENDERS)
    return ROWS, list(CONTENDERS)


def chosen_rows(rows: Sequence[AnyRow], words: str) -> list[AnyRow]:
    """The rows whose names contain one of the words; says so when there is none."""
    wanted = [word.strip() for word in words.split(",") if word.strip()]
    found = [row for row in rows if not wanted or any(word in row.name for word in wanted)]
    if not found:
        say(f"no row is called so; there are: {'; '.join(row.name for row in rows)}")
    return found


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
    part: Part = kafka_part if chosen.kafka else cold_part if chosen.cold else hot_part
    with ExitStack() as exits:
        base = exits.enter_context(workplace(chosen.directory))
        about = environment(base)
        if "tierfs" in chosen.contenders and about["filesystem"] in _STACKED:
            say(
                f"{base.parent} lies on {about['filesystem']}, which allows no passthrough: "
                "choose a directory on tmpfs, ext4 or xfs with --directory (/dev/shm is usually a tmpfs)"
            )
            return 2
        try:
            answer = part(chosen, base, exits)
        except Missing as missing:
            say(str(missing))
            return 1
    if answer is None:
        return 2
    print("\n".join(f"- {what}: {value}" for what, value in about.items()))
    print("\n" + "\n\n".join(filter(None, answer[0])))
    if chosen.json:
        chosen.json.write_text(json.dumps({"environment": about, **answer[1]}, indent=1) + "\n")
    return 0


@contextmanager
def undisturbed_end(exits: ExitStack) -> Iterator[None]:
    """What is mounted in this block is taken away undisturbed, even if Ctrl-C comes a second time."""
    exits.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
    yield
    exits.callback(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    exits.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)


def last_of(growing: Iterator[Grown]) -> Grown | None:
    """The results when all is measured, or as far as it was when Ctrl-C came."""
    results = None
    try:
        for results in growing:  # noqa: B007
            pass
    except KeyboardInterrupt:
        say("interrupted: the tables show what was measured until then")
    return results


def hot_part(chosen: argparse.Namespace, base: Path, exits: ExitStack) -> Answer:
    """Hot files: everybody is mounted all the time."""
    rows = chosen_rows(ROWS, chosen.rows)
    if not rows:
        return None
    with undisturbed_end(exits):
        contenders = begin(chosen.contenders, Options(base, chosen.pyfuse3_example), exits)
    if not contenders:
        return None
    results = last_of(measure_all(rows, contenders, chosen.rounds, say))
    if results is None:
        return None
    memory = {contender.name: peak_memory(contender.pid) for contender in contenders if contender.pid}
    tables = [
        table.speeds(results, rows, contenders),
        table.costs(results, rows, contenders, memory),
        table.syncs(results, rows, contenders),
        *table.failures(results),
    ]
    return tables, table.as_json(results, memory)


def cold_part(chosen: argparse.Namespace, base: Path, exits: ExitStack) -> Answer:
    """Cold files: everybody is mounted anew for each row. Missing."""
    rows = chosen_rows(COLD_ROWS, chosen.rows)
    if not rows:
        return None
    say("making cold files")
    sizes = SMALL if chosen.small else Sizes()
    sizes = replace(sizes, files=min(sizes.files, max(row.files for row in rows)))
    with undisturbed_end(exits):
        stage = exits.enter_context(staged(base, sizes))
    results = last_of(measure_cold(stage, rows, chosen.contenders, chosen.rounds, say))
    if results is None:
        return None
    who = [COLD_CONTENDERS[name] for name in chosen.contenders]
    return [table.cold(results, rows, who), *results.failures], cold_as_json(rows, results)


def kafka_part(chosen: argparse.Namespace, base: Path, exits: ExitStack) -> Answer:
    """A broker over each directory: all of them run all the time. Missing."""
    rows = chosen_rows(KAFKA_ROWS, chosen.rows)
    if not rows:
        return None
    sizes = SMALL_KAFKA if chosen.small else KafkaSizes()
    sizes = replace(sizes, segments=chosen.segments or sizes.segments)
    say("starting brokers")
    with undisturbed_end(exits):
        nodes = begin_nodes(exits.enter_context(staged_kafka(base, sizes)), chosen.contenders, exits, say)
    results = last_of(measure_kafka(rows, nodes, chosen.rounds, say)) if nodes else None
    if results is None:
        return None
    return [table.cold(results, rows, [node.name for node in nodes]), *results.failures], cold_as_json(rows, results)


def main() -> int:
    """The command. Exit status 130 when it was interrupted."""
    chosen = arguments()
    if chosen.list:
        rows, contenders = _table_of(chosen)
        print("rows:", *(f"  {row.name}" for row in rows), sep="\n")
        print("contenders:", *(f"  {name}" for name in contenders), sep="\n")
        return 0
    try:
        with signals():
            return run(chosen)
    except KeyboardInterrupt:
        say("interrupted; everything was taken away again")
        return 130


if __name__ == "__main__":
    sys.exit(main())
