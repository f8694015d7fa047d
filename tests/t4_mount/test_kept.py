"""The command line where systemd has kept the mount: nobody serves it yet, and whoever asks it something waits."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tierfs.cli.mounting import request_of
from tierfs.cli.sources import gather
from tierfs.core.errors import ConfigError
from tierfs.mount import kernel

pytestmark = pytest.mark.mount

#: The shell's number becomes that of Python: systemd says whom the descriptors are for.
_AS_SYSTEMD = 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=fuse exec "$0" "$@" 3</dev/null'


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
def unserved(home: Path) -> Iterator[Path]:
    """A mount in place that nobody answers for."""
    require(os.geteuid() == 0, "mounting without a FUSE library needs root")
    mountpoint = home / "data"
    mountpoint.mkdir()
    fuse = kernel.mount(kernel.MountOptions(str(mountpoint), "file:///nowhere", allow_other=True))
    try:
        yield mountpoint
    finally:
        kernel.unmount(str(mountpoint), lazy=True)
        os.close(fuse)


def _mount(mountpoint: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tierfs", "mount", "--foreground", *flags, "s3://bucket", str(mountpoint)]
    return subprocess.run(["sh", "-c", _AS_SYSTEMD, *command], text=True, capture_output=True, timeout=100, check=False)


def test_wrong_settings_have_systemd_try_again(home: Path, unserved: Path) -> None:
    """Exit codes 2, 3 and 4 would have it close what it keeps (RestartPreventExitStatus=)."""
    state = f"--state={home / 'state'}"
    for wrong in ("--warm-after=soon", f"--hot={unserved / 'below'}", "--config=/nowhere"):
        done = _mount(unserved, state, wrong)
        assert done.returncode == 1
        assert done.stderr.rstrip().endswith("; the mount is kept, and whoever uses it waits")


def test_wrong_settings_of_a_mount_that_is_not_there_are_what_they_are(home: Path) -> None:
    command = [sys.executable, "-m", "tierfs", "mount", "--warm-after=soon", "s3://bucket", str(home)]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 3


def test_a_mount_that_nobody_serves_is_not_asked_anything(home: Path, unserved: Path) -> None:
    (home / "link").symlink_to("other")
    (home / "other").symlink_to(unserved)
    (home / "round").symlink_to("round")
    for name in ("data", "link", "../" + home.name + "/data/", "none/../link"):
        where = {"store": "s3://bucket", "mountpoint": f"{home}/{name}", "hot": str(unserved), "state": str(home / "s")}
        request = request_of(gather(None, {}, where), foreground=True, is_kept=True)
        assert (request.mountpoint, request.hot) == (str(unserved), str(unserved))
    for inside in ("data/state", "link/state", "round/../link"):
        where["state"] = f"{home}/{inside}"
        with pytest.raises(ConfigError, match="state"):
            request_of(gather(None, {}, where), foreground=True, is_kept=True)
