"""Real mounts for tests: `python -m tierfs mount` in a process of its own, in a directory of its own.

    with directory() as home, mounted(Plan(home)) as mount:
        (mount.path / "file").write_bytes(b"text")
        mount.release("file")

A mount that does not come up raises MountFailed with what it said. Whatever happens inside the block, afterwards
nothing is mounted and no process is left.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.core.errors import ControlError
from tierfs.core.reports import Entry, Finding, Outcome, Verb
from tierfs.mount import kernel

#: How long, in seconds, a mount may take to come up or to go on a busy machine before the test fails.
_START_S = 180.0
_STOP_S = 120.0


#: Why a file is not moved right after it was closed (close(2) does not wait until the daemon knows of it), or renamed.
_PASSING_REASONS = (
    "open",
    "open for writing",
    "open or mapped",
    "opened for writing while it was being archived",
    "replaced while its object was looked at",
    "an open file still reads the older object that has its key",
    "its bytes are not those that were archived: it is archived again",
    "the process that talks to the store is being started again",
)
_PASSING_END = "which was renamed"
#: What the self-test says of every directory.
_SELF_TEST_SAYS = "an object cannot have the name of a directory"


class MountFailed(Exception):
    """The mount command ended before the mount served: its exit status, and what it said on standard error."""

    def __init__(self, status: int, output: str) -> None:
        super().__init__(f"tierfs mount ended with status {status}: {output}")
        self.status = status
        self.output = output


@dataclass(frozen=True, slots=True)
class Plan:
    """One mount to make: everything lies in `home`; `flags` are added to the command line.

    `store` is a URL; empty for the directory home/bucket. `environment` is added to the one of the test.
    """

    home: Path
    store: str = ""
    in_place: bool = False
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def hot(self) -> Path:
        """The hot directory."""
        return self.home / "hot"

    @property
    def mountpoint(self) -> Path:
        """Where the tree is to be seen."""
        return self.hot if self.in_place else self.home / "mnt"

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.home / "state"

    @property
    def bucket(self) -> Path:
        """The directory that is the store, unless `store` says another."""
        return self.home / "bucket"

    def command(self) -> list[str]:
        """The mount command; the policy is off unless the flags turn it on."""
        command = [sys.executable, "-m", "tierfs", "mount", self.store or f"file://{self.bucket}", str(self.mountpoint)]
        command += [] if self.in_place else ["--hot", str(self.hot)]
        return [*command, "--state", str(self.state), "--foreground", "--no-auto-archive", *self.flags]

    def make_directories(self) -> None:
        """Make what a mount needs to find."""
        for path in (self.hot, self.mountpoint, self.bucket):
            path.mkdir(exist_ok=True)


class Mount:
    """A mount that serves. Paths of files are relative to it, as str or bytes."""

    def __init__(self, plan: Plan, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.plan = plan
        self.path = plan.mountpoint
        self.process = process
        self.log = log
        self.seconds_to_serve = 0.0
        mountpoint = str(plan.mountpoint)
        self.control_socket = registry.slot_of(mountpoint) / registry.SOCKET_NAME
        self.client = Client(mountpoint, self.control_socket)

    # -- its processes -------------------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """Those that live: the supervisor, the spawner, the worker, its cold process."""
        return _with_descendants(self.process.pid)

    def kill_worker(self) -> int:
        """kill -9 of the worker alone: the next one takes over. Its pid."""
        pid = int(self.status()["worker_pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_taken_over(self, pid: int) -> None:
        """Wait until another worker than this one serves, and answers operators."""

        def is_another() -> bool:
            with suppress(ControlError):
                return is_answering(self) and bool(self.status()["worker_pid"] != pid)
            return False

        self._wait_until(is_another)

    def freeze(self) -> list[int]:
        """Stop every process of the mount, whoever would start another one first; which these are."""
        return _stopped(self.process.pid)

    def kill_all(self) -> None:
        """kill -9 of every process of the mount, at once: nobody is left who would start another one."""
        pids = self.freeze()
        for pid in pids:
            with suppress(ProcessLookupError):  # somebody else was quicker
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._wait_until(lambda: all(map(is_gone, pids)))

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")[-2000:]
            time.sleep(0.005)

    # -- what an operator does -----------------------------------------------------------------------------------

    def archive(self, *paths: str | bytes, recursive: bool = False) -> None:
        """Archive files; all of them must succeed."""
        self._move("archive", paths, recursive)

    def release(self, *paths: str | bytes, recursive: bool = False) -> None:
        """Release files; all of them must succeed."""
        self._move("release", paths, recursive)

    def restore(self, *paths: str | bytes, recursive: bool = False) -> None:
        """Restore files; all of them must succeed."""
        self._move("restore", paths, recursive)

    def outcomes(self, verb: Verb, *paths: str | bytes, recursive: bool = False) -> list[Outcome]:
        """What became of each file."""
        reports = self.client.move(verb, [os.fsencode(path) for path in paths], recursive)
        return [report for report in reports if isinstance(report, Outcome)]

    def settled(self, verb: Verb, *paths: str | bytes, recursive: bool = False) -> list[Outcome]:
        """What became of each file, asked again for as long as one is not moved for a reason that passes."""
        deadline = time.monotonic() + _STOP_S
        while True:
            outcomes = self.outcomes(verb, *paths, recursive=recursive)
            if not any(map(_will_pass, outcomes)):
                return outcomes
            assert time.monotonic() < deadline, outcomes
            time.sleep(0.005)

    def inside(self, path: str | bytes | Path) -> bytes:
        """The path relative to the mount of a path in it."""
        return os.path.relpath(os.fsencode(path), os.fsencode(self.path))

    def make_cold(self, path: Path, content: bytes) -> None:
        """A cold file with this content."""
        path.write_bytes(content)
        self.release(self.inside(path))
        assert self.residency(self.inside(path)) == "cold"

    def release_all(self) -> None:
        """Release every file that can be; those that never go cold stay hot."""
        self.settled("release", b"", recursive=True)

    def evict(self) -> None:
        """Empty the chunk cache."""
        assert all(outcome.result != "failed" for outcome in self.client.evict(None))

    def status(self) -> dict[str, Any]:
        """`tierfs status --json`."""
        return self.client.status()

    def entry(self, path: str | bytes) -> Entry:
        """`tierfs ls --json` of one file."""
        (entry,) = self.client.list_entries([os.fsencode(path)], False)
        assert isinstance(entry, Entry), entry
        return entry

    def residency(self, path: str | bytes) -> str:
        """Where the bytes of a file are."""
        return self.entry(path).residency.value

    def check(self) -> list[Finding]:
        """Where catalog, hot directory and bucket disagree."""
        return [report for report in self.client.check() if isinstance(report, Finding)]

    def downloaded(self) -> int:
        """Bytes that came from the store since the mount."""
        return int(self._store_io()["bytes_downloaded"])

    def requests(self) -> int:
        """Requests that the store was sent since the mount."""
        return int(self._store_io()["requests"])

    def _store_io(self) -> dict[str, Any]:
        """What the store was used for, when its self-test is over: it begins when the mount serves."""
        deadline = time.monotonic() + _START_S
        while True:
            status: dict[str, Any] = self.status()
            if self.plan.store or any(_SELF_TEST_SAYS in warning for warning in status["warnings"]):
                io: dict[str, Any] = status["store_io"]
                return io
            assert time.monotonic() < deadline, status["warnings"]
            time.sleep(0.005)

    def _move(self, verb: Verb, paths: tuple[str | bytes, ...], recursive: bool) -> None:
        failed = [outcome for outcome in self.settled(verb, *paths, recursive=recursive) if outcome.result == "failed"]
        assert not failed, failed


def _will_pass(outcome: Outcome) -> bool:
    is_passing = outcome.reason in _PASSING_REASONS or outcome.reason.endswith(_PASSING_END)
    return outcome.result == "failed" and is_passing


def refused(plan: Plan) -> tuple[int, str]:
    """Mount in the background, as people do, where that must fail: the exit status, and what it said."""
    command = [word for word in plan.command() if word != "--foreground"]
    environment = os.environ | dict(plan.environment)
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_START_S,
        check=False,
    )
    if done.returncode == 0:
        _cut_off(plan.mountpoint)
        raise AssertionError("the mount came up")
    return done.returncode, done.stderr


@contextmanager
def directory() -> Iterator[Path]:
    """A temporary directory that other users may enter, with a short path."""
    home = Path(tempfile.mkdtemp(prefix="m-"))
    home.chmod(0o755)
    try:
        yield home
    finally:
        assert not _mounted_below(home), f"something is still mounted below {home}: it is not removed"
        shutil.rmtree(home)


@contextmanager
def mounted(plan: Plan) -> Iterator[Mount]:
    """Mount, wait until it serves, and take it away afterwards. MountFailed."""
    plan.make_directories()
    log = plan.home / "mount.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            plan.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=os.environ | dict(plan.environment)
        )
    mount = Mount(plan, process, log)
    try:
        _wait_until_serving(mount)
        yield mount
    finally:
        _end(mount)


def run(plan: Plan) -> MountFailed:
    """Mount where that must fail, and return how it did."""
    try:
        with mounted(plan):
            pass
    except MountFailed as failure:
        return failure
    raise AssertionError("the mount came up")


def _wait_until_serving(mount: Mount) -> None:
    started = time.monotonic()
    deadline = started + _START_S
    while True:
        status = mount.process.poll()
        if status is not None:
            raise MountFailed(status, mount.log.read_text(errors="replace"))
        with suppress(ControlError):
            if _is_mounted(mount.path) and is_answering(mount):
                mount.seconds_to_serve = time.monotonic() - started
                mount.status()
                return
        if time.monotonic() > deadline:
            raise AssertionError(f"the mount does not serve: {mount.log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.01)


def is_answering(mount: Mount) -> bool:
    """Whether somebody listens to operators."""
    with socket.socket(socket.AF_UNIX) as probe, registry.short_path(mount.control_socket) as name:
        return probe.connect_ex(name) == 0


def _end(mount: Mount) -> None:
    """Unmount in an orderly way; what does not go is cut off and killed, and is then an error."""
    problem = ""
    if _is_mounted(mount.path):
        was_killed = mount.process.poll() == -signal.SIGKILL  # who had files open in it has them still
        try:
            kernel.unmount(str(mount.path), lazy=was_killed)
        except OSError as error:
            problem = f"{error.strerror}: {', '.join(kernel.holders(str(mount.path)))}"
            _cut_off(mount.path)
    try:
        mount.process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        problem += " the supervisor did not end"
        _cut_off(mount.path)
        mount.kill_all()
    if problem:
        raise AssertionError(f"{mount.path}: {problem}: {mount.log.read_text(errors='replace')[-2000:]}")


def _cut_off(path: Path) -> None:
    """Abort the connection, so that nobody waits for an answer any more, and detach the mount."""
    at = kernel.mounted_at(str(path))
    if at:
        with suppress(OSError):
            Path("/sys/fs/fuse/connections", str(at.minor), "abort").write_text("1")
        kernel.unmount(str(path), lazy=True)


def _is_mounted(path: Path) -> bool:
    at = kernel.mounted_at(str(path))
    return at is not None and at.filesystem_type == kernel.FILESYSTEM_TYPE


def _mounted_below(home: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return [line.split(b" ")[4].decode() for line in lines if line.split(b" ")[4].startswith(os.fsencode(home) + b"/")]


def is_gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have waited for it yet."""
    return _state(pid) in "ZX"


def _state(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "X"
    return status.rpartition(b")")[2].split()[0].decode()


def _with_descendants(pid: int) -> list[int]:
    """A process and those that it has started, those that these have started, and so on, where they live."""
    return [] if is_gone(pid) else [pid, *(one for child in _children(pid) for one in _with_descendants(child))]


def _stopped(pid: int) -> list[int]:
    """The same, and each is stopped before those below it are looked for: there will be no others."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    while (state := _state(pid)) not in "TZX":
        time.sleep(0.0005)
    return [pid, *(one for child in _children(pid) for one in _stopped(child))] if state == "T" else []


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    return []
