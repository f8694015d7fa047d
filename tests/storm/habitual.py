"""The applications of the exerciser, with a stopwatch: mapped files, and everything at once."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from tests.exercise.application import Application
from tests.exercise.habits import HABITS, Habits
from tests.storm.stalls import Stalls

_MAPPING = {"load": 90, "store": 90, "map": 8, "unmap": 6, "open": 8, "close": 8, "write": 12, "sync": 6, "whole": 4}


class _Habitual(Application):
    """An application whose calls are all of one kind."""

    pause_s: ClassVar[float] = 0.005
    kind: ClassVar[str]
    habits: ClassVar[Habits]

    def __init__(self, root: Path, seed: str) -> None:
        super().__init__(root, seed, self.habits)
        self.stalls = Stalls()
        self._acts = [self._with_stopwatch(act) for act in self._acts]

    @classmethod
    def names(cls) -> list[str]:
        """Names below its directory of files that operators may move."""
        return cls.habits.names()

    def _with_stopwatch(self, act: Callable[[], None]) -> Callable[[], None]:
        def timed() -> None:
            with self.stalls.timed(self.kind):
                act()

        return timed


class Mapper(_Habitual):
    """Stores to and loads from mapped files, also ones that were closed since, and looks at them by read(2)."""

    kind = "mapped"
    habits = Habits(_MAPPING, directories=1, most_mapped=8)


class Everything(_Habitual):
    """All that the exerciser knows."""

    kind = "everything else"
    habits = HABITS["everything"]
