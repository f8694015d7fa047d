"""What others may not do: users without permission, who may write to the bucket, who owns a directory on the way."""

import gzip
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import MARK, require
from tests.mounting import Mount, Plan, directory, mounted, refused
from tests.servers import S3Server
from tests.t4_mount.children import STRANGER, run_as
from tests.t4_mount.faulty_bucket import BUCKET, bucket_server
from tests.t4_mount.modes import wait_until
from tests.t4_mount.test_permissions import outcome
from tests.t4_mount.test_rebuild import rebuild, tierfs
from tierfs.admin import registry, wire
from tierfs.cli.exits import Exit
from tierfs.core.errors import ControlError
from tierfs.core.records import Attributes, Ino, ObjectRef, Record, Tombstone
from tierfs.core.residency import Residency
from tierfs.core.snapshot import (
    Entry,
    Footer,
    Header,
    HotName,
    footer_line,
    header_line,
    key_of_snapshot,
    line_of,
)

pytestmark = pytest.mark.mount

CONTENT = bytes(range(256)) * 64


@pytest.fixture(autouse=True)
def can_be_others() -> None:
    require(os.geteuid() == 0, "becoming another user needs root")


def by_stranger(call: Callable[..., object], *arguments: object) -> object:
    """What a call comes to when a stranger makes it."""
    return run_as(STRANGER, lambda: outcome(partial(call, *arguments)))


# -- the control socket ----------------------------------------------------------------------------------------------

REQUESTS = [("GET", f"{wire.API}/status"), ("GET", f"{wire.API}/plan"), ("GET", wire.METRICS)] + [
    ("POST", f"{wire.API}/{name}")
    for name in ("list", "archive", "release", "restore", "pin", "unpin", "evict", "check")
]


def said_to(path: Path, method: str, url: str, body: bytes) -> bytes:
    """What the control socket answers to whoever asks."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        head = f"{method} {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        said = b""
        with suppress(ConnectionError):
            connection.sendall(head.encode() + body)
            while more := connection.recv(4096):
                said += more
        return said


def test_the_control_socket_answers_to_its_owner_alone(mount: Mount, place: Path) -> None:
    """Neither a request by hand nor a command of a stranger archives, releases, restores, pins or evicts anything."""
    cold, hot = place / "cold", place / "hot"
    mount.make_cold(cold, CONTENT)
    hot.write_bytes(CONTENT)
    assert cold.read_bytes() == CONTENT
    wait_until(lambda: mount.entry(mount.inside(cold)).cached_bytes == len(CONTENT))
    names = [os.fsdecode(mount.inside(path)) for path in (cold, hot)]
    body = json.dumps({"paths": names}).encode()
    before = [mount.entry(name) for name in names]
    assert stat.S_IMODE(mount.control_socket.stat().st_mode) == 0o600
    for method, url in REQUESTS:
        assert by_stranger(said_to, mount.control_socket, method, url, body) == "EACCES"
    mount.control_socket.chmod(0o666)  # as on a filesystem without modes
    try:
        for method, url in REQUESTS:
            assert by_stranger(said_to, mount.control_socket, method, url, body) == b""
    finally:
        mount.control_socket.chmod(0o600)
    assert [mount.entry(name) for name in names] == before
    with pytest.raises(ControlError, match="belongs to another user"):
        run_as(STRANGER, mount.status)


# -- cold files ------------------------------------------------------------------------------------------------------


def past_the_page_cache(path: Path) -> bytes:
    """Read a file as the kernel has it from tierfs."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return os.pread(fd, 4096, 0)
    finally:
        os.close(fd)


def opened_again(path: Path) -> bytes:
    """Read a file through a descriptor that needs no permission to be had."""
    fd = os.open(path, os.O_PATH)
    try:
        return Path(f"/proc/self/fd/{fd}").read_bytes()
    finally:
        os.close(fd)


WAYS_IN: tuple[Callable[[Path], bytes], ...] = (Path.read_bytes, past_the_page_cache, opened_again)


def test_a_cold_file_in_the_cache_is_as_closed_as_a_hot_one(mount: Mount, place: Path) -> None:
    """Chunks in the cache, pages in the kernel, handles of others: nothing of it is a way in."""
    path = place / "file"
    mount.make_cold(path, CONTENT)
    path.chmod(0o600)
    before = mount.requests()
    assert [by_stranger(look, path) for look in WAYS_IN] == ["EACCES"] * len(WAYS_IN)
    assert mount.requests() == before
    with path.open("rb") as reader:
        assert reader.read() == CONTENT
        assert [by_stranger(look, path) for look in WAYS_IN] == ["EACCES"] * len(WAYS_IN)
    assert mount.residency(mount.inside(path)) == "cold"


@pytest.mark.parametrize("kind", ["native", "hot", "cold", "cold, in the cache"])
def test_a_handle_keeps_what_it_was_opened_with(mount: Mount, place: Path, kind: str) -> None:
    """After a chmod, as in a plain directory: who has the file open reads on, who comes later does not."""
    where = mount.plan.home / "native" if kind == "native" else place
    where.mkdir(exist_ok=True)
    path = where / "file"
    path.write_bytes(CONTENT)
    if kind.startswith("cold"):
        mount.release(mount.inside(path))
    if kind == "cold, in the cache":
        path.read_bytes()

    def seen() -> list[object]:
        handle = os.open(path, os.O_RDONLY)
        telling.send(b"open")
        assert telling.recv(9) == b"closed"
        found = [os.pread(handle, len(CONTENT) + 1, 0), outcome(path.read_bytes), os.fstat(handle).st_mode & 0o777]
        os.close(handle)
        return found

    def close_the_door() -> None:
        if ours.recv(9) == b"open":
            path.chmod(0o600)
            ours.send(b"closed")

    ours, telling = socket.socketpair()
    with ours, telling:
        closer = threading.Thread(target=close_the_door)
        closer.start()
        try:
            assert run_as(STRANGER, seen) == [CONTENT, "EACCES", 0o600]
        finally:
            telling.shutdown(socket.SHUT_RDWR)
            closer.join()


def test_nothing_that_a_stranger_does_moves_a_file(mount: Mount, place: Path) -> None:
    """Not by a link, a list of access rights, an open that is refused; nor is it removed from a sticky directory."""
    path = place / "file"
    mount.make_cold(path, CONTENT)
    path.chmod(0o644)
    place.chmod(0o1777)
    mine = place / "of the stranger"
    run_as(STRANGER, lambda: mine.write_bytes(b"x"))
    before = mount.requests()
    acl = b"\x02\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + (6).to_bytes(2, "little") + b"\xff\xff\xff\xff" for tag in (1, 4, 0x20)
    )
    calls: list[Callable[[], object]] = [
        lambda: os.setxattr(path, "system.posix_acl_access", acl),
        lambda: os.open(path, os.O_RDWR),
        lambda: os.open(path, os.O_WRONLY | os.O_TRUNC),
        lambda: os.unlink(path),
        lambda: os.rename(path, place / "taken"),
        lambda: os.rename(mine, path),
    ]
    assert run_as(STRANGER, lambda: [outcome(call) for call in calls]) == [
        *("EPERM", "EACCES", "EACCES"),
        *("EPERM", "EPERM", "EPERM"),
    ]
    if Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1":
        assert run_as(STRANGER, lambda: outcome(lambda: os.link(path, place / "second"))) == "EPERM"
    assert mount.requests() == before
    assert mount.residency(mount.inside(path)) == "cold"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("residency", ["hot", "cold"])
def test_set_user_id_means_nothing_in_a_mount(mount: Mount, place: Path, residency: str) -> None:
    """Nor do device files: who writes to the bucket gets no rights on this host from a mount."""
    assert os.statvfs(mount.path).f_flag & (os.ST_NOSUID | os.ST_NODEV) == os.ST_NOSUID | os.ST_NODEV
    program = shutil.which("id")
    require(program, "there is no id(1)")
    path = place / "id"
    shutil.copy(str(program), path)
    path.chmod(0o4755)
    if residency == "cold":
        mount.release(mount.inside(path))
    said = run_as(STRANGER, lambda: subprocess.run([path, "-u"], capture_output=True, text=True, check=True).stdout)
    assert said.strip() == str(STRANGER)


# -- what lies beside the mount --------------------------------------------------------------------------------------


def test_state_store_and_runtime_directory_are_closed(mount: Mount, place: Path) -> None:
    """A stranger does not look into the state directory or at objects, and changes nothing in the runtime directory."""
    mount.make_cold(place / "file", CONTENT)
    assert (place / "file").read_bytes() == CONTENT
    state = mount.plan.state
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert by_stranger(os.listdir, state) == "EACCES"
    for name in ("catalog.sqlite", "mount.json", "cache", "lock"):
        assert by_stranger(Path.read_bytes, state / name) == "EACCES"
    stored = mount.plan.bucket / os.fsdecode(mount.inside(place / "file"))
    assert by_stranger(stored.read_bytes) == "EACCES"
    runtime = registry.runtime_directory()
    ours = [runtime, runtime / "locks", mount.control_socket.parent, *mount.control_socket.parent.iterdir()]
    assert [path for path in ours if path.stat().st_mode & 0o022] == []


@pytest.fixture
def plan() -> Iterator[Plan]:
    """Directories for a mount of its own."""
    with directory() as home:
        made = Plan(home)
        made.make_directories()
        yield made


def test_a_state_directory_of_somebody_else_is_refused(plan: Plan) -> None:
    plan.state.mkdir()
    os.chown(plan.state, STRANGER, STRANGER)
    code, said = refused(plan)
    assert code == Exit.SETTINGS
    assert f"belongs to user {STRANGER}" in said
    assert list(plan.state.iterdir()) == []


def test_what_was_planted_in_a_state_directory_is_not_followed(plan: Plan) -> None:
    target = plan.home / "outside"
    target.write_bytes(CONTENT)
    plan.state.mkdir(0o777)
    (plan.state / "tierfs.log").symlink_to(target)
    os.chown(plan.state / "tierfs.log", STRANGER, STRANGER, follow_symlinks=False)
    code, said = refused(plan)
    assert code == Exit.SETTINGS
    assert "has 'tierfs.log' in it" in said
    assert target.read_bytes() == CONTENT


def test_a_runtime_directory_of_somebody_else_is_refused(plan: Plan) -> None:
    runtime = plan.home / "theirs"
    runtime.mkdir()
    os.chown(runtime, STRANGER, STRANGER)
    code, said = refused(replace(plan, environment={"TIERFS_RUNTIME_DIR": str(runtime)}))
    assert code != 0
    assert f"belongs to user {STRANGER}" in said
    assert said.count("\n") == 1
    assert list(runtime.iterdir()) == []


# -- credentials -----------------------------------------------------------------------------------------------------

TOKEN = "planted/session+token"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """An S3 server with a bucket, which looks at credentials."""
    with bucket_server() as started:
        yield started


def on_server(plan: Plan, server: S3Server, **environment: str) -> Plan:
    flags = (
        "--endpoint-url",
        server.endpoint_url,
        "--max-retries",
        "0",
        "--log-level",
        "debug",
        "--log-format",
        "json",
    )
    store = f"s3://{BUCKET}/{plan.home.name}"
    return replace(plan, store=store, flags=flags, environment=server.environment | environment)


def secrets_of(server: S3Server) -> list[bytes]:
    return [word.encode() for word in (server.access_key, server.secret_key, TOKEN)]


def everything_in(*roots: Path) -> Iterator[tuple[Path, bytes]]:
    for root in roots:
        for path in [root, *root.rglob("*")]:
            if path.is_file():
                yield path, path.read_bytes()


def processes_of_session() -> list[Path]:
    """Those that this test session started, and their children."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and os.environ[MARK].encode() in (process / "environ").read_bytes():
                found.append(process)
    return found


def test_credentials_are_in_the_environment_alone(plan: Plan, server: S3Server) -> None:
    """Not in state, log, runtime directory, answers or command lines; and an environment is its owner's alone."""
    with mounted(on_server(plan, server, AWS_SESSION_TOKEN=TOKEN)) as mount:
        mount.make_cold(mount.path / "file", CONTENT)
        assert (mount.path / "file").read_bytes() == CONTENT
        (mount.path / "file").unlink()
        answers = [json.dumps(mount.status()), mount.client.metrics(), str(mount.check())]
        answers += [tierfs(mount.plan, "status", str(mount.path)).stdout]
        mine = [one for one in processes_of_session() if b"-m\0tierfs" in (one / "cmdline").read_bytes()]
        assert len(mine) >= 3  # the supervisor, the worker, the process for what is cold
        assert {by_stranger((process / "environ").read_bytes) for process in mine} == {"EACCES"}
        places = [*everything_in(plan.home, registry.runtime_directory())]
        places += [(one / name, (one / name).read_bytes()) for one in mine for name in ("cmdline", "comm")]
    places += [*everything_in(plan.home)]
    for secret in secrets_of(server):
        assert [path for path, content in places if secret in content] == []
        assert [answer for answer in answers if secret.decode() in answer] == []


@pytest.mark.parametrize(
    "environment",
    [
        {"AWS_SECRET_ACCESS_KEY": "planted/secret", "AWS_ACCESS_KEY_ID": "PLANTEDKEY"},
        {"AWS_SESSION_TOKEN": "planted token\n"},  # no header can have it, and the HTTP library quotes it
    ],
    ids=["wrong", "with a newline"],
)
def test_credentials_that_do_not_work_are_not_quoted(plan: Plan, server: S3Server, environment: dict[str, str]) -> None:
    _, said = refused(on_server(plan, server, **environment))
    kept = b"".join(content for _, content in everything_in(plan.home)).decode(errors="replace")
    for word in (*environment.values(), server.secret_key):
        assert word.strip() not in said
        assert word.strip() not in kept


def test_credentials_in_an_address_are_refused_and_not_repeated(plan: Plan) -> None:
    code, said = refused(replace(plan, store="s3://bucket", flags=("--endpoint-url", "http://k:planted@127.0.0.1:1")))
    assert code == Exit.SETTINGS, said
    assert "credentials do not belong" in said
    assert "planted" not in said
    assert not any(b"planted" in content for _, content in everything_in(plan.home))


# -- the bucket ------------------------------------------------------------------------------------------------------


def snapshot_of(entries: list[Entry]) -> bytes:
    """A snapshot that is whole, whatever it says."""
    lines = b"".join(line_of(entry, "") for entry in entries)
    footer = Footer(len(entries), hashlib.sha256(lines).hexdigest())
    return gzip.compress(header_line(Header(1, "somebody")) + lines + footer_line(footer))


def put_snapshot(plan: Plan, taken_ns: int, entries: list[Entry]) -> None:
    path = plan.bucket / key_of_snapshot("", taken_ns)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(snapshot_of(entries))


def recorded(path: bytes, key: str) -> Record:
    attributes = Attributes(stat.S_IFREG | 0o644, 0, 0, len(CONTENT), 1, 1, 1)
    return Record(path, Ino(0), Residency.COLD, attributes, ObjectRef(key, "etag", len(CONTENT)))


def test_a_snapshot_of_somebody_else_leads_nowhere(plan: Plan) -> None:
    """Paths that lead out make a snapshot damaged; keys that do are no objects; nothing outside is touched."""
    outside = plan.home / "outside"
    outside.write_bytes(CONTENT)
    (plan.bucket / ".tierfs-store").mkdir()
    (plan.bucket / "good").write_bytes(b"good")
    put_snapshot(plan, 3, [recorded(b"../outside", "good")])
    put_snapshot(plan, 2, [HotName(b"d/../../made", stat.S_IFDIR | 0o755, 0, 0, 1)])
    put_snapshot(
        plan,
        1,
        [
            HotName(b"link", stat.S_IFLNK | 0o777, 0, 0, 1, target=os.fsencode(plan.home)),
            HotName(b"link/made", stat.S_IFDIR | 0o755, 0, 0, 1),
            HotName(b"device", stat.S_IFCHR | 0o666, 0, 0, 1),
            Tombstone("../outside", 1),
            recorded(b"escaped", "../outside"),
            recorded(b"absolute", str(outside)),
            recorded(b"empty", "a//b"),
        ],
    )
    before = sorted(os.listdir(plan.home))
    done = rebuild(plan)
    assert done.returncode == Exit.DISAGREEMENT, done.stderr
    assert done.stdout.count("snapshot-damaged") == 2
    assert "Traceback" not in done.stderr
    assert not os.path.lexists(plan.hot / "device")
    with mounted(plan) as mount:
        assert (mount.path / "good").read_bytes() == b"good"
        for name in ("escaped", "absolute", "empty"):
            assert outcome((mount.path / name).read_bytes) in ("EIO", "ENOENT")
        mount.outcomes("restore", b"", recursive=True)
    assert outside.read_bytes() == CONTENT
    assert set(os.listdir(plan.home)) - set(before) <= {"state", "mount.log"}


def test_a_store_in_a_directory_leads_nowhere(plan: Plan) -> None:
    """Links, fifos and names that are no text are not objects at the first scan; what they point to is not read."""
    secret = plan.home / "secret"
    secret.write_bytes(CONTENT)
    (plan.bucket / "d").mkdir()
    (plan.bucket / "d" / "good").write_bytes(b"good")
    (plan.bucket / "link").symlink_to(secret)
    (plan.bucket / "up").symlink_to(plan.home)
    os.mkfifo(plan.bucket / "fifo")
    (plan.bucket / os.fsdecode(b"\xff")).write_bytes(b"x")
    with mounted(plan) as mount:
        wait_until(lambda: " objects in the bucket, " in mount.log.read_text())
        assert [path.relative_to(mount.path).as_posix() for path in sorted(mount.path.rglob("*"))] == ["d", "d/good"]
        assert (mount.path / "d" / "good").read_bytes() == b"good"


# -- the hot directory -----------------------------------------------------------------------------------------------


def test_a_directory_that_is_swapped_for_a_symlink_all_the_time(mount: Mount, place: Path) -> None:
    """While its files are archived, released and restored: what is outside is neither read, written nor removed."""
    outside = mount.plan.home / "outside"
    outside.mkdir()
    names = [f"f{index}" for index in range(3)]
    for name in names:
        (outside / name).write_bytes(b"outside " * 100)
        (place / name).write_bytes(CONTENT)
    real, aside = mount.plan.hot / place.name, mount.plan.hot / "aside"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            real.rename(aside)
            real.symlink_to(outside)
            real.unlink()
            aside.rename(real)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(15):
            for verb in ("archive", "release", "restore"):
                mount.outcomes(verb, *(mount.inside(place / name) for name in names))
    finally:
        stop.set()
        swapper.join()
    assert {name: (outside / name).read_bytes() for name in os.listdir(outside)} == dict.fromkeys(
        names, b"outside " * 100
    )
    assert [path for path, content in everything_in(mount.plan.bucket) if b"outside " in content] == []
    assert [(place / name).read_bytes() for name in names] == [CONTENT] * 3


def test_a_fifo_where_a_file_was_does_not_stop_the_mount(mount: Mount, place: Path) -> None:
    """The kernel still takes it for the file, and asks for an open that nobody would end."""
    path = place / "file"
    path.write_bytes(CONTENT)
    assert path.stat().st_size
    behind = mount.plan.hot / place.name / "file"
    behind.unlink()
    os.mkfifo(behind)
    done = subprocess.run(
        [sys.executable, "-c", f"open({str(path)!r}).read()"], capture_output=True, timeout=100, check=False
    )
    assert b"Error" in done.stderr
    assert mount.outcomes("archive", mount.inside(path))[0].result == "failed"
    behind.unlink()
