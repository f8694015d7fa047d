"""Disks whose power can be cut: ext4 in image files, through loop devices.

The cut itself is ext4's own: its shutdown ioctl stops the filesystem at once, and what was in memory (pages, names,
attributes, the open transaction of the journal) never reaches the image. That is the state that a disk has when the
power fails, and it is taken at the very instruction: see arming.cut_power. The next mount replays the journal.
"""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tierfs.mount import kernel

_SIZE = 48 << 20
#: The journal commits when somebody syncs, not by itself every five seconds: as much as possible is to be lost.
_OPTIONS = "loop,commit=3600"
_PATIENCE_S = 60.0

_libc = ctypes.CDLL(None, use_errno=True)


class DisksMissing(Exception):
    """Power cuts cannot be had here; the message says why."""


class Disk:
    """One filesystem of its own at a directory."""

    def __init__(self, image: Path, mountpoint: Path) -> None:
        self.image = image
        self.mountpoint = mountpoint

    def mount(self) -> None:
        """Mount it, and have what is left of a power cut recovered."""
        _run("mount", "-o", _OPTIONS, str(self.image), str(self.mountpoint))

    def unmount(self) -> None:
        """Unmount it, as soon as the processes that were killed have let go."""
        deadline = time.monotonic() + _PATIENCE_S
        while _libc.umount2(os.fsencode(self.mountpoint), 0):
            number = ctypes.get_errno()
            if time.monotonic() > deadline:
                holders = ", ".join(kernel.holders(str(self.mountpoint)))
                raise OSError(number, os.strerror(number), f"{self.mountpoint} {holders}")
            time.sleep(0.002)

    def sync(self) -> None:
        """syncfs(2)."""
        fd = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _libc.syncfs(fd):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(fd)


@contextmanager
def disks(home: Path, *mountpoints: Path) -> Iterator[list[Disk]]:
    """A fresh disk at each of the directories. DisksMissing."""
    made = []
    try:
        for mountpoint in mountpoints:
            mountpoint.mkdir(exist_ok=True)
            disk = Disk(home / f"{mountpoint.name}.img", mountpoint)
            with disk.image.open("wb") as file:
                file.truncate(_SIZE)
            _run("mkfs.ext4", "-q", "-F", "-J", "size=4", "-E", "lazy_itable_init=1,nodiscard", str(disk.image))
            disk.mount()
            made.append(disk)
            (mountpoint / "lost+found").rmdir()
        yield made
    finally:
        for disk in made:
            disk.unmount()
            disk.image.unlink()


def _run(program: str, *arguments: str) -> None:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise DisksMissing(f"{program} is not installed")
    if os.geteuid():
        raise DisksMissing("loop devices need root")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise DisksMissing(f"{program}: {done.stderr.strip()}")
