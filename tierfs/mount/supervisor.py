"""The supervisor: owns the mount, and sees to it that somebody serves it. Standard library only, and little of it.

    supervisor                              worker (forked by the spawner)
      request, hot directory, session ----->   opens the catalog, starts the cold process
                              <------------   prepared
      mount(2)
      /dev/fuse               ------------>   answers INIT
                              <------------   serving

A worker that goes on with the mount of another one gets /dev/fuse and what was parked with the request, and says only
that it serves. When a worker dies, the next one is started at once; when several die quickly, the connection is kept,
requests wait, and it is tried again now and then. The supervisor ends when the mount is gone, and only then: it does
not unmount after a crash, because an empty directory is worse than a wait.
"""

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable

from tierfs.core.errors import MountError, TierfsError
from tierfs.mount import channel, kernel
from tierfs.mount.belongings import Belongings
from tierfs.mount.channel import Message
from tierfs.mount.notify import Notifier
from tierfs.mount.workers import Probe, Spawner, Worker, failure_of

#: A worker that served for less has not got over what killed the one before; so many of them are too many.
_QUICK_S, _MOST_QUICK = 0.2, 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
#: What is being moved may take so long to end when a worker hands over; later it is killed, which harms nothing.
_HAND_OVER_S, _KILLED_AFTER_S = 10.0, 20.0
_PROBES_IN_TIME = 4
_UNMOUNT_PAUSE_S = 0.5


class Supervisor:
    """One mount, from its request to its end."""

    def __init__(self, request: Message, report: Callable[[Message], None], notifier: Notifier) -> None:
        self._request = request
        self._report = report
        self._notifier = notifier
        self._belongings = Belongings(notifier)
        self._spawner = Spawner(request["worker"])
        self._other_spawner: Spawner | None = None  # the next one, or the one before until the next one has proved good
        self._is_upgrading = False
        self._worker: Worker | None = None
        self._probe: Probe | None = None
        self._has_served = self._belongings.fuse >= 0
        self._quick_ends = 0
        self._start_at: float | None = 0.0  # when the next worker is due, None: there is one
        self._kill_at: float | None = None
        self._unmount_at: float | None = None  # the next try, while it is in use and the service is being stopped
        self._last_refusal = ""
        self._is_done = self._is_leaving = False
        self._failure: TierfsError | None = None
        self._signals = channel.signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    def run(self) -> int:
        """Serve until the mount is gone. MountError and what else the first worker met before it served."""
        try:
            if self._belongings.hot < 0:
                self._belongings.open_hot(self._request["hot"])
            while not self._is_done:
                self._wait_and_go_on()
        finally:
            if self._probe:
                self._probe.close()
            for spawner in filter(None, (self._spawner, self._other_spawner)):
                spawner.close()
        if self._failure:
            raise self._failure
        return 0

    def _wait_and_go_on(self) -> None:
        """Whatever goes wrong, the mount of running applications is not given up for it."""
        try:
            self._wait()
        except Exception:
            if not self._has_served:
                raise
            _say(f"a defect of tierfs met the supervisor: {traceback.format_exc()}")
            time.sleep(_FIRST_PAUSE_S)

    # -- what happens --------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait until something happens, and do what follows from it."""
        poll, handlers = select.poll(), dict[int, Callable[[], None]]()

        def on(fd: int, handler: Callable[[], None], events: int = select.POLLIN) -> None:
            poll.register(fd, events)
            handlers[fd] = handler

        on(self._signals.fileno(), self._signalled)
        on(self._spawner.channel.fileno(), self._spawner_said)
        if self._other_spawner and self._is_upgrading:
            on(self._other_spawner.channel.fileno(), self._other_spawner_said)
        if self._worker and self._worker.is_open:
            on(self._worker.channel.fileno(), self._worker_said)
        if self._worker and self._worker.pidfd >= 0:
            on(self._worker.pidfd, self._worker_ended)
        if self._probe:
            on(self._probe.fileno(), self._mount_answered)
        if not self._worker and self._belongings.fuse >= 0:
            on(self._belongings.fuse, self._end, 0)  # only now: each request would wake us
        times = (self._start_at, self._kill_at, self._unmount_at)
        due = min((when for when in times if when is not None), default=None)
        for fd, _ in poll.poll(None if due is None else max(0.0, due - time.monotonic()) * 1000):
            before = self._spawner, self._other_spawner, self._worker, self._probe
            handlers[fd]()
            if before != (self._spawner, self._other_spawner, self._worker, self._probe):
                break  # what else is to be heard may be of one who is gone; of the others it is heard again
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        if self._start_at is not None and now >= self._start_at and not self._is_done:
            self._start_worker()
        if self._unmount_at is not None and now >= self._unmount_at and not self._is_done:
            self._unmount()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            if self._worker and self._worker.pid:
                _say(f"the worker (pid {self._worker.pid}) does not hand over in time: it is killed")
                os.kill(self._worker.pid, signal.SIGKILL)

    def _signalled(self) -> None:
        for number in self._signals.recv(64):
            if number == signal.SIGHUP:
                self._upgrade()
            elif number == signal.SIGTERM and self._notifier.is_managed and self._has_served:
                self._leave()
            else:
                self._unmount()

    def _spawner_said(self) -> None:
        try:
            message, descriptors = channel.receive(self._spawner.channel)
        except EOFError:
            self._spawner.close()
            if not self._has_served:
                self._fail(MountError("the worker cannot be started; its log says why"))
                return
            _say(f"the spawner ended with status {self._spawner.process.returncode}: it is started again")
            self._spawner = Spawner(self._request["worker"])
            if self._worker and self._worker.pidfd < 0:
                self._worker_is_gone(self._worker)
            return
        self._spawner.version = message.get("ready", self._spawner.version)
        if "started" in message and self._worker:
            self._worker.pid, self._worker.pidfd = message["started"], descriptors[0]

    def _worker_said(self) -> None:
        worker = self._worker
        assert worker is not None
        try:
            message, descriptors = channel.receive(worker.channel)
        except EOFError:
            worker.is_open = False
            return
        if "prepared" in message:
            self._mount(worker)
        elif "serving" in message:
            self._serving(worker)
        elif "failed" in message:
            worker.failure = message
        elif "leaving" in message:
            worker.is_last = message["leaving"] == "gone"
        elif "park" in message:
            self._belongings.park(message["park"], descriptors[0])
        elif "let_go" in message:
            self._belongings.let_go(message["let_go"])

    def _worker_ended(self) -> None:
        worker = self._worker
        assert worker is not None
        while worker.is_open:  # what it said before
            self._worker_said()
        self._worker_is_gone(worker)

    def _mount_answered(self) -> None:
        assert self._probe is not None
        if self._probe.was_answered():
            self._notifier.watchdog()
        else:
            self._probe.close()
            self._start_probe()

    # -- workers -------------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._start_at = None
        try:
            self._worker = Worker(self._spawner.start())
            for message, descriptors in self._belongings.messages(self._request):
                channel.send(self._worker.channel, message, descriptors)
        except OSError as error:  # the spawner is gone, which is noticed next, or there is no memory
            _say(f"no worker can be started: {error.strerror}")
            self._worker = None
            self._start_later()

    def _mount(self, worker: Worker) -> None:
        try:
            self._belongings.mount(self._request)
        except MountError as error:
            worker.dismiss(error)
            return
        channel.send(worker.channel, {"mounted": True}, [self._belongings.fuse])

    def _serving(self, worker: Worker) -> None:
        worker.served_at = time.monotonic()
        if self._has_served:
            _say(f"a worker (pid {worker.pid}) of version {self._spawner.version} has taken over")
        else:
            self._has_served = True
            self._report({"serving": worker.pid})
        if self._probe is None:
            self._start_probe()
        if self._other_spawner and not self._is_upgrading:  # it is the one before
            self._other_spawner.close()
            self._other_spawner = None
        self._notifier.ready(f"{self._request['mountpoint']} is served by pid {worker.pid}")

    def _start_probe(self) -> None:
        """For systemd's watchdog, if there is one: several answers in its time."""
        interval_s = self._notifier.watchdog_interval_s
        self._probe = Probe(self._request["mountpoint"], interval_s / _PROBES_IN_TIME) if interval_s else None

    def _worker_is_gone(self, worker: Worker) -> None:
        """What follows from the end of a worker: the end, or the next one."""
        self._worker, self._kill_at = None, None
        worker.close()
        if worker.is_last or self._is_leaving or (self._has_served and self._belongings.is_cut_off()):
            self._end()
        elif not self._has_served:
            why = MountError("the worker ended before it served; its log says why")
            self._fail(failure_of(worker.failure) if worker.failure else why)
        elif worker.is_handing_over:
            if self._other_spawner:
                self._spawner, self._other_spawner = self._other_spawner, self._spawner
            self._start_at = time.monotonic()
        else:
            if worker.failure:
                _say(f"the worker could not take over: {worker.failure['failed']}")
            if self._other_spawner and worker.served_at is None and not self._is_upgrading:
                _say(f"version {self._spawner.version} does not serve: back to {self._other_spawner.version}")
                self._spawner, self._other_spawner = self._other_spawner, self._spawner
                self._other_spawner.close()
                self._other_spawner = None
            self._start_later(worker.served_at)

    def _start_later(self, served_at: float | None = None) -> None:
        """Have the next worker started after a pause, which grows while workers die quickly."""
        now = time.monotonic()
        is_quick = served_at is None or now - served_at < _QUICK_S
        self._quick_ends = self._quick_ends + 1 if is_quick else 0
        pause_s = min(_FIRST_PAUSE_S * 2 ** (self._quick_ends - 2), _LONGEST_PAUSE_S) if self._quick_ends > 1 else 0.0
        self._start_at = now + pause_s
        text = "the worker ended; the next one takes over"
        if self._quick_ends >= _MOST_QUICK:
            text = (
                f"{self._quick_ends} workers in a row ended at once: {self._request['mountpoint']} stays mounted, and "
                f"whoever uses it waits; the next try is in {pause_s:.1f} s, or at SIGHUP"
            )
        _say(text)
        self._notifier.status(text)

    # -- what is asked for ---------------------------------------------------------------------------------------

    def _upgrade(self) -> None:
        """Start what is installed now, and have it go on if it can."""
        if self._worker is None:
            self._start_at = time.monotonic()
        if self._other_spawner or not self._has_served:
            return
        self._notifier.reloading("an upgrade has begun")
        self._other_spawner, self._is_upgrading = Spawner(self._request["worker"]), True

    def _other_spawner_said(self) -> None:
        other = self._other_spawner
        assert other is not None
        try:
            message, _ = channel.receive(other.channel)
        except EOFError:
            self._refuse_upgrade("what is installed now does not start; the log says why")
            return
        if "ready" in message:
            other.version = message["ready"]
            channel.send(other.channel, {"fits": self._request}, [self._belongings.session])
        elif message.get("fits"):
            self._refuse_upgrade(message["fits"])
        elif self._worker:
            self._is_upgrading = False
            self._hand_over(self._worker)
        else:
            self._is_upgrading = False
            self._spawner, self._other_spawner = other, self._spawner
            self._start_at = time.monotonic()

    def _refuse_upgrade(self, why: str) -> None:
        self._is_upgrading = False
        if self._other_spawner:
            self._other_spawner.close()
            self._other_spawner = None
        _say(f"no upgrade: {why}")
        if self._worker and self._worker.is_open:
            with contextlib.suppress(OSError):
                channel.send(self._worker.channel, {"upgrade_refused": why})
        self._notifier.ready(f"no upgrade: {why}")

    def _hand_over(self, worker: Worker) -> None:
        worker.is_handing_over = True
        self._kill_at = time.monotonic() + _KILLED_AFTER_S
        with contextlib.suppress(OSError):
            channel.send(worker.channel, {"hand_over": _HAND_OVER_S})

    def _leave(self) -> None:
        """End, and leave the mount to the supervisor that systemd starts next."""
        self._is_leaving = True
        self._notifier.stopping("the mount is handed over")
        if self._worker:
            self._hand_over(self._worker)
        else:
            self._end()

    def _unmount(self) -> None:
        """An orderly unmount. A busy mount stays: its users would lose their files. A service waits for them."""
        self._unmount_at = None
        if self._belongings.fuse < 0:
            if self._worker:
                self._worker.dismiss(MountError("interrupted before it was mounted"))
            return
        mountpoint = self._request["mountpoint"]
        try:
            kernel.unmount(mountpoint)
        except OSError as error:
            who = ", ".join(kernel.holders(mountpoint)) if error.errno == errno.EBUSY else ""
            text = f"{mountpoint} stays mounted: {error.strerror} {who}".rstrip()
            if text != self._last_refusal:
                _say(text)
            self._last_refusal = text
            if self._notifier.is_managed and error.errno == errno.EBUSY:
                self._unmount_at = time.monotonic() + _UNMOUNT_PAUSE_S
                self._notifier.status(text)

    def _fail(self, failure: TierfsError) -> None:
        self._failure = failure
        if self._belongings.fuse >= 0:
            with contextlib.suppress(OSError):
                kernel.unmount(self._request["mountpoint"], lazy=True)
        self._end()

    def _end(self) -> None:
        self._is_done = True
        if not self._is_leaving:
            self._belongings.disown()


def run(request: Message, report: Callable[[Message], None]) -> int:
    """Mount, and see that it is served until it is taken away; 0 then. MountError and others before it serves.

    `request` has mountpoint, hot, source, read_only, allow_other and worker (a module to run); the rest is for the
    worker alone. `report` is told {"serving": pid} once.
    """
    return Supervisor(request, report, Notifier(os.environ)).run()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"tierfs: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """The background supervisor: the request comes in on standard input, the report goes out on descriptor argv[1]."""
    out = int(sys.argv[1])
    request = json.load(sys.stdin)

    def report(message: Message) -> None:
        with os.fdopen(out, "w") as stream:
            print(json.dumps(message), file=stream, flush=True)

    try:
        return run(request, report)
    except (TierfsError, OSError) as error:
        report({"failed": str(error), "kind": type(error).__name__})
        return 1


if __name__ == "__main__":
    sys.exit(main())
