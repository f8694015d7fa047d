"""The directories of a mount: what their filesystems can do, how much room they have, and whose they are."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tierfs.core.diagnosis import Diagnosis, Room, Verdict, judge_hot_room, judge_state_room
from tierfs.core.errors import CatalogError
from tierfs.core.records import Fd
from tierfs.doctor.examination import Diagnoses
from tierfs.doctor.patient import Patient
from tierfs.mount import kernel, trial
from tierfs.stores.catalog_view import CatalogView
from tierfs.stores.ownership import own_users, why_foreign, why_foreign_inside
from tierfs.stores.state import catalog_in

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OCTAL = re.compile(rb"\\([0-7]{3})")
_HOT_REMEDY = "put the hot directory on a local ext4, XFS or Btrfs"
#: What these filesystems do to a hot directory.
_UNFIT = {
    "nfs": "locks, O_TMPFILE and times are those of a server: a restore may fail, and hot is as slow as the network",
    "nfs4": "locks, O_TMPFILE and times are those of a server: a restore may fail, and hot is as slow as the network",
    "cifs": "owners and modes are those of a server, and hot is as slow as the network",
    "overlay": "inode numbers and the lower layers are not what they seem, and nothing can be passed through",
}
_MOST_FILES = 1 << 20  # of a cache that are counted
_SAME_DEVICE = 1 << 16  # weighs more than any path is long


def examine_hot(patient: Patient) -> Diagnoses:
    """The hot directory, and whether the kernel could pass its files through."""
    request = patient.request
    if request is None:
        yield from _try_passthrough(None)
        return
    try:
        fd = _open_behind(patient) if patient.covered else os.open(request.hot, _DIRECTORY)
    except OSError as error:
        yield _unusable("hot directory", request.hot, error)
        return
    if fd is None:
        found = f"{request.hot} lies under its own mount, and only its owner or root may look behind that"
        yield Diagnosis("hot directory", Verdict.SKIPPED, found)
        return
    yield from _filesystem(request.hot, fd, patient)
    yield judge_hot_room(room_of(os.fstatvfs(fd)), patient.settings.high_watermark)
    yield from _try_passthrough(fd)


def _open_behind(patient: Patient) -> int | None:
    """The hot directory of an in-place mount, by way of the descriptor that its worker has: its path is the mount."""
    assert patient.mount is not None
    process, hot = Path(f"/proc/{patient.mount.worker_pid}"), patient.mount.hot_directory
    at = kernel.mounted_at(hot)
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                lines = (process / "fdinfo" / descriptor.name).read_text().splitlines()
                is_of_mount = at is not None and f"mnt_id:\t{at.mount_id}" in lines
                if os.readlink(descriptor) == hot and not is_of_mount:
                    return os.open(descriptor, _DIRECTORY)
    return None


def _unusable(subject: str, path: str, error: OSError) -> Diagnosis:
    remedies = {
        errno.ENOENT: "create it, or correct the path",
        errno.ENOTDIR: "name a directory",
        errno.EACCES: "give this user the right to it, or mount as its owner",
        errno.ENOTCONN: f"it is a mount whose daemon is gone: `umount {path}` first",
    }
    remedy = remedies.get(error.errno or 0, "look into the kernel's log")
    return Diagnosis(subject, Verdict.PROBLEM, f"{path}: {error.strerror}", "nothing can be mounted", remedy)


def _filesystem(path: str, fd: int, patient: Patient) -> Iterator[Diagnosis]:
    kind = filesystem_of(os.fstat(fd).st_dev, path)
    subject, found = "hot directory", f"{path} on {kind}"
    if kind.startswith("fuse"):
        meaning = "in user space: no O_TMPFILE, no passthrough, and every hot byte goes through two daemons"
        yield Diagnosis(subject, Verdict.PROBLEM, f"{found}, which is FUSE", meaning, _HOT_REMEDY)
        return
    if patient.settings.read_only:
        yield Diagnosis(subject, Verdict.OK, found)
        return
    try:
        file = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=fd)
    except OSError as error:
        yield _no_temporary(found, error)
        return
    try:
        if kind in _UNFIT:
            yield Diagnosis(subject, Verdict.WARNING, found, _UNFIT[kind], _HOT_REMEDY)
        elif not _has_attributes(file):
            meaning = "applications cannot keep extended attributes there, as without tierfs"
            yield Diagnosis(subject, Verdict.WARNING, f"{found}, without extended attributes", meaning, _HOT_REMEDY)
        else:
            yield Diagnosis(subject, Verdict.OK, f"{found}, with O_TMPFILE and extended attributes")
    finally:
        os.close(file)


def _no_temporary(found: str, error: OSError) -> Diagnosis:
    subject = "hot directory"
    if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
        meaning = "restores need nameless files: the mount is refused"
        return Diagnosis(subject, Verdict.PROBLEM, f"{found}, which has no O_TMPFILE", meaning, _HOT_REMEDY)
    meanings = {
        errno.EROFS: ("nothing can be written", "mount it writable (is the disk damaged?), or use --read-only"),
        errno.EACCES: ("this user cannot restore files", "give this user the right to write there, or mount as root"),
        errno.ENOSPC: ("it is full: nothing can be restored", "make room"),
    }
    meaning, remedy = meanings.get(error.errno or 0, ("nothing can be restored", "look into the kernel's log"))
    return Diagnosis(subject, Verdict.PROBLEM, f"{found}: {error.strerror}", meaning, remedy)


def _has_attributes(file: int) -> bool:
    try:
        os.setxattr(file, "user.tierfs-doctor", b"1")
    except OSError as error:
        return error.errno != errno.EOPNOTSUPP
    return True


def _try_passthrough(directory: int | None) -> Iterator[Diagnosis]:
    """The last thing that a process does: it has no /proc afterwards."""
    subject = "passthrough"
    meaning = "hot files are read and written through tierfs: the same semantics, slower"
    if os.geteuid() != 0:
        yield Diagnosis(subject, Verdict.WARNING, "not for this user", meaning, "mount as root (CAP_SYS_ADMIN)")
        return
    try:
        if directory is None:
            file = os.memfd_create("tierfs-doctor", os.MFD_CLOEXEC)
        else:
            file = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
        why = trial.why_no_passthrough(Fd(file))
    except OSError as error:
        yield Diagnosis(subject, Verdict.SKIPPED, f"it cannot be tried: {error.strerror}")
        return
    if why:
        remedy = "it takes Linux 6.9, CAP_SYS_ADMIN, and a local filesystem that is not stacked"
        yield Diagnosis(subject, Verdict.WARNING, f"not possible: {why}", meaning, remedy)
    else:
        yield Diagnosis(subject, Verdict.OK, "tried: the kernel takes it")


def examine_state(patient: Patient) -> Diagnoses:
    """The state directory, its disk, and the catalog."""
    if patient.request is None:
        return
    path = Path(patient.request.state)
    try:
        os.lstat(path)
    except FileNotFoundError:
        yield from _not_there_yet(path, patient)
        return
    except OSError as error:  # somebody else's, as it seems: who may not look does not know
        yield _unusable("state directory", str(path), error)
        return
    try:
        why = why_foreign(path, own_users()) or why_foreign_inside(path, own_users())
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        yield _unusable("state directory", str(path), error)
        return
    if why:
        meaning = "what others can change is not trusted: the mount is refused"
        remedy = f"`chown -R` it to this user and `chmod 700 {path}`, after a look at what is in it; or another --state"
        yield Diagnosis("state directory", Verdict.PROBLEM, f"{path} {why}", meaning, remedy)
        return
    yield Diagnosis("state directory", Verdict.OK, f"{path}, mode {mode:04o}")
    yield judge_state_room(room_of(os.statvfs(path)), patient.settings.cache_size, _size_of(path / "cache"))
    yield _catalog(path)


def _not_there_yet(path: Path, patient: Patient) -> Iterator[Diagnosis]:
    above = next(one for one in path.parents if one.exists())
    if os.access(above, os.W_OK | os.X_OK):
        yield Diagnosis("state directory", Verdict.OK, f"{path} is not there yet, and can be made")
        yield judge_state_room(room_of(os.statvfs(above)), patient.settings.cache_size, 0)
        return
    meaning = "a mount cannot be made without one"
    found = f"{path} is not there, and cannot be made in {above}"
    yield Diagnosis("state directory", Verdict.PROBLEM, found, meaning, "name another with --state, or make it")


def _catalog(state: Path) -> Diagnosis:
    path = catalog_in(state)
    if not path.exists():
        if (state / "mount.json").exists():
            remedy = "put it back from a backup, or run `tierfs rebuild`"
            return Diagnosis("catalog", Verdict.PROBLEM, f"{path} is missing", "the mount is refused", remedy)
        return Diagnosis("catalog", Verdict.OK, "none yet: nothing was mounted with this state directory")
    owner = path.stat().st_uid
    if owner != os.geteuid():  # SQLite would leave files beside it that its owner cannot write to
        return Diagnosis("catalog", Verdict.SKIPPED, f"it belongs to user {owner}, who may look at it")
    try:
        view = CatalogView(path)
        try:
            next(view.records(), None)
        finally:
            view.close()
    except CatalogError as error:
        remedy = "`tierfs check` tells more; `tierfs rebuild --replace-catalog` makes it anew from the bucket"
        return Diagnosis("catalog", Verdict.PROBLEM, str(error), "names and residency of cold files are in it", remedy)
    return Diagnosis("catalog", Verdict.OK, "can be read")


def filesystem_of(device: int, path: str) -> str:
    """The type of the filesystem that a directory is on, by /proc/self/mountinfo; nothing is asked of the path."""
    number, best, kind = f"{os.major(device)}:{os.minor(device)}".encode(), -1, "an unknown filesystem"
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, rest = line.partition(b" - ")
        _, _, numbers, _, where, *_ = fields.split(b" ")
        if rest.startswith(b"fuse") and numbers != number:
            continue  # a mount that covers the directory
        mountpoint = os.fsdecode(_OCTAL.sub(lambda match: bytes((int(match[1], 8),)), where)).rstrip("/")
        is_above = path == mountpoint or path.startswith(mountpoint + "/")
        weight = (len(mountpoint) + 1 if is_above else 0) + (_SAME_DEVICE if numbers == number else 0)
        if weight >= best and weight > 0:
            best, kind = weight, rest.split(b" ")[0].decode()
    return kind


def room_of(st: os.statvfs_result) -> Room:
    """A filesystem in figures. Root may use the reserved blocks, too; what it would use up is not room."""
    unit = st.f_frsize
    reserved = (st.f_bfree - st.f_bavail) * unit
    return Room(st.f_bavail * unit, st.f_blocks * unit, st.f_favail, st.f_files, reserved)


def _size_of(cache: Path) -> int:
    """What the files of the cache take on the disk, in bytes; as far as that is quickly known."""
    total = seen = 0
    for directory, _, names in os.walk(cache):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            seen += 1
            if seen >= _MOST_FILES:
                return total
    return total
