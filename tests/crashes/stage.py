"""One mount after the other over the same hot directory, state and bucket, and what lies between them: its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.crashes import arming
from tests.crashes.disks import Disk, disks
from tests.crashes.trees import Tree, look
from tests.mounting import Mount, MountFailed, Plan, directory, is_gone
from tierfs.core.config import MountRequest, Settings
from tierfs.core.errors import ControlError, StoreError, StoreUnavailable
from tierfs.mount import kernel, launch, supervisor

CHUNK_SIZE = 4096
#: How long, in seconds, something may take on a busy machine before the test fails.
PATIENCE_S = 60.0
_PAUSE_S = 0.003
#: The supervisor, to whom no worker ends quickly: they are killed one after the other, and there would be pauses.
_SUPERVISOR = f"import sys, {supervisor.__name__} as one; one._QUICK_S = 0.0; sys.exit(one.main())"
_SETTINGS = {
    "chunk_size": CHUNK_SIZE,
    "auto_archive": False,
    "policy_interval": "1h",
    "cold_timeout": "20s",
    "snapshot_interval": "0s",
}


@dataclass(frozen=True)
class Theatre:
    """Where stages are set up: with disks that can lose their power or not, and over which store.

    With `keeps_mount` files are held open: the mount does not end when another worker is wanted.
    """

    has_disks: bool = False
    keeps_mount: bool = False
    store: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)


class Stage:
    """A directory with all that a mount needs. INVARIANT: at most one mount lives."""

    def __init__(self, home: Path, theatre: Theatre, made: list[Disk]) -> None:
        self.plan = Plan(home, store=theatre.store)
        self.disks = made
        self.orders = arming.Orders(home / "orders")
        self._theatre = theatre
        self._mount: Mount | None = None
        self._pids: list[int] = []

    @property
    def mount(self) -> Mount:
        """The mount that lives."""
        assert self._mount is not None, "nothing is mounted"
        return self._mount

    @property
    def path(self) -> Path:
        """Where the tree is seen."""
        return self.plan.mountpoint

    # -- the life of a mount -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Mount, and wait until the mount serves and its first pass is over. MountFailed."""
        self.start_now()
        self._wait_for_first_pass()

    def pass_again(self) -> None:
        """Have another worker, and wait until its first pass is over."""
        if self._theatre.keeps_mount:
            self.wait_taken_over(self.mount.kill_worker())
            self._wait_for_first_pass()
        else:
            self.stop()
            self.start()

    def _wait_for_first_pass(self) -> None:
        self.wait_until(lambda: self.mount.status()["policy"]["next_pass_ns"], "the first pass of the policy is over")

    def start_now(self) -> None:
        """Mount, and wait until the mount serves. MountFailed."""
        assert self._mount is None
        store = self.plan.store or f"file://{self.plan.bucket}"
        where = map(str, (self.plan.mountpoint, self.plan.hot, self.plan.state))
        settings = Settings.of(**_SETTINGS | dict(self._theatre.settings))
        request = MountRequest(store, *where, settings, foreground=True)
        launch.check(request)
        process, line = _start_supervisor(request, self._environment(), self.plan.home / "mount.log")
        self._mount = Mount(self.plan, process, self.plan.home / "mount.log")
        report = json.loads(line) if line else {}
        if "serving" not in report:
            process.wait()
            self._clear_away()
            raise MountFailed(process.returncode, str(report))
        self._pids = self._mount.processes()

    def stop(self) -> None:
        """Unmount, and wait until all is gone."""
        kernel.unmount(str(self.path))
        self._wait_gone()

    def rebuild(self) -> bool:
        """Have a catalog made from the bucket and the hot directory; whether that ended by itself."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._theatre.settings.items()]
        where = (f"file://{self.plan.bucket}", str(self.plan.mountpoint))
        tiers = ("--hot", str(self.plan.hot), "--state", str(self.plan.state), "--replace-catalog")
        return self._run("rebuild", *where, *tiers, "--no-auto-archive", *flags) == 0

    def check_unmounted(self) -> None:
        """Nothing disagrees, and every object reads back."""
        assert self._run("check", "--deep", "--rate", "0", "--state", str(self.plan.state)) == 0

    def _run(self, *arguments: str) -> int:
        command = [sys.executable, "-m", "tierfs", *arguments]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
        return done.returncode

    def kill(self) -> None:
        """kill -9 of every process of the mount, from outside."""
        self._kill(self.mount.freeze())

    def cut_power(self) -> None:
        """The power goes, of all disks; no process of the mount notices."""
        frozen = self.mount.freeze()
        arming.cut_power(tuple(str(disk.mountpoint) for disk in self.disks), ())
        self._kill(frozen)

    def _kill(self, frozen: list[int]) -> None:
        """kill -9; where the supervisor is dead already, of those that it had."""
        for pid in frozen or self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_dead(self) -> None:
        """Wait until a mount that was killed is gone, and clear away what it left in the kernel."""
        if self._mount is not None:
            self._wait_gone()

    def worker(self) -> int:
        """The pid of who serves the mount."""
        return int(self.mount.status()["worker_pid"])

    def wait_taken_over(self, worker: int) -> None:
        """Wait until another worker serves, and nothing is left of the one that was killed."""
        self.mount.wait_taken_over(worker)
        for pid in self._pids:
            if pid not in self.mount.processes():
                self.wait_until(lambda pid=pid: is_gone(pid), f"process {pid} is gone")
        self._pids = self.mount.processes()

    def wait_for_cold_process(self) -> None:
        """Wait until a cold process that was killed is there again."""

        def answers() -> bool:
            try:
                self.mount.check()
            except StoreUnavailable:
                return False
            return True

        self.wait_until(answers, "the cold process is there again")
        self._pids = self.mount.processes()

    def replug(self) -> None:
        """Give the disks their power back."""
        for disk in self.disks:
            disk.unmount()
            disk.mount()

    def sync(self) -> None:
        """What is there now is not lost any more."""
        for disk in self.disks:
            disk.sync()

    def is_alive(self) -> bool:
        """Whether there is a mount whose worker lives."""
        return self._mount is not None and self._mount.process.poll() is None

    def end(self) -> None:
        """Whatever state it is in: no mount, no process."""
        if self._mount is not None:
            self.kill()
            self._wait_gone()

    def _environment(self) -> Mapping[str, str]:
        return os.environ | dict(self._theatre.environment) | arming.environment(self.plan.home / "orders")

    def _wait_gone(self) -> None:
        self.mount.process.wait(PATIENCE_S)
        for pid in self._pids:
            self.wait_until(lambda pid=pid: is_gone(pid), f"process {pid} is gone")
        self._clear_away()

    def _clear_away(self) -> None:
        self._mount, self._pids = None, []
        while kernel.mounted_at(str(self.path)):
            kernel.unmount(str(self.path), lazy=True)

    # -- looking -------------------------------------------------------------------------------------------------

    def look(self) -> Tree:
        """The whole tree."""
        return look(self.path)

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that comes by itself; AssertionError when it does not, or the mount dies over it."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain until {what}: {self.log()}"
            time.sleep(_PAUSE_S)

    def log(self) -> str:
        """The end of what the mounts have said."""
        return (self.plan.home / "mount.log").read_text(errors="replace")[-1500:]


@contextmanager
def stage(theatre: Theatre) -> Iterator[Stage]:
    """A fresh stage; afterwards there is nothing of it. DisksMissing."""
    with directory() as home:
        (home / "orders").mkdir()
        plan = Plan(home)
        places = (plan.hot, plan.state, plan.bucket) if theatre.has_disks else ()
        with disks(home, *places) as made:
            plan.make_directories()
            one = Stage(home, theatre, made)
            try:
                yield one
            finally:
                one.end()


def _start_supervisor(
    request: MountRequest, environment: Mapping[str, str], log: Path
) -> tuple["subprocess.Popen[bytes]", str]:
    """What `tierfs mount` starts, without the command: the process, and the line that it reports."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as reports:
        command = [sys.executable, "-c", _SUPERVISOR, str(writing)]
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=out, pass_fds=[writing], env=dict(environment)
            )
        os.close(writing)
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(json.dumps(launch.message_of(request)).encode())
        return process, reports.readline()


#: What a call may meet when the mount goes away under it.
INTERRUPTED = (OSError, ControlError, StoreError, MountFailed)
