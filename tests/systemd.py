"""A real systemd for tests: PID 1 of its own namespaces, on a root that cannot be written to.

    with booted(home) as systemd:
        systemd.write("/etc/systemd/system/x.service", "[Service]\\nExecStart=sleep inf\\n")
        systemd.systemctl("daemon-reload")
        systemd.systemctl("start", "x")
        print(systemd.journal("x"))

It sees this machine's files read-only, and as its own: /etc, /run, /tmp, /var, /dev, processes, mounts, a part of the
cgroup tree. No unit of this machine is started but journald: others would empty /tmp, set kernel parameters and so on,
and the root is read-only in case one is. `home` alone is shared, and may be written to. When the block ends its PID 1
is killed, and with it all that it has started; its mounts go with its mount namespace.

`python -m tests.systemd HOME` is what becomes PID 1: it makes the root, enters it and executes systemd.
"""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import MARK, require

MANAGER = Path("/lib/systemd/systemd")
_UNITS = Path("/lib/systemd/system")
#: This checkout, which the instance sees read-only at the same path.
REPOSITORY = Path(__file__).resolve().parent.parent
_PATIENCE_S = 60.0

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096
_MNT_DETACH = 2

#: What services and Python read in /etc, whether it is there or not.
_FROM_ETC = ["fuse.conf", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types"]
_FROM_ETC += ["mtab", "nsswitch.conf", "passwd", "resolv.conf", "ssl"]
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
#: Units that others are ordered by, as they are everywhere; nothing hangs on them here.
_TARGETS = ["basic", "local-fs", "local-fs-pre", "multi-user", "network", "network-online", "paths", "remote-fs"]
_TARGETS += ["remote-fs-pre", "rescue", "emergency", "shutdown", "slices", "sockets", "swap", "sysinit", "timers"]
_TARGETS += ["umount"]
_JOURNAL = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")
_ALL_OUTPUT = "[Manager]\nDefaultTimeoutStartSec=60s\nDefaultTimeoutStopSec=60s\nDefaultStandardOutput=journal\n"
_READY = f"[Unit]\nDefaultDependencies=no\nWants={_JOURNAL[0]} {_JOURNAL[1]} {_JOURNAL[2]}\nAfter={_JOURNAL[0]}\n"

_libc = ctypes.CDLL(None, use_errno=True)


class Systemd:
    """A booted instance; paths are the ones that its services see."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def path(self, inside: str | Path) -> Path:
        """The same file from outside, its mounts included."""
        return Path(f"/proc/{self.pid}/root") / str(inside).lstrip("/")

    def write(self, inside: str | Path, text: str) -> Path:
        """Write a file, and the directories that lead there."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command beside the services; what it said is in the error when it fails."""
        words = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--cgroup", "--", *command]
        done = subprocess.run(words, text=True, capture_output=True, timeout=2 * _PATIENCE_S, check=False)
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}{self.journal()}")
        return done

    def systemctl(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run systemctl."""
        return self.run("systemctl", "--no-pager", *words, check=check)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit).stdout.strip()

    def main_pid(self, unit: str) -> int:
        """The main process of a service, as its siblings number it; 0: none."""
        return int(self.show(unit, "MainPID"))

    def kill(self, unit: str, signal: str = "SIGKILL") -> None:
        """Send a signal to the main process alone."""
        self.systemctl("kill", "--kill-whom=main", f"--signal={signal}", unit)

    def wait_for(self, unit: str, name: str, *values: str) -> None:
        """Wait until a property has one of these values."""
        self.wait_until(lambda: self.show(unit, name) in values, unit)

    def wait_until(self, is_so: Callable[[], bool], unit: str = "") -> None:
        """Wait until something is so; the journal of the unit is in the error when it does not become so."""
        deadline = time.monotonic() + _PATIENCE_S
        while not is_so():
            if time.monotonic() > deadline:
                state = self.systemctl("show", unit).stdout if unit else ""
                raise AssertionError(f"it did not come about: {state}{self.journal(unit)}")
            time.sleep(0.02)

    def journal(self, unit: str = "") -> str:
        """What a unit and systemd about it have said, or everybody; the last of it."""
        words = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=500", *(["-u", unit] if unit else [])]
        return self.run(*words, check=False).stdout


@contextmanager
def booted(home: Path) -> Iterator[Systemd]:
    """Boot, wait until it is up, and end all of it afterwards. Skips the test where the machine does not allow it.

    `home` is an empty directory; commands called `tierfs` and `mount.tierfs` are this checkout's.
    """
    cgroup = _own_cgroup()
    log = home / "boot.log"
    enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
    # Whatever ends this process ends unshare, and that its child.
    unshare = [
        "setpriv",
        "--pdeathsig=KILL",
        "unshare",
        "--mount",
        "--pid",
        "--cgroup",
        "--ipc",
        "--uts",
        "--fork",
        "--kill-child",
    ]
    become = [sys.executable, "-m", "tests.systemd", str(home)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), MARK: os.environ[MARK]}
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["sh", "-c", enter, str(cgroup), *unshare, *become],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            cwd=REPOSITORY,
        )
    try:
        yield _wait_until_up(process, log)
    finally:
        for child in _children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, 9)
        process.kill()
        process.wait()
        _remove_cgroup(cgroup)


def _own_cgroup() -> Path:
    """A new part of the unified cgroup tree; the test is skipped where there is none to be had."""
    require(os.geteuid() == 0, "systemd as a system manager needs root")
    require(MANAGER.exists(), "systemd is not installed (Debian package systemd)")
    trees = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((Path(words[1]) for words in trees if words[2] == "cgroup2"), None)
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::"), None)
    if root is None or own is None:
        _skip("no unified cgroup tree is mounted")
    assert root is not None
    assert own is not None
    made = root / own.lstrip("/") / f"tierfs-{Path(os.environ[MARK]).name}-{os.getpid()}-{time.monotonic_ns()}"
    try:
        made.mkdir()
    except OSError as error:
        _skip(f"no cgroup can be made: {error}")
    return made


def _skip(reason: str) -> None:
    """Not a matter of packages, but of what the machine allows: no failure under CI=true either."""
    import pytest

    pytest.skip(f"a systemd cannot be booted here: {reason}")


def _wait_until_up(process: "subprocess.Popen[bytes]", log: Path) -> Systemd:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        if process.poll() is not None:
            _skip(f"{log.read_text(errors='replace')[-1000:]} (status {process.returncode})")
        for child in _children(process.pid):
            systemd = Systemd(child)
            with suppress(OSError):
                if (systemd.path("/run/systemd/private")).exists() and _is_up(systemd):
                    return systemd
        if time.monotonic() > deadline:
            _skip(f"it does not come up: {log.read_text(errors='replace')[-1000:]}")
        time.sleep(0.01)


def _is_up(systemd: Systemd) -> bool:
    return systemd.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _remove_cgroup(cgroup: Path) -> None:
    """Its processes are gone, or are just going."""
    deadline = time.monotonic() + _PATIENCE_S
    while cgroup.exists():
        for directory in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                directory.rmdir()
        with suppress(OSError):
            cgroup.rmdir()
        assert time.monotonic() < deadline, f"{cgroup} is still in use"
        time.sleep(0.005)


# -- inside: what becomes PID 1 ------------------------------------------------------------------------------------


def _mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = (source.encode(), os.fsencode(target), kind.encode(), flags, data.encode())
    if _libc.mount(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} {target} {kind} {data}: {os.strerror(number)}")


def _bind(source: Path, target: Path, is_writable: bool) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.touch()
    _mount(str(source), target, flags=_MS_BIND)
    if not is_writable:
        _mount("", target, flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY)


def _make_root(home: Path) -> Path:
    """This machine's root, read-only, with what has to be writable as fresh file systems in memory."""
    root = home / "root"
    sbin = Path("/usr/sbin")
    _bind(Path("/"), root, is_writable=False)
    for name in ("tmp", "run", "var", "dev", "etc", "usr/local/bin", "usr/sbin"):
        _mount("tmpfs", root / name, "tmpfs", _MS_NOSUID, "mode=755")
    for name in ("tmp", "var/tmp", "dev/shm"):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o1777)
    for name in ("lib", "log", "cache"):
        (root / "var" / name).mkdir()
    (root / "var/run").symlink_to("../run")
    _mount("proc", root / "proc", "proc")
    _bind(root / "proc/sys", root / "proc/sys", is_writable=False)
    _mount("sysfs", root / "sys", "sysfs", _MS_RDONLY)
    _mount("cgroup2", root / "sys/fs/cgroup", "cgroup2")
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    for name in _DEVICES:
        if Path("/dev", name).exists():
            os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, Path("/dev", name).stat().st_rdev)
            (root / "dev" / name).chmod(0o666)
    for name in _FROM_ETC:
        source = Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, root / "etc" / name, symlinks=True)
        elif source.exists():
            shutil.copy(source, root / "etc" / name, follow_symlinks=name != "mtab")
    (root / "run/sbin").mkdir()
    _bind(sbin, root / "run/sbin", is_writable=False)
    for tool in sbin.iterdir():
        (root / "usr/sbin" / tool.name).symlink_to(f"/run/sbin/{tool.name}")
    for needed in {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)}:
        _bind(needed, root / str(needed)[1:], is_writable=False)
    _bind(home, root / str(home)[1:], is_writable=True)
    return root


def _fill(root: Path) -> None:
    """The units, and the commands of this checkout."""
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    for name in _TARGETS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    for name in _JOURNAL:
        shutil.copy(_UNITS / name, units / name)
    (units / "ready.target").write_text(_READY)
    (root / "etc/systemd/system.conf").write_text(_ALL_OUTPUT)
    (root / "etc/systemd/journald.conf").write_text("[Journal]\nStorage=volatile\nReadKMsg=no\nRateLimitBurst=0\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    generators = root / "etc/systemd/system-generators"
    generators.mkdir()
    (generators / "fstab").symlink_to("/lib/systemd/system-generators/systemd-fstab-generator")
    for name, module in (("usr/local/bin/tierfs", "tierfs"), ("usr/sbin/mount.tierfs", "tierfs.cli.mount_helper")):
        script = root / name
        script.write_text(f'#!/bin/sh\nexport PYTHONPATH={REPOSITORY}\nexec {sys.executable} -m {module} "$@"\n')
        script.chmod(0o755)


def _become(home: Path) -> None:
    if os.getpid() != 1:
        sys.exit("this makes another root: it is for PID 1 of new namespaces, as booted() starts it")
    root = _make_root(home)
    _fill(root)
    os.chdir(root)
    if _libc.pivot_root(b".", b".") or _libc.umount2(b".", _MNT_DETACH):
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    environment = {
        "container": "tierfs",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        "SYSTEMD_UNIT_PATH": "/etc/systemd/system:/run/systemd/generator",
        "SYSTEMD_GENERATOR_PATH": "/etc/systemd/system-generators",
        "SYSTEMD_ENVIRONMENT_GENERATOR_PATH": "/etc/systemd/none",
    }
    os.execve(MANAGER, [str(MANAGER), "--system", "--unit=ready.target", "--show-status=no"], environment)


if __name__ == "__main__":
    _become(Path(sys.argv[1]))
