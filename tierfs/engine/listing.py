"""The files of the tree in the order of their paths, a page at a time, and those whose paths match patterns.

Both tiers are walked in a thread, hot directories by their own descriptors and the catalog by a connection of its own:
a directory of 100,000 names is looked through without being felt. What changes meanwhile is seen or not, as in any
listing; each file that is shown is looked at again. What lies deeper than a request can name is not listed.
"""

import errno
import heapq
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import groupby, islice

import trio

from tierfs.core.errors import ControlError
from tierfs.core.policy import matches
from tierfs.core.reports import DEEPEST, Entry
from tierfs.engine.entries import Entries
from tierfs.engine.segments import Surroundings
from tierfs.engine.tree import Tree
from tierfs.stores.catalog_view import CatalogView
from tierfs.stores.hot import HotTier, join

#: Files that patterns may stand for in one request.
MOST_MATCHES = 100_000
_LOOKS_AT_ONCE = 20  # files that are described before the loop serves others
_SORTED_AT_ONCE = 1_000  # names of a directory: all of a large one would be sorted for a page of a hundred
#: What a look-up says of a path that cannot be one of the tree.
_NO_SUCH_PATH = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file and the ETag of its object, None without one."""

    entry: Entry
    etag: str | None


class Listing:
    """Looks through the tree for an operator. Paths are bytes, relative to the root of the tree."""

    def __init__(self, tree: Tree, entries: Entries) -> None:
        self._tree = tree
        self._tier = tree.tier
        self._entries = entries
        # One walk at a time, and in no thread that an fsync may wait for: each takes the interpreter from the loop.
        self._turn = trio.CapacityLimiter(1)

    async def find(self, path: bytes, around: Surroundings | None = None) -> Listed | None:
        """The file at a path; None where there is none. IsADirectoryError for a directory."""
        try:
            found = self._tree.find_or_none(path)
        except OSError as error:
            if error.errno in _NO_SUCH_PATH:
                return None
            raise
        if found is None:
            return None
        if stat.S_ISDIR(found.st.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        entry, stored = await self._entries.with_object(path, found, around)
        return Listed(entry, stored.etag if stored else None)

    async def page(self, prefix: bytes, after: bytes, limit: int) -> list[Listed]:
        """The first files in the order of their paths that begin with a prefix and come after a path."""
        paths = await self._in_thread(lambda walk: list(islice(walk.ordered(prefix, after), limit)))
        listed, around = [], Surroundings(self._tier)
        for index, path in enumerate(paths):
            if index % _LOOKS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            with suppress(IsADirectoryError, FileNotFoundError):  # it went away; perhaps a directory came
                found = await self.find(path, around)
                listed += [found] if found else []
        return listed

    async def matching(self, patterns: Sequence[str]) -> list[bytes]:
        """All files whose paths match shell patterns: one with a slash the whole path, one without a name in it.

        ControlError where they are too many for one request.
        """
        found = await self._in_thread(lambda walk: list(islice(walk.matching(patterns), MOST_MATCHES + 1)))
        if len(found) > MOST_MATCHES:
            raise ControlError(f"the globs match more than {MOST_MATCHES} files: name their directory, with recursive")
        return found

    def pins(self) -> list[bytes]:
        """The paths that were pinned, in order."""
        return sorted(self._tier.catalog.pins())

    async def _in_thread(self, look: "Callable[[Walk], list[bytes]]") -> list[bytes]:
        hot = self._tier.hot.for_thread()
        catalog = self._tier.catalog.path

        def run() -> list[bytes]:
            with closing(CatalogView(catalog)) as view, closing(hot):
                return look(Walk(hot, view))

        return await trio.to_thread.run_sync(run, limiter=self._turn)


class Walk:
    """The names of both tiers, in one thread. Keys are paths; that of a directory ends in a slash."""

    def __init__(self, hot: HotTier, view: CatalogView) -> None:
        self._hot = hot
        self._view = view

    def ordered(self, prefix: bytes, after: bytes, directory: bytes = b"") -> Iterator[bytes]:
        """Files in the byte order of their paths."""

        def is_wanted(key: bytes) -> bool:
            if key.endswith(b"/"):
                is_behind = key > after or after.startswith(key)
                return is_behind and (key.startswith(prefix) or prefix.startswith(key))
            return key > after and key.startswith(prefix)

        last = b""
        while True:
            wanted = (key for key in self._keys(directory) if key > last and is_wanted(key))
            keys = heapq.nsmallest(_SORTED_AT_ONCE, wanted)
            for key, _ in groupby(keys):  # a file that has just moved is seen in both tiers
                if key.endswith(b"/"):
                    yield from self.ordered(prefix, after, key[:-1])
                else:
                    yield key
            if len(keys) < _SORTED_AT_ONCE:
                return
            last = keys[-1]

    def matching(self, patterns: Sequence[str], directory: bytes = b"") -> Iterator[bytes]:
        """Files that match, in no order."""
        seen = set()
        for key in self._keys(directory):
            if key.endswith(b"/"):
                if _may_match_below(key, patterns):
                    yield from self.matching(patterns, key[:-1])
            elif key not in seen and matches(key, patterns):
                seen.add(key)
                yield key

    def _keys(self, directory: bytes) -> Iterator[bytes]:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            for entry in self._hot.scan(directory):
                path = join(directory, os.fsencode(entry.name))
                if entry.is_dir(follow_symlinks=False):
                    if path.count(b"/") + 2 <= DEEPEST:  # with the name of a file in it
                        yield path + b"/"
                elif entry.is_file(follow_symlinks=False):
                    yield path
        for name in self._view.cold_names(directory):
            yield join(directory, name)


def _may_match_below(directory: bytes, patterns: Sequence[str]) -> bool:
    """Whether a file below a directory may match: not where all patterns begin with other names."""
    return any(_agree(directory, _literal(pattern)) for pattern in patterns)


def _literal(pattern: str) -> bytes:
    """What the paths that match a pattern with a slash begin with."""
    return os.fsencode(re.split(r"[*?[]", pattern.lstrip("/"), maxsplit=1)[0]) if "/" in pattern else b""


def _agree(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)
