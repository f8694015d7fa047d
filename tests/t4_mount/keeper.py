"""A service that has in memory and in descriptors what it must not lose: what the supervisor is to systemd, no more.

    python -m tests.t4_mount.keeper

At its first start it makes a memory file and a pipe, and has systemd keep them; each life adds a line to both. SIGINT
ends it and gives up what is kept, SIGTERM ends it and does not, SIGHUP reloads, SIGUSR1 makes it silent, SIGUSR2 ends
it with status 3. It has a child that no signal but SIGKILL ends.
"""

import os
import signal
import subprocess
import sys

from tierfs.mount.notify import Notifier


def _take_up(notifier: Notifier) -> tuple[int, int]:
    """The memory file, and the reading end of the pipe."""
    stored = notifier.stored()
    if stored:
        memory, reading, writing = stored["memory"], stored["reading"], stored["writing"]
    else:
        memory = os.memfd_create("keeper")
        reading, writing = os.pipe()
        for name, fd in (("memory", memory), ("reading", reading), ("writing", writing), ("other", writing)):
            notifier.store(name, fd)
        notifier.remove("other")
    line = b"life %d\n" % os.getpid()
    os.write(memory, line)
    os.write(writing, line)
    return memory, reading


def main() -> int:
    """Live until a signal says otherwise."""
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    notifier = Notifier(os.environ)
    memory, _reading = _take_up(notifier)
    lives = os.pread(memory, 1 << 16, 0).decode().split("\n")[:-1]
    if notifier.watchdog_interval_s:
        signal.setitimer(signal.ITIMER_REAL, 0.001, notifier.watchdog_interval_s / 4)
    # Signals that are blocked here are blocked there too.
    subprocess.Popen(["sleep", "inf"], start_new_session=True)
    notifier.ready(f"{len(lives)} lives, names {' '.join(sorted(notifier.stored()))}".rstrip())
    while True:
        number = signal.sigwait(signals)
        if number == signal.SIGALRM:
            notifier.watchdog()
        elif number == signal.SIGUSR1:
            signal.setitimer(signal.ITIMER_REAL, 0)
        elif number == signal.SIGUSR2:
            return 3
        elif number == signal.SIGHUP:
            notifier.reloading("reloading")
            notifier.ready(f"reloaded after {len(lives)} lives")
        else:
            notifier.stopping(f"ended by {signal.Signals(number).name}")
            print(f"ended by {signal.Signals(number).name} after {len(lives)} lives", flush=True)
            if number == signal.SIGINT:
                for name in ("memory", "reading", "writing"):
                    notifier.remove(name)
            return 0


if __name__ == "__main__":
    sys.exit(main())
