"""`tierfs doctor` names the right cause in set-ups that are really broken, leaves nothing, and waits for nobody."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.conftest import require
from tests.disks import fill, small_disk
from tests.faults import Fault, Kind
from tests.mounting import Plan, directory, mounted
from tests.proxy import in_front_of
from tests.servers import REGION, S3Server, ServerMissing, free_port, moto, rclone
from tests.t4_mount.children import STRANGER, run_as
from tests.t4_mount.modes import wait_until
from tierfs.cli.exits import Exit
from tierfs.core.config import MountRequest, Settings
from tierfs.core.lease import KEY, Lease, Owner
from tierfs.doctor.patient import Patient
from tierfs.doctor.places import examine_state

BUCKET = "tierfs-doctor"
PREFIX = "p/"
#: What a command may take before the test fails: a doctor who waits for what hangs takes for ever.
PATIENCE_S = 120.0
NEEDS_ROOT = "this set-up needs root"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where set-ups are made: directories of their own, a server, and what has to be taken away afterwards."""

    home: Path
    server: S3Server
    exits: ExitStack

    @property
    def hot(self) -> Path:
        return self.home / "hot"

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def store(self) -> str:
        return f"s3://{BUCKET}/{PREFIX}"

    def behind(self, *faults: Fault) -> str:
        """A URL of the server with faults before it."""
        return self.exits.enter_context(in_front_of(self.server, *faults)).url

    def put(self, key: str, body: bytes) -> None:
        """An object, which goes with the set-up."""
        with self.server.client() as client:
            client.put_object(Bucket=BUCKET, Key=key, Body=body)
        self.exits.callback(self._remove, key)

    def _remove(self, key: str) -> None:
        with self.server.client() as client:
            client.delete_object(Bucket=BUCKET, Key=key)


@dataclass(frozen=True, slots=True)
class Broken:
    """One thing that is wrong, and what the doctor has to say of it: about `subject`, with these words."""

    subject: str
    words: str
    store: str = ""
    endpoint: str = ""
    flags: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    verdict: str = "problem"


def examine(*arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> tuple[dict[str, Any], int]:
    """What `tierfs doctor --json` says, and its exit code."""
    command = [*prefix, sys.executable, "-m", "tierfs", "doctor", "--json", *arguments]
    # An empty value takes a variable away.
    told = {name: value for name, value in (os.environ | environment).items() if value}
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode in (Exit.OK, Exit.TROUBLE), (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout), done.returncode


def problems_of(report: dict[str, Any]) -> dict[str, str]:
    """Subjects with a problem, and what was found."""
    return {one["subject"]: one["found"] for one in report["checks"] if one["verdict"] == "problem"}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with serving(moto) as started:
        started.create_bucket(BUCKET)
        yield started


@contextmanager
def serving(kind: Callable[[], Any]) -> Iterator[S3Server]:
    with ExitStack() as exits:
        try:
            yield exits.enter_context(kind())
        except ServerMissing as missing:
            require(False, str(missing))


@pytest.fixture
def stage(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with directory() as home, ExitStack() as exits:
        monkeypatch.setenv("TIERFS_RUNTIME_DIR", str(home / "run"))  # mounts of other tests are none of our business
        stage = Stage(home, server, exits)
        stage.hot.mkdir()
        stage.state.mkdir(mode=0o700)
        yield stage


# -- a doctor who is interrupted ---------------------------------------------------------------------------------

_BEGINS = """
import os
from functools import partial
from pathlib import Path
from tierfs.core.diagnosis import Diagnosis, Verdict
from tierfs.doctor.examination import Examination, examine

def look(place):
    place.touch()
    try:
        while True:
            yield Diagnosis("pid", Verdict.OK, str(os.getpid()))
    finally:
        place.unlink()

for one in examine([Examination(name, partial(look, Path(name)), 100.0) for name in ("first", "second")]):
    print(one.found, flush=True)
"""


def is_over(group: int) -> bool:
    """Whether no process of a group runs any more; whoever inherits them may leave zombies."""
    for one in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group, *_ = one.read_text().rpartition(") ")[2].split()
            if int(its_group) == group and state != "Z":
                return False
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_what_was_begun_is_taken_back(tmp_path: Path, number: signal.Signals) -> None:
    """The doctor is killed, or all of its group is told to end: each part ends, too, and leaves nothing."""
    command = [sys.executable, "-c", _BEGINS]
    doctor = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert doctor.stdout
        doctor.stdout.readline()
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        if number == signal.SIGKILL:
            doctor.kill()
        else:
            os.killpg(doctor.pid, number)
        doctor.stdout.close()
        doctor.wait(PATIENCE_S)
        wait_until(lambda: is_over(doctor.pid))
        assert list(tmp_path.iterdir()) == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(doctor.pid, signal.SIGKILL)


def test_ctrl_c_leaves_nothing_in_the_bucket(stage: Stage) -> None:
    """Between one action of IAM and the next."""
    where = ("--endpoint-url", stage.server.endpoint_url, "--state", str(stage.state), "--cache-size", "1MiB")
    command = [sys.executable, "-m", "tierfs", "doctor", stage.store, str(stage.hot), *where]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as doctor:
        assert doctor.stdout
        assert any("s3:PutObject" in line for line in doctor.stdout)
        os.killpg(doctor.pid, signal.SIGINT)
    wait_until(lambda: is_over(doctor.pid))
    with stage.server.client() as client:
        assert "Contents" not in client.list_objects_v2(Bucket=BUCKET)
        assert not client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


# -- what is wrong with the host ---------------------------------------------------------------------------------

_WITHOUT_FUSE = """
mount -t tmpfs none "$0" && for name in null urandom; do : > "$0/$name"; mount --bind "/dev/$name" "$0/$name"; done
mount --rbind "$0" /dev && exec "$@"
"""


def no_device(stage: Stage) -> Broken:
    require(os.geteuid() == 0, NEEDS_ROOT)
    (stage.home / "dev").mkdir()
    prefix = ("unshare", "-m", "sh", "-c", _WITHOUT_FUSE, str(stage.home / "dev"))
    return Broken("/dev/fuse", "it does not exist", prefix=prefix)


def no_capability(stage: Stage) -> Broken:
    require(os.geteuid() == 0, NEEDS_ROOT)
    return Broken("privileges", "without CAP_SYS_ADMIN", prefix=("setpriv", "--bounding-set", "-sys_admin"))


def few_descriptors(stage: Stage) -> Broken:
    return Broken("open files", "only 96", prefix=("sh", "-c", 'ulimit -n 96 && exec "$@"', "sh"))


# -- with its directories ----------------------------------------------------------------------------------------


def hot_disk_full(stage: Stage) -> Broken:
    stage.exits.enter_context(small_disk(stage.hot, 1))
    fill(stage.hot / "all")
    return Broken("hot disk", "full: ")


def state_disk_full(stage: Stage) -> Broken:
    stage.exits.enter_context(small_disk(stage.state, 1))
    stage.state.chmod(0o700)
    fill(stage.state / "all")
    return Broken("state disk", "full: ")


def cache_larger_than_disk(stage: Stage) -> Broken:
    stage.exits.enter_context(small_disk(stage.state, 100))
    stage.state.chmod(0o700)
    return Broken("state disk", "of 100 MiB free", flags=("--cache-size", "1GiB"))


def hot_on_fuse(stage: Stage) -> Broken:
    (stage.home / "below").mkdir()
    plan = Plan(stage.home / "below")
    stage.exits.enter_context(mounted(plan))
    return Broken("hot directory", "which is FUSE", flags=("--hot", str(plan.mountpoint)))


def hot_missing(stage: Stage) -> Broken:
    return Broken("hot directory", "No such file or directory", flags=("--hot", str(stage.home / "nothing")))


def state_for_all(stage: Stage) -> Broken:
    stage.state.chmod(0o777)
    return Broken("state directory", "can be written to by other users")


def state_of_another(stage: Stage) -> Broken:
    require(os.geteuid() == 0, NEEDS_ROOT)
    os.chown(stage.state, 12345, -1)
    return Broken("state directory", "belongs to user 12345")


def catalog_damaged(stage: Stage) -> Broken:
    (stage.state / "catalog.sqlite").write_bytes(b"not a database, as it happens" * 200)
    return Broken("catalog", "cannot be read")


# -- with the way to the bucket ----------------------------------------------------------------------------------


def refused(stage: Stage) -> Broken:
    return Broken("endpoint", "refuses connections", endpoint=f"http://127.0.0.1:{free_port()}")


def silent(stage: Stage) -> Broken:
    url = stage.behind(Fault(Kind.BLACK_HOLE))
    return Broken("endpoint", "then is silent", endpoint=url, flags=("--timeout", "500ms"))


def tls_to_a_plain_port(stage: Stage) -> Broken:
    url = stage.server.endpoint_url.replace("http://", "https://")
    return Broken("endpoint", "speaks plain HTTP", endpoint=url, flags=("--timeout", "2s"))


def plain_to_a_tls_port(stage: Stage) -> Broken:
    port = stage.exits.enter_context(tls_server(stage.home))
    return Broken("endpoint", "speaks TLS", endpoint=f"http://127.0.0.1:{port}")


def certificate_of_nobody(stage: Stage) -> Broken:
    port = stage.exits.enter_context(tls_server(stage.home))
    return Broken("bucket", "self-signed certificate", endpoint=f"https://localhost:{port}")


def clock_ahead(stage: Stage) -> Broken:
    return Broken("clock", "s behind the store's", endpoint=stage.behind(Fault.date(3600)))


def clock_a_little_behind(stage: Stage) -> Broken:
    return Broken("clock", "s ahead of the store's", endpoint=stage.behind(Fault.date(-300)), verdict="warning")


# -- with the bucket ---------------------------------------------------------------------------------------------


def no_bucket(stage: Stage) -> Broken:
    return Broken("bucket", "NoSuchBucket", store="s3://tierfs-no-such-bucket")


def elsewhere(stage: Stage) -> Broken:
    url = stage.behind(Fault.refusal(301, "PermanentRedirect"))
    return Broken("bucket", "the bucket is in another region: set region", endpoint=url)


def no_credentials(stage: Stage) -> Broken:
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    return Broken("credentials", "boto3 finds none", environment=nothing)


def wrong_secret(stage: Stage) -> Broken:
    other = stage.exits.enter_context(serving(rclone))
    wrong = {"AWS_SECRET_ACCESS_KEY": "not-the-secret-of-this-key"}
    return Broken("credentials", "SignatureDoesNotMatch", endpoint=other.endpoint_url, environment=wrong)


def expired(stage: Stage) -> Broken:
    return Broken("credentials", "the credentials have expired", endpoint=stage.behind(Fault.expired()))


def leased_by_another(stage: Stage) -> Broken:
    now = time.time_ns()
    owner = Owner("someone", "another-machine", "session", "host storage-2, mounted at /srv/data")
    lease = Lease(3, owner, "mark", now, now, 3600 * 10**9)
    stage.put(f"{PREFIX}.tierfs/{KEY}", lease.format().encode())
    return Broken("lease", "host storage-2, mounted at /srv/data")


def unknown_setting(stage: Stage) -> Broken:
    return Broken("settings", "did you mean TIERFS_WARM_AFTER?", environment={"TIERFS_WARM_AFFER": "1d"})


#: One of each kind; the others cost as much again, and have their turn with DOCTOR=all.
SETUPS = (
    no_device,
    few_descriptors,
    hot_disk_full,
    hot_on_fuse,
    state_for_all,
    refused,
    clock_ahead,
    no_bucket,
    wrong_secret,
    leased_by_another,
)
OTHERS = (
    no_credentials,
    plain_to_a_tls_port,
    no_capability,
    state_disk_full,
    cache_larger_than_disk,
    hot_missing,
    state_of_another,
    catalog_damaged,
    silent,
    tls_to_a_plain_port,
    certificate_of_nobody,
    clock_a_little_behind,
    elsewhere,
    expired,
    unknown_setting,
)
ALL = SETUPS + OTHERS if os.environ.get("DOCTOR") == "all" else SETUPS


@pytest.mark.mount
@pytest.mark.parametrize("setup", ALL, ids=lambda setup: setup.__name__)
def test_it_names_the_cause(stage: Stage, setup: Callable[[Stage], Broken]) -> None:
    broken = setup(stage)
    where = ("--endpoint-url", broken.endpoint or stage.server.endpoint_url, "--state", str(stage.state))
    store, flags = broken.store or stage.store, ("--cache-size", "1MiB", *broken.flags)
    report, code = examine(store, str(stage.hot), "--quick", *where, *flags, prefix=broken.prefix, **broken.environment)
    found = [one for one in report["checks"] if one["subject"] == broken.subject and one["verdict"] == broken.verdict]
    assert any(broken.words in one["found"] for one in found), report
    assert all(one["meaning"] and one["remedy"] for one in found), found
    if broken.verdict == "problem":
        assert code == Exit.TROUBLE


def test_a_state_directory_that_one_may_not_look_into_is_not_missing(stage: Stage) -> None:
    require(os.geteuid() == 0, "becoming another user needs root")
    stage.home.chmod(0o700)
    patient = Patient(MountRequest("file:///store", "/mnt", str(stage.hot), str(stage.state), Settings()))
    [(found, remedy)] = run_as(STRANGER, lambda: [(one.found, one.remedy) for one in examine_state(patient)])
    assert found == f"{stage.state}: Permission denied"
    assert remedy.startswith("give this user the right to it")


@pytest.mark.mount
def test_nothing_else_is_blamed(stage: Stage) -> None:
    """The same set-up as in the tests above, with nothing broken: no problem, and nothing is left behind."""
    where = ("--endpoint-url", stage.server.endpoint_url, "--state", str(stage.state), "--cache-size", "1MiB")
    report, _ = examine(stage.store, str(stage.hot), *where)
    subjects = {one["subject"]: one["verdict"] for one in report["checks"]}
    rights = {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}
    assert {subjects[one] for one in (*rights, "lease", "credentials", "bucket", "clock", "catalog")} == {"ok"}
    assert "speed" in subjects
    # What this host is short of, others have to say.
    assert set(problems_of(report)) <= {"memory", "open files", "hot disk", "state disk"}
    with stage.server.client() as client:
        assert "Contents" not in client.list_objects_v2(Bucket=BUCKET)
        assert not client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
    assert list(stage.hot.iterdir()) == list(stage.state.iterdir()) == []


# -- what one may not do -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[S3Server]:
    """A server that checks signatures and policies."""
    with serving(moto) as started:
        started.create_bucket(BUCKET)
        yield started


def user_without(server: S3Server, *actions: str) -> dict[str, str]:
    """The credentials of a user who may do everything in S3 but that, in the environment."""
    _authorise(server, "inf")
    account = boto3.Session(server.access_key, server.secret_key, region_name=REGION)
    iam, name = account.client("iam", endpoint_url=server.endpoint_url), "-".join(actions).replace(":", "")
    try:
        iam.create_user(UserName=name)
        rules = [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]
        rules.append({"Effect": "Deny", "Action": list(actions), "Resource": "*"})
        policy = json.dumps({"Version": "2012-10-17", "Statement": rules})
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
    finally:
        iam.close()
    _authorise(server, "0")
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def _authorise(server: S3Server, after: str) -> None:
    """Have the server check who asks, after so many requests."""
    url, plain = f"{server.endpoint_url}/moto-api/reset-auth", {"Content-Type": "text/plain"}
    request = urllib.request.Request(url, after.encode(), plain, method="POST")
    with urllib.request.urlopen(request):
        pass


@pytest.mark.parametrize(
    "actions",
    [
        ("s3:PutObject",),
        ("s3:ListBucket", "s3:DeleteObject"),
        ("s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"),
    ],
    ids=str,
)
def test_it_names_the_actions_that_a_policy_denies(stage: Stage, guarded: S3Server, actions: tuple[str, ...]) -> None:
    environment = user_without(guarded, *actions)
    where = ("--endpoint-url", guarded.endpoint_url, "--state", str(stage.state), "--cache-size", "1MiB")
    report, code = examine(stage.store, str(stage.hot), "--quick", *where, **environment)
    rights = {one["subject"]: one["verdict"] for one in report["checks"] if one["subject"].startswith("s3:")}
    assert [name for name, verdict in rights.items() if verdict == "problem"] == list(actions), report
    assert code == Exit.TROUBLE
    text = json.dumps(report)
    assert environment["AWS_SECRET_ACCESS_KEY"] not in text
    assert environment["AWS_ACCESS_KEY_ID"] not in text


# -- a mount that runs -------------------------------------------------------------------------------------------


def lease_below(stage: Stage) -> Lease:
    """The lease of the mount of a stage."""
    with stage.server.client() as client:
        body = client.get_object(Bucket=BUCKET, Key=f"{stage.home.name}/.tierfs/{KEY}")["Body"].read()
    lease = Lease.parse(body.decode())
    assert lease is not None
    return lease


@pytest.mark.mount
@pytest.mark.parametrize("in_place", [False, True])
def test_a_mount_that_runs_is_not_disturbed(stage: Stage, in_place: bool) -> None:
    (stage.home / "m").mkdir()
    url = stage.server.endpoint_url
    plan = Plan(stage.home / "m", f"s3://{BUCKET}/{stage.home.name}", in_place, flags=("--endpoint-url", url))
    with mounted(plan) as mount:
        (mount.path / "file").write_bytes(b"bytes")
        before = lease_below(stage)
        report, _ = examine(str(plan.mountpoint), "--quick")
        subjects = {one["subject"]: one for one in report["checks"]}
        assert subjects["lease"]["found"].startswith("of this state directory"), report
        assert subjects[f"mount {plan.mountpoint}"]["verdict"] == "ok"
        assert subjects["hot directory"]["found"].startswith(f"{plan.hot} on ")
        assert "fuse" not in subjects["hot directory"]["found"]
        assert subjects["catalog"]["verdict"] == "ok"
        after = lease_below(stage)
        assert (after.epoch, after.owner) == (before.epoch, before.owner)
        assert [path.name for path in mount.path.iterdir()] == ["file"]
        mount.archive("file")
    with stage.server.client() as client:
        keys = {one["Key"] for one in client.list_objects_v2(Bucket=BUCKET, Prefix=f"{stage.home.name}/")["Contents"]}
        assert not {key for key in keys if "doctor" in key or "self-test" in key}
        for key in keys:
            client.delete_object(Bucket=BUCKET, Key=key)


@pytest.mark.mount
def test_a_mount_that_is_stuck_holds_up_nobody(stage: Stage) -> None:
    (stage.home / "m").mkdir()
    plan = Plan(stage.home / "m", in_place=True)
    with mounted(plan) as mount:
        stopped = mount.freeze()
        try:
            report, code = examine(str(plan.mountpoint), "--quick")
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        assert code == Exit.TROUBLE
        assert "does not answer" in problems_of(report)[f"mount {plan.mountpoint}"], report
        assert "stopped by a signal" in problems_of(report)[f"mount {plan.mountpoint}"]


_LOOKS = """
import os, sys
from tierfs.core.diagnosis import Diagnosis, Verdict
from tierfs.doctor.examination import Examination, examine

def look(path):
    yield Diagnosis("name", Verdict.OK, path)
    os.stat(path)

stuck, fine = sys.argv[1:]
for one in examine([Examination(stuck, lambda: look(stuck), 3.0), Examination(fine, lambda: look(fine), 100.0)]):
    print(one.subject, one.verdict, one.found, flush=True)
"""


@pytest.mark.mount
def test_what_hangs_is_given_up_and_said(stage: Stage) -> None:
    """Whoever looks at a mount that nobody serves waits in the kernel; what comes after it is said all the same."""
    (stage.home / "m").mkdir()
    with mounted(Plan(stage.home / "m")) as mount:
        inside = mount.path / "inside"
        stopped = mount.freeze()
        try:
            command = [sys.executable, "-c", _LOOKS, str(inside), str(stage.hot)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    assert done.stdout.splitlines() == [
        f"name ok {inside}",
        f"{inside} problem no answer within 3 s after name",
        f"name ok {stage.hot}",
    ]


# -- what set-ups are made of ------------------------------------------------------------------------------------------


@contextmanager
def tls_server(home: Path) -> Iterator[int]:
    """A port where TLS is spoken, with a certificate that nobody has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(home))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_shake_hands, args=(listener, context))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    """With one after the other, until the listener is shut down."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        client.settimeout(5)
        with client, suppress(OSError), context.wrap_socket(client, server_side=True) as safe:
            safe.recv(1 << 16)
            safe.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _certificate(home: Path) -> Path:
    """A key and a certificate of localhost, in one file."""
    file = home / "certificate.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    try:
        subprocess.run([*command, "-keyout", str(file), "-out", f"{file}.crt"], check=True, capture_output=True)
    except FileNotFoundError:
        require(False, "openssl is not installed")
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file
