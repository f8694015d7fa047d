"""Who takes part in the measurements of a Kafka broker: a node with its data directory in each contender's directory.

All nodes run all the time, each is asked in its turn. The object store is an S3 server behind a proxy that can delay;
both get what the processors have left, since they would be elsewhere.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.cold_stage import wait_until
from bench.contenders import Missing, mounted_rclone, mounted_tierfs
from bench.kafka_client import elsewhere
from bench.rows import MIB
from tests.proxy import Proxy, in_front_of
from tests.servers import S3Server, ServerMissing
from tests.servers import rclone as rclone_server
from tests.t5_apps.kafka.broker import Kafka, broker
from tests.t5_apps.kafka.jars import JarsMissing
from tierfs.admin.client import Client
from tierfs.core.reports import Outcome, Verb

PLAIN, PASSTHROUGH, IDLE = "plain directory", "tierfs, passthrough", "tierfs, idle files"
UNION = "rclone union"
#: What can go cold while a broker has it open.
_IDLE_FLAGS = ("--open-files=idle", *(f"--idle-files={name}" for name in ("*.log", "*.log.cleaned", "*.log.swap")))

#: Kafka sends files to consumers from the threads that its connections share: who shares one with a reader of history
#: waits with it. With the three of its defaults that would be every third producer, by luck.
_NETWORK = {"num.network.threads": "16"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is written; how long latencies are looked at; how many cold segments there are when a broker starts."""

    produce_bytes: int = 256 * MIB
    history_bytes: int = 256 * MIB
    latency_s: float = 15.0
    segments: int = 500


SMALL = Sizes(16 * MIB, 16 * MIB, 2.0, 40)


@dataclass(frozen=True, slots=True)
class Stage:
    """The S3 server behind the proxy, and what is to be measured with it."""

    base: Path
    server: S3Server
    proxy: Proxy
    sizes: Sizes


@dataclass(slots=True)
class Node:
    """A broker that runs. `client` asks tierfs, where that is below it; `made` says what was prepared already."""

    name: str
    kafka: Kafka
    stage: Stage
    client: Client | None = None
    made: set[str] = field(default_factory=set)

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self.kafka.address

    def logs(self, topic: str) -> list[Path]:
        """The segments of a topic that are not written to any more."""
        found: list[Path] = []
        for directory in self.kafka.data.glob(f"{topic}-*"):
            found += sorted(directory.glob("*.log"))[:-1]
        return found

    def make_cold(self, topic: str) -> None:
        """Have the segments of a topic in the bucket alone; the broker does not run. OSError."""
        if self.client is None:
            return
        top = self.kafka.data.parent
        paths = [os.fsencode(path.relative_to(top)) for path in self.logs(topic)]
        verbs: tuple[Verb, ...] = ("archive", "release")
        for verb in verbs:
            for report in self.client.move(verb, paths, recursive=False):
                if isinstance(report, Outcome) and report.result == "failed":
                    raise OSError(f"{os.fsdecode(report.path)} cannot be made cold: {report.reason}")

    def empty_cache(self) -> None:
        """Nothing of what is cold is in the chunk cache. OSError."""
        if self.client is not None and any(report.result == "failed" for report in self.client.evict(None)):
            raise OSError("the cache cannot be emptied")

    def downloaded(self) -> int:
        """Bytes that came from the bucket."""
        return int(self.client.status()["store_io"]["bytes_downloaded"]) if self.client else 0


@contextmanager
def staged(base: Path, sizes: Sizes) -> Iterator[Stage]:
    """The server and the proxy. Missing."""
    try:
        with ExitStack() as exits:
            with elsewhere():
                server = exits.enter_context(rclone_server())
                proxy = exits.enter_context(in_front_of(server))
            yield Stage(base, server, proxy, sizes)
    except ServerMissing as missing:
        raise Missing(f"an S3 server is needed: {missing}") from None


@contextmanager
def _node(stage: Stage, name: str, directory: Path, client: Client | None = None) -> Iterator[Node]:
    home = stage.base / f"{name.replace(' ', '-').replace(',', '')}-broker"
    home.mkdir()
    (directory / "data").mkdir()
    try:
        with broker(directory / "data", home, _NETWORK) as kafka:
            try:
                kafka.start()
            except AssertionError as error:
                raise Missing(f"the broker does not start: {str(error)[-500:]}") from None
            yield Node(name, kafka, stage, client)
    except JarsMissing as missing:
        raise Missing(str(missing)) from None


@contextmanager
def _plain(stage: Stage) -> Iterator[Node]:
    directory = stage.base / "plain"
    directory.mkdir()
    with _node(stage, PLAIN, directory) as node:
        yield node


@contextmanager
def _tierfs(stage: Stage, name: str, bucket: str, *flags: str) -> Iterator[Node]:
    home = stage.base / bucket
    stage.server.create_bucket(bucket)
    quiet = ("--warm-successor", "--lease=1h", "--snapshot-interval=0s", "--settle=0s", "--min-size=0")
    words = (f"--endpoint-url={stage.proxy.url}", *quiet, *flags)
    with (
        mounted_tierfs(home, f"s3://{bucket}", *words, environment=stage.server.environment) as (_, client),
        _node(stage, name, home / "mnt", client) as node,
    ):
        yield node


@contextmanager
def _union(stage: Stage) -> Iterator[Node]:
    home = stage.base / "rclone-union"
    for path in (home / "hot", home / "cold"):
        path.mkdir(parents=True)
    remote = f":union,upstreams='{home / 'hot'} {home / 'cold'}':"
    with mounted_rclone(home, remote), _node(stage, UNION, home / "mnt") as node:
        yield node


#: By the name that --contenders takes; the name in the tables is the node's.
KAFKA_CONTENDERS: dict[str, Callable[[Stage], AbstractContextManager[Node]]] = {
    "plain": _plain,
    "tierfs": lambda stage: _tierfs(stage, PASSTHROUGH, "passthrough", "--passthrough=required"),
    "tierfs-idle": lambda stage: _tierfs(stage, IDLE, "idle", "--passthrough=required", *_IDLE_FLAGS),
    "rclone-union": _union,
}


def settle(stage: Stage) -> None:
    """Wait until nothing passes the proxy: read-ahead goes on after its reader. TimeoutError."""
    before: list[int] = []

    def is_quiet() -> bool:
        before.append(stage.proxy.counts().down)
        return before[-2:-1] == before[-1:]

    wait_until(is_quiet)
