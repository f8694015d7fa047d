"""systemd/tierfs@.service under a real systemd: what it keeps, what it restarts, what it ends.

The main process is a stand-in that has a memory file and a pipe to lose, tests/t4_mount/keeper.py; it uses the same
tierfs.mount.notify as the supervisor. The unit is the one that people install, word for word.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd import REPOSITORY, Systemd, booted

pytestmark = pytest.mark.mount

_UNIT = "tierfs@srv-data.service"
_FILE = REPOSITORY / "systemd/tierfs@.service"
_KEEPER = f'#!/bin/sh\nexport PYTHONPATH={REPOSITORY}\nexec {sys.executable} -m tests.t4_mount.keeper "$@"\n'
_NAMES = "names memory reading writing"
_DROP_IN = f"/etc/systemd/system/{_UNIT}.d/test.conf"


@pytest.fixture(scope="module")
def machine() -> Iterator[Systemd]:
    """A booted instance with the unit, and the stand-in as its program."""
    with tempfile.TemporaryDirectory() as home, booted(Path(home)) as systemd:
        systemd.write("/etc/systemd/system/tierfs@.service", _FILE.read_text())
        systemd.write("/usr/local/bin/tierfs", _KEEPER)
        systemd.systemctl("daemon-reload")
        yield systemd


@pytest.fixture
def service(machine: Systemd) -> Iterator[Systemd]:
    """The unit, started, and stopped afterwards."""
    machine.systemctl("start", _UNIT)
    yield machine
    machine.systemctl("stop", _UNIT)
    assert machine.show(_UNIT, "NFileDescriptorStore") == "0"
    machine.path(_DROP_IN).unlink(missing_ok=True)
    machine.systemctl("reset-failed", check=False)


def _wait_for_next_life(systemd: Systemd, lives: int) -> None:
    systemd.wait_for(_UNIT, "StatusText", f"{lives} lives, {_NAMES}")
    assert systemd.show(_UNIT, "ActiveState") == "active"


def test_the_unit_is_understood(machine: Systemd) -> None:
    done = machine.run("systemd-analyze", "verify", "--man=no", _UNIT, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_a_start_ends_when_the_service_is_ready(service: Systemd) -> None:
    assert service.show(_UNIT, "StatusText") == "1 lives, names"
    assert service.show(_UNIT, "NFileDescriptorStore") == "3"


def test_a_reload_is_a_sighup_to_the_main_process(service: Systemd) -> None:
    before = service.main_pid(_UNIT)
    service.systemctl("reload", _UNIT)
    service.wait_for(_UNIT, "StatusText", "reloaded after 1 lives")
    assert service.main_pid(_UNIT) == before


def test_a_restart_is_another_signal_than_a_stop_and_keeps_what_is_stored(service: Systemd) -> None:
    before = service.main_pid(_UNIT)
    service.systemctl("restart", _UNIT)
    _wait_for_next_life(service, 2)
    assert service.main_pid(_UNIT) != before
    assert "ended by SIGTERM after 1 lives" in service.journal(_UNIT)
    service.systemctl("stop", _UNIT)
    assert "ended by SIGINT after 2 lives" in service.journal(_UNIT)


def test_a_killed_main_process_is_followed_by_one_that_has_its_descriptors(service: Systemd) -> None:
    for lives in (2, 3):
        service.kill(_UNIT)
        _wait_for_next_life(service, lives)
    assert service.show(_UNIT, "NRestarts") == "2"


def test_an_upgrade_of_systemd_itself_keeps_what_is_stored(service: Systemd) -> None:
    service.systemctl("daemon-reexec")
    service.kill(_UNIT)
    _wait_for_next_life(service, 2)


def test_the_children_of_a_killed_main_process_do_not_meet_the_next_one(service: Systemd) -> None:
    children = service.path("/proc/self").parent / str(service.main_pid(_UNIT))
    child = int((children / f"task/{service.main_pid(_UNIT)}/children").read_text())
    service.kill(_UNIT)
    _wait_for_next_life(service, 2)
    assert not (children.parent / str(child)).exists()


def test_a_silent_main_process_is_replaced(machine: Systemd) -> None:
    machine.write(_DROP_IN, "[Service]\nWatchdogSec=3s\n")
    machine.systemctl("daemon-reload")
    try:
        machine.systemctl("start", _UNIT)
        machine.kill(_UNIT, "SIGUSR1")
        # More than two where the machine stood still for seconds.
        machine.wait_for(_UNIT, "StatusText", *(f"{lives} lives, {_NAMES}" for lives in range(2, 20)))
        assert "Failed with result 'watchdog'" in machine.journal(_UNIT)
    finally:
        machine.systemctl("stop", _UNIT)
        machine.path(_DROP_IN).unlink()
        machine.systemctl("daemon-reload")


def test_wrong_settings_are_not_tried_again(service: Systemd) -> None:
    service.kill(_UNIT, "SIGUSR2")
    service.wait_for(_UNIT, "ActiveState", "failed")
    assert service.show(_UNIT, "ExecMainStatus") == "3"
    assert service.show(_UNIT, "NRestarts") == "0"


def test_many_failures_do_not_make_systemd_give_up(machine: Systemd) -> None:
    """It would close what it keeps, and with it the mount."""
    assert machine.show(_UNIT, "StartLimitIntervalUSec") == "0"


def test_what_the_unit_says_to_others_holds_for_a_broker(service: Systemd) -> None:
    """The drop-in in the unit's head: started behind the mount, untouched by a restart, stopped with it."""
    text = _FILE.read_text()
    drop_in = re.findall(r"^#   (\[Unit\]|Wants=.*|After=.*|StopPropagatedFrom=.*)$", text, re.MULTILINE)
    assert len(drop_in) == 4
    service.write("/etc/systemd/system/broker.service", "\n".join([*drop_in, "[Service]", "ExecStart=sleep inf", ""]))
    service.systemctl("daemon-reload")
    service.systemctl("stop", _UNIT)
    service.systemctl("start", "broker")
    assert service.show(_UNIT, "ActiveState") == "active"
    broker = service.main_pid("broker")
    service.systemctl("restart", _UNIT)
    assert service.main_pid("broker") == broker
    service.systemctl("stop", _UNIT)
    assert service.show("broker", "ActiveState") == "inactive"
    lines = service.journal().splitlines()
    stopped = len(lines) - lines[::-1].index("Stopped broker.service.")
    assert "ended by SIGINT after 2 lives" in lines[stopped:]
