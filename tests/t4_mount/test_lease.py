"""One mount writes below a prefix: others are refused, and one that comes back too late writes nothing."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.conftest import require
from tests.faults import Fault, Kind
from tests.mounting import Mount, MountFailed, Plan, directory, mounted, run
from tests.proxy import Proxy, in_front_of
from tests.servers import S3Server, ServerMissing, moto, rclone
from tests.t4_mount.modes import wait_until
from tierfs.cli.exits import Exit

pytestmark = pytest.mark.mount

BUCKET = "tierfs-lease"
#: Short enough to wait for, and every test waits for what it leads to.
SHORT = ("--lease", "5s", "--max-retries", "0")


@contextmanager
def server_of(name: str) -> Iterator[S3Server]:
    with ExitStack() as exits:
        try:
            server = exits.enter_context({"moto": moto, "rclone": rclone}[name]())
        except ServerMissing as missing:
            require(False, str(missing))
            raise
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with server_of("moto") as server:
        yield server


@dataclass(frozen=True, slots=True)
class Host:
    """Where a mount is made that knows nothing of the others but what the store tells."""

    home: Path
    flags: tuple[str, ...]
    store: str

    def plan(self, name: str, *flags: str) -> Plan:
        home = self.home / name
        home.mkdir(exist_ok=True)
        return Plan(
            home,
            store=self.store,
            # A snapshot would ask for a rebuild before another state directory may write.
            flags=("--snapshot-interval", "0s", *self.flags, *flags),
            environment={"TIERFS_RUNTIME_DIR": str(home / "run")},
        )


@contextmanager
def mounted_there(plan: Plan) -> Iterator[Mount]:
    """A mount with a runtime directory of its own, as on another host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIERFS_RUNTIME_DIR", plan.environment["TIERFS_RUNTIME_DIR"])
        with mounted(plan) as mount:
            yield mount


@pytest.fixture
def hosts(s3: S3Server) -> Iterator[Host]:
    with directory() as home:
        yield Host(home, ("--endpoint-url", s3.endpoint_url), f"s3://{BUCKET}/{home.name}")


def lease_of(mount: Mount) -> str:
    lease = mount.status()["lease"]  # nothing while its process is being started
    return str(lease["state"]) if lease else ""


def refusal(plan: Plan) -> str:
    failure = run(plan)
    assert failure.status == Exit.MOUNT
    return failure.output


def archive(mount: Mount, name: str, content: bytes) -> str:
    """Why a file was not archived; nothing when it was."""
    (mount.path / name).write_bytes(content)
    (outcome,) = mount.settled("archive", name)
    return outcome.reason


def archived(mount: Mount, name: str, content: bytes) -> None:
    """Archive a file; a short lease may have run out meanwhile on a busy machine, and comes back."""
    wait_until(lambda: archive(mount, name, content) == "")


def cold(mount: Mount, name: str, content: bytes) -> Path:
    """A cold file, of which nothing is cached."""
    path = mount.path / name
    path.write_bytes(content)
    wait_until(lambda: all(one.result != "failed" for one in mount.outcomes("release", name)))
    mount.evict()
    return path


def test_a_second_mount_of_a_prefix_is_refused_until_the_first_is_gone(hosts: Host) -> None:
    """It is told who has it; --read-only may share it; another prefix is somebody else's."""
    with mounted_there(hosts.plan("a")) as first:
        archived(first, "file", b"of the first" * 500)
        output = refusal(hosts.plan("b"))
        assert str(hosts.home / "a") in output
        assert "belongs to another mount" in output
        assert "--take-over" in output
        with mounted_there(hosts.plan("c", "--read-only")) as reader:
            assert (reader.path / "file").read_bytes() == b"of the first" * 500
            assert reader.status()["lease"] is None
            assert not reader.status()["warnings"]
        other = replace(hosts, store=hosts.store + "-other")
        with mounted_there(other.plan("d")) as elsewhere:
            assert lease_of(elsewhere) == "held"
        assert lease_of(first) == "held"
    with mounted_there(hosts.plan("b")) as second:
        assert lease_of(second) == "held"
        assert second.status()["lease"]["epoch"] == 2
        assert (second.path / "file").read_bytes() == b"of the first" * 500
        archived(second, "more", b"of the second" * 500)
        assert not second.check()


@pytest.mark.parametrize("kind", ["moto", "directory"])
def test_two_mounts_on_one_host(kind: str, s3: S3Server) -> None:
    """A lock of the host refuses at once, whatever the store can do."""
    with directory() as home:
        flags: tuple[str, ...] = ()
        store = f"file://{home}/bucket"
        (home / "bucket").mkdir()
        if kind == "moto":
            flags, store = ("--endpoint-url", s3.endpoint_url), f"s3://{BUCKET}/{home.name}"
        for name in "ab":
            (home / name).mkdir()
        with mounted(Plan(home / "a", store=store, flags=flags)) as first:
            wait_until(lambda: lease_of(first) == "held")
            assert f"is mounted at {first.path} already" in refusal(Plan(home / "b", store=store, flags=flags))
            with mounted(Plan(home / "b", store=store, flags=(*flags, "--read-only"))):
                pass


@pytest.mark.parametrize("kind", ["rclone", "directory"])
def test_stores_without_conditional_writes_and_directories_know_their_owner(kind: str) -> None:
    with directory() as home, ExitStack() as exits:
        host = Host(home, (), f"file://{home}/bucket")
        (home / "bucket").mkdir()
        if kind == "rclone":
            url = exits.enter_context(server_of("rclone")).endpoint_url
            host = Host(home, ("--endpoint-url", url), f"s3://{BUCKET}/{home.name}")
        with mounted_there(host.plan("a")) as first:
            archived(first, "file", b"x" * 5000)
            assert ("has no conditional writes" in first.log.read_text()) == (kind == "rclone")
            assert "belongs to another mount" in refusal(host.plan("b"))
        with mounted_there(host.plan("b")) as second:
            assert (second.path / "file").read_bytes() == b"x" * 5000
            archived(second, "more", b"y" * 5000)


def test_after_a_crash_the_same_state_directory_has_its_lease_again_at_once(hosts: Host) -> None:
    """With the longest lease nobody could wait for it. The cold process or the worker alone find back, too."""
    plan = hosts.plan("a", "--lease", "1d")
    with mounted_there(plan) as mount:
        archived(mount, "file", b"x" * 5000)
        before = int(mount.status()["cold_pid"])
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: mount.status()["cold_pid"] not in (0, before))
        wait_until(lambda: lease_of(mount) == "held")
        assert mount.status()["lease"]["epoch"] == 1
        archived(mount, "again", b"y" * 5000)
        mount.wait_taken_over(mount.kill_worker())
        wait_until(lambda: lease_of(mount) == "held")
        assert mount.status()["lease"]["epoch"] == 1
        archived(mount, "once more", b"z" * 5000)
        mount.kill_all()
    assert "belongs to another mount" in refusal(hosts.plan("b"))
    with mounted_there(plan) as mount:
        assert lease_of(mount) == "held"
        assert mount.status()["lease"]["epoch"] == 2
        archived(mount, "more", b"z" * 5000)
        assert (mount.path / "file").read_bytes() == b"x" * 5000


@pytest.fixture
def proxied(s3: S3Server) -> Iterator[tuple[Host, Proxy]]:
    """The first mount reaches the server by way of a proxy, which counts what it sends."""
    with directory() as home, in_front_of(s3) as proxy:
        yield Host(home, ("--endpoint-url", proxy.url), f"s3://{BUCKET}/{home.name}"), proxy


def test_an_owner_that_was_stopped_writes_nothing_when_it_comes_back(proxied: tuple[Host, Proxy], s3: S3Server) -> None:
    """SIGSTOP of the cold process, with an archive on its way; its lease runs out, another mount takes over."""
    host, proxy = proxied
    direct = replace(host, flags=("--endpoint-url", s3.endpoint_url))
    with mounted_there(host.plan("a", *SHORT)) as stale:
        archived(stale, "file", b"of the first" * 500)
        (stale.path / "late").write_bytes(b"l" * 5000)
        wait_until(lambda: is_tested(stale))
        writer = int(stale.status()["cold_pid"])
        os.kill(writer, signal.SIGSTOP)
        try:
            with mounted_when_free(direct.plan("b")) as owner:
                assert owner.status()["lease"]["epoch"] == 2
                archived(owner, "late", b"of the second" * 500)
                wait_until(lambda: is_tested(owner))
                before = objects(host, s3)
                proxy.reset_counts()
                os.kill(writer, signal.SIGCONT)
                (outcome,) = stale.settled("archive", "late")
                assert (outcome.result, "nothing is written now" in outcome.reason) == ("failed", True), outcome
                wait_until(lambda: lease_of(stale) == "lost")
                assert "taken over" in " ".join(stale.status()["warnings"])
                assert str(host.home / "b") in " ".join(stale.status()["warnings"])
                (outcome,) = stale.settled("release", "file")
                assert "taken over" in outcome.reason, outcome
                (stale.path / "late").unlink()
                (stale.path / "file").unlink()
                assert (stale.path / "file").exists() is False
                assert [proxy.counts().requests.get(method, 0) for method in ("POST", "DELETE")] == [0, 0]
                assert objects(host, s3) == before
                assert (owner.path / "late").read_bytes() == b"of the second" * 500
                assert lease_of(owner) == "held"
        finally:
            os.kill(writer, signal.SIGCONT)


def is_tested(mount: Mount) -> bool:
    """Whether the self-test is over, and nothing of it is in the bucket."""
    return any("CRC32" in warning for warning in mount.status()["warnings"])


def objects(host: Host, server: S3Server) -> dict[str, tuple[str, object]]:
    """What is in the bucket, but for the lease that its owner renews."""
    prefix = host.store.removeprefix(f"s3://{BUCKET}/")
    with server.client() as client:
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    return {one["Key"]: (one["ETag"], one["LastModified"]) for one in listed if not one["Key"].endswith("/lease")}


@contextmanager
def mounted_when_free(plan: Plan) -> Iterator[Mount]:
    """Mount as soon as nobody else has the prefix."""
    with ExitStack() as exits:
        made: list[Mount] = []

        def is_mounted() -> bool:
            try:
                made.append(exits.enter_context(mounted_there(plan)))
            except MountFailed as failure:
                if "belongs to another mount" not in failure.output:
                    raise
                (plan.home / "mount.log").unlink()
            return bool(made)

        wait_until(is_mounted)
        yield made[0]


def test_an_operator_takes_over_and_writing_begins_when_the_lease_has_run_out(hosts: Host) -> None:
    """The former owner hears of it at its next renewal, and writes nothing from then on."""
    with mounted_there(hosts.plan("a", "--lease", "6s")) as former:
        archived(former, "file", b"x" * 5000)
        with mounted_there(hosts.plan("b", "--lease", "6s", "--take-over")) as owner:
            assert (owner.path / "file").read_bytes() == b"x" * 5000
            wait_until(lambda: lease_of(former) == "lost")
            assert "taken over" in archive(former, "late", b"l" * 5000)
            wait_until(lambda: lease_of(owner) == "held")
            archived(owner, "more", b"y" * 5000)
        assert lease_of(former) == "lost"
        assert "taken over" in archive(former, "later", b"l" * 5000)


def test_while_the_store_is_away_the_lease_runs_out_and_comes_back_with_it(proxied: tuple[Host, Proxy]) -> None:
    """Hot files and what is cached go on; nothing is sent; the same epoch is renewed when the store is there again."""
    host, proxy = proxied
    with mounted_there(host.plan("a", *SHORT, "--breaker-failures", "0", "--timeout", "1s")) as mount:
        path = cold(mount, "cold", b"c" * 5000)
        proxy.order(Fault.refusal(503, "SlowDown", key="*/.tierfs/lease"))
        wait_until(lambda: lease_of(mount) == "lapsed")
        assert "could not be renewed" in archive(mount, "late", b"l" * 5000)
        assert path.read_bytes() == b"c" * 5000
        proxy.heal()
        wait_until(lambda: lease_of(mount) == "held")
        assert mount.status()["lease"]["epoch"] == 1
        archived(mount, "late", b"l" * 5000)


def test_a_mount_whose_store_is_away_at_the_start_writes_when_it_is_there(proxied: tuple[Host, Proxy]) -> None:
    host, proxy = proxied
    plan = host.plan("a", *SHORT, "--timeout", "1s")
    with mounted_there(plan) as mount:
        cold(mount, "cold", b"c" * 5000)
    proxy.order(Fault(Kind.REFUSE))
    with mounted_there(plan) as mount:
        assert lease_of(mount) == "unreached"
        assert "could not be asked" in archive(mount, "late", b"l" * 5000)
        proxy.heal()
        wait_until(lambda: lease_of(mount) == "held")
        archived(mount, "late", b"l" * 5000)
