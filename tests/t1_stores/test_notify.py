"""The supervisor's words to systemd, heard by a real datagram socket."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tierfs.mount.notify import VARIABLES, Notifier, is_kept


class Manager:
    """The end of the protocol that systemd has."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> tuple[dict[str, str], list[int]]:
        """The next message, and the descriptors that came with it."""
        data, descriptors, _, _ = socket.recv_fds(self.socket, 4096, 4)
        return dict(line.split("=", 1) for line in data.decode().split("\n")), descriptors

    def hears_nothing(self) -> bool:
        try:
            self.heard()
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path: names of sockets end at 107 bytes."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, place: Path) -> Iterator[Manager]:
    made = Manager(str(place / "notify") if request.param == "path" else f"@tierfs-test-{place.name}")
    with made.socket:
        yield made


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    made = Notifier({"NOTIFY_SOCKET": manager.address})
    yield made
    made.close()


def test_outside_systemd_nothing_happens() -> None:
    environment = {"PATH": "/bin"}
    notifier = Notifier(environment)
    notifier.ready("serving")
    notifier.store("fuse", 0)
    assert not notifier.is_managed
    assert notifier.flush()
    assert notifier.watchdog_interval_s is None
    assert notifier.stored() == {}
    assert environment == {"PATH": "/bin"}


def test_no_child_takes_itself_for_the_service(manager: Manager) -> None:
    environment = dict.fromkeys(VARIABLES, "1") | {"NOTIFY_SOCKET": manager.address, "PATH": "/bin"}
    notifier = Notifier(environment)
    assert notifier.is_managed
    assert environment == {"PATH": "/bin"}
    notifier.close()


def test_states_are_said_as_sd_notify_has_them(manager: Manager, notifier: Notifier) -> None:
    notifier.ready("3 files")
    notifier.status("two\nlines  of text")
    notifier.watchdog()
    notifier.stopping()
    notifier.main_pid(17)
    assert [manager.heard()[0] for _ in range(5)] == [
        {"READY": "1", "STATUS": "3 files"},
        {"STATUS": "two lines of text"},
        {"WATCHDOG": "1"},
        {"STOPPING": "1"},
        {"MAINPID": "17"},
    ]
    notifier.reloading("upgrading")
    message, _ = manager.heard()
    assert message.keys() == {"RELOADING", "MONOTONIC_USEC", "STATUS"}
    assert int(message["MONOTONIC_USEC"]) > 0


def test_a_status_is_short_enough_and_valid_text(manager: Manager, notifier: Notifier) -> None:
    notifier.status("ä" * 5000 + "\udcff")
    notifier.status("broken \udcff name")
    assert len(manager.heard()[0]["STATUS"].encode()) <= 2048
    assert manager.heard()[0]["STATUS"] == "broken ? name"


def test_a_stored_descriptor_is_the_one_that_was_sent(manager: Manager, notifier: Notifier) -> None:
    reading, writing = os.pipe()
    notifier.store("pipe", writing)
    os.close(writing)
    notifier.remove("pipe")
    message, (received,) = manager.heard()
    assert message == {"FDSTORE": "1", "FDPOLL": "0", "FDNAME": "pipe"}
    os.write(received, b"the same pipe")
    assert os.read(reading, 100) == b"the same pipe"
    assert manager.heard() == ({"FDSTOREREMOVE": "1", "FDNAME": "pipe"}, [])
    os.close(received)
    os.close(reading)


@pytest.mark.parametrize("name", ["", "a:b", "a\nFDSTOREREMOVE=1", "ä", "x" * 256])
def test_a_name_that_systemd_would_refuse_is_not_sent(
    manager: Manager, notifier: Notifier, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    notifier.store(name, 0)
    notifier.store(name, 0)
    notifier.remove(name)
    assert manager.hears_nothing()
    assert capfd.readouterr().err.count("cannot be the name of a descriptor") == 1


def test_a_manager_that_is_behind_gets_everything_in_order(manager: Manager, notifier: Notifier) -> None:
    sent = 0
    while notifier.flush():
        notifier.status(f"number {sent}")
        sent += 1
    reading, writing = os.pipe()
    notifier.store("late", writing)
    os.close(writing)
    notifier.status("after it")
    for number in range(sent):
        assert manager.heard()[0] == {"STATUS": f"number {number}"}
        notifier.flush()
    message, (received,) = manager.heard()
    assert message["FDNAME"] == "late"
    os.close(received)
    # The duplicate is gone with the message: nobody has the other end any more.
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert manager.heard()[0] == {"STATUS": "after it"}
    assert manager.hears_nothing()


def test_a_manager_that_is_gone_is_no_error_and_said_once(
    manager: Manager, notifier: Notifier, capfd: pytest.CaptureFixture[str]
) -> None:
    manager.socket.close()
    if not manager.address.startswith("@"):
        os.unlink(manager.address)
    notifier.ready()
    notifier.watchdog()
    notifier.store("pipe", 0)
    assert notifier.flush()
    assert capfd.readouterr().err.count("systemd cannot be told everything: READY=1: ") == 1


def test_a_descriptor_that_is_none_is_no_error(manager: Manager, notifier: Notifier) -> None:
    closed = os.dup(0)
    os.close(closed)
    notifier.store("closed", closed)
    notifier.status("goes on")
    assert manager.heard()[0] == {"STATUS": "goes on"}


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/path"])
def test_an_address_of_another_kind_is_no_manager(address: str) -> None:
    assert not Notifier({"NOTIFY_SOCKET": address}).is_managed


def test_the_watchdog_is_for_the_process_that_it_names() -> None:
    mine, others = str(os.getpid()), str(os.getpid() + 1)
    assert Notifier({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": mine}).watchdog_interval_s == 30.0
    assert Notifier({"WATCHDOG_USEC": "500000"}).watchdog_interval_s == 0.5
    assert Notifier({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": others}).watchdog_interval_s is None
    assert Notifier({"WATCHDOG_USEC": "0"}).watchdog_interval_s is None
    assert Notifier({"WATCHDOG_USEC": "soon"}).watchdog_interval_s is None


_SHOW = """
import json, os
from tierfs.mount.notify import Notifier
found = Notifier(os.environ).stored()
print(json.dumps({name: [os.readlink(f"/proc/self/fd/{fd}"), os.get_inheritable(fd)] for name, fd in found.items()}))
print(json.dumps([os.path.exists(f"/proc/self/fd/{fd}") for fd in (3, 4, 5)]))
"""
_START = """
import os, sys
first, second, third, pid = map(int, sys.argv[1:5])
for fd in (first, second, third):
    os.dup2(fd, fd + 100)
for position, fd in enumerate((first, second, third)):
    os.dup2(fd + 100, 3 + position)
    os.close(fd + 100)
os.environ["LISTEN_PID"] = str(pid or os.getpid())
os.execv(sys.executable, [sys.executable, "-c", sys.argv[5]])
"""


def _started(place: Path, names: str | None, pid: int = 0) -> tuple[dict[str, tuple[str, bool]], list[bool]]:
    """What a process finds that was started with three files at 3, 4 and 5."""
    files = [os.open(place / name, os.O_RDONLY | os.O_CREAT) for name in ("first", "second", "third")]
    environment = os.environ | {"LISTEN_FDS": "3"} | ({} if names is None else {"LISTEN_FDNAMES": names})
    try:
        done = subprocess.run(
            [sys.executable, "-c", _START, *map(str, files), str(pid), _SHOW],
            pass_fds=files,
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        )
    finally:
        for fd in files:
            os.close(fd)
    found, is_open = map(json.loads, done.stdout.splitlines())
    return {name: (path, is_inheritable) for name, (path, is_inheritable) in found.items()}, is_open


def test_stored_descriptors_come_back_by_name(place: Path) -> None:
    found, _ = _started(place, "fuse:session:parked-1")
    assert found == {
        "fuse": (str(place / "first"), False),
        "session": (str(place / "second"), False),
        "parked-1": (str(place / "third"), False),
    }


def test_of_two_with_one_name_the_newer_one_is_kept(place: Path) -> None:
    found, is_open = _started(place, "fuse:session:fuse")
    assert found == {"fuse": (str(place / "first"), False), "session": (str(place / "second"), False)}
    assert is_open == [True, True, False]


def test_descriptors_without_names_are_not_lost(place: Path) -> None:
    found, _ = _started(place, None)
    assert [path for path, _ in found.values()] == [str(place / name) for name in ("first", "second", "third")]


def test_descriptors_for_another_process_are_left_alone(place: Path) -> None:
    found, is_open = _started(place, "fuse:session:parked-1", pid=1)
    assert found == {}
    assert is_open == [True, True, True]


def test_what_is_kept_can_be_asked_without_taking_it() -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "hot:fuse"}
    assert is_kept("fuse", environment)
    assert not is_kept("session", environment)
    assert not is_kept("fuse", environment | {"LISTEN_PID": "1"})
    assert not is_kept("fuse", {})
    assert len(environment) == 3
