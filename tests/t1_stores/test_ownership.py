"""Whose a directory is: what others own, or can change, is not used."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import require
from tierfs.stores.ownership import make_directories, own_users, read_owned, why_foreign, why_foreign_inside

SOMEBODY = 54321


@pytest.fixture(autouse=True)
def may_chown() -> None:
    require(os.geteuid() == 0, "giving files to another user needs root")


def test_a_directory_of_our_own(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert why_foreign(tmp_path, own_users()) is None
    assert why_foreign(tmp_path / "link", own_users()) is None
    assert why_foreign_inside(tmp_path, own_users()) is None


def belongs_to_somebody(path: Path) -> Path:
    os.chown(path, SOMEBODY, 0)
    return path


def is_a_link_of_somebody(path: Path) -> Path:
    link = path / "link"
    link.symlink_to(path)
    os.chown(link, SOMEBODY, 0, follow_symlinks=False)
    return link


def leads_to_somebody(path: Path) -> Path:
    (path / "theirs").mkdir()
    (path / "link").symlink_to(belongs_to_somebody(path / "theirs"))
    return path / "link"


def is_open_to_a_group(path: Path) -> Path:
    path.chmod(0o770)
    return path


def is_open_to_all(path: Path) -> Path:
    path.chmod(0o1777)
    return path


def is_a_file(path: Path) -> Path:
    (path / "file").touch(0o600)
    return path / "file"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (belongs_to_somebody, f"belongs to user {SOMEBODY}"),
        (is_a_link_of_somebody, f"belongs to user {SOMEBODY}"),
        (leads_to_somebody, f"belongs to user {SOMEBODY}"),
        (is_open_to_a_group, "can be written to by other users"),
        (is_open_to_all, "can be written to by other users"),
        (is_a_file, "is not a directory"),
    ],
)
def test_a_directory_that_others_can_change(tmp_path: Path, make: Callable[[Path], Path], why: str) -> None:
    assert why_foreign(make(tmp_path), own_users()) == why


def test_what_others_put_into_a_directory(tmp_path: Path) -> None:
    (tmp_path / "planted").symlink_to("/etc/passwd")
    os.chown(tmp_path / "planted", SOMEBODY, 0, follow_symlinks=False)
    assert why_foreign_inside(tmp_path, own_users()) == f"has 'planted' in it, which belongs to user {SOMEBODY}"


def test_a_file_that_only_its_owner_can_change_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text")
    path.chmod(0o644)
    assert read_owned(path, own_users()) == b"text"
    path.chmod(0o646)
    with pytest.raises(PermissionError):
        read_owned(path, own_users())
    path.chmod(0o644)
    os.chown(path, SOMEBODY, 0)
    with pytest.raises(PermissionError):
        read_owned(path, own_users())
    assert read_owned(path, {SOMEBODY}) == b"text"


def test_a_link_is_not_followed_and_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "fifo"):
        with pytest.raises(OSError):  # noqa: PT011 (ELOOP, or a PermissionError)
            read_owned(tmp_path / name, own_users())


def test_directories_have_their_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_directories(tmp_path / "a/b/c", 0o755)
        make_directories(tmp_path / "a/b/c", 0o700)
    finally:
        os.umask(before)
    assert [(tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/c")] == [0o755] * 3
