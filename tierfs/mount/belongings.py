"""The descriptors that outlive workers: the supervisor has them, and systemd keeps copies where it manages the mount.

`fuse` is /dev/fuse, `hot` the hot directory (opened before anything covered it), `session` what the workers write down
(mount/session.py); `parked-NAME` is what has no name any more and is still open (mount/parked.py).
Standard library only.
"""

import errno
import os
import select
from collections.abc import Iterator

from tierfs.core.errors import MountError
from tierfs.mount import kernel
from tierfs.mount.channel import MOST_DESCRIPTORS, Message
from tierfs.mount.notify import Notifier

_PARKED = "parked-"


class Belongings:
    """What one mount needs to live on; -1 stands for what is not there yet."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._parked: dict[str, int] = {}
        self.fuse = self.hot = self.session = -1
        stored = notifier.stored()
        if {"fuse", "hot", "session"} <= stored.keys() and not _is_cut_off(stored["fuse"]):
            self.fuse, self.hot, self.session = (stored.pop(name) for name in ("fuse", "hot", "session"))
            self._parked = {name.removeprefix(_PARKED): stored.pop(name) for name in [*stored] if _PARKED in name}
        for name, fd in stored.items():  # of a mount that is gone
            notifier.remove(name)
            os.close(fd)

    def open_hot(self, hot: str) -> None:
        """Before the mount, which may cover it. OSError."""
        self.hot = os.open(hot, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.session = os.memfd_create("tierfs-session", os.MFD_CLOEXEC)

    def mount(self, request: Message) -> None:
        """Make the mount, which is owned from now on. MountError."""
        mountpoint = request["mountpoint"]
        options = kernel.MountOptions(mountpoint, request["source"], request["read_only"], request["allow_other"])
        try:
            self.fuse = kernel.mount(options)
        except OSError as error:
            remedy = {
                errno.EPERM: "mount as root, or install fuse3",
                errno.EBUSY: "something is mounted there already; unmount it first",
                errno.ENOENT: "is the module fuse loaded (modprobe fuse)?",
                errno.ENODEV: "is the module fuse loaded (modprobe fuse)?",
            }.get(error.errno or 0, "see dmesg")
            raise MountError(f"{mountpoint} cannot be mounted: {error.strerror}; {remedy}") from None
        kernel.raise_limits(mountpoint)
        for name, fd in (("fuse", self.fuse), ("hot", self.hot), ("session", self.session)):
            self._notifier.store(name, fd)

    def disown(self) -> None:
        """The mount is gone: nobody needs to go on with it."""
        for name in ("fuse", "hot", "session", *(_PARKED + name for name in self._parked)):
            self._notifier.remove(name)
        self._notifier.flush()

    def park(self, name: str, fd: int) -> None:
        """Keep a descriptor."""
        self.let_go(name)
        self._parked[name] = fd
        self._notifier.store(_PARKED + name, fd)

    def let_go(self, name: str) -> None:
        """Keep it no longer; one that is not there is no error."""
        fd = self._parked.pop(name, None)
        if fd is not None:
            os.close(fd)
            self._notifier.remove(_PARKED + name)

    def is_cut_off(self) -> bool:
        """Whether the kernel has ended the connection: it was unmounted, or aborted."""
        return _is_cut_off(self.fuse)

    def messages(self, request: Message) -> Iterator[tuple[Message, list[int]]]:
        """What a worker is told, with descriptors: the request, then what is parked, some at a time."""
        names = list(self._parked)
        parts = [names[at : at + MOST_DESCRIPTORS] for at in range(0, len(names), MOST_DESCRIPTORS)]
        belongings = [self.hot, self.session, *([self.fuse] if self.fuse >= 0 else [])]
        yield {"request": request | {"supervisor_pid": os.getpid()}, "parts": len(parts)}, belongings
        for part in parts:
            yield {"parked": part}, [self._parked[name] for name in part]


def _is_cut_off(fuse: int) -> bool:
    poll = select.poll()
    poll.register(fuse, 0)
    return bool(poll.poll(0))
