"""The control API, over a real Unix socket, with a service that is as small as one can be."""

import json
import os
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from tests.conftest import require
from tierfs.admin import registry, wire
from tierfs.admin.client import Client
from tierfs.admin.control import listen, serve
from tierfs.core.errors import ConfigError, ControlError, MountError, NoSuchJob, NotEligible, StoreUnavailable
from tierfs.core.reports import (
    CheckOrder,
    Entry,
    EventReport,
    Finding,
    JobReport,
    Outcome,
    PlannedAction,
    Total,
    Verb,
)
from tierfs.core.residency import Residency, Tier
from tierfs.engine.measures import Measures

ODD_NAMES = [b"plain", b"d/\xff\xfe\n new line", "ünïcode".encode(), b'"quote\\', b""]


class Ledger:
    """A service that answers from what it was asked, and remembers how its streams ended."""

    def __init__(self) -> None:
        self.endings: list[str] = []
        self.held = trio.Event()

    async def status(self, is_quick: bool = False) -> dict[str, object]:
        return {"mountpoint": "/m", "hot": {"files": 1, "bytes": 2}, "warnings": []}

    async def activity(self) -> dict[str, object]:
        return {"since_ns": 5, "transfers": []}

    async def measure(self) -> Measures:
        return Measures("/m", "1", cold_restarts=3)

    async def list_entries(self, paths: Sequence[bytes], recursive: bool) -> AsyncIterator[Entry | Outcome]:
        for path in paths:
            if path == b"gone":
                yield Outcome(path, "failed", "no such file")
            else:
                yield Entry(path, Residency.COLD, Tier.COLD, 5, 1_500_000_000_000_000_001, "k", 4, True, "why")

    async def move(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> AsyncIterator[Total | Outcome]:
        try:
            if b"refused" in paths:
                raise NotEligible("it is open for writing")
            yield Total(len(paths), 10)
            for path in paths:
                if path == b"outage":
                    raise StoreUnavailable("the bucket is away")
                if path == b"defect":
                    raise ZeroDivisionError("division by zero")
                if path == b"hold":
                    await trio.sleep_forever()
                yield Outcome(path, "done", verb, 10)
        except (trio.Cancelled, GeneratorExit):  # the latter where it was not asked for its next report any more
            self.endings.append("cancelled")
            self.held.set()
            raise
        finally:
            self.endings.append("closed")

    async def pin(self, paths: Sequence[bytes]) -> AsyncIterator[Outcome]:
        for path in paths:
            yield Outcome(path, "done")

    unpin = pin

    async def evict(self, paths: Sequence[bytes] | None) -> Sequence[Outcome]:
        return [Outcome(b"all", "done")] if paths is None else [Outcome(path, "unchanged") for path in paths]

    async def plan(self) -> Sequence[PlannedAction]:
        return [PlannedAction(b"a", "release", 7, "older than cold_after")]

    async def events(self, after: int, follow: bool) -> AsyncIterator[EventReport]:
        try:
            for number in range(after + 1, 4):
                yield EventReport(number, 10**18, "residency", b"d/\xff", "hot", "archiving", "why", 5, 7)
            if follow:
                await trio.sleep_forever()
        finally:
            self.endings.append("closed")
            self.held.set()

    async def start_job(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> JobReport:
        return JobReport("0123abcd", verb, "running", 5, files=len(paths) + recursive)

    async def jobs(self) -> Sequence[JobReport]:
        return [await self.job("0123abcd"), await self.job("4567")]

    async def job(self, job_id: str) -> JobReport:
        if job_id == "gone":
            raise NoSuchJob("there is no job 'gone'")
        return JobReport(job_id, "archive", "failed", 5, 6, 3, 30, 1, 10, 2, "2 failed")

    async def job_failures(self, job_id: str) -> Sequence[Outcome]:
        return [Outcome(b"a", "failed", "open")]

    async def cancel_job(self, job_id: str) -> JobReport:
        return replace(await self.job(job_id), state="running", reason="it is being cancelled")

    async def costs(self, own: str | None) -> dict[str, object]:
        if own == "wrong":
            raise ConfigError("the price table is not TOML")
        return {"own": own}

    async def check(self, order: CheckOrder) -> AsyncIterator[Finding | Total | Outcome]:
        if order.is_deep:
            yield Total(1, 5)
        yield Finding("object-missing", b"a", "gone", "bring it back", "mended" if order.is_repairing else "")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
async def client(nursery: trio.Nursery, ledger: Ledger, socket_path: Path) -> Client:
    await nursery.start(serve, ledger, socket_path)
    return Client("/m", socket_path)


async def in_thread(call, *arguments):  # type: ignore[no-untyped-def]
    """Run the synchronous client beside the loop that serves it, and exhaust what it returns."""

    def run() -> object:
        found = call(*arguments)
        return found if isinstance(found, dict) else list(found)

    return await trio.to_thread.run_sync(run)


async def get(socket_path: Path, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(socket_path))) as http:
        return await http.get(f"http://tierfs{path}", headers=headers)


async def post(socket_path: Path, name: str, body: bytes) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(socket_path))) as http:
        return await http.post(f"http://tierfs{wire.API}/{name}", content=body)


async def test_status(client: Client) -> None:
    assert await in_thread(client.status) == {"mountpoint": "/m", "hot": {"files": 1, "bytes": 2}, "warnings": []}


async def test_costs(client: Client, socket_path: Path) -> None:
    assert await in_thread(client.costs) == {"own": None}
    assert await in_thread(client.costs, "ssd_gb_month = 1") == {"own": "ssd_gb_month = 1"}
    with pytest.raises(ConfigError, match="not TOML"):
        await in_thread(client.costs, "wrong")
    assert (await post(socket_path, "cost", b'{"prices": 3}')).status_code == 400


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.4",
            "application/openmetrics-text; version=1.0.0",
        ),
    ],
)
async def test_metrics_come_as_the_scraper_reads_them(
    client: Client, socket_path: Path, accept: str, media_type: str
) -> None:
    answer = await get(socket_path, "/metrics", accept=accept)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(media_type)
    assert 'tiered_storage_cold_process_restarts_total{mountpoint="/m"} 3.0\n' in answer.text
    assert answer.text.endswith("# EOF\n") == bool(accept)


async def test_names_of_any_bytes_and_every_field_survive(client: Client) -> None:
    entries = await in_thread(client.list_entries, ODD_NAMES, True)
    assert entries == [
        Entry(name, Residency.COLD, Tier.COLD, 5, 1_500_000_000_000_000_001, "k", 4, True, "why") for name in ODD_NAMES
    ]
    assert all(type(entry.residency) is Residency and type(entry.tier) is Tier for entry in entries)


async def test_a_path_that_is_not_there_is_an_outcome_among_entries(client: Client) -> None:
    found = await in_thread(client.list_entries, [b"gone", b"there"], False)
    assert found[0] == Outcome(b"gone", "failed", "no such file")
    assert isinstance(found[1], Entry)


@pytest.mark.parametrize("verb", ["archive", "release", "restore"])
async def test_a_move_says_its_total_and_then_each_outcome(client: Client, ledger: Ledger, verb: Verb) -> None:
    found = await in_thread(client.move, verb, [b"a", b"b"], False)
    assert found == [Total(2, 10), Outcome(b"a", "done", verb, 10), Outcome(b"b", "done", verb, 10)]
    assert ledger.endings == ["closed"]


async def test_pins_eviction_plan_and_check(client: Client) -> None:
    assert await in_thread(client.pin, [b"a"]) == [Outcome(b"a", "done")]
    assert await in_thread(client.unpin, [b"a"]) == [Outcome(b"a", "done")]
    assert await in_thread(client.evict, None) == [Outcome(b"all", "done")]
    assert await in_thread(client.evict, [b"x"]) == [Outcome(b"x", "unchanged")]
    assert await in_thread(client.plan) == [PlannedAction(b"a", "release", 7, "older than cold_after")]
    [found] = await in_thread(client.check)
    assert found == Finding("object-missing", b"a", "gone", "bring it back")
    order = CheckOrder(is_deep=True, is_repairing=True, bytes_per_second=7)
    assert await in_thread(client.check, order) == [Total(1, 5), replace(found, repaired="mended")]


async def test_an_error_before_the_first_report_has_a_status_and_its_own_class(
    client: Client, socket_path: Path
) -> None:
    with pytest.raises(NotEligible, match="open for writing"):
        await in_thread(client.move, "release", [b"refused"], False)
    answer = await post(socket_path, "release", b'{"paths": ["refused"]}')
    assert answer.status_code == 409
    assert answer.json() == {"error": {"kind": "NotEligible", "message": "it is open for writing"}}


async def test_an_error_in_the_middle_ends_the_stream_with_its_own_class(client: Client, ledger: Ledger) -> None:
    seen: list[Total | Outcome] = []
    stream = client.move("archive", [b"a", b"outage", b"b"], False)
    with pytest.raises(StoreUnavailable, match="bucket is away"):
        await trio.to_thread.run_sync(seen.extend, stream)
    assert seen == [Total(3, 10), Outcome(b"a", "done", "archive", 10)]
    assert ledger.endings == ["closed"]


async def test_a_defect_is_an_error_for_one_client_and_the_next_one_is_served(client: Client) -> None:
    with pytest.raises(ControlError, match="ZeroDivisionError"):
        await in_thread(client.move, "archive", [b"defect"], False)
    assert (await in_thread(client.status))["mountpoint"] == "/m"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("archive", b"no json"),
        ("archive", b"\xff"),
        ("archive", b"[]"),
        ("archive", b"{}"),
        ("archive", b'{"paths": "a"}'),
        ("archive", b'{"paths": [1]}'),
        ("archive", b'{"paths": ["a"], "recursive": "yes"}'),
        ("list", b'{"paths": ["/etc/passwd"]}'),
        ("list", b'{"paths": ["a/../../etc"]}'),
        ("list", b'{"paths": ["a//b"]}'),
        ("list", b'{"paths": ["./a"]}'),
        ("list", b'{"paths": ["a\\u0000"]}'),
        ("list", b'{"paths": ["\\ud800"]}'),
        ("evict", b'{"paths": [".."]}'),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_in_words(
    client: Client, socket_path: Path, name: str, body: bytes
) -> None:
    answer = await post(socket_path, name, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["kind"] == "ControlError"


async def test_events_are_told_from_where_a_client_left_off(client: Client) -> None:
    found = await in_thread(client.events, 1)
    assert [event.number for event in found] == [2, 3]
    assert found[0] == EventReport(2, 10**18, "residency", b"d/\xff", "hot", "archiving", "why", 5, 7)


async def test_a_client_follows_events_until_it_hangs_up(client: Client, ledger: Ledger) -> None:
    stream = client.events(follow=True)

    def read_three_and_leave() -> None:
        assert [next(stream).number for _ in range(3)] == [1, 2, 3]
        stream.close()

    await trio.to_thread.run_sync(read_three_and_leave)
    await ledger.held.wait()
    assert ledger.endings == ["closed"]


@pytest.mark.parametrize("query", ["after=x", "after=-1", "after=1" + 20 * "0", "after=\u0662", "follow=1"])
async def test_a_query_that_makes_no_sense_is_refused(client: Client, socket_path: Path, query: str) -> None:
    answer = await get(socket_path, f"{wire.API}/events?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["kind"] == "ControlError"


async def test_jobs_are_begun_shown_and_cancelled(client: Client) -> None:
    def use() -> None:
        assert client.start_job("release", [b"a", b"\xff"], True).files == 3
        assert [job.id for job in client.jobs()] == ["0123abcd", "4567"]
        job, failures = client.job("4567")
        assert (job.state, job.failed, job.reason) == ("failed", 2, "2 failed")
        assert failures == [Outcome(b"a", "failed", "open")]
        assert client.cancel_job("4567").reason == "it is being cancelled"
        for ask in (client.job, client.cancel_job):
            with pytest.raises(NoSuchJob, match="no job 'gone'"):
                ask("gone")

    await trio.to_thread.run_sync(use)


async def test_a_job_that_is_not_there_is_404(client: Client, socket_path: Path) -> None:
    assert (await get(socket_path, f"{wire.API}/jobs/gone")).status_code == 404


@pytest.mark.parametrize(
    "body", [b'{"paths": ["a"]}', b'{"verb": "evict", "paths": ["a"]}', b'{"verb": "archive", "paths": ["../a"]}']
)
async def test_a_job_that_makes_no_sense_is_refused(client: Client, socket_path: Path, body: bytes) -> None:
    assert (await post(socket_path, "jobs", body)).status_code == 400


async def test_a_client_that_hangs_up_cancels_its_move(client: Client, ledger: Ledger) -> None:
    stream = client.move("archive", [b"a", b"hold", b"b"], False)

    def read_two_and_leave() -> None:
        assert next(stream) == Total(3, 10)
        assert next(stream) == Outcome(b"a", "done", "archive", 10)
        stream.close()  # type: ignore[attr-defined]

    await trio.to_thread.run_sync(read_two_and_leave)
    await ledger.held.wait()
    assert ledger.endings == ["cancelled", "closed"]


async def test_a_client_that_stops_reading_does_not_hold_up_the_end(ledger: Ledger, socket_path: Path) -> None:
    connection = socket.socket(socket.AF_UNIX)
    with connection:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, ledger, socket_path)
            connection.connect(str(socket_path))
            body = b'{"paths": [' + b",".join([b'"some/path"'] * 50_000) + b"]}"
            request = b"POST /api/v1/list HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            await trio.to_thread.run_sync(connection.sendall, request + body)
            assert await trio.to_thread.run_sync(connection.recv, 4) == b"HTTP"
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
    assert not socket_path.exists()


async def test_only_the_owner_may_connect(client: Client, socket_path: Path) -> None:
    mode = socket_path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_turned_away_whatever_the_mode_says(client: Client, socket_path: Path) -> None:
    for directory in (socket_path.parent, *socket_path.parent.parents):
        if directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    socket_path.chmod(0o666)
    with socket.socket(socket.AF_UNIX) as connection:
        # The kernel remembers the credentials that the peer has when it connects (unix(7), SO_PEERCRED).
        os.seteuid(65534)
        try:
            connection.connect(str(socket_path))
        finally:
            os.seteuid(0)
        try:
            connection.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
            said = await trio.to_thread.run_sync(connection.recv, 100)
        except ConnectionError:
            said = b""
    assert said == b""


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01\x00\xff", b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nx" * 9, b""]
)
async def test_noise_hurts_nobody_else(client: Client, socket_path: Path, noise: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(socket_path))
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        while await trio.to_thread.run_sync(connection.recv, 4096):
            pass
    assert (await in_thread(client.status))["mountpoint"] == "/m"


async def test_a_socket_of_the_next_worker_is_left_alone(ledger: Ledger, socket_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, ledger, socket_path)
        with listen(socket_path):
            nursery.cancel_scope.cancel()
    assert socket_path.is_socket()


async def test_a_stale_socket_is_replaced(ledger: Ledger, socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, ledger, socket_path)
        assert (await in_thread(Client("/m", socket_path).status))["mountpoint"] == "/m"
        nursery.cancel_scope.cancel()
    assert list(socket_path.parent.iterdir()) == []


async def test_a_socket_path_that_is_too_long_for_the_kernel_is_reached(ledger: Ledger, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, ledger, deep / "control.sock")
        assert (await in_thread(Client("/m", deep / "control.sock").status))["mountpoint"] == "/m"
        nursery.cancel_scope.cancel()


# httpcore leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_mount_that_does_not_serve_is_said_to_be_so(socket_path: Path) -> None:
    with pytest.raises(ControlError, match="'/m' cannot be reached"):
        Client("/m", socket_path).status()


def mount_at(mountpoint: str, pid: int) -> registry.Mount:
    return registry.Mount(mountpoint, "file:///b", mountpoint, "/s", pid, pid, "1")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIERFS_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def test_mounts_are_found_by_the_longest_mountpoint_above_a_path(runtime: Path) -> None:
    for mountpoint in ("/srv", "/srv/data", "/srv/database"):
        registry.register(mount_at(mountpoint, os.getpid()))
    assert [mount.mountpoint for mount in registry.mounts()] == ["/srv", "/srv/data", "/srv/database"]
    assert registry.find("/srv/data/a/b")[0].mountpoint == "/srv/data"
    assert registry.find("/srv/data/a/b")[1] == b"a/b"
    assert registry.find("/srv/database")[1] == b""
    assert registry.find("/srv/datab")[0].mountpoint == "/srv"
    assert registry.find("/srv/data/../x")[1] == b"x"
    with pytest.raises(ControlError, match="'/else' is not in a tierfs mount"):
        registry.find("/else")
    with pytest.raises(ControlError, match="not a mountpoint"):
        registry.find_mountpoint("/srv/data/a")


def test_a_path_through_a_symbolic_link_is_found(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mnt")
    registry.register(mount_at(str(tmp_path / "mnt"), os.getpid()))
    assert registry.find(str(tmp_path / "link" / "a"))[1] == b"a"
    assert registry.find_mountpoint(str(tmp_path / "link")).mountpoint == str(tmp_path / "mnt")


def test_a_mount_whose_supervisor_is_gone_is_stale(runtime: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        pid = process.pid
    registry.register(mount_at("/gone", pid))
    [mount] = registry.mounts()
    assert not mount.is_alive
    with pytest.raises(ControlError, match=f"pid {pid}"):
        Client.of(mount)


def test_a_recycled_pid_is_neither_supervisor_nor_worker(runtime: Path) -> None:
    registry.register(mount_at("/m", os.getpid()))
    [mount] = registry.mounts()
    assert mount.is_alive
    starts = {name: getattr(mount, name) + 1 for name in ("supervisor_start", "worker_start")}
    assert not registry.Mount(**{**_fields(mount), **starts}).is_alive


def _fields(mount: registry.Mount) -> dict[str, object]:
    return {name: getattr(mount, name) for name in registry.Mount.__slots__}


def test_a_mount_is_forgotten(runtime: Path) -> None:
    registry.register(mount_at("/m", os.getpid()))
    registry.unregister("/m")
    registry.unregister("/m")
    assert registry.mounts() == []


def test_a_broken_slot_hides_no_other(runtime: Path) -> None:
    registry.register(mount_at("/m", os.getpid()))
    (runtime / "broken").mkdir()
    (runtime / "broken" / "mount.json").write_text("{")
    (runtime / "file").write_text("")
    assert [mount.mountpoint for mount in registry.mounts()] == ["/m"]


# -- what others planted ---------------------------------------------------------------------------------------------

SOMEBODY = 54321


def planted(directory: Path, owner: int, mountpoint: str = "/srv/data") -> Path:
    """A registration that belongs to `owner`, with the directories that it lies in."""
    slot = directory / registry.escaped(mountpoint)
    slot.mkdir(parents=True)
    (slot / "mount.json").write_text(json.dumps(asdict(mount_at(mountpoint, os.getpid()))))
    for path in (directory, slot, slot / "mount.json"):
        os.chown(path, owner, owner)
    return slot


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runtime directories of other users are; that of root is beside it."""
    require(os.geteuid() == 0, "giving files to another user needs root")
    monkeypatch.delenv("TIERFS_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(registry, "_SYSTEM_RUNTIME", tmp_path / "run")
    monkeypatch.setattr(registry, "_USERS_RUNTIME", tmp_path / "user")
    monkeypatch.setattr(registry, "_MOUNTINFO", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").touch()
    return tmp_path / "user"


def _has_mount(users: Path, mountpoint: str, uid: int) -> None:
    line = f"36 35 0:40 / {mountpoint} rw,nosuid,nodev - fuse.tierfs file:///b rw,user_id={uid},group_id={uid}\n"
    (users.parent / "mountinfo").write_text(line)


def test_nobody_else_can_write_to_what_is_registered(runtime: Path) -> None:
    """The worker has no umask: applications have theirs."""
    before = os.umask(0)
    try:
        os.close(registry.lock_store("s3 bucket", "/m"))
        slot = registry.register(mount_at("/m", os.getpid()))
        with listen(slot / registry.SOCKET_NAME):
            made = [runtime, *runtime.rglob("*")]
            assert len(made) == 6
            assert [path for path in made if path.stat().st_mode & 0o022] == []
    finally:
        os.umask(before)


@pytest.mark.parametrize("how", ["theirs", "open to all", "link"])
def test_a_runtime_directory_that_others_can_change_is_refused(runtime: Path, tmp_path: Path, how: str) -> None:
    require(os.geteuid() == 0, "giving files to another user needs root")
    slot = planted(tmp_path / "real" if how == "link" else runtime, SOMEBODY if how == "theirs" else 0)
    if how == "link":
        runtime.symlink_to(tmp_path / "real")
        os.chown(runtime, SOMEBODY, SOMEBODY, follow_symlinks=False)
    elif how == "open to all":
        runtime.chmod(0o1777)
    for use in (registry.mounts, lambda: registry.find("/srv/data/x"), lambda: registry.socket_of("/srv/data")):
        with pytest.raises(ControlError, match="TIERFS_RUNTIME_DIR"):
            use()
    with pytest.raises(MountError, match="TIERFS_RUNTIME_DIR"):
        registry.register(mount_at("/srv/data", os.getpid()))
    with pytest.raises(MountError, match="TIERFS_RUNTIME_DIR"):
        registry.lock_store("s3 bucket", "/srv/data")
    registry.unregister("/srv/data")
    assert [path.name for path in slot.iterdir()] == ["mount.json"]


def test_a_slot_that_somebody_planted_is_not_used(runtime: Path, tmp_path: Path) -> None:
    """While the directory was open to others. A link in its place leads to no other directory."""
    require(os.geteuid() == 0, "giving files to another user needs root")
    runtime.mkdir()
    (tmp_path / "outside").mkdir()
    (runtime / "srv-data").symlink_to(tmp_path / "outside")
    os.chown(runtime / "srv-data", SOMEBODY, SOMEBODY, follow_symlinks=False)
    with pytest.raises(MountError, match="belongs to user"):
        registry.register(mount_at("/srv/data", os.getpid()))
    (runtime / "srv-data").unlink()
    planted(runtime, SOMEBODY)
    os.chown(runtime, 0, 0)
    assert registry.mounts() == []
    with pytest.raises(MountError, match="belongs to user"):
        registry.register(mount_at("/srv/data", os.getpid()))
    assert list((tmp_path / "outside").iterdir()) == []


def test_root_believes_of_other_users_what_the_kernel_says_too(users: Path) -> None:
    slot = planted(users / str(SOMEBODY) / "tierfs", SOMEBODY)
    assert registry.mounts() == []
    _has_mount(users, "/srv/data", 0)
    assert registry.mounts() == []
    _has_mount(users, "/srv/data", SOMEBODY)
    assert [mount.mountpoint for mount in registry.mounts()] == ["/srv/data"]
    assert registry.socket_of("/srv/data") == slot / registry.SOCKET_NAME


def test_no_other_user_stands_in_for_a_mount_of_root(users: Path) -> None:
    planted(users / str(SOMEBODY) / "tierfs", SOMEBODY)
    _has_mount(users, "/srv/data", SOMEBODY)
    mine = registry.register(replace(mount_at("/srv/data", os.getpid()), store="file:///mine"))
    assert [mount.store for mount in registry.mounts()] == ["file:///mine"]
    assert registry.socket_of("/srv/data") == mine / registry.SOCKET_NAME


def test_what_other_users_left_in_the_way_is_passed_over(users: Path) -> None:
    """A fifo that nobody writes to, a link, a file of somebody else, a directory that is open to all."""
    _has_mount(users, "/srv/data", SOMEBODY)
    for uid, spoil in enumerate((_make_fifo, _make_link, _give_away, _open_to_all), SOMEBODY):
        spoil(planted(users / str(uid) / "tierfs", uid) / "mount.json")
    assert registry.mounts() == []


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    os.chown(path, SOMEBODY, SOMEBODY)


def _make_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def _give_away(path: Path) -> None:
    os.chown(path, 7, 7)


def _open_to_all(path: Path) -> None:
    path.parent.chmod(0o777)


def test_mounts_of_a_user() -> None:
    text = rb"""
36 35 0:40 / /a\040b rw,nosuid,nodev shared:1 - fuse.tierfs file:///b rw,user_id=5,group_id=5,default_permissions
37 35 0:41 / /c rw - fuse.tierfs - x rw,user_id=55,group_id=5
38 35 8:1 /user_id=5 /d rw - ext4 /dev/sda1 rw,user_id=5
""".strip()
    assert registry.mounts_of(5, text) == {"/a b"}
    assert registry.mounts_of(55, text) == {"/c"}


@pytest.mark.parametrize(
    ("mountpoint", "slot"),
    [
        ("/", "-"),
        ("/srv/data", "srv-data"),
        ("/srv/data/", "srv-data"),
        ("/srv//my-data", r"srv-my\x2ddata"),
        ("/.hidden/.x", r"\x2ehidden-.x"),
        ("/a b\udcff", r"a\x20b\xff"),
    ],
)
def test_slots_are_escaped_as_systemd_does(mountpoint: str, slot: str) -> None:
    assert registry.escaped(mountpoint) == slot


def test_slots_of_long_mountpoints_are_short_and_distinct(runtime: Path) -> None:
    one, two = (registry.register(mount_at("/" + "-" * 300 + end, os.getpid())) for end in "ab")
    assert one != two
    assert len(registry.mounts()) == 2
