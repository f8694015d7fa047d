"""Who may do what: the kernel checks modes, groups and access control lists, of cold files as of hot ones."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import require
from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.children import STRANGER, run_as

pytestmark = pytest.mark.mount

CONTENT = b"secret" * 1000


@pytest.fixture(params=["hot", "cold"])
def file(request: pytest.FixtureRequest, mount: Mount, place: Path) -> Path:
    """A file that belongs to root alone."""
    require(os.geteuid() == 0, "becoming another user needs root")
    path = place / "file"
    path.write_bytes(CONTENT)
    path.chmod(0o600)
    if request.param == "cold":
        mount.release(mount.inside(path))
    return path


def outcome(call: Callable[[], object]) -> object:
    """What a call returns, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def test_a_stranger_is_kept_out(file: Path) -> None:
    """EACCES for what the mode forbids, EPERM for what only the owner may do."""
    calls: list[Callable[[], object]] = [
        file.read_bytes,
        lambda: file.write_bytes(b"x"),
        lambda: os.truncate(file, 0),
        lambda: os.chmod(file, 0o666),
        lambda: os.chown(file, STRANGER, STRANGER),
        lambda: os.utime(file, ns=(0, 0)),
        lambda: os.utime(file),
        lambda: os.setxattr(file, "user.x", b"y"),
        lambda: os.unlink(file),
        lambda: os.rename(file, file.with_name("new")),
        lambda: file.stat().st_size,
    ]
    assert run_as(STRANGER, lambda: [outcome(call) for call in calls]) == [
        *("EACCES", "EACCES", "EACCES", "EPERM", "EPERM", "EPERM", "EACCES", "EACCES", "EACCES", "EACCES"),
        len(CONTENT),
    ]
    assert file.read_bytes() == CONTENT


def test_the_group_and_others_have_their_bits(file: Path) -> None:
    os.chown(file, 0, STRANGER)
    os.chmod(file, 0o640)
    assert run_as(STRANGER, file.read_bytes) == CONTENT
    assert run_as(STRANGER, lambda: outcome(lambda: file.write_bytes(b"x"))) == "EACCES"
    assert run_as(STRANGER + 1, lambda: outcome(file.read_bytes)) == "EACCES"
    os.chmod(file, 0o604)  # the group may not what others may
    assert run_as(STRANGER, lambda: outcome(file.read_bytes)) == "EACCES"
    assert run_as(STRANGER + 1, file.read_bytes) == CONTENT


def test_a_directory_that_may_not_be_searched(file: Path) -> None:
    os.chmod(file, 0o644)
    os.chmod(file.parent, 0o744)
    assert run_as(STRANGER, lambda: outcome(file.read_bytes)) == "EACCES"
    assert run_as(STRANGER, lambda: os.listdir(file.parent)) == ["file"]
    os.chmod(file.parent, 0o711)
    assert run_as(STRANGER, file.read_bytes) == CONTENT
    assert run_as(STRANGER, lambda: outcome(lambda: os.listdir(file.parent))) == "EACCES"


def test_access_control_lists(mount: Mount, file: Path) -> None:
    """A list lets one user in, and holds when the file goes cold and comes back."""
    acl = _acl(STRANGER)
    os.setxattr(file, "system.posix_acl_access", acl)
    for verb in ("archive", "release", "restore"):
        assert os.getxattr(file, "system.posix_acl_access") == acl
        assert file.stat().st_mode & 0o777 == 0o640
        assert run_as(STRANGER, file.read_bytes) == CONTENT
        assert run_as(STRANGER + 1, lambda: outcome(file.read_bytes)) == "EACCES"
        (moved,) = mount.settled(verb, mount.inside(file))
        assert moved.result != "failed"


def _acl(user: int) -> bytes:
    """u::rw-, u:USER:r--, g::---, m::r--, o::--- (linux/posix_acl_xattr.h)."""
    entries = [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, user),
        (0x04, 0, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    packed = [
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, bits, who in entries
    ]
    return (2).to_bytes(4, "little") + b"".join(packed)


def test_default_access_control_lists_are_handed_down(mount: Mount, place: Path) -> None:
    """As a plain directory hands them down, whatever the umask."""
    seen = []
    for root in (mount.plan.hot / f"{place.name}-native", place):
        root.mkdir(exist_ok=True)
        os.setxattr(root, "system.posix_acl_default", _acl(STRANGER))
        (root / "file").touch()
        (root / "directory").mkdir()
        os.mkfifo(root / "fifo")
        modes = [(root / name).stat().st_mode for name in ("file", "directory", "fifo")]
        lists = [os.listxattr(root / name) for name in ("file", "directory")]
        seen.append((modes, lists, os.getxattr(root / "file", "system.posix_acl_access")))
    assert seen[0] == seen[1]


def test_a_mount_that_does_not_let_others_in() -> None:
    """Not even to look."""
    require(os.geteuid() == 0, "becoming another user needs root")
    with directory() as home, mounted(Plan(home, flags=("--no-allow-other",))) as mount:
        (mount.path / "file").write_bytes(CONTENT)
        assert run_as(STRANGER, lambda: outcome(lambda: os.listdir(mount.path))) == "EACCES"


def changes_to(path: Path) -> list[object]:
    """What comes of everything that would change a file, or make one beside it."""
    calls: list[Callable[[], object]] = [
        lambda: path.write_bytes(b"x"),
        lambda: os.truncate(path, 0),
        lambda: os.chmod(path, 0o600),
        lambda: os.unlink(path),
        lambda: os.rename(path, path.with_name("new")),
        lambda: os.setxattr(path, "user.x", b"y"),
        lambda: os.mkdir(path.with_name("d")),
    ]
    return [outcome(call) for call in calls]


def test_a_mount_for_reading_only() -> None:
    """EROFS for whatever would change something; cold files are read."""
    with directory() as home:
        plan = Plan(home)
        with mounted(plan) as mount:
            mount.make_cold(mount.path / "cold", CONTENT)
            (mount.path / "hot").write_bytes(CONTENT)
        with mounted(Plan(home, flags=("--read-only",))) as mount:
            for name in ("cold", "hot"):
                assert changes_to(mount.path / name) == ["EROFS"] * 7
                assert (mount.path / name).read_bytes() == CONTENT
            assert mount.outcomes("release", "hot")[0].result == "failed"
