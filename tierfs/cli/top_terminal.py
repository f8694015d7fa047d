"""A terminal while a program has all of it: keys without Enter, news, another size; afterwards it is as it was."""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_LONGEST = 1024


class Keys:
    """Waits for keys and for news. INVARIANT: wake() may be called from any thread, and from a signal handler."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._wakes, self._waker = os.pipe()
        for fd in (self._wakes, self._waker):
            os.set_blocking(fd, False)

    def wake(self) -> None:
        """Have wait() return."""
        try:
            os.write(self._waker, b"\0")
        except BlockingIOError:
            return  # it is going to

    def wait(self, seconds: float) -> str | None:
        """The keys that were pressed, none when there is news or the time is over; None without a terminal."""
        ready, _, _ = select.select([self._terminal, self._wakes], [], [], seconds)
        if self._wakes in ready:
            os.read(self._wakes, _LONGEST)
        if self._terminal not in ready:
            return ""
        try:
            pressed = os.read(self._terminal, _LONGEST)
        except OSError:
            return None  # the terminal was closed
        return pressed.decode("ascii", "replace") or None

    @contextmanager
    def told_of_signals(self) -> Iterator[None]:
        """News is also another size of the terminal; who ends the program ends it in good order."""
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None] | signal.Handlers] = {
            signal.SIGWINCH: lambda *_: self.wake(),
            signal.SIGTERM: _leave,
            signal.SIGHUP: _leave,
            signal.SIGTSTP: signal.SIG_IGN,  # a shell could not be used beside this
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


@contextmanager
def single_keys(terminal: int) -> Iterator[Keys]:
    """Keys come as they are pressed, and are not shown, in this block."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        keys = Keys(terminal)
        with keys.told_of_signals():
            yield keys
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
