"""mount.tierfs run as mount(8) runs it; mount(8) itself and /etc/fstab are in test_systemd_mount.py."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.mounting import Plan, directory
from tierfs.mount import kernel, launch

pytestmark = pytest.mark.mount


@pytest.fixture
def plan() -> Iterator[Plan]:
    with directory() as home:
        made = Plan(home, in_place=True)
        made.make_directories()
        yield made
        if _mounted(made):
            kernel.unmount(str(made.mountpoint), lazy=True)


def _called(plan: Plan, *words: str, options: str = "") -> "subprocess.CompletedProcess[str]":
    """mount.tierfs of a store in a directory, in place."""
    spec = [f"file://{plan.bucket}", str(plan.mountpoint)]
    line = f"rw,state={plan.state},auto_archive=no,_netdev{options}"
    command = [sys.executable, "-m", "tierfs.cli.mount_helper", *spec, *words, "-o", line]
    return subprocess.run(command, text=True, capture_output=True, timeout=100, check=False)


def _mounted(plan: Plan) -> bool:
    return kernel.mounted_at(str(plan.mountpoint)) is not None


def test_it_mounts_and_again_as_soon_as_it_is_unmounted(plan: Plan) -> None:
    program = plan.mountpoint / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    done = _called(plan, "-v", options=",noexec")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"mount.tierfs: file://{plan.bucket} at {plan.mountpoint}, hot directory")
    try:
        assert _mounted(plan)
        # What is not done for others than root is said.
        if "noexec is not done" not in done.stderr:
            with pytest.raises(PermissionError):
                subprocess.run([program], check=True)
    finally:
        kernel.unmount(str(plan.mountpoint))
    # At once, while the one before writes its last.
    assert _called(plan).returncode == 0
    launch.stop(str(plan.mountpoint))
    assert _called(plan, "-f").returncode == 0
    assert not _mounted(plan)


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (",colour=blue", 1, "there is no option 'colour'"),
        (",warm_after=soon", 1, "the option warm_after: "),
        (",config=/nowhere", 1, "the settings file '/nowhere' cannot be read"),
        (",hot=/nowhere", 32, "the hot directory '/nowhere' does not exist: create it, or correct the option hot"),
    ],
)
def test_what_is_wrong_has_the_exit_code_that_mount_gives_it(
    plan: Plan, options: str, status: int, sentence: str
) -> None:
    done = _called(plan, options=options)
    assert done.returncode == status
    assert done.stderr.startswith(f"mount.tierfs: {sentence}")
    assert not _mounted(plan)


def test_sloppy_mounts_in_spite_of_an_option_that_nobody_knows(plan: Plan) -> None:
    assert _called(plan, "-s", "-f", options=",colour=blue").returncode == 0
