"""A mount under a real systemd. As a service it outlives its supervisor, and what uses it does not notice; as a line of
/etc/fstab it is a mount like others.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.systemd import REPOSITORY, Systemd, booted

pytestmark = pytest.mark.mount

#: An application: says what it does in files, and ends with an error at the first one that it meets.
_APPLICATION = """
import itertools, os, sys, time
place, stop = sys.argv[1:]
os.chdir(place)
with open("log", "ab", 0) as log:
    for number in itertools.count():
        log.write(b"%d\\n" % number)
        with open(f"new{number % 7}", "x") as new:
            new.write(str(number))
        os.rename(f"new{number % 7}", f"old{number % 3}")
        assert open(f"old{number % 3}").read() == str(number)
        if number % 50 == 0:
            open(stop + ".number", "w").write(str(number))
        if os.path.exists(stop):
            sys.exit(0)
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def machine(home: Path) -> Iterator[Systemd]:
    """A booted instance in which mounts in place below `home` can be started; the store is a directory."""
    with booted(home) as systemd:
        systemd.write("/etc/systemd/system/tierfs@.service", (REPOSITORY / "systemd/tierfs@.service").read_text())
        systemd.write("/etc/systemd/system/tierfs@.service.d/test.conf", "[Service]\nTimeoutStopSec=20s\n")
        systemd.path("/etc/tierfs").mkdir(mode=0o700)
        systemd.systemctl("daemon-reload")
        yield systemd


@contextmanager
def _started(machine: Systemd, place: Path) -> Iterator[str]:
    """The unit of a mount in place."""
    place.mkdir()
    store = place.with_name(f"{place.name}-store")
    store.mkdir()
    instance = machine.run("systemd-escape", "--path", str(place)).stdout.strip()
    machine.write(f"/etc/tierfs/{instance}.toml", f'store = "file://{store}"\nauto_archive = false\n')
    unit = f"tierfs@{instance}.service"
    machine.systemctl("start", unit)
    try:
        yield unit
    finally:
        machine.systemctl("stop", unit)


def _is_mounted(machine: Systemd, place: Path) -> bool:
    return machine.run("mountpoint", "--quiet", str(place), check=False).returncode == 0


def _take_over(machine: Systemd, unit: str, how: str) -> None:
    """Wait until the unit runs again, another supervisor being its main process."""
    before = machine.main_pid(unit)
    if how == "kill":
        machine.kill(unit)
        machine.wait_for(unit, "NRestarts", "1")
        machine.wait_for(unit, "SubState", "running")
    else:
        machine.systemctl(how, unit)
    assert (machine.main_pid(unit) == before) == (how == "reload")


def test_a_start_ends_when_the_mount_serves_and_a_stop_when_it_is_gone(machine: Systemd, home: Path) -> None:
    place = home / "simple"
    with _started(machine, place) as unit:
        assert _is_mounted(machine, place)
        machine.path(place / "file").write_bytes(b"text")
        assert int(machine.show(unit, "NFileDescriptorStore")) >= 3
        machine.systemctl("stop", unit)
        assert machine.show(unit, "Result") == "success"
        assert not _is_mounted(machine, place)
    assert (place / "file").read_bytes() == b"text"


@contextmanager
def _application(machine: Systemd, home: Path, name: str) -> Iterator[str]:
    """An application on a mount of its own; yields the mount's unit. Afterwards the application has met no error."""
    place, stop, code = home / name, home / f"{name}-stop", home / "application.py"
    code.write_text(_APPLICATION)
    service = f"[Service]\nType=exec\nExecStart={sys.executable} {code} {place} {stop}\n"
    machine.write(f"/etc/systemd/system/application-{name}.service", service)
    machine.systemctl("daemon-reload")
    with _started(machine, place) as unit:
        machine.systemctl("start", f"application-{name}")
        _wait_for_progress(machine, home, name)
        yield unit
        _wait_for_progress(machine, home, name)
        stop.touch()
        machine.wait_for(f"application-{name}", "ActiveState", "inactive", "failed")
        assert machine.show(f"application-{name}", "Result") == "success", machine.journal()
        assert _is_mounted(machine, place)
        lines = machine.path(place / "log").read_bytes().split()
    assert lines == [b"%d" % count for count in range(len(lines))]


@pytest.mark.parametrize("how", ["restart", "kill", "reload"])
def test_an_application_notices_nothing_of(how: str, machine: Systemd, home: Path) -> None:
    with _application(machine, home, how) as unit:
        _take_over(machine, unit, how)


def test_an_application_waits_while_the_settings_are_wrong(machine: Systemd, home: Path) -> None:
    """systemd tries again until they are right; it never gives the mount up."""
    with _application(machine, home, "settings") as unit:
        file = _settings_of(machine, unit)
        right = file.read_text()
        file.write_text("nonsense = true\n" + right)
        assert machine.systemctl("restart", unit, check=False).returncode != 0
        machine.wait_until(lambda: machine.journal(unit).count("the mount is kept") >= 2, unit)
        file.write_text(right)
        machine.wait_for(unit, "ActiveState", "active")


def test_a_stop_while_nobody_serves_leaves_an_error_and_not_a_bare_directory(machine: Systemd, home: Path) -> None:
    place = home / "cut off"
    with _started(machine, place) as unit:
        settings = _settings_of(machine, unit)
        settings.write_text("nonsense = true\n" + settings.read_text())
        machine.systemctl("restart", unit, check=False)
        machine.systemctl("stop", unit)
        assert "Transport endpoint is not connected" in machine.run("ls", str(place), check=False).stderr
        settings.write_text(settings.read_text().removeprefix("nonsense = true\n"))
        machine.systemctl("start", unit, check=False)
        machine.wait_for(unit, "ActiveState", "failed")
        assert f"run `tierfs umount {place}`" in machine.journal(unit)
        machine.run("tierfs", "umount", str(place))
        machine.systemctl("start", unit)


def test_an_application_waits_while_a_worker_that_hangs_is_replaced(machine: Systemd, home: Path) -> None:
    """Seen by the watchdog: what it is told of comes through the mount."""
    drop_in = machine.write("/etc/systemd/system/tierfs@.service.d/watchdog.conf", "[Service]\nWatchdogSec=3s\n")
    try:
        with _application(machine, home, "watchdog") as unit:
            machine.wait_until(lambda: _stop_the_worker(machine, unit), unit)
            machine.wait_until(lambda: int(machine.show(unit, "NRestarts")) > 0, unit)
            machine.wait_for(unit, "SubState", "running")
            assert "Failed with result 'watchdog'" in machine.journal(unit)
    finally:
        drop_in.unlink()
        machine.systemctl("daemon-reload")


def _settings_of(machine: Systemd, unit: str) -> Path:
    """The settings file of a mount, from outside."""
    return machine.path(f"/etc/tierfs/{unit.removeprefix('tierfs@').removesuffix('.service')}.toml")


def _stop_the_worker(machine: Systemd, unit: str) -> bool:
    """Whether it was there to be stopped: `... is served by pid 17`."""
    worker = machine.show(unit, "StatusText").rpartition(" ")[2]
    return worker.isdigit() and machine.run("kill", "-STOP", worker, check=False).returncode == 0


def _wait_for_progress(machine: Systemd, home: Path, name: str) -> None:
    """Wait until the application has come further than it is now."""
    number = home / f"{name}-stop.number"
    before = number.read_text() if number.exists() else ""
    machine.wait_until(lambda: number.exists() and number.read_text() not in ("", before), f"application-{name}")


def test_a_mount_in_use_names_who_uses_it(machine: Systemd, home: Path) -> None:
    place = home / "busy"
    machine.write("/etc/systemd/system/holder.service", f"[Service]\nExecStart=sleep inf\nWorkingDirectory={place}\n")
    machine.systemctl("daemon-reload")
    with _started(machine, place) as unit:
        machine.systemctl("start", "holder")
        holder = machine.main_pid("holder")
        machine.systemctl("stop", "--no-block", unit)
        machine.wait_until(lambda: "stays mounted" in machine.journal(unit), unit)
        (line,) = {line for line in machine.journal(unit).splitlines() if "stays mounted" in line}
        assert line.endswith(f" sleep ({holder})")
        assert _is_mounted(machine, place)
        machine.systemctl("stop", "holder")
        # Nobody holds it any more; the supervisor may have noticed itself.
        machine.run("umount", str(place), check=False)
        machine.wait_for(unit, "ActiveState", "inactive")
        assert machine.show(unit, "Result") == "success"


_OPTIONS = r"auto_archive=no,exclude=*.a\,*.b,state=/var/lib/tierfs/fstab,_netdev,nofail"


@pytest.fixture
def in_fstab(machine: Systemd, home: Path) -> Iterator[Path]:
    """A mountpoint that stands in /etc/fstab; whatever becomes of the test, it is not mounted afterwards."""
    place = home / "in fstab"
    for path in (place, home / "in fstab-store"):
        path.mkdir(exist_ok=True)
    escaped = str(place).replace(" ", r"\040")
    machine.write("/etc/fstab", f"file://{escaped}-store {escaped} tierfs {_OPTIONS} 0 0\n")
    machine.systemctl("daemon-reload")
    yield place
    machine.run("umount", "--lazy", str(place), check=False)
    machine.write("/etc/fstab", "")
    machine.systemctl("daemon-reload")


def test_mount_and_umount_know_the_line_in_fstab(machine: Systemd, in_fstab: Path) -> None:
    machine.run("mount", str(in_fstab))
    assert _is_mounted(machine, in_fstab)
    machine.path(in_fstab / "file").write_bytes(b"text")
    machine.run("mount", "--all")
    again = machine.run("mount", "-t", "tierfs", f"file://{in_fstab}-store", str(in_fstab), check=False)
    assert (again.returncode, again.stderr.startswith("mount.tierfs: ")) == (32, True)
    machine.run("umount", str(in_fstab))
    assert not _is_mounted(machine, in_fstab)
    assert (in_fstab / "file").read_bytes() == b"text"


def test_a_service_that_requires_a_path_below_it_is_started_behind_it_and_stopped_before_it(
    machine: Systemd, in_fstab: Path
) -> None:
    unit = machine.run("systemd-escape", "--path", "--suffix=mount", str(in_fstab)).stdout.strip()
    place = str(in_fstab).replace(" ", "\\x20")
    text = f"[Unit]\nRequiresMountsFor={place}/below\n[Service]\nExecStart=sleep inf\nWorkingDirectory={in_fstab}\n"
    machine.write("/etc/systemd/system/requiring.service", text)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "requiring")
    assert _is_mounted(machine, in_fstab)
    machine.systemctl("stop", unit)
    assert machine.show("requiring", "ActiveState") == "inactive"
    assert machine.show("requiring", "Result") == "success"
    assert machine.show(unit, "Result") == "success"
    assert not _is_mounted(machine, in_fstab)
