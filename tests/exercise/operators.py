"""Operators who move bytes at random, while applications are at work."""

import random
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.mounting import Mount
from tierfs.core.reports import Outcome, Verb

_VERBS: tuple[Verb, ...] = ("release", "release", "release", "archive", "archive", "restore", "restore")
_MOST_AT_ONCE = 8
#: Longest time, in seconds, that a move of a few small files may take on a busy machine.
_PATIENCE_S = 120.0
#: Why a file is not moved while an application uses, changes or replaces it.
_USUAL = re.compile(
    "|".join(
        (
            *("no such file", "No such file or directory", "open", "open for writing", "it is empty"),
            *("it has .* hard links", ".*while it was being archived", ".*while it was being restored", "not archived"),
            *("it is being changed", "being archived", "being restored", "already archived", "already hot"),
            *("replaced while its object was looked at", "an open file still reads the older object.*"),
            *("its object key still belongs to .*, which was renamed", "open or mapped"),
        )
    )
)


class Operators:
    """What they did, and what they were told that needs an explanation."""

    def __init__(self) -> None:
        self.moved: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unusual: list[str] = []
        self._lock = threading.Lock()

    def note(self, verb: str, outcomes: Sequence[Outcome]) -> None:
        """Count what became of files."""
        with self._lock:
            for outcome in outcomes:
                if outcome.result == "done":
                    self.moved[verb] += 1
                elif outcome.result == "failed":
                    self.refused[re.sub(r"to .*, which", "to another file, which", outcome.reason)] += 1
                    if not _USUAL.fullmatch(outcome.reason):
                        self.unusual.append(f"{verb} of {outcome.path!r}: {outcome.reason}")

    @contextmanager
    def at_work(self, mount: Mount, names: Sequence[str], seed: str, count: int = 6) -> Iterator[None]:
        """Operators that move these files of a mount for as long as the block lasts."""
        is_over = threading.Event()
        errors: list[Exception] = []

        def work(chance: random.Random) -> None:
            try:
                while not is_over.is_set():
                    self._move(mount, names, chance)
            except Exception as error:
                errors.append(error)

        threads = [
            threading.Thread(target=work, args=(random.Random(f"{seed}/operator {number}"),), daemon=True)
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            is_over.set()
            for thread in threads:
                thread.join(_PATIENCE_S)
        assert not any(thread.is_alive() for thread in threads), "an operator is not answered"
        if errors:
            raise errors[0]

    def _move(self, mount: Mount, names: Sequence[str], chance: random.Random) -> None:
        some = chance.sample(names, chance.randint(1, _MOST_AT_ONCE))
        dice = chance.random()
        if dice < 0.02:
            self.note("evict", list(mount.client.evict(None)))
        elif dice < 0.2:
            self.note("evict", list(mount.client.evict([name.encode() for name in some])))
        else:
            verb = chance.choice(_VERBS)
            self.note(verb, mount.outcomes(verb, *some))
