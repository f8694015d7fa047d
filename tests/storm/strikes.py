"""Who kills the worker, or has it replaced, at random moments; and how long it takes until the next one answers."""

import itertools
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.exercise.team import Failure
from tests.mounting import Mount
from tests.storm.stalls import Stalls, in_words
from tierfs.admin import registry

#: What `how` may be, and what is done by turns.
HOW = {"kill": ("kill",), "upgrade": ("upgrade",), "both": ("kill", "upgrade")}
#: How long, in seconds, the next worker may take to be there on a busy machine before the run fails.
_PATIENCE_S = 300.0
#: Of so many kills one is followed by another one as soon as the next worker is there, whether it serves yet or not.
_AGAIN_EVERY = 6
#: What an upgrade is asked for with: by turns.
_SIGNAL, _COMMAND = "SIGHUP", "tierfs upgrade"
_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Target:
    """A mount as who strikes it sees it: by what is registered of it, without asking anybody who may be dead."""

    mountpoint: Path
    supervisor_pid: int

    @classmethod
    def of(cls, mount: Mount) -> "Target":
        """A mount that serves."""
        return cls(mount.path, mount.process.pid)

    def worker_pid(self) -> int:
        """The worker that registered last; it may be dead. Failure when the mount is not registered."""
        for one in registry.mounts():
            if one.mountpoint == str(self.mountpoint):
                return one.worker_pid
        raise Failure(f"{self.mountpoint} is not registered any more")

    def wait_for_another(self, old: int) -> None:
        """Until a worker other than `old` is registered. Failure."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.worker_pid() == old:
            if not Path(f"/proc/{self.supervisor_pid}").exists():
                raise Failure("the supervisor is gone")
            if time.monotonic() > deadline:
                raise Failure(f"no worker came in the place of {old}")
            time.sleep(_POLL_S)

    def wait_for_an_answer(self, name: str) -> None:
        """Ask for a name that the kernel cannot know. Failure: the answer is not that it is missing."""
        try:
            os.lstat(self.mountpoint / name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise Failure(f"a name was looked up after a strike, and that failed: {error}") from error
        raise Failure(f"{name} is there")


class Striker:
    """Strikes a mount `count` times, on average every `between_s` seconds; what it does when follows from the seed."""

    def __init__(self, target: Target, count: int, how: str, seed: str, between_s: float = 2.0) -> None:
        self.done: Counter[str] = Counter()
        self.stalls = Stalls()
        self.diary: list[str] = []
        self.error: Exception | None = None
        self._target = target
        self._chance = random.Random(f"{seed}/strikes")
        self._ways = itertools.islice(itertools.cycle(HOW[how]), count)
        self._between_s = between_s
        self._names = (f"never-there-{number}" for number in itertools.count())
        self._asked_with = itertools.cycle((_SIGNAL, _COMMAND))
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to come."""
        return not self._thread.is_alive()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Strike until all is done or the block ends. Failure: a take-over did not come about."""
        self._thread.start()
        try:
            yield
        finally:
            self._is_stopped.set()  # after a failure it may wait for an answer until the mount is taken away
        self._thread.join(_PATIENCE_S)
        if self.error:
            raise self.error
        if not self.is_over:
            raise Failure("who strikes got no answer")

    def _work(self) -> None:
        try:
            for way in self._ways:
                pause_s = self._chance.expovariate(1 / self._between_s)
                if self._is_stopped.wait(min(max(pause_s, self._between_s / 20), 4 * self._between_s)):
                    return
                if way == "upgrade":
                    self._upgrade()
                else:
                    self._kill()
        except Exception as error:
            self.error = error

    def _kill(self) -> None:
        killed = self._kill_once()
        if self._chance.randrange(_AGAIN_EVERY) == 0:
            self._target.wait_for_another(killed)
            killed = self._kill_once()
        began = time.monotonic()
        self._target.wait_for_an_answer(next(self._names))
        self.stalls.add("kill to answer", time.monotonic() - began)
        self._target.wait_for_another(killed)
        self._write_down(f"worker {self._target.worker_pid()} answered after {in_words(time.monotonic() - began)}")

    def _kill_once(self) -> int:
        """Kill the worker, and wait until it is dead: nothing that is asked from now on is answered by it."""
        pid = self._target.worker_pid()
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            ended = select.poll()
            ended.register(process, select.POLLIN)
            ended.poll()
        finally:
            os.close(process)
        self.done["killed"] += 1
        self._write_down(f"worker {pid} is dead")
        return pid

    def _upgrade(self) -> None:
        began, pid = time.monotonic(), self._target.worker_pid()
        how = next(self._asked_with)
        self._write_down(f"worker {pid} is to be replaced, by {how}")
        if how == _SIGNAL:
            os.kill(self._target.supervisor_pid, signal.SIGHUP)
        else:
            command = [sys.executable, "-m", "tierfs", "upgrade", str(self._target.mountpoint)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
            if done.returncode:
                raise Failure(f"{how} ended with {done.returncode}: {done.stdout}{done.stderr}")
        self._target.wait_for_another(pid)
        self._target.wait_for_an_answer(next(self._names))
        self.done[f"upgraded by {how}"] += 1
        self.stalls.add("upgrade, whole", time.monotonic() - began)
        self._write_down(f"worker {self._target.worker_pid()} answered after {in_words(time.monotonic() - began)}")

    def _write_down(self, what: str) -> None:
        """With the time as the log of the mount has it."""
        self.diary.append(f"{datetime.now():%F %T.%f} {what}")
