"""`python -m bench.brokers`: NATS JetStream and RabbitMQ over the plain directory and over mounts, in turns.

In each round everybody publishes, consumes what is hot, is stopped, has its segments released and its cache emptied, is
started again and consumes what is cold. The store is a directory: what a bucket's distance adds is not in the figures.
Needs root for the mount with passthrough, /dev/fuse, nats-server and rabbitmq-server.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.broker_clients import BROKERS, Broker
from bench.contenders import mounted_tierfs
from bench.rows import drop_caches
from tierfs.admin.client import Client

Values = dict[tuple[str, str], dict[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a broker's data lies: its directory, and who answers for the mount; None: there is no mount."""

    name: str
    directory: Path
    client: Client | None = None

    def make_cold(self, below: str) -> None:
        """Release what can be, and empty all caches, the kernel's too."""
        if self.client is not None:
            for _ in self.client.move("release", [below.encode()], True):
                pass
            for _ in self.client.evict(None):
                pass
        drop_caches(1)

    def downloaded(self) -> int:
        """Bytes that came from the store until now."""
        return 0 if self.client is None else int(self.client.status()["store_io"]["bytes_downloaded"])


@contextmanager
def _plain(base: Path) -> Iterator[Place]:
    (base / "plain").mkdir()
    yield Place("plain directory", base / "plain")


def _tierfs(name: str, passthrough: str) -> Callable[[Path], AbstractContextManager[Place]]:
    @contextmanager
    def make(base: Path) -> Iterator[Place]:
        home = base / name.replace(" ", "-").replace(",", "")
        (home / "bucket").mkdir(parents=True)
        flags = (f"--passthrough={passthrough}", "--settle=0s", "--warm-successor")
        with mounted_tierfs(home, f"file://{home / 'bucket'}", *flags) as (_, client):
            yield Place(name, home / "mnt", client)

    return make


PLACES = (_plain, _tierfs("tierfs", "required"), _tierfs("tierfs, plain FUSE", "off"))


def measure(broker: Broker, place: Place, size: int, home: Path, values: Values, number: int) -> None:
    """One turn of a broker at one place, from an empty directory to one with cold segments."""
    below = f"{broker.directory}{number}"
    data = place.directory / below
    data.mkdir()

    def note(what: str, value: float) -> None:
        values[broker.name, what].setdefault(place.name, []).append(value)

    with broker.running(data, home) as session:
        note("publish, MB/s", size / 1e6 / _seconds(lambda: session.publish(size)))
        note("consume hot, MB/s", size / 1e6 / _seconds(lambda: session.consume(size)))
    place.make_cold(below)
    before, began = place.downloaded(), time.perf_counter()
    with broker.running(data, home) as session:
        session.wait_until_served()
        note("start, all closed segments cold, s", time.perf_counter() - began)
        note("start, fetched, MB", (place.downloaded() - before) / 1e6)
        note("consume cold, MB/s", size / 1e6 / _seconds(lambda: session.consume(size)))


def _seconds(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def table(values: Values) -> str:
    """Medians of all rounds in Markdown, beside the plain directory."""
    names = list(dict.fromkeys(name for by_place in values.values() for name in by_place))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for (broker, what), by_place in values.items():
        medians = {name: statistics.median(by_place[name]) for name in names if name in by_place}
        first = medians[names[0]]
        cells = [f"{value:.1f}" + (f" ({value / first:.2f})" if first else "") for value in medians.values()]
        lines.append(f"| {broker}: {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _in_turns(broker: Broker, number: int, chosen: argparse.Namespace, values: Values) -> None:
    for make in (*PLACES[number % len(PLACES) :], *PLACES[: number % len(PLACES)]):
        with tempfile.TemporaryDirectory(prefix="brokers-", dir=chosen.directory) as name, make(Path(name)) as at:
            measure(broker, at, chosen.megabytes * 1_000_000, Path(name), values, number)
        print(f"round {number + 1}: {broker.name}: {at.name}", file=sys.stderr, flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.brokers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--megabytes", type=int, default=64, help="how much each publishes in a turn (default 64)")
    parser.add_argument("--brokers", default="", help="only those whose names contain this word")
    parser.add_argument("--directory", type=Path, help="where to work (default: TMPDIR)")
    chosen = parser.parse_args()
    values: Values = defaultdict(dict)
    try:
        for number, broker in itertools.product(range(chosen.rounds), BROKERS):
            if chosen.brokers.lower() in broker.name.lower():
                _in_turns(broker, number, chosen, values)
    except KeyboardInterrupt:
        print("interrupted: the table shows what was measured until then", file=sys.stderr)
    print(table(values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
