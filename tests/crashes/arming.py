"""What happens at a step, inside the worker or the cold process of a real mount.

The processes get this module through the environment: `environment()` puts a sitecustomize.py in front, so there is
nothing of it in tierfs itself. At each step they look whether an order waits for it; the first one that meets its step
takes the order away and carries it out. Standard library only, because every process of the mount loads it.
"""

import fcntl
import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tierfs.core import steps
from tierfs.core.errors import CatalogFull

#: Environment variable: the directory with the orders.
STAGE = "STAGE_OF_TIERFS_TESTS"

_ROOT = Path(__file__).resolve().parents[2]
_ARMED = Path(__file__).resolve().parent / "armed"

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: _IOR('X', 125, uint32_t)
_WITH_A_SYNC, _AT_ONCE = 0, 2  # EXT4_GOING_FLAGS_DEFAULT, EXT4_GOING_FLAGS_NOLOGFLUSH

Moment = Literal["before", "after"]


@dataclass(frozen=True)
class Order:
    """What to do when a step is reached: `lose` and `keep` are filesystems whose power goes, without and with a sync.

    `touch`, `unlink` and `shorten` are paths; with `fails` the effect meets a full catalog; `kill` says which processes
    of the mount die then: where only this one does, another one takes its place.
    """

    moment: Moment
    step: str
    kill: Literal["", "this", "all"] = ""
    lose: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    touch: str = ""
    unlink: str = ""
    shorten: str = ""
    fails: bool = False


class Orders:
    """The orders of one stage, as files: written by the test, taken by the processes of the mount."""

    def __init__(self, stage: Path) -> None:
        self._stage = stage

    def give(self, order: Order) -> Path:
        """Have something done at a step; the file that is returned goes when a process has met the step."""
        path = self._stage / f"{order.moment}-{order.step}"
        fresh = path.with_suffix(path.suffix + "-new")
        fresh.write_text(json.dumps(asdict(order)))
        fresh.rename(path)
        return path

    def withdraw(self) -> None:
        """Forget what was not met."""
        for path in self._stage.iterdir():
            path.unlink()

    def take(self, moment: Moment, step: str) -> Order | None:
        """The order for a step, for the first who asks."""
        path = self._stage / f"{moment}-{step}"
        mine = path.with_name(f"taken-{os.getpid()}-{threading.get_ident()}")
        try:
            path.rename(mine)
        except FileNotFoundError:
            return None
        order = json.loads(mine.read_text())
        mine.unlink()
        return Order(**order)


def environment(stage: Path) -> Mapping[str, str]:
    """The environment of a mount that follows the orders in a directory."""
    path = [str(_ARMED), str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return {STAGE: str(stage), "PYTHONPATH": os.pathsep.join(filter(None, path))}


def arm(stage: str) -> None:
    """Follow the orders in a directory from now on."""
    orders = Orders(Path(stage))
    steps.watch(lambda name: _Watched(orders, name))


def cut_power(lose: tuple[str, ...], keep: tuple[str, ...]) -> None:
    """Take the power of filesystems: in memory is lost, what `keep` has there is written down first. OSError."""
    for directories, how in ((keep, _WITH_A_SYNC), (lose, _AT_ONCE)):
        for directory in directories:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", how))
            finally:
                os.close(fd)


class _Watched:
    """Surrounds one effect."""

    def __init__(self, orders: Orders, name: str) -> None:
        self._orders = orders
        self._name = name

    def __enter__(self) -> None:
        self._reached("before")

    def __exit__(self, kind: object, *_rest: object) -> None:
        if kind is None:
            self._reached("after")

    def _reached(self, moment: Moment) -> None:
        order = self._orders.take(moment, self._name)
        if order is not None:
            _follow(order)


def _follow(order: Order) -> None:
    if order.touch:
        os.utime(order.touch)
    if order.unlink:
        os.unlink(order.unlink)
    if order.shorten:
        os.truncate(order.shorten, 10)
    others = _others() if order.kill == "all" else []
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for other in others:
            os.kill(other, number)  # none notices that another one is gone
        if number is signal.SIGSTOP and (order.lose or order.keep):
            cut_power(order.lose, order.keep)
    if order.kill:
        os.kill(os.getpid(), signal.SIGKILL)
    if order.fails:
        raise CatalogFull("the catalog cannot be written: a test wants it so")


def _others() -> list[int]:
    """The other processes of the mount: who would start another one comes first, and so is the first to be stopped."""
    own = os.getpid()
    if "tierfs.cold" in sys.orig_argv:
        below, worker = [], os.getppid()
    elif "tierfs.worker" in sys.orig_argv:
        below, worker = _children(own), own
    else:  # no mount: a rebuild
        return []
    spawner = _parent(worker)
    found = [_parent(spawner), spawner, worker, *below]
    return [pid for pid in found if pid != own and b"tierfs" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for task in tasks for word in (task / "children").read_text().split()]
