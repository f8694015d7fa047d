"""The mounts of this host: where their control sockets are, and which of them is still served.

    RUNTIME/SLOT/mount.json     what the mount is (a `Mount`)
    RUNTIME/SLOT/control.sock   its control API
    RUNTIME/locks/..            one lock for each store that is written to

RUNTIME is /run/tierfs for root and $XDG_RUNTIME_DIR/tierfs for others; TIERFS_RUNTIME_DIR overrides both. SLOT is the
mountpoint, escaped as systemd escapes paths. Nothing here touches a mountpoint, which may be busy or dead.

What others could have planted is not believed: a runtime directory has to belong to this user or root and nobody else
may write to it, and of what other users registered root believes only the mounts that the kernel has of them.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import string
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tierfs.core.errors import ControlError, MountError
from tierfs.stores.ownership import make_directories, own_users, read_owned, why_foreign

SOCKET_NAME = "control.sock"
_MOUNT_FILE = "mount.json"
_LOCKS = "locks"
_LONGEST_PATH = 4096

_SYSTEM_RUNTIME = Path("/run/tierfs")
_USERS_RUNTIME = Path("/run/user")
_MOUNTINFO = Path("/proc/self/mountinfo")

#: A file name has at most 255 bytes; what is longer is cut and told apart by a hash.
_LONGEST_SLOT = 200
#: sockaddr_un holds 108 bytes, the last one is 0 (unix(7)).
_LONGEST_SOCKET_PATH = 107
_REMEDY = "make it yours alone, or name another with TIERFS_RUNTIME_DIR"
_OCTAL = re.compile(rb"\\([0-7]{3})")
_PLAIN_BYTES = frozenset((string.ascii_letters + string.digits + ":_.").encode())


@dataclass(frozen=True, slots=True)
class Mount:
    """What the runtime directory knows of a mount; paths are absolute, as str with surrogateescape.

    `supervisor_start` and `worker_start` are start times in clock ticks since boot: a recycled pid has another one.
    """

    mountpoint: str
    store: str
    hot_directory: str
    state_directory: str
    supervisor_pid: int
    worker_pid: int
    version: str
    supervisor_start: int = 0
    worker_start: int = 0

    @property
    def is_alive(self) -> bool:
        """Whether the supervisor of this mount still runs, or its last worker."""
        return _runs(self.supervisor_pid, self.supervisor_start) or _runs(self.worker_pid, self.worker_start)


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
    for slot, mount in _registered():
        if mount.mountpoint == mountpoint:
            return slot / SOCKET_NAME
    return slot_of(mountpoint) / SOCKET_NAME


def register(mount: Mount) -> Path:
    """Write down a mount, or what changed of it (a new worker), and return its slot. MountError, OSError."""
    slot = slot_of(mount.mountpoint)
    _make(slot.parent)
    _make(slot, 0o755)
    starts = {"supervisor_start": _start_of(mount.supervisor_pid), "worker_start": _start_of(mount.worker_pid)}
    content = asdict(mount) | {name: start or 0 for name, start in starts.items()}
    fresh = slot / f"{_MOUNT_FILE}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
    fresh.replace(slot / _MOUNT_FILE)
    return slot


def lock_store(place: str, mountpoint: str) -> int:
    """Keep the other mounts of this host from writing to a store; the lock lasts until the descriptor is closed.

    MountError, which names the other one.
    """
    directory = runtime_directory() / _LOCKS
    _make(directory.parent)
    _make(directory, 0o700)
    path = directory / hashlib.sha256(os.fsencode(place)).hexdigest()
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
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
    with suppress(OSError):
        if why_foreign(runtime_directory(), own_users()) is None:
            shutil.rmtree(slot_of(mountpoint), ignore_errors=True)


def mounts() -> list[Mount]:
    """All mounts of this host that this user may know of, ordered by mountpoint, stale ones included. ControlError."""
    found: dict[str, Mount] = {}
    for _, mount in _registered():
        found.setdefault(mount.mountpoint, mount)  # our own come first
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


def _make(directory: Path, mode: int | None = None) -> None:
    """Make a directory that only this user can change, or find one. MountError, OSError."""
    usual = 0o755 if os.geteuid() == 0 else 0o700
    make_directories(directory, usual if mode is None else mode)
    if why := why_foreign(directory, own_users()):
        raise MountError(f"the runtime directory {directory} {why}: {_REMEDY}")


def _registered() -> Iterator[tuple[Path, Mount]]:
    """What is registered, and in which slot: what this user registered first. ControlError."""
    own = runtime_directory()
    with suppress(FileNotFoundError):
        if why := why_foreign(own, own_users()):
            raise ControlError(f"the runtime directory {own} {why}: {_REMEDY}")
    yield from _slots(own, own_users())
    if os.environ.get("TIERFS_RUNTIME_DIR"):
        return
    if os.geteuid() != 0:
        yield from _slots(_SYSTEM_RUNTIME, {0})
        return
    for directory in sorted(_USERS_RUNTIME.glob("[0-9]*/tierfs")):
        uid = int(directory.parent.name)
        really = mounts_of(uid, _MOUNTINFO.read_bytes())
        yield from ((slot, mount) for slot, mount in _slots(directory, {uid}) if mount.mountpoint in really)


def mounts_of(uid: int, mountinfo: bytes) -> frozenset[str]:
    """Where a user has FUSE mounts, by the text of /proc/PID/mountinfo (proc(5))."""
    found = set()
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(b" - ")
        if rest.startswith(b"fuse") and b"user_id=%d" % uid in rest.split(b" ")[-1].split(b","):
            where = fields.split(b" ")[4]
            found.add(os.fsdecode(_OCTAL.sub(lambda match: bytes((int(match.group(1), 8),)), where)))
    return frozenset(found)


def _slots(directory: Path, users: Collection[int]) -> Iterator[tuple[Path, Mount]]:
    """The mounts that `users` registered in a directory that nobody else can change."""
    try:
        slots = [] if why_foreign(directory, users) else sorted(directory.iterdir())
    except OSError:
        return
    for slot in slots:
        mount = _read(slot, users)
        if mount is not None:
            yield slot, mount


def _read(slot: Path, users: Collection[int]) -> Mount | None:
    """The mount of a slot; None for what another version wrote, what is just going away, or somebody else's."""
    try:
        if slot.is_symlink() or why_foreign(slot, users):
            return None
        return Mount(**json.loads(read_owned(slot / _MOUNT_FILE, users)))
    except (OSError, ValueError, TypeError):
        return None


def _runs(pid: int, start: int) -> bool:
    """Whether a process is there that began then; 0: at any time."""
    now = _start_of(pid)
    return now is not None and start in (0, now)


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
