"""What holds for every test: prerequisites, Hypothesis profiles, no way to a real cloud, and nothing left behind."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tierfs.mount import kernel

settings.register_profile("dev", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), max_examples=200, derandomize=True, print_blob=True)

#: In the environment of every process that a test starts, however far away from it.
MARK = "SESSION_OF_TIERFS_TESTS"
#: How long, in seconds, what a test has told to end may take to be gone.
_GRACE_S = 60.0

_CLOUD = {
    "AWS_ACCESS_KEY_ID": "tierfstestkey",
    "AWS_SECRET_ACCESS_KEY": "tierfstestsecret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_OTHERS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_CA_BUNDLE")


# Who runs the tests in the background of a shell has SIGINT ignored, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def is_ci() -> bool:
    """Whether a missing prerequisite is a failure."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def require(condition: object, reason: str) -> None:
    """Skip the test where what it needs is missing; under CI=true that is a failure."""
    if condition:
        return
    if is_ci():
        pytest.fail(f"under CI=true every prerequisite must be there: {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    """Put everything that this session makes into one directory, and make the environment its own."""
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if is_ci() else "dev"))
    # Other users must be able to reach a mount in it, and paths of Unix sockets end at 107 bytes.
    # Each process of pytest-xdist has a session of its own, beside that of who started it.
    beside = Path(os.environ[MARK]).parent if "PYTEST_XDIST_WORKER" in os.environ else None
    home = Path(tempfile.mkdtemp(prefix="tierfs-t-", dir=beside))
    home.chmod(0o711)
    tempfile.tempdir = os.environ["TMPDIR"] = str(home)
    os.environ[MARK] = str(home)
    os.environ.update(_CLOUD)
    for name in [*_OTHERS, *(name for name in os.environ if name.startswith("TIERFS_"))]:
        os.environ.pop(name, None)
    os.environ["TIERFS_RUNTIME_DIR"] = str(home / "run")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The session's directory goes, and never through a mount."""
    home = Path(os.environ[MARK])
    for mountpoint in _mounts():
        kernel.unmount(mountpoint, lazy=True)
    tempfile.tempdir = None
    if not _mounts():
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def can_mount(request: pytest.FixtureRequest) -> None:
    """What tests marked `mount` need."""
    if request.node.get_closest_marker("mount"):
        require(os.access("/dev/fuse", os.R_OK | os.W_OK), "/dev/fuse is missing or may not be used")
        may_mount = os.geteuid() == 0 or shutil.which("fusermount3")
        require(may_mount, "mounting needs root or fusermount3 (Debian package fuse3)")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """A test ends its processes, mounts and temporary directories; those of wider fixtures were there before."""
    before = _left()
    yield
    deadline = time.monotonic() + _GRACE_S
    while (left := _left() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"the test left behind: {sorted(left)}"


def _left() -> set[str]:
    home = Path(os.environ[MARK])
    directories = {f"directory {path}" for path in home.iterdir() if not path.name.startswith(("pytest-of-", "run"))}
    return directories | {f"mount {path}" for path in _mounts()} | _processes()


def _mounts() -> list[str]:
    """Mounts of any kind below the session's directory, the innermost first."""
    fields = [line.split(b" ") for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    home = os.fsencode(os.environ[MARK]) + b"/"
    return [os.fsdecode(field[4]) for field in reversed(fields) if field[4].startswith(home)]


def _processes() -> set[str]:
    """Processes with the session's mark in their environment, but for this one; zombies have none."""
    mark, found = f"{MARK}={os.environ[MARK]}".encode(), set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.add(f"process {process.name} {command.strip()}")
        except OSError:
            continue
    return found
