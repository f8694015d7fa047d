"""Where cold reads are measured: an S3 server, a proxy before it that delays, cold files, and who reads them."""

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.contenders import Missing, mounted_rclone, mounted_s3fs, mounted_tierfs
from bench.processes import proportional_memory
from bench.rows import MIB
from tests.faults import Fault
from tests.proxy import Proxy, in_front_of
from tests.servers import S3Server, ServerMissing
from tests.servers import rclone as rclone_server
from tierfs.admin.client import Client
from tierfs.core.reports import Outcome, Verb

BUCKET, MANY = "bench", "many"
MANY_NAMES = 10_000
LATENCY = Fault.latency(0.02)
PER_CONNECTION = Fault.bandwidth(80 * MIB)
_HOT_BYTES = 64 << 10
_REST_S = 0.3
_SELF_TEST_PAUSE_S = 1.5
_PATIENCE_S = 120.0
_LARGE_FILES = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the first two files are, and the others; how many there are.

    Rows that read several files read `part` of each.
    """

    file: int = 512 * MIB
    part: int = 128 * MIB
    files: int = 9
    far: int = 300 * MIB
    cache: int = 256 * MIB
    through_cache: int = 5120 * MIB
    random_reads: int = 200


SMALL = Sizes(
    file=32 * MIB,
    part=16 * MIB,
    files=4,
    far=20 * MIB,
    cache=16 * MIB,
    through_cache=128 * MIB,
    random_reads=20,
)


@dataclass(frozen=True, slots=True)
class Stage:
    """The server behind the proxy, with `sizes.files` cold files in its bucket."""

    base: Path
    server: S3Server
    proxy: Proxy
    sizes: Sizes

    @property
    def names(self) -> list[str]:
        """The cold files, also the keys of their objects."""
        return [f"cold{number}" for number in range(self.sizes.files)]

    def warm_server(self) -> None:
        """Have the server compute the ETags of all files: it does when an object is first asked for, by reading it."""
        with self.server.client() as client:
            for name in self.names:
                client.head_object(Bucket=BUCKET, Key=name)

    def settle(self, pause_s: float = _REST_S) -> None:
        """Wait until nothing passes the proxy for so long: read-ahead goes on after its reader. TimeoutError."""
        before: list[tuple[int, dict[str, int]]] = []

        def is_quiet() -> bool:
            counts = self.proxy.counts()
            before.append((counts.down, counts.requests))
            return before[-2:-1] == before[-1:]

        wait_until(is_quiet, pause_s)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A fresh mount with nothing in its cache; `hot` is a file that it need not ask the bucket for.

    `memory` is what its processes had in memory, bytes, each time that somebody looked.
    """

    name: str
    directory: Path
    pid: int
    hot: Path
    client: Client | None = None
    cache: Path | None = None
    memory: list[int] = field(default_factory=list)

    def look_at_memory(self) -> None:
        """Note what its processes have in memory now (PSS)."""
        self.memory.append(proportional_memory(self.pid))


def wait_until(is_so: Callable[[], bool], pause_s: float = 0.2) -> None:
    """Ask again and again, with pauses. TimeoutError."""
    deadline = time.monotonic() + _PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"what was waited for did not happen within {_PATIENCE_S:g} s")
        time.sleep(pause_s)


@contextmanager
def staged(base: Path, sizes: Sizes) -> Iterator[Stage]:
    """Server, proxy, and files that tierfs archived and released. Missing."""
    try:
        with ExitStack() as exits:
            data = base / "server"
            for name in (BUCKET, MANY):
                (data / name).mkdir(parents=True)
            for number in range(MANY_NAMES):
                (data / MANY / f"name{number:06d}").write_bytes(b"n" * 4096)
            # What the peers have in their caches, where tierfs has a hot file.
            (data / BUCKET / "cached").write_bytes(b"c" * _HOT_BYTES)
            server = exits.enter_context(rclone_server(data))
            stage = Stage(base, server, exits.enter_context(in_front_of(server)), sizes)
            with tierfs(stage) as mounted:
                _archive(stage, mounted)
            yield stage
    except ServerMissing as missing:
        raise Missing(f"an S3 server is needed: {missing}") from None


def _archive(stage: Stage, mounted: Mounted) -> None:
    block = random.Random(1).randbytes(MIB)
    for order, name in enumerate(stage.names):
        size = stage.sizes.file if order < _LARGE_FILES else stage.sizes.part
        with open(mounted.directory / name, "wb", buffering=0) as file:
            for number in range(size // MIB):
                file.write(number.to_bytes(8, "big") + block[8:])
    assert mounted.client
    paths = [os.fsencode(name) for name in stage.names]
    verbs: tuple[Verb, ...] = ("archive", "release")
    for verb in verbs:
        for report in mounted.client.move(verb, paths, recursive=False):
            if isinstance(report, Outcome) and report.result == "failed":
                raise Missing(f"the files cannot be made cold: {report}")


@contextmanager
def tierfs(stage: Stage, *flags: str, bucket: str = BUCKET, name: str = "tierfs") -> Iterator[Mounted]:
    """tierfs, its catalog as it was left, its cache empty."""
    home = stage.base / f"tierfs-{bucket}"
    (home / "hot").mkdir(parents=True, exist_ok=True)
    (home / "hot" / "hot").write_bytes(b"h" * _HOT_BYTES)
    # What the others do not do either: renewals of a lease and snapshots would be counted among the requests.
    quiet = ("--lease=1h", "--snapshot-interval=0s")
    words = (f"--endpoint-url={stage.proxy.url}", "--settle=0s", *quiet, *flags)
    with mounted_tierfs(home, f"s3://{bucket}", *words, environment=stage.server.environment) as (pid, client):
        for report in client.evict(None):
            if report.result == "failed":
                raise Missing(f"the cache cannot be emptied: {report}")
        stage.settle(_SELF_TEST_PAUSE_S)
        yield Mounted(name, home / "mnt", pid, home / "mnt" / "hot", client, home / "state" / "cache")


@contextmanager
def rclone(stage: Stage, bucket: str = BUCKET) -> Iterator[Mounted]:
    """rclone, nothing in its cache."""
    settings = {
        "PROVIDER": "Other",
        "ENDPOINT": stage.proxy.url,
        "ACCESS_KEY_ID": stage.server.access_key,
        "SECRET_ACCESS_KEY": stage.server.secret_key,
        "FORCE_PATH_STYLE": "true",
    }
    environment = {f"RCLONE_S3_{name}": value for name, value in settings.items()}
    with _home(stage, "rclone") as home, mounted_rclone(home, f":s3:{bucket}", environment) as pid:
        yield Mounted("rclone", home / "mnt", pid, home / "mnt" / "cached")


@contextmanager
def s3fs(stage: Stage, bucket: str = BUCKET) -> Iterator[Mounted]:
    """s3fs, nothing in its cache."""
    with _home(stage, "s3fs") as home, mounted_s3fs(home, bucket, stage.proxy.server) as pid:
        yield Mounted("s3fs", home / "mnt", pid, home / "mnt" / "cached")


@contextmanager
def _home(stage: Stage, name: str) -> Iterator[Path]:
    """A new directory for one mount; it goes with it, and so does the cache in it."""
    home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=stage.base))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
