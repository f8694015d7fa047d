"""demo: the whole story on one machine, with real commands, real files and every comparison made before your eyes."""

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any

import click

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.cli import demo_stage
from tierfs.cli.demo_stage import DemoFailed, Transcript
from tierfs.cli.demo_tree import Census, compare, copy_sample, real_roots, sha256_of
from tierfs.cli.rendering import shown_size
from tierfs.core.errors import ConfigError
from tierfs.core.quantities import parse_size
from tierfs.core.reports import Entry
from tierfs.mount.launch import LOG_NAME

_BUCKET = "demo"
_BIG = "library.tar"
_SLICE_BYTES = 64 << 10
_LONGEST_WAIT_S = 120.0
#: The ages of a real mount; only what would make people wait is short.
_SETTINGS = "--warm-after 7d --cold-after 90d --settle 1s --policy-interval 1s --min-size 1 --archive-concurrency 8"


@click.command()
@click.option("--tree", metavar="DIR", help="Take the files from here. [the Python library and what else is there]")
@click.option("--files", metavar="NUMBER", type=click.IntRange(min=1), default=1500, help="Most files to copy. [1500]")
@click.option("--bytes", "limit", metavar="SIZE", default="48MiB", help="Most bytes to copy. [48MiB]")
def demo(tree: str | None, files: int, limit: str) -> int:
    """The whole story on this machine, in under a minute.

    \b
    tierfs demo
    tierfs demo --tree ~/projects --files 500

    Copies files of this machine into a mount over an S3 server on the loopback address, lets the policy archive them,
    releases them, and compares every byte and attribute with the originals. Everything is in a temporary directory (in
    TMPDIR), which is gone afterwards, after Ctrl-C as well. Needs the extra: pip install 'tierfs[demo]'.

    The exit code is 0 only when every comparison held.
    """
    roots = [(Path(tree).resolve().name or "tree", Path(tree).resolve())] if tree else real_roots()
    if tree and not roots[0][1].is_dir():
        raise ConfigError(f"--tree: {tree!r} is not a directory")
    demo_stage.find_rclone()
    with ExitStack() as exits:
        exits.enter_context(demo_stage.interrupts())
        directory = exits.enter_context(demo_stage.scratch())
        transcript = Transcript(directory, demo_stage.demo_environment())
        if shutil.which("tierfs", path=transcript.environment["PATH"]) is None:
            raise ConfigError(f"the command tierfs is not beside {sys.executable}: install the package, then try again")
        (directory / "buckets" / _BUCKET).mkdir(parents=True)
        url = exits.enter_context(demo_stage.s3_server(directory / "buckets", transcript.environment))
        exits.enter_context(demo_stage.mountpoint_in(directory))
        story = Story(transcript, directory)
        try:
            story.mount(url)
            story.copy_in(copy_sample(roots, directory / "original", files, int(parse_size(limit))))
            story.tell()
        except DemoFailed:
            story.show_log(directory / "state" / LOG_NAME)
            raise
    click.echo()
    click.secho(f"Every comparison held; {transcript.elapsed_s():.0f} seconds. Nothing is left behind.", bold=True)
    return 0


class Story:
    """The chapters. `data` is the mount, `original` holds the same files past tierfs."""

    def __init__(self, transcript: Transcript, directory: Path) -> None:
        self._t = transcript
        self._data = directory / "data"
        self._original = directory / "original"
        self._objects = directory / "buckets" / _BUCKET

    def show_log(self, log: Path) -> None:
        """What the mount had to say, for the one who has to find out why a comparison did not hold."""
        if log.exists():
            said = [line for line in log.read_text(errors="replace").splitlines() if " INFO archived " not in line]
            self._t.say(f"The end of the log of the mount ({log.name}):")
            self._t.output("\n".join(said[-20:]), whole=True)

    def mount(self, url: str) -> None:
        """A directory and a bucket become one tree."""
        t = self._t
        t.step("A directory and a bucket become one tree")
        t.say(f"Everything happens in {t.directory} and is gone afterwards. An S3 server (rclone) listens on {url}.")
        t.run(f"tierfs mount s3://{_BUCKET} data --state state --endpoint-url {url} {_SETTINGS}")

    def copy_in(self, sample: Census) -> None:
        """A real tree, and one big file, 40 days old."""
        t = self._t
        t.step("Real files come in")
        size = shown_size(sample.bytes)
        t.say(f"original/ holds {sample.files} files ({size}) and {sample.symlinks} symlinks of this machine. They are")
        t.say("packed into one big file as well, made 40 days old, and copied into the mount.")
        names = " ".join(quote(name) for name in sorted(os.listdir(self._original)))
        t.run(f"tar -cf {_BIG} -C original {names} && mv {_BIG} original/ && ln -s {_BIG} original/latest.tar")
        t.run("find original -type f -exec touch -d '40 days ago' {} +")
        t.run("cp -a original/. data/")

    def tell(self) -> None:
        """What becomes of the files, up to the unmount."""
        self._archive()
        self._release()
        self._read_a_slice()
        self._compare_all()
        self._write()
        self._unmount()

    def _archive(self) -> None:
        t = self._t
        t.step("The policy archives what nobody writes any more")
        t.say("--warm-after 7d: these files are older, so they are copied to the bucket and verified. They stay here")
        t.say("as well: such a file is warm. What S3 can do and this server cannot, `status` says.")
        empty = sum(_is_plain(path) and path.stat().st_size == 0 for path in _below(self._original))
        t.wait("the policy archives", lambda: self._status()["hot"]["files"] <= empty, _LONGEST_WAIT_S)
        t.run("tierfs status data", whole=True)
        t.run("tierfs ls -r data")
        if self._status()["warm"]["files"] == 0:
            raise DemoFailed("nothing was archived")

    def _release(self) -> None:
        t = self._t
        t.step("Release: the hot bytes go, the files stay")
        t.say("By itself this happens after --cold-after, or when the disk fills up. We ask for it.")
        t.run("tierfs release -r data")
        t.run(f"ls -l data/{_BIG} data/latest.tar")
        t.run(f"tierfs ls data/{_BIG}")
        if self._status()["warm"]["files"]:
            raise DemoFailed("not every archived file was released")

    def _read_a_slice(self) -> None:
        t = self._t
        size = (self._data / _BIG).stat().st_size
        t.step(f"A slice out of the middle of a cold file of {shown_size(size)}")
        before = self._downloaded()
        read = f"dd if=%s/{_BIG} bs={_SLICE_BYTES} skip={size // 2 // _SLICE_BYTES} count=1 status=none | sha256sum"
        if t.run(read % "data") != t.run(read % "original"):
            raise DemoFailed("the slice differs")
        downloaded = self._downloaded() - before
        t.held(f"the same bytes, and {shown_size(downloaded)} of {shown_size(size)} were downloaded for them")

    def _compare_all(self) -> None:
        t = self._t
        t.step("Every byte, every attribute, out of the bucket")
        t.run("diff -r --no-dereference original data && echo no differences")
        result = compare(self._original, self._data)
        if result.differences:
            t.output("\n".join(result.differences))
            raise DemoFailed(f"{len(result.differences)} differences between original and data")
        census = result.census
        files = f"{census.files} files ({shown_size(census.bytes)})"
        t.held(f"{files}, {census.directories} directories, {census.symlinks} symlinks:")
        t.held("SHA-256, mode, owner, modification time (ns), link targets and extended attributes are the same")
        t.run("tierfs status data | grep -v warning:", whole=True)

    def _write(self) -> None:
        t = self._t
        t.step("Back: by a command, or by writing")
        written = next(path for path in _below(self._original) if _is_plain(path) and path.stat().st_size > 0)
        name = quote(str(written.relative_to(self._original)))
        t.run(f"tierfs restore data/{_BIG}")
        t.run(f"echo 'one more line' | tee -a original/{name} >> data/{name}")
        t.run(f"cmp original/{name} data/{name} && cmp original/{_BIG} data/{_BIG}")
        t.run(f"tierfs ls data/{_BIG} data/{name}")
        t.held("both files are the same as their originals")

    def _unmount(self) -> None:
        t = self._t
        t.step("Unmounted: plain files here, plain objects there")
        cold = next(path for path in _below(self._original) if _is_plain(path) and self._is_cold(path))
        t.run("tierfs umount data")
        t.run("find data -type f -size +0")
        name = cold.relative_to(self._original)
        t.run(f"sha256sum {quote(f'original/{name}')} {quote(f'buckets/{_BUCKET}/{name}')}")
        if sha256_of(cold) != sha256_of(self._objects / name):
            raise DemoFailed(f"the object of {name} differs from the file")
        t.held("an object is the file's bytes: any S3 tool reads it")

    def _is_cold(self, original: Path) -> bool:
        inside = os.fsencode(original.relative_to(self._original))
        entries = self._client().list_entries([inside], recursive=False)
        return any(isinstance(entry, Entry) and entry.tier == "cold" for entry in entries)

    def _client(self) -> Client:
        return Client.of(registry.find_mountpoint(str(self._data)))

    def _status(self) -> Mapping[str, Any]:
        return self._client().status()

    def _downloaded(self) -> int:
        return int(self._status()["store_io"]["bytes_downloaded"])


def _below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
