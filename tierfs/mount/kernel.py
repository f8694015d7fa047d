"""/dev/fuse, mount(2) and umount(2). Standard library only: the supervisor uses it.

Nothing here resolves a path below a mountpoint: what is known of a mount is read from /proc/self/mountinfo.
"""

import array
import ctypes
import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FILESYSTEM_TYPE = "fuse.tierfs"
#: Requests that the kernel lets wait in the background (reads by read-ahead among them) before it makes everybody wait:
#: the most that INIT can say. So many cold reads, and in plain FUSE the buffered reads of hot files wait with them, and
#: a cold one waits longer than its deadline; the kernel's default is 12.
MAX_BACKGROUND = (1 << 16) - 1
READ_AHEAD_KIB = 1024  # as large as one request of libfuse can be

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_BACKING_OPEN, _BACKING_CLOSE = 0x4010E501, 0x4004E502  # _IOW(229, 1, struct fuse_backing_map), _IOW(229, 2, uint32_t)
_BACKING_MAP = struct.Struct("=iIQ")  # fd, flags, padding
_REPLY = struct.Struct("=IiQ")  # struct fuse_out_header
_NOTIFY_RESEND = 7  # FUSE_NOTIFY_RESEND
_FUSECTL = Path("/sys/fs/fuse/connections")
_BDI = Path("/sys/class/bdi")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What the kernel is told of a mount."""

    mountpoint: str
    source: str
    read_only: bool = False
    allow_other: bool = False


@dataclass(frozen=True, slots=True)
class MountedAt:
    """One line of /proc/self/mountinfo; `minor` is the number of the FUSE connection, `mount_id` that of the mount."""

    mountpoint: str
    filesystem_type: str
    minor: int
    mount_id: int


def mount(options: MountOptions) -> int:
    """Mount a new FUSE connection and return its descriptor. OSError, with the errno of mount(2).

    Without CAP_SYS_ADMIN fusermount3 does it, as it does for every FUSE filesystem.
    """
    if os.geteuid() != 0:
        return _mount_by_fusermount(options)
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        data = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},default_permissions"
        data += ",allow_other" if options.allow_other else ""
        flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if options.read_only else 0)
        target = os.fsencode(options.mountpoint)
        if _libc.mount(options.source.encode(), target, FILESYSTEM_TYPE.encode(), flags, data.encode()):
            raise _last_error(options.mountpoint)
    except BaseException:
        os.close(fd)
        raise
    return fd


def forbid_execution(mountpoint: str, read_only: bool) -> None:
    """No program on this mount can be executed (noexec). OSError; EPERM without CAP_SYS_ADMIN."""
    flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | (_MS_RDONLY if read_only else 0)
    if _libc.mount(None, os.fsencode(mountpoint), None, flags, None):
        raise _last_error(mountpoint)


def unmount(mountpoint: str, lazy: bool = False) -> None:
    """Take a mount away; `lazy`: out of sight now, gone with its last user. OSError (EBUSY, EINVAL: no mount)."""
    if os.geteuid() != 0:
        flags = ["-u", "-z"] if lazy else ["-u"]
        done = subprocess.run([_fusermount(), *flags, "--", mountpoint], capture_output=True, text=True, check=False)
        if done.returncode:
            number = errno.EBUSY if "busy" in done.stderr.lower() else errno.EINVAL
            raise OSError(number, done.stderr.strip() or "fusermount3 failed", mountpoint)
        return
    if _libc.umount2(os.fsencode(mountpoint), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)):
        raise _last_error(mountpoint)


def mounted_at(mountpoint: str) -> MountedAt | None:
    """The topmost mount at exactly this path, without touching it."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, rest = line.partition(b" - ")
        mount_id, _, device, _, where, *_ = fields.split(b" ")
        path = os.fsdecode(_unescape(where))
        if path == mountpoint:
            minor = int(device.partition(b":")[2])
            found = MountedAt(path, rest.split(b" ")[0].decode(), minor, int(mount_id))
    return found


class Backing:
    """Gives backing ids to files: ioctls on /dev/fuse (include/uapi/linux/fuse.h, struct fuse_backing_map)."""

    def __init__(self, fuse_fd: int) -> None:
        self._fuse_fd = fuse_fd

    def register(self, fd: int) -> int:
        """A backing id for an open file. EPERM without CAP_SYS_ADMIN, EOPNOTSUPP or ELOOP for a stacked one."""
        return int(fcntl.ioctl(self._fuse_fd, _BACKING_OPEN, bytearray(_BACKING_MAP.pack(fd, 0, 0)), True))

    def unregister(self, backing_id: int) -> None:
        """Give a backing id back."""
        fcntl.ioctl(self._fuse_fd, _BACKING_CLOSE, backing_id.to_bytes(4, sys.byteorder))


def send_again(fuse_fd: int) -> None:
    """Have the kernel send the requests again that were read and are not answered (Linux 6.9)."""
    os.write(fuse_fd, _REPLY.pack(_REPLY.size, _NOTIFY_RESEND, 0))


def refuse(fuse_fd: int, requests: Iterable[int]) -> int:
    """Answer requests with EIO; how many there were that still waited for an answer."""
    refused = 0
    for request in requests:
        with suppress(OSError):  # it was answered in the last moment
            os.write(fuse_fd, _REPLY.pack(_REPLY.size, -errno.EIO, request))
            refused += 1
    return refused


def raise_limits(mountpoint: str) -> bool:
    """Raise the connection's max_background and its read-ahead; False where fusectl cannot be had: a loss of fairness.

    The INIT reply can only lower the read-ahead; its default of 128 KiB makes eight times the requests of a reader.
    """
    at = mounted_at(mountpoint)
    if at is None:
        return False
    with suppress(OSError):
        (_BDI / f"0:{at.minor}" / "read_ahead_kb").write_text(str(READ_AHEAD_KIB))
    limits = _FUSECTL / str(at.minor)
    if not limits.exists() and os.geteuid() == 0:
        _libc.mount(b"fusectl", os.fsencode(_FUSECTL), b"fusectl", 0, None)
    try:
        (limits / "max_background").write_text(str(MAX_BACKGROUND))
        (limits / "congestion_threshold").write_text(str(MAX_BACKGROUND))
    except OSError:
        return False
    return True


def holders(mountpoint: str) -> list[str]:
    """The processes that keep a mount busy: "name (pid)". Reads /proc; does not follow the links in it.

    A descriptor says which mount it is of: those of the hot directory, which has the same path when the mount is in
    place, belong to tierfs and to systemd, and keep nothing busy. Other links only have a path.
    """
    at = mounted_at(mountpoint)
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        links = [] if _is_tierfs(process) else _links(process)
        if any(_is_inside(link, mountpoint) for link in links) or (at and at.mount_id in _mounts_of(process)):
            try:
                name = (process / "comm").read_text().strip()
            except OSError:
                name = "?"
            found.append(f"{name} ({process.name})")
    return found


def _is_tierfs(process: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return bool({b"tierfs.worker", b"tierfs.cold", b"tierfs.mount.supervisor"} & {*words})


def _mounts_of(process: Path) -> set[int]:
    """The numbers of the mounts that its descriptors are of (proc(5), fdinfo)."""
    found = set()
    with suppress(OSError):
        for descriptor in (process / "fdinfo").iterdir():
            with suppress(OSError):
                lines = descriptor.read_bytes().splitlines()
                found |= {int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:")}
    return found


def _links(process: Path) -> list[str]:
    links = [process / "cwd", process / "root", process / "exe"]
    with suppress(OSError):
        links += (process / "map_files").iterdir()
    targets = []
    for link in links:
        try:
            targets.append(os.readlink(link))
        except OSError:
            continue
    return targets


def _is_inside(path: str, mountpoint: str) -> bool:
    return path == mountpoint or path.startswith(mountpoint.rstrip("/") + "/")


def _mount_by_fusermount(options: MountOptions) -> int:
    """fusermount3 opens /dev/fuse, mounts, and sends the descriptor over the socket that _FUSE_COMMFD names."""
    words = ["default_permissions", "nosuid", "nodev", "subtype=tierfs", f"fsname={_escape(options.source)}"]
    words += ["allow_other"] if options.allow_other else []
    words += ["ro"] if options.read_only else []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [_fusermount(), "-o", ",".join(words), "--", options.mountpoint]
        environment = os.environ | {"_FUSE_COMMFD": str(theirs.fileno())}
        done = subprocess.run(
            command, env=environment, pass_fds=[theirs.fileno()], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise OSError(errno.EPERM, done.stderr.strip() or "fusermount3 failed", options.mountpoint)
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data[: descriptors.itemsize])
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _fusermount() -> str:
    found = shutil.which("fusermount3")
    if found is None:
        raise OSError(errno.ENOENT, "fusermount3 is not installed (Debian package fuse3)")
    return found


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _unescape(field: bytes) -> bytes:
    """mountinfo writes space, tab, newline and backslash as octal (proc(5))."""
    for plain in (b" ", b"\t", b"\n", b"\\"):
        field = field.replace(b"\\%03o" % plain[0], plain)
    return field


def _last_error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
