"""Windows of the day in which something may be done: pure, the time of day is an argument.

    22:00-06:00                     over midnight
    12:30-13:30, 22:00-24:00        several

Times are those of the clock on the wall, in minutes since midnight: a window begins and ends when that clock says so,
also on the days when it is set. An hour that comes twice is open twice, one that is left out is not made up for.
"""

import re
from dataclasses import dataclass

MINUTES_OF_DAY = 24 * 60

_WINDOW = re.compile(r"\s*(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """From one minute of the day until another one, which is outside; over midnight where that is not later."""

    start: int
    stop: int

    def has(self, minute: int) -> bool:
        """Whether a minute of the day lies in it."""
        if self.start < self.stop:
            return self.start <= minute < self.stop
        return minute >= self.start or minute < self.stop

    def __str__(self) -> str:
        return f"{shown(self.start)}-{shown(self.stop)}"


def parse_windows(text: str) -> tuple[Window, ...]:
    """The windows in a text, none in an empty one. ValueError."""
    return tuple(_parse(part) for part in text.split(",")) if text.strip() else ()


def _parse(text: str) -> Window:
    found = _WINDOW.fullmatch(text)
    if not found:
        raise ValueError(f"{text.strip()!r} is not a window: write it as 22:00-06:00")
    hours_minutes = [int(number) for number in found.groups()]
    start, stop = (hour * 60 + minute for hour, minute in (hours_minutes[:2], hours_minutes[2:]))
    if max(hours_minutes[1], hours_minutes[3]) > 59 or start >= MINUTES_OF_DAY or stop > MINUTES_OF_DAY:
        raise ValueError(f"{text.strip()!r} is not a window: there is no such time")
    if start == stop:
        raise ValueError(f"{text.strip()!r} begins when it ends: leave it empty for always")
    return Window(start, stop)


def is_open(windows: tuple[Window, ...], minute: int) -> bool:
    """Whether a minute of the day lies in any of them; always where there are none."""
    return not windows or any(window.has(minute) for window in windows)


def opens_at(windows: tuple[Window, ...], minute: int) -> int:
    """The minute of the day at which the next one opens."""
    return min((window.start for window in windows), key=lambda start: (start - minute) % MINUTES_OF_DAY)


def open_minutes(windows: tuple[Window, ...]) -> int:
    """How many minutes of a day they are open."""
    return sum(is_open(windows, minute) for minute in range(MINUTES_OF_DAY))


def why_held(windows: tuple[Window, ...], minute: int, is_above_high: bool) -> str | None:
    """Why the policy begins no archive now; None when it may. Room goes before calm."""
    if is_open(windows, minute) or is_above_high:
        return None
    return f"waits for archive_window, which opens at {shown(opens_at(windows, minute))}"


def shown(minute: int) -> str:
    """A minute of the day as people write it."""
    return f"{minute // 60:02d}:{minute % 60:02d}"
