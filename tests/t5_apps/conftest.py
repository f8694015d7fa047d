"""Real applications on real mounts, over a real S3 server: `rclone serve s3`, the fastest one."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.conftest import require
from tests.mounting import Mount, Plan, directory, mounted
from tests.servers import S3Server, ServerMissing, rclone

#: How long, in seconds, the policy may take for a whole tree on a busy machine before the test fails.
POLICY_S = 300.0

MakeMount = Callable[..., AbstractContextManager[Mount]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here mounts, and some of it takes a while where the processor is slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.mount)
            item.add_marker(pytest.mark.timeout(900))


def need(*programs: str) -> None:
    """Skip where one of these programs is missing; a failure under CI=true."""
    for program in programs:
        require(shutil.which(program), f"{program} is not installed")


def run(*command: str | Path, cwd: Path | None = None, ok: Sequence[int] = (0,)) -> str:
    """Run a program and return what it said on both outputs; AssertionError when it ends otherwise than expected."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = done.stdout.decode(errors="surrogateescape")
    assert done.returncode in ok, f"{command} ended with {done.returncode}: {said[-2000:]}"
    return said


def wait_until(condition: Callable[[], bool], explain: Callable[[], object], longest_s: float = POLICY_S) -> None:
    """Wait for what happens by itself; when it does not, fail and explain."""
    deadline = time.monotonic() + longest_s
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)


@pytest.fixture(scope="package")
def s3() -> Iterator[S3Server]:
    """The S3 server of all tests here."""
    try:
        server = rclone()
        with server as started:
            yield started
    except ServerMissing as missing:
        require(False, str(missing))


@pytest.fixture(scope="package")
def make_mount(s3: S3Server) -> MakeMount:
    """Makes an in-place mount over a new bucket: `with make_mount("bucket", "--flag", ...) as mount`.

    With `home`, which must exist, the hot directory is home/hot and may hold files already.
    """

    @contextmanager
    def make(bucket: str, *flags: str, home: Path | None = None) -> Iterator[Mount]:
        with directory() as fresh:
            s3.create_bucket(bucket)
            flags = ("--endpoint-url", s3.endpoint_url, "--min-size", "0", "--settle", "0s", *flags)
            plan = Plan(home or fresh, f"s3://{bucket}", in_place=True, flags=flags, environment=s3.environment)
            with mounted(plan) as mount:
                yield mount
                wait_until(lambda: mount.check() == [], mount.check)  # the policy may be at work between its looks
                wait_until(lambda: mount.status()["errors"]["files"] == {}, lambda: mount.status()["errors"])

    return make
