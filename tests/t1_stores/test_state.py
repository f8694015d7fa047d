"""The state directory: one owner, a catalog that is expected, a new one that takes its place at once or not at all."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import require
from tierfs.core.errors import CatalogError, ConfigError
from tierfs.stores.state import StateDirectory, make_state_directory, request_in

SOMEBODY = 54321


def test_it_has_one_owner(tmp_path: Path) -> None:
    with ExitStack() as exits:
        StateDirectory(tmp_path, exits)
        with ExitStack() as others, pytest.raises(ConfigError, match="in use by another mount"):
            StateDirectory(tmp_path, others)
    with ExitStack() as exits:
        StateDirectory(tmp_path, exits)


def test_a_catalog_is_expected_where_a_mount_was(tmp_path: Path) -> None:
    with ExitStack() as exits:
        state = StateDirectory(tmp_path, exits)
        state.expect_catalog()
        state.remember({"mountpoint": "/m"})
        assert request_in(tmp_path) == {"mountpoint": "/m"}
        with pytest.raises(CatalogError, match=r"catalog\.sqlite is missing: .*`tierfs rebuild"):
            state.expect_catalog()
        state.catalog.touch()
        with pytest.raises(CatalogError, match=r"catalog\.sqlite is empty"):
            state.expect_catalog()
        state.catalog.write_bytes(b"x")
        state.expect_catalog()


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the state directory of a mount"):
        request_in(tmp_path)
    with ExitStack() as exits, pytest.raises(ConfigError, match="cannot be used"):
        StateDirectory(tmp_path / "missing", exits)


@pytest.mark.parametrize("endings", [("",), ("", "-wal", "-shm"), ("-wal",), ()])
def test_a_new_catalog_takes_the_place_of_the_old_one_which_stays(tmp_path: Path, endings: tuple[str, ...]) -> None:
    with ExitStack() as exits:
        state = StateDirectory(tmp_path, exits)
        for ending in endings:
            Path(f"{state.catalog}{ending}").write_text(f"old{ending}")
        Path(f"{state.catalog}.new").write_text("what an attempt has left")
        fresh = state.fresh_catalog()
        assert not fresh.exists()
        fresh.write_text("new")
        aside = state.put_aside(7)
        assert (aside is not None) == ("" in endings)
        state.publish(fresh)
        assert {path.name: path.read_text() for path in tmp_path.glob("catalog*")} == {
            "catalog.sqlite": "new",
            **{f"catalog.sqlite.7{ending}": f"old{ending}" for ending in endings},
        }


def test_nobody_else_looks_into_it(tmp_path: Path) -> None:
    for _ in range(2):
        make_state_directory(tmp_path / "d/state")
        assert (tmp_path / "d/state").stat().st_mode & 0o7777 == 0o700
        (tmp_path / "d/state").chmod(0o755)


def test_one_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "giving files to another user needs root")
    state = tmp_path / "state"
    state.mkdir(0o755)
    os.chown(state, SOMEBODY, SOMEBODY)
    with pytest.raises(ConfigError, match=f"belongs to user {SOMEBODY}"):
        make_state_directory(state)
    with ExitStack() as exits, pytest.raises(ConfigError, match=f"belongs to user {SOMEBODY}"):
        StateDirectory(state, exits)
    assert state.stat().st_mode & 0o777 == 0o755
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("name", ["lock", "mount.new", "tierfs.log", "catalog.sqlite", "cache", "uploads"])
def test_what_somebody_planted_in_it_is_not_followed(tmp_path: Path, name: str) -> None:
    """While the directory was open to others, before it was a state directory."""
    require(os.geteuid() == 0, "giving files to another user needs root")
    (tmp_path / "outside").write_bytes(b"outside")
    state = tmp_path / "state"
    state.mkdir(0o777)
    (state / name).symlink_to(tmp_path / "outside")
    os.chown(state / name, SOMEBODY, SOMEBODY, follow_symlinks=False)
    with pytest.raises(ConfigError, match=f"has '{name}' in it, which belongs to user {SOMEBODY}"):
        make_state_directory(state)
    state.chmod(0o700)
    with ExitStack() as exits, pytest.raises(ConfigError, match="which belongs to user"):
        StateDirectory(state, exits)
    assert (tmp_path / "outside").read_bytes() == b"outside"
