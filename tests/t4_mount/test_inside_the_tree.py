"""What an operator sees inside the tree: `user.tierfs.*` and `.tierfs`; tools that copy or walk it see neither."""

import errno
import json
import os
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import require
from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.children import STRANGER, run_as
from tests.t4_mount.test_permissions import outcome

pytestmark = pytest.mark.mount

FILES = ["config", "errors", "events", "plan", "stats"]


def run(*command: str | Path, status: int = 0, stdin: int = subprocess.DEVNULL) -> str:
    """What a program says; nothing on standard error, unless it is to fail."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=stdin)
    assert done.returncode == status, done.stderr
    assert status or not done.stderr, done.stderr
    return done.stdout


def label(path: Path, name: str) -> str:
    return run("getfattr", "--absolute-names", "--only-values", "-n", f"user.tierfs.{name}", path)


def number_of(call: Callable[[], object]) -> int:
    """The errno that a call ends with, 0 for none."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.fixture
def control(mount: Mount) -> Path:
    return mount.path / ".tierfs"


@pytest.fixture
def files(mount: Mount, place: Path) -> Iterator[dict[str, Path]]:
    """A directory with a file of each kind, each with an attribute of its own."""
    made = {name: place / name for name in ("hot", "mirrored", "cold", "pinned")}
    for name, path in made.items():
        path.write_text(f"content of {name}")
        os.setxattr(path, "user.mine", name.encode())
    os.setxattr(mount.plan.hot / place.name / "hot", "user.tierfs.state", b"real")  # and one behind the mount
    mount.archive(mount.inside(made["mirrored"]))
    mount.release(mount.inside(made["cold"]))
    run("setfattr", "-n", "user.tierfs.pinned", "-v", "1", made["pinned"])
    yield made
    for path in made.values():
        with suppress(OSError):
            os.setxattr(path, "user.tierfs.pinned", b"0")


def test_getfattr_says_where_a_file_is(mount: Mount, files: dict[str, Path]) -> None:
    assert {name: label(path, "state") for name, path in files.items()} == {
        "hot": "hot",
        "mirrored": "mirrored",
        "cold": "cold",
        "pinned": "hot",
    }
    for name in ("mirrored", "cold"):
        entry = mount.entry(mount.inside(files[name]))
        assert label(files[name], "object") == entry.key
        assert label(files[name], "etag")
        assert label(files[name], "cached") == "0"
    assert files["cold"].read_text() == "content of cold"
    assert label(files["hot"], "reason") == "smaller than min_size (4KiB)"
    assert label(files["pinned"], "reason") == "pinned"
    assert label(files["cold"], "reason") == "its bytes are in the bucket alone"
    for name in ("object", "etag", "other"):
        assert number_of(partial(os.getxattr, files["hot"], f"user.tierfs.{name}")) == errno.ENODATA
    assert label(files["hot"].parent, "state") == "hot"
    assert number_of(partial(os.getxattr, files["hot"].parent, "user.tierfs.object")) == errno.ENODATA


def test_setfattr_pins(mount: Mount, files: dict[str, Path]) -> None:
    path, cold = files["mirrored"], files["cold"]
    (refused,) = mount.outcomes("release", mount.inside(files["pinned"]))
    assert refused.reason == "pinned"
    for one in (path, cold, path.parent):
        assert label(one, "pinned") == "0"
        run("setfattr", "-n", "user.tierfs.pinned", "-v", "1", one)
        assert label(one, "pinned") == "1"
        assert mount.residency(mount.inside(path)) == "mirrored"
        run("setfattr", "-x", "user.tierfs.pinned", one)
        assert label(one, "pinned") == "0"
    mount.release(mount.inside(path))
    for name in ("state", "object", "etag", "cached", "reason", "other"):
        assert number_of(partial(os.setxattr, path, f"user.tierfs.{name}", b"x")) == errno.EPERM
        assert number_of(partial(os.removexattr, path, f"user.tierfs.{name}")) == errno.EPERM
    assert number_of(partial(os.setxattr, path, "user.tierfs.pinned", b"yes")) == errno.EINVAL


def test_others_see_what_they_may_read_and_pin_what_they_own(files: dict[str, Path]) -> None:
    require(os.geteuid() == 0, "becoming another user needs root")
    for path in (files["hot"], files["cold"]):
        read = partial(os.getxattr, path, "user.tierfs.state")
        pin = partial(os.setxattr, path, "user.tierfs.pinned", b"1")
        path.chmod(0o600)
        assert run_as(STRANGER, partial(number_of, read)) == errno.EACCES
        assert run_as(STRANGER, partial(number_of, pin)) == errno.EACCES
        path.chmod(0o666)
        assert run_as(STRANGER, read) == path.name.encode()
        assert run_as(STRANGER, partial(number_of, pin)) == errno.EPERM
        assert label(path, "pinned") == "0"
        os.chown(path, STRANGER, STRANGER)
        assert run_as(STRANGER, partial(number_of, pin)) == 0
        assert label(path, "pinned") == "1"


@pytest.mark.parametrize("tool", ["cp", "rsync", "tar"])
def test_a_copy_has_what_the_files_have_and_nothing_of_tierfs(
    mount: Mount, files: dict[str, Path], tmp_path: Path, tool: str
) -> None:
    source, copy, packed = files["hot"].parent, tmp_path / "copy", tmp_path / "packed.tar"
    copy.mkdir()
    if tool == "cp":
        run("cp", "-a", f"{source}/.", copy)
    elif tool == "rsync":
        run("rsync", "-aX", f"{source}/", f"{copy}/")
    else:
        os.listdir(source)  # the kernel forgets the directory's times, and a release has changed its ctime
        run("tar", "--xattrs", "--xattrs-include=*", "-cf", packed, "-C", source, ".")
        run("tar", "--xattrs", "--xattrs-include=*", "-xf", packed, "-C", copy)
    for name, path in files.items():
        assert os.listxattr(path) == os.listxattr(copy / name) == ["user.mine"]
        assert (copy / name).read_text() == f"content of {name}"
    back = mount.path / f"{source.name}-{tool}"  # and back again
    run("cp", "-a", copy, back)
    assert os.listxattr(back / "cold") == ["user.mine"]
    assert label(back / "cold", "state") == "hot"


def test_no_listing_has_the_control_directory(mount: Mount, control: Path, tmp_path: Path) -> None:
    (mount.path / "file").touch()
    assert number_of(partial(os.stat, mount.path / "missing")) == errno.ENOENT  # the tap knows the root from here on
    assert sorted(os.listdir(control)) == FILES
    assert ".tierfs" not in os.listdir(mount.path)
    assert ".tierfs" not in run("ls", "-la", mount.path)
    assert ".tierfs" not in run("find", mount.path)
    assert ".tierfs" not in run("du", "-a", mount.path)
    assert ".tierfs" not in run("rsync", "-an", "-i", f"{mount.path}/", f"{tmp_path}/")
    assert ".tierfs" not in run("tar", "-cvf", "/dev/null", "-C", mount.path, ".")
    assert run("ls", "-A", control).split() == FILES
    assert os.stat(control).st_mode == 0o40500
    assert {os.stat(control / name).st_mode for name in FILES} == {0o100400}


def test_its_files_are_read_with_any_tool(mount: Mount, control: Path, tmp_path: Path) -> None:
    stats = run("cat", control / "stats")
    assert json.loads(stats).keys() == mount.status().keys()
    assert json.loads(stats)["mountpoint"] == str(mount.path)
    assert run("grep", "-c", "mountpoint", control / "stats") == "1\n"
    assert run("tail", "-n", "1", control / "stats") == "}\n"
    assert run("tail", "-c", "2", control / "stats") == "}\n"
    assert run("head", "-n", "1", control / "stats") == "{\n"
    assert int(run("wc", "-l", control / "config").split()[0]) > 20
    run("cp", control / "config", tmp_path / "config")
    assert run("dd", "status=none", "bs=7", f"if={control / 'config'}") == (tmp_path / "config").read_text()
    assert tomllib.loads((tmp_path / "config").read_text())["auto_archive"] is False
    assert run("cat", control / "plan") == ""
    with (control / "stats").open() as file:
        before = file.read()
        (mount.path / "another").touch()
        file.seek(0)
        assert file.read() == before


def test_nobody_else_gets_in(control: Path) -> None:
    require(os.geteuid() == 0, "becoming another user needs root")
    for call in (partial(os.listdir, control), partial(os.stat, control / "stats"), (control / "stats").read_bytes):
        assert run_as(STRANGER, partial(outcome, call)) == "EACCES"


def test_nothing_can_be_changed_in_it(mount: Mount, control: Path) -> None:
    file = mount.path / "victim"
    file.write_text("text")
    calls: list[Callable[[], object]] = [
        (control / "new").touch,
        (control / "new").mkdir,
        (control / "stats").unlink,
        control.rmdir,
        partial(file.rename, control / "stats"),
        partial(control.rename, mount.path / "elsewhere"),
        partial(os.link, control / "stats", mount.path / "linked"),
        partial(os.link, file, control / "linked"),
        partial(os.symlink, "x", control / "link"),
        partial((control / "stats").open, "w"),
        partial((control / "stats").chmod, 0o777),
        partial(os.truncate, control / "stats", 0),
        partial(os.setxattr, control / "stats", "user.a", b"b"),
    ]
    refusals = {errno.EROFS} if os.geteuid() == 0 else {errno.EROFS, errno.EACCES, errno.EPERM}
    assert {number_of(call) for call in calls} <= refusals
    assert number_of(control.mkdir) == errno.EEXIST
    subprocess.run(["rm", "-rf", control], capture_output=True, timeout=120, check=False)
    assert sorted(os.listdir(control)) == FILES
    assert file.read_text() == "text"


def test_an_open_file_goes_on_with_the_next_worker() -> None:
    with directory() as home, mounted(Plan(home)) as mount:
        control = mount.path / ".tierfs"
        with (control / "stats").open("rb", buffering=0) as file, os.scandir(control) as entries:
            beginning = file.read(10)
            pid = mount.kill_worker()
            rest = b"".join(iter(partial(file.read, 1000), b""))
            assert beginning
            assert json.loads(beginning + rest)["worker_pid"] == pid
            assert sorted(entry.name for entry in entries) == FILES
        mount.wait_taken_over(pid)
        assert json.loads((control / "stats").read_bytes())["worker_pid"] != pid
