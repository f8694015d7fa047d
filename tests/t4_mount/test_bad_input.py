"""What goes wrong before a mount serves: one sentence that names what is wrong, nothing mounted, nothing touched."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import require
from tests.mounting import Plan, directory, mounted, refused
from tests.servers import S3Server, ServerMissing, free_port, moto, rclone
from tests.t4_mount.modes import wait_until
from tests.t4_mount.operations import below
from tierfs.cli.exits import Exit

pytestmark = pytest.mark.mount

#: A store that nobody answers for is given up at once; one that answers slowly is not.
IMPATIENT = ("--max-retries", "0", "--timeout", "60s")


@pytest.fixture
def plan() -> Iterator[Plan]:
    """Directories for a mount, with a file in the hot one."""
    with directory() as home:
        made = Plan(home)
        made.make_directories()
        (made.hot / "file").write_bytes(b"hot")
        yield made


def assert_refused(plan: Plan, status: Exit, *words: str) -> None:
    """One sentence with these words; what was in the directories is untouched."""
    before = {path: os.lstat(path) for path in below(plan.home)}
    code, said = refused(plan)
    assert (code, said.count("\n")) == (status, 1), said
    assert said.startswith("tierfs: ")
    for word in words:
        assert word in said
    assert "Traceback" not in said
    after = {path: os.lstat(path) for path in below(plan.home) if Path(path).parts[-1] in ("hot", "mnt", "file")}
    assert all((before[path].st_ino, before[path].st_mode) == (st.st_ino, st.st_mode) for path, st in after.items())


# -- directories -----------------------------------------------------------------------------------------------------


def is_a_file(plan: Plan) -> Plan:
    plan.mountpoint.rmdir()
    plan.mountpoint.write_bytes(b"")
    return plan


def is_missing(plan: Plan) -> Plan:
    plan.mountpoint.rmdir()
    return plan


def is_not_empty(plan: Plan) -> Plan:
    (plan.mountpoint / "hidden").touch()
    return plan


def hot_is_missing(plan: Plan) -> Plan:
    (plan.hot / "file").unlink()
    plan.hot.rmdir()
    return plan


def with_flags(*flags: str) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, flags=tuple(flag.format(home=plan.home) for flag in flags))


def with_store(store: str) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, store=store.format(home=plan.home))


DIRECTORIES = {
    "mountpoint is a file": (is_a_file, Exit.MOUNT, ("mnt", "is not a directory")),
    "mountpoint is missing": (is_missing, Exit.MOUNT, ("mnt", "does not exist")),
    "mountpoint is not empty": (is_not_empty, Exit.MOUNT, ("mnt", "is not empty")),
    "hot directory is missing": (hot_is_missing, Exit.MOUNT, ("hot", "does not exist")),
    "state inside hot": (with_flags("--state", "{home}/hot/state"), Exit.SETTINGS, ("state", "lies inside")),
    "state inside mountpoint": (with_flags("--state", "{home}/mnt/state"), Exit.SETTINGS, ("state", "lies inside")),
    "state is a file": (with_flags("--state", "{home}/hot/file/state"), Exit.SETTINGS, ("state",)),
    "store inside hot": (with_store("file://{home}/hot/bucket"), Exit.SETTINGS, ("bucket", "lies inside")),
    "hot inside store": (with_store("file://{home}"), Exit.SETTINGS, ("contains",)),
    "store is missing": (with_store("file://{home}/nothing"), Exit.STORE, ("nothing", "No such file or directory")),
    "store is a file": (with_store("file://{home}/hot/file"), Exit.SETTINGS, ("hot/file",)),
    "store of no kind": (with_store("gs://bucket"), Exit.SETTINGS, ("gs://bucket",)),
    "store without a bucket": (with_store("s3://"), Exit.SETTINGS, ("s3://",)),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories(plan: Plan, name: str) -> None:
    break_it, status, words = DIRECTORIES[name]
    assert_refused(break_it(plan), status, *words)


def test_a_mountpoint_that_is_a_mount_of_tierfs(plan: Plan) -> None:
    """The first mount goes on."""
    with mounted(plan) as mount:
        code, said = refused(replace(plan))
        assert code == Exit.MOUNT
        assert said.count("\n") == 1
        assert "mounted already" in said or "is a tierfs mount already" in said
        assert (mount.path / "file").read_bytes() == b"hot"


def test_a_hot_directory_and_a_state_directory_have_one_mount(plan: Plan) -> None:
    """Another mountpoint does not help."""
    with mounted(plan):
        other = plan.home / "other"
        other.mkdir()
        command = [str(other) if word == str(plan.mountpoint) else word for word in plan.command()]
        done = subprocess.run(
            [word for word in command if word != "--foreground"], capture_output=True, text=True, check=False
        )
        assert done.returncode == Exit.SETTINGS, done.stderr
        assert "in use by another mount" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_catalog_of_another_store(plan: Plan) -> None:
    with mounted(plan):
        pass
    (plan.home / "second").mkdir()
    assert_refused(replace(plan, store=f"file://{plan.home}/second"), Exit.CATALOG, "belongs to", "--state")


def test_a_damaged_catalog(plan: Plan) -> None:
    with mounted(plan) as mount:
        mount.make_cold(mount.path / "cold", b"x" * 5000)
    catalog = plan.state / "catalog.sqlite"
    catalog.write_bytes(b"not a database, but long enough to be looked at" * 100)
    assert_refused(plan, Exit.CATALOG, "catalog.sqlite")


# -- settings --------------------------------------------------------------------------------------------------------

CONFIGS = {
    "not TOML": ("warm_after = = 3", ("config.toml",)),
    "unknown key": ('warm_aftr = "1d"', ("warm_aftr", "warm_after")),
    "nonsensical value": ('chunk_size = "3 bananas"', ("chunk_size",)),
    "values that contradict each other": ('warm_after = "7d"\ncold_after = "1d"', ("warm_after", "cold_after")),
    "wrong type": ("include = 3", ("include",)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_files(plan: Plan, name: str) -> None:
    text, words = CONFIGS[name]
    (plan.home / "config.toml").write_text(text)
    assert_refused(replace(plan, flags=("--config", f"{plan.home}/config.toml")), Exit.SETTINGS, *words)


def test_a_settings_file_that_is_missing_or_unreadable(plan: Plan) -> None:
    assert_refused(replace(plan, flags=("--config", f"{plan.home}/none.toml")), Exit.SETTINGS, "none.toml")
    assert_refused(replace(plan, flags=("--config", f"{plan.home}")), Exit.SETTINGS, str(plan.home))
    (plan.home / "bytes.toml").write_bytes(b"\xff\xfe")
    assert_refused(replace(plan, flags=("--config", f"{plan.home}/bytes.toml")), Exit.SETTINGS, "bytes.toml")


def test_a_setting_in_the_environment(plan: Plan) -> None:
    assert_refused(replace(plan, environment={"TIERFS_CHUNK_SIZE": "5"}), Exit.SETTINGS, "TIERFS_CHUNK_SIZE")
    assert_refused(replace(plan, environment={"TIERFS_CHUNKSIZE": "4KiB"}), Exit.SETTINGS, "TIERFS_CHUNKSIZE")


# -- stores ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto_server() -> Iterator[S3Server]:
    """An S3 server with conditions and metadata."""
    try:
        with moto() as server:
            yield server
    except ServerMissing as missing:
        require(False, str(missing))


@pytest.fixture(scope="module")
def rclone_server() -> Iterator[S3Server]:
    """An S3 server that looks at credentials."""
    try:
        with rclone() as server:
            server.create_bucket("bucket")
            yield server
    except ServerMissing as missing:
        require(False, str(missing))


def s3(plan: Plan, server: S3Server, bucket: str, **environment: str) -> Plan:
    """A mount of a bucket."""
    flags = ("--endpoint-url", server.endpoint_url, "--path-style", *IMPATIENT)
    return replace(plan, store=f"s3://{bucket}", flags=flags, environment=server.environment | environment)


def test_a_bucket_that_does_not_exist(plan: Plan, moto_server: S3Server) -> None:
    assert_refused(s3(plan, moto_server, "no-such-bucket"), Exit.STORE, "no-such-bucket", "does not exist")


def test_wrong_credentials(plan: Plan, rclone_server: S3Server) -> None:
    wrong = s3(plan, rclone_server, "bucket", AWS_SECRET_ACCESS_KEY="wrong", AWS_ACCESS_KEY_ID="wrong")
    assert_refused(wrong, Exit.STORE, "credentials")


def test_no_credentials(plan: Plan, rclone_server: S3Server) -> None:
    without = s3(plan, rclone_server, "bucket", AWS_SECRET_ACCESS_KEY="", AWS_ACCESS_KEY_ID="")
    assert_refused(without, Exit.STORE, "credentials")


def test_nobody_listens(plan: Plan) -> None:
    server = S3Server("none", f"http://127.0.0.1:{free_port()}", frozenset())
    assert_refused(s3(plan, server, "bucket"), Exit.STORE, server.endpoint_url.removeprefix("http://"))


def test_a_server_that_speaks_no_s3(plan: Plan) -> None:
    command = [sys.executable, "-c", _NO_S3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            server = S3Server("none", f"http://127.0.0.1:{port}", frozenset())
            assert_refused(s3(plan, server, "bucket"), Exit.STORE, "bucket")
        finally:
            process.kill()


_NO_S3 = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'<html>welcome</html>')
    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET
    def log_message(self, *_): pass
server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


# -- keys ------------------------------------------------------------------------------------------------------------

KEYS = {
    "plain": b"plain",
    "d/x": b"d/x",
    "both": b"the file",
    "both/x": b"below it",
    "dir/": b"",
    "a/b/": b"",
    "100%": b"100%",
    "a%2Fb": b"a%2Fb",
    "snow ☃": b"snow",
}
BAD_KEYS = (
    "../outside",
    "up/../../outside",
    "a//b",
    "/abs",
    "./dot",
    "d/./x",
    "d/..",
    "long/" + "x" * 300,
    "nul\x01/..",
)


@pytest.fixture
def odd_keys() -> Iterator[S3Server]:
    """A bucket "keys" with keys that HTTP clients would not send: they are put behind the server's back."""
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        made = S3Server("moto", f"http://{host}:{port}", frozenset())
        made.create_bucket("keys")
        backend = importlib.import_module("moto.backends").get_backend("s3")["123456789012"]["aws"]
        for key, body in [*KEYS.items(), *((key, b"bad") for key in BAD_KEYS)]:
            backend.put_object("keys", key, body)
        yield made
    finally:
        server.stop()


def test_keys_that_no_file_can_have(plan: Plan, odd_keys: S3Server) -> None:
    """They are in the log and shown nowhere; the others are there; nothing outside the hot directory is touched."""
    outside = sorted(os.listdir(plan.home))
    with mounted(s3(plan, odd_keys, "keys")) as mount:
        wait_until(lambda: " objects in the bucket, " in mount.log.read_text())  # else a part of them is still to come
        names = {os.path.relpath(path, mount.path) for path in below(mount.path)}
        for key, body in KEYS.items():
            path = mount.path / key
            if key.endswith("/"):
                assert path.is_dir()
            elif key not in ("both", "both/x"):
                assert path.read_bytes() == body
        # A key cannot be a file and a directory: one of the two is shown, and the other is said.
        assert ("both/x" in names) == (mount.path / "both").is_dir()
        shown = "both/x" if "both/x" in names else "both"
        assert (mount.path / shown).read_bytes() == KEYS[shown]
        assert names - {"both/x"} == {
            *("plain", "d", "d/x", "both", "dir", "a", "a/b", "100%", "a%2Fb", "snow ☃", "file"),
            *({"long"} & names),
        }
        log = mount.log.read_text()
        assert "outside" in log
        assert "a//b" in log
        assert "a directory has its name" in log or "a cold file is where a directory is needed" in log
        with odd_keys.client() as client:
            listed = client.list_objects_v2(Bucket="keys")["Contents"]
        assert {one["Key"] for one in listed} >= KEYS.keys() | set(BAD_KEYS)
    assert sorted(set(os.listdir(plan.home)) - {"state", "mount.log"}) == outside
    assert not (plan.home.parent / "outside").exists()
    assert not Path("/abs").exists()
