"""A store that fails while files are archived, released, restored, removed and renamed: the table of faults.

Each fault has a directory of its own in one mount, so that all of them happen at the same time; what meets all of
the requests (a deleted bucket, expired credentials, nobody there) has a mount of its own. While the fault lasts, hot
bytes are what they were, nothing is lost, and the mount says what is wrong. When it is over, everything comes to its
right end by itself.
"""

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from tests.faults import Fault, Kind
from tests.mounting import Plan, directory, mounted
from tests.proxy import in_front_of
from tests.servers import S3Server
from tests.t4_mount.faulty_bucket import BUCKET, Stage, bucket_server, staged
from tests.t4_mount.faulty_bucket import FLAGS as MOUNT_FLAGS
from tests.t4_mount.modes import wait_until
from tierfs.core.reports import Verb

pytestmark = [pytest.mark.mount, pytest.mark.slow]

#: The policy archives at once and looks often; nothing is released but by order.
POLICY = ("--auto-archive", "--warm-after", "0s", "--settle", "0s", "--cold-after", "1h", "--policy-interval", "300ms")
FLAGS = (*POLICY, "--min-size", "1", "--archive-concurrency", "64", "--cold-timeout", "2m")


@dataclass(frozen=True, slots=True)
class Case:
    """What goes wrong, with what `key` says of a directory, and what the log then says of the archive in it."""

    faults: tuple[Fault, ...]
    says: str
    loses_sight: bool = False  # objects cannot be seen: cold files are lost until they can


CASES: Mapping[str, Case] = {
    "error": Case((Fault.refusal(500, "InternalError"),), "We encountered an internal error"),
    "slow-down": Case((Fault.slow_down(),), "the store asks for fewer requests"),
    "silence": Case((Fault(Kind.BLACK_HOLE),), "the store was silent for longer than timeout"),
    "reset": Case((Fault(Kind.RESET),), "the connection broke"),
    "reset-in-body": Case(
        (Fault(Kind.RESET_IN_BODY, method="GET"), Fault(Kind.RESET_UPLOAD, method="PUT")), "the connection broke"
    ),
    "truncated": Case((Fault(Kind.TRUNCATE, method="GET"), Fault(Kind.RESET_UPLOAD, method="PUT", at=0)), "broke"),
    "wrong-bytes": Case((Fault(Kind.CORRUPT, method="GET"), Fault(Kind.CORRUPT_UPLOAD, method="PUT")), "BadDigest"),
    "other-etag": Case((Fault(Kind.ETAG),), "the store answered with ETag"),
    "answer-lost": Case((Fault(Kind.LOST_ANSWER, method="[PD]*"),), "the connection broke"),
    "head-disagrees": Case((Fault(Kind.SHORTEN, method="HEAD"),), "bytes were sent, the store has"),
    "unseen": Case((Fault.unseen(method="[GH]E*"),), "it is not there yet", loses_sight=True),
    "unseen-after-put": Case((Fault.unseen(method="HEAD", key="kept"), Fault.unseen(key="new")), "it is not there yet"),
    "expired": Case((Fault.expired(),), "the credentials have expired: renew them"),
}
OF_THE_STORE: Mapping[str, Case] = {
    "bucket-deleted": Case((Fault.no_bucket(),), "create the bucket or correct its name"),
    "all-expired": Case((Fault.expired(),), "the credentials have expired: renew them"),
    "nobody-there": Case((Fault(Kind.REFUSE),), "nothing answers at that address"),
}


def content_of(path: str) -> bytes:
    """Bytes that are nowhere the same as somewhere else."""
    return random.Random(path).randbytes(100_003)


class Play:
    """One mount through a fault: before, meanwhile, afterwards."""

    def __init__(self, stage: Stage, cases: Mapping[str, Case], faults: list[Fault]) -> None:
        self.stage, self.mount = stage, stage.mount
        self.cases = cases
        self.faults = faults
        self.expected: dict[str, bytes] = {}

    def run(self) -> None:
        self.prepare()
        self.stage.proxy.order(*self.faults)
        with ThreadPoolExecutor(2) as pool:
            self.change()
            restores = pool.submit(self.mount.outcomes, "restore", *self.paths("read"))
            releases = pool.submit(self.mount.outcomes, "release", *self.paths("warm"))
            try:
                self.look_while_it_lasts()
            finally:
                self.stage.proxy.heal()
            for outcome in [*restores.result(), *releases.result()]:
                assert outcome.result == "done" or outcome.reason, outcome
        self.look_afterwards()

    def paths(self, name: str) -> list[str]:
        return [f"{case}/{name}" for case in self.cases]

    def make(self, *names: str) -> None:
        for path in (path for name in names for path in self.paths(name)):
            self.expected[path] = content_of(path)
            (self.mount.path / path).write_bytes(self.expected[path])

    def move(self, verb: Verb, *names: str) -> None:
        """Where nothing is sent twice, a request may time out on a busy machine."""
        paths = [path for name in names for path in self.paths(name)]
        wait_until(lambda: all(one.result != "failed" for one in self.mount.outcomes(verb, *paths)))

    def prepare(self) -> None:
        """A mirrored file and three cold ones in each directory."""
        for case in self.cases:
            (self.mount.path / case).mkdir()
        wait_until(lambda: any("this is rclone" in one for one in self.mount.status()["warnings"]))
        self.make("warm", "read", "gone", "old")
        wait_until(lambda: self.mount.status()["warm"]["files"] == len(self.expected))
        self.move("release", "read", "gone", "old")

    def change(self) -> None:
        """None of it waits for the bucket."""
        self.make("kept")
        for case in self.cases:
            (self.mount.path / case / "gone").unlink()
            (self.mount.path / case / "old").rename(self.mount.path / case / "new")
            del self.expected[f"{case}/gone"]
            self.expected[f"{case}/new"] = self.expected.pop(f"{case}/old")

    def look_while_it_lasts(self) -> None:
        """Said in the log and in `status`; the hot bytes are there, what is cold is cold, the tree is whole."""
        for name, case in self.cases.items():
            wait_until(lambda name=name, case=case: self.is_said(name, case))  # type: ignore[misc]
        wait_until(self.is_warned)
        status = self.mount.status()
        assert status["errors"]["policy"] >= len(self.cases)
        assert status["queue"]["deletions"] > 0
        for name, case in self.cases.items():
            assert f"{name}/kept" in status["errors"]["files"], name
            assert self.mount.residency(f"{name}/kept") in ("hot", "archiving"), name
            assert (self.mount.plan.hot / name / "kept").read_bytes() == self.expected[f"{name}/kept"]
            colds = {self.mount.residency(f"{name}/{cold}") for cold in ("read", "new")}
            assert case.loses_sight or "lost" not in colds, name
        assert self.seen() == {path: len(content) for path, content in self.expected.items()}

    def is_warned(self) -> bool:
        return any("deletions and renames wait for the bucket: " in one for one in self.mount.status()["warnings"])

    def is_said(self, name: str, case: Case) -> bool:
        lines = self.stage.log().splitlines()
        return any(f"cannot archive {name}/kept (try " in line and case.says in line for line in lines)

    def seen(self) -> dict[str, int]:
        """Every file of the tree, and its size."""
        top = self.mount.path
        files = [path for path in top.rglob("*") if path.is_file()]
        return {str(path.relative_to(top)): path.stat().st_size for path in files}

    def look_afterwards(self) -> None:
        """Archived, deleted, moved, found again: nobody has done anything for it."""
        wait_until(self.is_settled)
        assert self.mount.check() == []
        with self.stage.server.client() as client:
            page = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.mount.plan.home.name}/")
        keys = {entry["Key"].partition("/")[2] for entry in page.get("Contents", ())}
        assert {key for key in keys if not key.startswith(".tierfs/")} == set(self.expected)  # the lease is there, too
        self.move("restore", "read")
        for path, content in self.expected.items():
            assert (self.mount.path / path).read_bytes() == content, path

    def is_settled(self) -> bool:
        status = self.mount.status()
        queue = status["queue"]
        return (
            not any((queue["deletions"], queue["moves"], status["lost"]["files"], self.is_warned()))
            and status["hot"]["files"] == 0
            and not status["errors"]["files"]
        )


def faults_of(cases: Mapping[str, Case]) -> list[Fault]:
    return [
        replace(fault, key=f"{BUCKET}/*/{name}/{fault.key}") for name, case in cases.items() for fault in case.faults
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with bucket_server() as server:
        yield server


@pytest.fixture(scope="module")
def plays(server: S3Server) -> Iterator[dict[str, "Future[None]"]]:
    """All of them at the same time: most of it is waiting."""

    def play(cases: Mapping[str, Case], faults: list[Fault], *flags: str) -> None:
        with staged(*FLAGS, *flags, server=server) as stage:
            Play(stage, cases, faults).run()

    with ThreadPoolExecutor() as pool:
        # One key that fails must not open the circuit for the others.
        running = {"each": pool.submit(play, CASES, faults_of(CASES), "--breaker-failures", "0")}
        for name, case in OF_THE_STORE.items():
            running[name] = pool.submit(play, {name: case}, list(case.faults))
        yield running


def test_a_scan_that_is_interrupted_goes_on_by_itself(server: S3Server) -> None:
    """While the mount serves: what could be looked at is shown, the rest when the store lets it."""
    with directory() as home, in_front_of(server) as proxy, server.client() as client:
        for name in ("good", "late"):
            client.put_object(Bucket=BUCKET, Key=f"{home.name}/{name}", Body=content_of(name))
        match = {"method": "HEAD", "key": f"{BUCKET}/{home.name}/late"}
        # Longer than the mount waits for its first scan, which then is repeated, and fails, while it serves.
        proxy.order(Fault.latency(4.0, count=1, **match), Fault.slow_down(count=3, **match))
        flags = ("--endpoint-url", proxy.url, *MOUNT_FLAGS, "--policy-interval", "300ms")
        with mounted(Plan(home, store=f"s3://{BUCKET}/{home.name}", flags=flags)) as mount:
            wait_until((mount.path / "late").exists)
            for name in ("good", "late"):
                assert (mount.path / name).read_bytes() == content_of(name)
            log = mount.log.read_text(errors="replace")
            assert "not all cold files can be read or seen now: cannot look at object" in log
            assert mount.check() == []
            # The self-test's first requests may have gone before the faults: none of it is said any more.
            wait_until(lambda: not any("SlowDown" in warning for warning in mount.status()["warnings"]))


@pytest.mark.parametrize("name", ["each", *OF_THE_STORE])
def test_a_fault_of_the_store_passes_without_a_trace(plays: dict[str, "Future[None]"], name: str) -> None:
    """Hot bytes untouched, residency right, tried again, said; then all of it is as if there had been none."""
    plays[name].result()
