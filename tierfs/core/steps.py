"""The steps of everything that changes hot bytes, names, the catalog or the bucket, by name.

    with step("release.unlink"):
        self.hot.unlink(path)

A step is one effect that a crash may come before or after. docs/ARCHITECTURE.md ("Crashes") lists the names, and what
is where after each. Nobody watches them in a mount that serves: the block just runs, a quarter of a microsecond later.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager


class _Unwatched:
    """What surrounds an effect when nobody watches."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_exception: object) -> None:
        pass


_UNWATCHED = _Unwatched()
_watcher: Callable[[str], AbstractContextManager[None]] | None = None


def step(name: str) -> AbstractContextManager[None]:
    """A block that is one effect, of this name."""
    return _UNWATCHED if _watcher is None else _watcher(name)


def watch(watcher: Callable[[str], AbstractContextManager[None]]) -> None:
    """From now on, have `watcher` make what surrounds each effect of this process."""
    global _watcher
    _watcher = watcher
