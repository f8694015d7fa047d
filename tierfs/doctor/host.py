"""This host: the kernel, /dev/fuse, privileges, limits, libraries."""

import errno
import importlib
import os
import resource
import shutil
import stat
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from tierfs.core.diagnosis import ENDLESS, Diagnosis, Verdict, judge_descriptors, judge_kernel, judge_memory
from tierfs.doctor.examination import Diagnoses
from tierfs.doctor.patient import Patient

_DEVICE = "/dev/fuse"
_NUMBER = (10, 229)  # Documentation/admin-guide/devices.txt
_CAP_SYS_ADMIN = 21
_LIBRARIES = ("boto3", "botocore", "click", "diskcache", "httpx", "pydantic", "pyfuse3", "trio")
_NATIVE = "tierfs.mount._native"


def examine_host(patient: Patient) -> Diagnoses:
    """What every mount on this host meets."""
    yield judge_kernel(os.uname().release)
    yield _device()
    yield _privileges(patient)
    yield _libraries()
    yield judge_descriptors(_descriptors(patient))
    yield judge_memory(_available_memory(), _memory_limit(patient))


def _device() -> Diagnosis:
    subject, meaning = _DEVICE, "nothing can be mounted"
    try:
        st = os.stat(_DEVICE)
        if not stat.S_ISCHR(st.st_mode) or (os.major(st.st_rdev), os.minor(st.st_rdev)) != _NUMBER:
            remedy = "remove it, then `modprobe fuse`, or give the container --device /dev/fuse"
            return Diagnosis(subject, Verdict.PROBLEM, "it is not the FUSE device", meaning, remedy)
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        remedy = "load the module (`modprobe fuse`), or give the container --device /dev/fuse"
        return Diagnosis(subject, Verdict.PROBLEM, "it does not exist", meaning, remedy)
    except OSError as error:
        remedies = {
            errno.EACCES: "give this user read and write permission (mode 0666 is usual)",
            errno.EPERM: "the container may not use the device: give it --device /dev/fuse",
            errno.ENODEV: "load the module (`modprobe fuse`)",
            errno.ENXIO: "load the module (`modprobe fuse`)",
        }
        remedy = remedies.get(error.errno or 0, "look into the kernel's log")
        return Diagnosis(subject, Verdict.PROBLEM, f"it cannot be opened: {error.strerror}", meaning, remedy)
    return Diagnosis(subject, Verdict.OK, "there, and can be opened")


def _privileges(patient: Patient) -> Diagnosis:
    if os.geteuid() == 0:
        return _of_root()
    helper = shutil.which("fusermount3")
    if helper is None:
        remedy = "install it (Debian: fuse3), or mount as root"
        return Diagnosis(
            "privileges", Verdict.PROBLEM, "fusermount3 is not installed", "only root can mount without it", remedy
        )
    st = os.stat(helper)
    if st.st_uid != 0 or not st.st_mode & stat.S_ISUID:
        remedy = f"`chown root {helper}` and `chmod u+s {helper}`, or mount as root"
        return Diagnosis(
            "privileges", Verdict.PROBLEM, f"{helper} is not set-user-ID root", "only root can mount without it", remedy
        )
    if patient.settings.allow_other and not _others_are_allowed():
        return Diagnosis(
            "privileges",
            Verdict.PROBLEM,
            "user_allow_other is not set in /etc/fuse.conf",
            "fusermount3 refuses a mount with allow_other of anybody but root",
            "write user_allow_other into /etc/fuse.conf, or leave allow_other out",
        )
    return Diagnosis("privileges", Verdict.OK, "not root: mounts through fusermount3, in plain FUSE, for this user")


def _of_root() -> Diagnosis:
    if not _may_mount():
        meaning = "mount(2) needs it: this is a container, or a unit with CapabilityBoundingSet="
        remedy = "give it CAP_SYS_ADMIN (--cap-add SYS_ADMIN)"
        return Diagnosis("privileges", Verdict.PROBLEM, "root without CAP_SYS_ADMIN", meaning, remedy)
    return Diagnosis("privileges", Verdict.OK, "root with CAP_SYS_ADMIN")


def _may_mount() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1 for line in lines if line.startswith("CapEff:"))


def _others_are_allowed() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _libraries() -> Diagnosis:
    """Versions, and whether the native module fits this Python: it is compiled where it is installed."""
    remedy = "install tierfs again in this environment (./bootstrap, or pip)"
    missing, found = [], []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Diagnosis(
            "libraries", Verdict.PROBLEM, f"not installed: {', '.join(missing)}", "tierfs cannot run", remedy
        )
    try:
        importlib.import_module(_NATIVE)
    except ImportError as error:
        return Diagnosis(
            "libraries", Verdict.PROBLEM, f"the native module cannot be loaded: {error}", "no mount can serve", remedy
        )
    return Diagnosis("libraries", Verdict.OK, ", ".join(found))


def _descriptors(patient: Patient) -> int:
    """The hard limit: of the worker that runs, else of whoever would mount from here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if patient.mount:
        with suppress(OSError, resource.error):
            _, hard = resource.prlimit(patient.mount.worker_pid, resource.RLIMIT_NOFILE)
    return ENDLESS if hard == resource.RLIM_INFINITY else hard


def _available_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


def _memory_limit(patient: Patient) -> int | None:
    """The least memory.max of the control groups that it is in; None where there is none."""
    process = str(patient.mount.worker_pid) if patient.mount else "self"
    limits = []
    with suppress(OSError):
        for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                limits += [_limit_in(Path("/sys/fs/cgroup") / one) for one in _upwards(path)]
    return min((limit for limit in limits if limit is not None), default=None)


def _upwards(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def _limit_in(group: Path) -> int | None:
    try:
        text = (group / "memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < ENDLESS else None
