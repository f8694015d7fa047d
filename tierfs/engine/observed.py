"""What the mount tells the engine of itself, for an operator: its facts, and what it saw."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

from tierfs.core.histogram import Doublings
from tierfs.core.records import Ino

#: Those of a mount's facts that say where it is.
WHERE = ("mountpoint", "store", "hot_directory", "state_directory")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a mount knows of itself and its surroundings."""

    mountpoint: str
    store: str
    hot_directory: str
    state_directory: str
    version: str
    worker_pid: int
    supervisor_pid: int
    passthrough: str = "off"

    @classmethod
    def of(cls, request: Mapping[str, Any], version: str, passthrough: str) -> Self:
        """The facts of a mount that was asked for like this, and is served by this process."""
        return cls(
            mountpoint=request["mountpoint"],
            store=request["source"],
            hot_directory=request["hot"],
            state_directory=request["state"],
            version=version,
            worker_pid=os.getpid(),
            supervisor_pid=request["supervisor_pid"],
            passthrough=passthrough,
        )


@dataclass(frozen=True, slots=True)
class Succession:
    """How the mount went from one worker to the next: `seconds` is what the last take-over took.

    `requests_again` were sent once more to this worker, because the one before had not answered them.
    """

    take_overs: int = 0
    seconds: float = 0.0
    requests_again: int = 0
    refused_upgrades: int = 0


@dataclass(frozen=True, slots=True)
class Observations:
    """What the mount saw until now; counts since the worker started, but for what is open now.

    `errors` are the read_errors by the class of the error; `answered` is how long operations took, by their names.
    `api` is where the mount listens on TCP now, empty for nowhere.
    """

    read_errors: int
    warnings: list[str]
    requests: dict[str, int]
    opens: dict[str, int]
    open_files: int
    backing_ids: int
    known_nodes: int
    cold_restarts: int = 0
    succession: Succession = Succession()
    errors: Mapping[str, int] = field(default_factory=dict)
    answered: Mapping[str, Doublings] = field(default_factory=dict)
    api: str = ""


class Told(NamedTuple):
    """An error that somebody got as an errno alone; `at_ns` since the epoch, `operation` of FUSE."""

    at_ns: int
    operation: str
    path: bytes
    error: str


class Sight(Protocol):
    """What the mount sees of the use of its files."""

    def take_uses(self) -> tuple[Mapping[Ino, int], Mapping[Ino, int]]:
        """Opens by file, and bytes read of objects by file, since the last time."""
        ...

    def hot_bytes(self) -> tuple[int, int]:
        """Bytes of hot files that the worker has read and written for applications."""
        ...

    def path_of(self, ino: Ino) -> bytes | None:
        """Where a file is, None where nobody knows."""
        ...

    def told(self) -> Sequence[Told]:
        """The last errors that applications were told, the newest last."""
        ...


class NoSight:
    """Where there is no mount."""

    def take_uses(self) -> tuple[Mapping[Ino, int], Mapping[Ino, int]]:
        """None."""
        return {}, {}

    def hot_bytes(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    def path_of(self, ino: Ino) -> bytes | None:
        """Nobody knows."""
        return None

    def told(self) -> Sequence[Told]:
        """None."""
        return ()


NOTHING_SEEN = Observations(0, [], {}, {}, 0, 0, 0)
