"""A mount outlives its worker: what was open, known or under way goes on, and nobody meets an error."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Fault, Kind
from tests.mounting import Mount, Plan, directory, is_gone, mounted
from tests.proxy import in_front_of
from tests.servers import rclone
from tests.t4_mount import test_unlinked
from tests.t4_mount.comparison import CHUNK_SIZE, STATES, CaseLike, Run, compare, run_natively
from tests.t4_mount.modes import MODES, mounted_in_mode, wait_until
from tierfs.admin import registry
from tierfs.core.errors import ControlError

pytestmark = [pytest.mark.mount]

_BUCKET = "takeover"
_LIFE_S = 0.3
_HERE = Path(__file__).resolve().parent


class Workers:
    """The workers of one mount, one after the other; asks nobody who may be dead."""

    def __init__(self, mountpoint: Path) -> None:
        self._about = registry.slot_of(str(mountpoint)) / "mount.json"
        self._killed = 0

    def current(self) -> int:
        """The worker that serves, once there is another one than was killed."""
        wait_until(lambda: self._registered() != self._killed and not is_gone(self._registered()))
        return self._registered()

    def wait(self, mount: Mount) -> None:
        """Wait until the next one answers operators, too."""
        mount.wait_taken_over(self._killed)

    def kill(self) -> None:
        """kill -9 of the worker that serves. One that lived for less would have the supervisor wait."""
        self._killed = self.current()
        time.sleep(_LIFE_S)
        os.kill(self._killed, signal.SIGKILL)

    def kill_at_once(self) -> None:
        """kill -9 of the worker that serves, or is about to."""
        self._killed = self.current()
        os.kill(self._killed, signal.SIGKILL)

    def _registered(self) -> int:
        return int(json.loads(self._about.read_text())["worker_pid"])


class Interrupted(test_unlinked.Teller):
    """Tells a story to a mount whose worker is killed before every few steps."""

    def __init__(self, directory: Path, workers: Workers, every: int) -> None:
        super().__init__(directory)
        self._workers, self._every, self._steps = workers, every, 0

    def step(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Kill, then make the call."""
        self._steps += 1
        if self._steps % self._every == 0:
            self._workers.kill()
        return super().step(call, *arguments, **keywords)


@dataclass(frozen=True, slots=True)
class InterruptedStory(test_unlinked.Story):
    """A story during which workers are killed."""

    mountpoint: Path = Path()
    every: int = 1

    def run(self, directory: Path) -> Any:
        """What each step returned."""
        return self.told_by(Interrupted(directory, Workers(self.mountpoint), self.every))


@pytest.mark.parametrize(("state", "mode", "every"), [("hot", "auto", 4), ("hot", "off", 4), ("cold", "auto", 6)])
def test_stories_end_as_in_a_plain_directory(state: str, mode: str, every: int) -> None:
    """Those of removed, replaced and renamed files that are open, with a kill -9 before every few steps."""
    expected = run_natively([test_unlinked.Story(tell) for tell in test_unlinked.STORIES], os.geteuid())
    flags = ("--chunk-size", CHUNK_SIZE, "--passthrough", mode)
    with directory() as home, mounted(Plan(home, flags=flags)) as mount:
        told: dict[CaseLike, CaseLike] = {
            InterruptedStory(case.tell, mount.path, every): case
            for case in expected
            if isinstance(case, test_unlinked.Story)
        }
        run = Run(list(told), mount.plan.hot / "cases", mount.path / "cases", os.geteuid())
        before = run.make()
        if verb := STATES[state]:
            mount.outcomes(verb, "cases", recursive=True)
        found = [
            f"{told[case]}: {difference}"
            for case, got in run.run(before).items()
            for difference in compare(expected[told[case]], got, state == "cold")
        ]
        assert not found, f"{len(found)} differences:\n" + "\n".join(found)


@pytest.mark.parametrize("mode", MODES)
def test_a_listing_goes_on(mode: str) -> None:
    with mounted_in_mode(mode) as mount:
        names = {f"file-{number:05}" for number in range(1500)}
        (mount.path / "many").mkdir()
        for name in names:
            (mount.path / "many" / name).touch()
        found = []
        workers = Workers(mount.path)
        with os.scandir(mount.path / "many") as entries:
            for number, entry in enumerate(entries):
                found.append(entry.name)
                if number % 500 == 250:
                    workers.kill()
        assert len(found) == len(names)
        assert set(found) == names


@pytest.mark.parametrize("mode", MODES)
def test_a_file_can_be_archived_after_its_last_handle_of_an_earlier_worker_is_closed(mode: str) -> None:
    """Handles, and their kind, are counted on: neither too few nor for ever."""
    with mounted_in_mode(mode) as mount:
        path, workers = mount.path / "file", Workers(mount.path)
        with path.open("wb") as file:
            file.write(b"text" * 5000)
            file.flush()
            workers.kill()
            workers.wait(mount)
            assert mount.outcomes("archive", "file")[0].result == "failed"
        mount.release("file")
        workers.kill()
        workers.wait(mount)
        assert path.read_bytes() == b"text" * 5000
        assert mount.status()["fuse"]["open_files"] == 0
        assert mount.status()["fuse"]["backing_ids"] == 0


def test_numbers_stay_where_they_are() -> None:
    """Also that of a file on an inode whose number another file, which is open and gone, still has."""
    with mounted_in_mode("off") as mount:
        workers, kept, taken = Workers(mount.path), [], {}
        for number in range(20):
            path = mount.path / f"gone-{number}"
            path.write_bytes(b"text")
            mount.release(path.name)
            kept.append(os.open(path, os.O_RDONLY))
            path.unlink()
        for number in range(40):
            path = mount.path / f"new-{number}"
            path.touch()
            taken[path] = path.stat().st_ino
        workers.kill()
        assert {path: path.stat().st_ino for path in taken} == taken
        workers.kill()
        assert len({os.fstat(fd).st_ino for fd in kept} | {*taken.values()}) == len(kept) + len(taken)
        for fd in kept:
            assert os.pread(fd, 10, 0) == b"text"
            os.close(fd)


@contextmanager
def _black_hole(*flags: str, environment: dict[str, str] | None = None) -> Iterator[tuple[Mount, Callable[[], None]]]:
    """A mount with a cold file whose bytes do not come, until the second value is called."""
    with rclone() as server, in_front_of(server) as proxy, directory() as home:
        server.create_bucket(_BUCKET)
        plan = Plan(home, store=f"s3://{_BUCKET}", environment=environment or {})
        plan = replace(plan, flags=("--endpoint-url", proxy.url, *flags))
        with mounted(plan) as mount:
            mount.make_cold(mount.path / "cold", b"text" * 5000)
            (mount.path / "hot").write_bytes(b"hot")
            mount.evict()
            proxy.order(Fault(Kind.BLACK_HOLE, method="GET", key=f"{_BUCKET}/cold"))
            yield mount, proxy.heal


def _start(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Make a call in a thread; what it returned, or the errno that it met."""
    met: list[object] = []

    def run() -> None:
        try:
            met.append(call())
        except OSError as error:
            met.append(error.errno)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, met


def _write(path: Path, data: bytes) -> None:
    """To the beginning of a file; what it meets, it meets before the close."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, 0)
    finally:
        os.close(fd)


def _wait_until_it_waits(mount: Mount) -> None:
    wait_until(lambda: mount.status()["fuse"]["requests"].get("read"))


def test_a_read_that_waits_for_the_bucket_waits_on() -> None:
    with _black_hole("--cold-timeout", "120s", "--timeout", "1s") as (mount, heal):
        reader, met = _start((mount.path / "cold").read_bytes)
        _wait_until_it_waits(mount)
        workers = Workers(mount.path)
        workers.kill()
        assert (mount.path / "hot").read_bytes() == b"hot"
        workers.wait(mount)
        wait_until(lambda: mount.status()["succession"]["requests_again"])
        heal()
        reader.join()
        assert met == [b"text" * 5000]


def test_an_older_kernel_gives_those_who_wait_an_error_and_the_rest_goes_on() -> None:
    """What Linux before 6.9 does; here the kernel's offer to send requests again is not taken."""
    environment = {"PYTHONPATH": os.pathsep.join([str(_HERE / "older_kernel"), *sys.path])}
    with _black_hole("--cold-timeout", "120s", environment=environment) as (mount, heal):
        workers = Workers(mount.path)
        with (mount.path / "open").open("w+b", buffering=0) as file:
            writer, met = _start(lambda: _write(mount.path / "cold", b"more"))
            wait_until(lambda: mount.status()["queue"]["restoring"])
            workers.kill()
            writer.join()
            assert met == [errno.EIO]
            file.write(b"text")
            assert file.seek(0) == 0
            assert file.read() == b"text"
        heal()
        workers.wait(mount)
        assert (mount.path / "cold").read_bytes() == b"text" * 5000
        assert "1 got EIO" in mount.log.read_text()


def test_workers_that_cannot_serve_do_not_end_the_mount() -> None:
    """Requests wait until what is wrong was mended; SIGHUP has it tried at once."""
    with directory() as home, mounted(Plan(home)) as mount:
        (mount.path / "file").write_bytes(b"text")
        away = mount.plan.state.with_name("away")
        mount.plan.state.rename(away)
        Workers(mount.path).kill()
        wait_until(lambda: "workers in a row ended at once" in mount.log.read_text())
        reader, met = _start((mount.path / "file").read_bytes)
        away.rename(mount.plan.state)
        mount.process.send_signal(signal.SIGHUP)
        reader.join()
        assert met == [b"text"]
        assert "could not take over: the state directory" in mount.log.read_text()


def test_a_mount_that_nobody_serves_can_be_taken_away() -> None:
    with directory() as home, mounted(Plan(home)) as mount:
        (mount.path / "file").write_bytes(b"text")
        mount.plan.state.rename(mount.plan.state.with_name("away"))
        Workers(mount.path).kill()
        wait_until(lambda: "workers in a row ended at once" in mount.log.read_text())
        mount.process.terminate()
        assert mount.process.wait() == 0
        assert not os.path.ismount(mount.path)


@pytest.mark.parametrize("is_worker_first", [False, True])
def test_the_spawner_may_die_too(is_worker_first: bool) -> None:
    with directory() as home, mounted(Plan(home)) as mount, (mount.path / "file").open("w+b", buffering=0) as file:
        worker = int(mount.status()["worker_pid"])
        spawner = int(Path(f"/proc/{worker}/stat").read_bytes().rpartition(b")")[2].split()[1])
        for pid in (worker, spawner) if is_worker_first else (spawner, worker):
            os.kill(pid, signal.SIGKILL)
        file.write(b"text")
        assert (mount.path / "file").read_bytes() == b"text"
        mount.wait_taken_over(worker)
        assert mount.status()["fuse"]["open_files"] == 1


def test_the_mount_goes_on_without_its_supervisor() -> None:
    with directory() as home, mounted(Plan(home)) as mount, (mount.path / "file").open("w+b", buffering=0) as file:
        mount.process.kill()
        mount.process.wait()
        wait_until(lambda: any("supervisor is gone" in text for text in mount.status()["warnings"]))
        file.write(b"text")
        (mount.path / "other").write_bytes(b"other")
        file.close()
        command = [sys.executable, "-m", "tierfs", "umount", str(mount.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert (mount.plan.hot / "file").read_bytes() == b"text"


def _upgrade(mount: Mount) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tierfs", "upgrade", str(mount.path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", MODES)
def test_an_upgrade_is_not_noticed(mode: str) -> None:
    with mounted_in_mode(mode) as mount, (mount.path / "file").open("w+b", buffering=0) as file:
        before = mount.status()
        file.write(b"one")
        done = _upgrade(mount)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"(pid {before['worker_pid']}) handed over to" in done.stdout
        file.write(b"two")
        assert os.pread(file.fileno(), 10, 0) == b"onetwo"
        after = mount.status()
        assert after["worker_pid"] != before["worker_pid"]
        assert after["succession"]["take_overs"] == 1


def test_what_an_operator_asks_right_after_an_upgrade_waits_for_the_store() -> None:
    with directory() as home, mounted(Plan(home)) as mount:
        (mount.path / "file").write_bytes(b"bytes")
        assert _upgrade(mount).returncode == 0
        assert [outcome.result for outcome in mount.outcomes("release", "file")] == ["done"]


def test_an_upgrade_lets_an_archive_end() -> None:
    with directory() as home, mounted(Plan(home)) as mount:
        (mount.path / "file").write_bytes(os.urandom(64 << 20))
        archiving = threading.Thread(target=_let_go, args=(lambda: mount.outcomes("archive", "file"),))
        archiving.start()
        wait_until(lambda: mount.status()["queue"]["archiving"] or mount.residency("file") == "mirrored")
        assert _upgrade(mount).returncode == 0
        archiving.join()
        assert mount.residency("file") == "mirrored", mount.log.read_text()


def _let_go(call: Callable[[], object]) -> None:
    try:
        call()
    except ControlError:
        pass


@contextmanager
def _breakable() -> Iterator[tuple[Mount, Path]]:
    """A mount, and the file that says how its next version is broken."""
    with directory() as home:
        how = home / "how"
        environment = {
            "PYTHONPATH": os.pathsep.join([str(_HERE / "broken_upgrade"), *sys.path]),
            "BROKEN_UPGRADE_OF_TIERFS_TESTS": str(how),
        }
        with mounted(Plan(home, environment=environment)) as mount:
            yield mount, how


def test_what_does_not_start_is_no_upgrade() -> None:
    with _breakable() as (mount, how):
        before = mount.status()["worker_pid"]
        how.write_text("does not start")
        done = _upgrade(mount)
        assert done.returncode == 4
        assert "what is installed now does not start" in done.stderr
        assert mount.status()["worker_pid"] == before
        assert any("upgrade was refused" in text for text in mount.status()["warnings"])
        how.unlink()
        assert _upgrade(mount).returncode == 0
        assert mount.status()["worker_pid"] != before


def test_a_version_that_does_not_serve_gives_way_to_the_one_before() -> None:
    with _breakable() as (mount, how), (mount.path / "file").open("w+b", buffering=0) as file:
        before = int(mount.status()["worker_pid"])
        how.write_text("disagrees with the kernel")
        mount.process.send_signal(signal.SIGHUP)
        mount.wait_taken_over(before)
        assert "does not serve: back to" in mount.log.read_text()
        file.write(b"text")
        assert (mount.path / "file").read_bytes() == b"text"


def test_no_upgrade_without_a_supervisor() -> None:
    with directory() as home, mounted(Plan(home)) as mount:
        mount.process.kill()
        mount.process.wait()
        done = _upgrade(mount)
        assert done.returncode == 4
        assert "is gone" in done.stderr
        command = [sys.executable, "-m", "tierfs", "umount", str(mount.path)]
        assert subprocess.run(command, check=False).returncode == 0


def test_a_second_kill_comes_before_the_first_take_over_is_done() -> None:
    """As often as it takes: what is under way meanwhile still ends as it would have."""
    with mounted_in_mode("auto") as mount:
        workers, stop, errors = Workers(mount.path), threading.Event(), []

        def rename() -> None:
            number = 0
            while not stop.is_set():
                try:
                    (mount.path / f"f{number}").touch(exist_ok=False)
                    (mount.path / f"f{number}").rename(mount.path / f"f{number + 1}")
                    (mount.path / f"f{number + 1}").unlink()
                except OSError as error:
                    errors.append(error)
                    return
                number += 2

        thread = threading.Thread(target=rename)
        thread.start()
        for _ in range(6):
            workers.kill_at_once()
        stop.set()
        thread.join()
        assert errors == []
        workers.wait(mount)
        assert os.listdir(mount.path) == []
