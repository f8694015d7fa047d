"""The state directory of a mount: its lock, what was mounted, and whether its catalog is there.

DIR/lock              held by whoever works with the directory
DIR/mount.json        the request of the last mount
DIR/catalog.sqlite    the catalog
DIR/cache             the chunk cache
"""

import fcntl
import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tierfs.core.errors import CatalogError, ConfigError
from tierfs.stores.catalog_rows import REBUILD
from tierfs.stores.durable import sync
from tierfs.stores.ownership import own_users, why_foreign, why_foreign_inside

_REQUEST_NAME = "mount.json"
_CATALOG_NAME = "catalog.sqlite"
_WITH_IT = ("", "-wal", "-shm")  # the files of one SQLite database


class StateDirectory:
    """One state directory; no other process has it until `exits` is closed. ConfigError when one has it already."""

    def __init__(self, path: Path, exits: ExitStack) -> None:
        self.path = path
        refuse_foreign(path)
        try:
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"the state directory {path} cannot be used: {error.strerror}") from None
        exits.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"the state directory {path} is in use by another mount; choose another --state"
            ) from None

    @property
    def catalog(self) -> Path:
        """Where the catalog is, or is to be."""
        return catalog_in(self.path)

    def has_catalog(self) -> bool:
        """Whether there is a file of that name with anything in it."""
        with suppress(FileNotFoundError):
            return self.catalog.stat().st_size > 0
        return False

    def expect_catalog(self) -> None:
        """CatalogError where a mount was, and its catalog is not: a new one in its place would forget the tree."""
        if (self.path / _REQUEST_NAME).exists() and not self.has_catalog():
            state = "is empty" if self.catalog.exists() else "is missing"
            raise CatalogError(f"the catalog {self.catalog} {state}: put it back from a backup, or {REBUILD}")

    def put_aside(self, now_ns: int) -> Path | None:
        """Give the catalog another name, with its log; the new name, None when there is no catalog.

        A log that is left alone goes as well: SQLite would take it for that of the next catalog.
        """
        aside = self.catalog.with_name(f"{_CATALOG_NAME}.{now_ns}")
        for ending in reversed(_WITH_IT):
            with suppress(FileNotFoundError):
                os.rename(f"{self.catalog}{ending}", f"{aside}{ending}")
        return aside if aside.exists() else None

    def fresh_catalog(self) -> Path:
        """Where a catalog is made before it takes its place; what an attempt before has left there is removed."""
        fresh = self.catalog.with_name(f"{_CATALOG_NAME}.new")
        for ending in _WITH_IT:
            Path(f"{fresh}{ending}").unlink(missing_ok=True)
        return fresh

    def publish(self, fresh: Path) -> None:
        """Let a closed, complete catalog take its place, durably."""
        sync(fresh)
        os.rename(fresh, self.catalog)
        sync(self.path)

    def remember(self, request: dict[str, Any]) -> None:
        """Write down what is mounted, for those who look at it while nothing is."""
        path = self.path / _REQUEST_NAME
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(request, indent=1))
        fresh.chmod(0o600)
        fresh.replace(path)


def catalog_in(path: Path) -> Path:
    """Where the catalog of a state directory is."""
    return path / _CATALOG_NAME


def make_state_directory(path: Path) -> None:
    """Make a state directory that nobody else can look into. ConfigError where others had their hands in it."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        if path.stat().st_uid == os.geteuid():
            path.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"the state directory {path} cannot be made: {error.strerror}; choose another --state"
        ) from None
    refuse_foreign(path)


def refuse_foreign(path: Path) -> None:
    """ConfigError where somebody else could have put something into a state directory: a symbolic link, say."""
    try:
        why = why_foreign(path, own_users()) or why_foreign_inside(path, own_users())
    except OSError as error:
        raise ConfigError(f"the state directory {path} cannot be used: {error.strerror}") from None
    if why:
        raise ConfigError(f"the state directory {path} {why}: choose another --state")


def request_in(path: Path) -> dict[str, Any]:
    """What was mounted last with this state directory. ConfigError when nothing ever was."""
    try:
        request: dict[str, Any] = json.loads((path / _REQUEST_NAME).read_text())
    except (OSError, ValueError):
        raise ConfigError(f"{path} is not the state directory of a mount") from None
    return request
