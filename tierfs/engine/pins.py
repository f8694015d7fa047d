"""Pins: the files that are never released, because an operator said so or a pattern does."""

from collections.abc import Collection, Sequence

from tierfs.core.policy import matches
from tierfs.core.steps import step
from tierfs.stores.catalog import Catalog
from tierfs.stores.hot import split


class Pins:
    """The pinned paths, each good for all that is below it. INVARIANT: what the catalog has."""

    def __init__(self, catalog: Catalog, patterns: Sequence[str]) -> None:
        self._catalog = catalog
        self._patterns = patterns
        self._paths = catalog.pins()

    def __contains__(self, path: bytes) -> bool:
        """Whether there is a pin at this very path."""
        return path in self._paths

    def __bool__(self) -> bool:
        """Whether anything is pinned."""
        return bool(self._paths or self._patterns)

    def cover(self, path: bytes) -> bool:
        """Whether a file is pinned, itself or by a directory above it, by an operator or by a pattern."""
        if matches(path, self._patterns):
            return True
        if not self._paths:
            return False
        while path not in self._paths:
            if not path:
                return False
            path = split(path)[0]
        return True

    def add(self, path: bytes) -> None:
        """Never release what is at or below a path, until the pin is taken away or the file removed."""
        self._change(removed=(), added=(path,))
        self._paths.add(path)

    def discard(self, path: bytes) -> bool:
        """Take a pin away; False if there was none at this very path."""
        if path not in self._paths:
            return False
        self._change(removed=(path,), added=())
        self._paths.discard(path)
        return True

    def move(self, source: bytes, target: bytes, exchange: bool) -> None:
        """Pins follow a rename, of the file or of a directory above it. The pin of a file that is replaced stays."""
        moves = {pin: target + pin[len(source) :] for pin in self._paths if _is_within(pin, source)}
        if exchange:
            moves |= {pin: source + pin[len(target) :] for pin in self._paths if _is_within(pin, target)}
        if moves:
            self._change(removed=moves.keys(), added=moves.values())
            self._paths = self._paths - moves.keys() | set(moves.values())

    def _change(self, removed: Collection[bytes], added: Collection[bytes]) -> None:
        with step("pins.commit"):
            self._catalog.change_pins(removed, added)


def _is_within(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b"/")
