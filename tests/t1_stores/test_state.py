"""The state directory: one owner, a catalog that is expected, a new one that takes its place at once or not at all."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tierfs.core.errors import CatalogError, ConfigError
from tierfs.stores.state import StateDirectory, request_in


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
