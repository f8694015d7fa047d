"""The mounts of this host: where their control sockets are, and which of them still has its supervisor.

    RUNTIME/SLOT/mount.json     what the mount is (a `Mount`)
    RUNTIME/SLOT/control.sock   its control API
    RUNTIME/locks/..            one lock for each store that is written to

RUNTIME is /run/tierfs for root and $XDG_RUNTIME_DIR/tierfs for others; TIERFS_RUNTIME_DIR overrides both. SLOT is the
mountpoint, escaped as systemd escapes paths. Nothing here touches a mountpoint, which may be busy or dead.
"""

import fcntl
import hashlib
import json
import os
import shutil
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tierfs.core.errors import ControlError, MountError

SOCKET_NAME = "control.sock"
_MOUNT_FILE = "mount.json"
_LOCKS = "locks"
_LONGEST_PATH = 4096

_SYSTEM_RUNTIME = Path("/run/tierfs")
_USERS_RUNTIME = Path("/run/user")

#: A file name has at most 255 bytes; what is longer is cut and told apart by a hash.
_LONGEST_SLOT = 200
#: sockaddr_un holds 108 bytes, the last one is 0 (unix(7)).
_LONGEST_SOCKET_PATH = 107
_PLAIN_BYTES = frozenset((string.ascii_letters + string.digits + ":_.").encode())


@dataclass(frozen=True, slots=True)
class Mount:
    """What the runtime directory knows of a mount; paths are absolute, as str with surrogateescape.

    `supervisor_start` is the supervisor's start time in clock ticks since boot: a recycled pid has another one.
    """

    mountpoint: str
    store: str
    hot_directory: str
    state_directory: str
    supervisor_pid: int
    worker_pid: int
    version: str
    supervisor_start: int = 0

    @property
    def is_alive(self) -> bool:
        """Whether the supervisor that registered this mount still runs."""
        start = _start_of(self.supervisor_pid)
        return start is not None and self.supervisor_start in (0, start)


def runtime_directory() -> Path:
    """The directory that holds the mounts of this user; it need not exist yet."""
    if chosen := os.environ.get("TIERFS_RUNTIME_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return _SYSTEM_RUNTIME
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(given, "tierfs")
    return _USERS_RUNTIME / str(os.geteuid()) / "tierfs"


def escaped(mountpoint: str) -> str:
    """The mountpoint as one file name, as `systemd-escape --path` writes it; very long ones end in a hash."""
    path = os.fsencode(os.path.normpath(mountpoint)).strip(b"/")
    if not path:
        return "-"
    parts = []
    for position, byte in enumerate(path):
        is_plain = byte in _PLAIN_BYTES and not (position == 0 and byte == ord("."))
        parts.append("-" if byte == ord("/") else chr(byte) if is_plain else f"\\x{byte:02x}")
    name = "".join(parts)
    if len(name) <= _LONGEST_SLOT:
        return name
    return f"{name[:_LONGEST_SLOT]}-{hashlib.sha256(path).hexdigest()[:16]}"


def slot_of(mountpoint: str) -> Path:
    """The directory of the mount at `mountpoint`."""
    return runtime_directory() / escaped(mountpoint)


def socket_of(mountpoint: str) -> Path:
    """The control socket of the mount at `mountpoint`, in whichever runtime directory it is registered."""
    slot = slot_of(mountpoint)
    for directory in _visible_directories():
        if (directory / slot.name / _MOUNT_FILE).exists():
            return directory / slot.name / SOCKET_NAME
    return slot / SOCKET_NAME


def register(mount: Mount) -> Path:
    """Write down a mount, or what changed of it (a new worker), and return its slot. OSError."""
    slot = slot_of(mount.mountpoint)
    slot.parent.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    slot.mkdir(mode=0o755, exist_ok=True)
    content = asdict(mount) | {"supervisor_start": _start_of(mount.supervisor_pid) or 0}
    fresh = slot / f"{_MOUNT_FILE}.{os.getpid()}"
    fresh.write_text(json.dumps(content, indent=1) + "\n")
    fresh.replace(slot / _MOUNT_FILE)
    return slot


def lock_store(place: str, mountpoint: str) -> int:
    """Keep the other mounts of this host from writing to a store; the lock lasts until the descriptor is closed.

    MountError, which names the other one.
    """
    directory = runtime_directory() / _LOCKS
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / hashlib.sha256(os.fsencode(place)).hexdigest()
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.fsdecode(os.pread(lock, _LONGEST_PATH, 0))
        os.close(lock)
        raise MountError(
            f"the store is mounted at {other} already, on this host: unmount that one, or mount with --read-only"
        ) from None
    os.truncate(lock, 0)
    os.pwrite(lock, os.fsencode(mountpoint), 0)
    return lock


def unregister(mountpoint: str) -> None:
    """Forget a mount; one that is not registered is no error."""
    shutil.rmtree(slot_of(mountpoint), ignore_errors=True)


def mounts() -> list[Mount]:
    """All mounts of this host that this user may know of, ordered by mountpoint, stale ones included."""
    found = {}
    for directory in _visible_directories():
        for slot in _slots(directory):
            mount = _read(slot / _MOUNT_FILE)
            if mount is not None:
                found[mount.mountpoint] = mount
    return [found[mountpoint] for mountpoint in sorted(found)]


def find(path: str) -> tuple[Mount, bytes]:
    """The mount that `path` lies in, and the path relative to its mountpoint. ControlError when there is none.

    Decided by the names first; symbolic links on the way to the file are followed only when that finds nothing.
    """
    known = mounts()
    absolute = os.path.abspath(path)  # lexical: Path.resolve would ask a mount that may be dead
    for candidate in _spellings(absolute):
        inside = [mount for mount in known if _is_inside(candidate, mount.mountpoint)]
        if inside:
            mount = max(inside, key=lambda one: len(one.mountpoint))
            relative = os.fsencode(candidate)[len(os.fsencode(mount.mountpoint)) :].strip(b"/")
            return mount, relative
    raise ControlError(f"{path!r} is not in a tierfs mount of this host: `tierfs status` lists them")


def find_mountpoint(path: str) -> Mount:
    """The mount whose mountpoint is `path`. ControlError when there is none."""
    mount, relative = find(path)
    if relative:
        raise ControlError(f"{path!r} is not a mountpoint, but a path inside the mount at {mount.mountpoint!r}")
    return mount


@contextmanager
def short_path(socket_path: Path) -> Iterator[str]:
    """A name for the socket that fits into sockaddr_un, valid inside the block."""
    if len(os.fsencode(socket_path)) <= _LONGEST_SOCKET_PATH:
        yield str(socket_path)
        return
    directory = os.open(socket_path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{socket_path.name}"
    finally:
        os.close(directory)


def _spellings(absolute: str) -> Iterator[str]:
    yield absolute
    parent, name = os.path.split(absolute)
    resolved = os.path.realpath(parent)
    yield os.path.join(resolved, name)  # names may carry surrogates and trailing dots
    if name:
        yield os.path.realpath(absolute)


def _is_inside(path: str, mountpoint: str) -> bool:
    return path == mountpoint or path.startswith(mountpoint.rstrip("/") + "/")


def _visible_directories() -> list[Path]:
    own = runtime_directory()
    if os.environ.get("TIERFS_RUNTIME_DIR"):
        return [own]
    others = sorted(_USERS_RUNTIME.glob("*/tierfs")) if os.geteuid() == 0 else [_SYSTEM_RUNTIME]
    return [own, *others]


def _slots(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _read(path: Path) -> Mount | None:
    """The mount that a file describes; None for what another version wrote, or what is just going away."""
    try:
        return Mount(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _start_of(pid: int) -> int | None:
    """Start of a process in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)); None without a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name of the program, in parentheses, may hold spaces and parentheses itself.
    fields = stat.rpartition(b")")[2].split()
    is_zombie = fields[0] in (b"Z", b"X")
    return None if is_zombie else int(fields[19])
