"""Open directories: listings with offsets that hold while the directory changes.

An offset is the place of a name, which is a hash of it: the same in every listing, by every handle and every worker.
The kernel keeps listings and continues one that another handle began, so nothing else would do. A handle takes a
snapshot of the names, in order of their places, when its listing begins. What a name stands for is looked up when it is
handed out; for cold files the snapshot has that too, good while the catalog is unchanged.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from tierfs.core.records import Handle, Ino
from tierfs.engine.numbers import FIRST_MADE, ROOT
from tierfs.engine.tree import Found, Tree
from tierfs.mount.control_directory import ControlDirectory
from tierfs.mount.nodes import Nodes
from tierfs.mount.session import Cell, Kind, Session
from tierfs.stores.hot import join


class Listed(NamedTuple):
    """One entry of a directory listing; `next_offset` is where the listing goes on behind it."""

    name: bytes
    found: Found
    next_offset: int


@dataclass(slots=True)
class _Listing:
    ino: Ino
    cell: int  # its place in the session
    names: list[bytes] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    cold: dict[bytes, Found] = field(default_factory=dict)
    changes: int = -1  # of the catalog, when `cold` was read


class Listings:
    """All open directories. `look` gives the attributes of a directory by its node id."""

    def __init__(
        self, tree: Tree, nodes: Nodes, session: Session, look: Callable[[Ino], Found], control: ControlDirectory
    ) -> None:
        self._tree = tree
        self._nodes = nodes
        self._session = session
        self._look = look
        self._control = control
        self._open: dict[Handle, _Listing] = {}
        self._next = Handle(1)

    def open(self, ino: Ino) -> Handle:
        """opendir(3)."""
        handle, self._next = self._next, Handle(self._next + 1)
        self._open[handle] = _Listing(ino, self._session.add(Kind.LISTING, ino, 0, handle))
        return handle

    def take_over(self, cells: Iterable[Cell]) -> None:
        """Have the open directories of another worker, by its cells."""
        for cell in cells:
            handle = Handle(cell.parent)
            self._open[handle] = _Listing(cell.ino, cell.place)
            self._next = max(self._next, Handle(handle + 1))

    def close(self, handle: Handle) -> None:
        """closedir(3)."""
        listing = self._open.pop(handle, None)
        if listing:
            self._session.drop(listing.cell)

    def directory(self, handle: Handle) -> Ino:
        """The node of an open directory."""
        return self._open[handle].ino

    def read(self, handle: Handle, offset: int) -> Iterator[Listed]:
        """The entries from `offset` on; none in a directory that was removed."""
        listing = self._open[handle]
        if self._nodes.is_orphan(listing.ino):
            return
        if listing.ino >= FIRST_MADE:
            yield from self._made(listing.ino, offset)
            return
        path = self._nodes.path(listing.ino)
        if offset == 0 or not listing.names:
            self._begin(listing, path)
        for index in range(bisect_right(listing.places, offset), len(listing.names)):
            name = listing.names[index]
            found = self._find(listing, path, name)
            if found:
                yield Listed(name, found, listing.places[index])

    def handed_out(self, parent: Ino, entry: Listed) -> None:
        """The kernel took an entry, which counts as a look-up."""
        if entry.name not in (b".", b"..") and parent < FIRST_MADE:
            self._nodes.looked_up(entry.found.ino, parent, entry.name)

    def _made(self, directory: Ino, offset: int) -> Iterator[Listed]:
        """The control directory: always the same names, in the same places."""
        above = (b".", self._look(directory)), (b"..", self._look(ROOT))
        for place, (name, found) in enumerate((*above, *self._control.names()), 1):
            if place > offset:
                yield Listed(name, found, place)

    def _begin(self, listing: _Listing, path: bytes) -> None:
        listing.changes = self._tree.catalog.changes()
        listing.cold = {}
        ordered = [(1, b"."), (2, b"..")]
        for name, ino, st in self._tree.names(path):
            ordered.append((_place_of(name), name))
            if ino and st:
                listing.cold[name] = Found(ino, st)
        ordered.sort()
        listing.places, listing.names = [place for place, _ in ordered], [name for _, name in ordered]

    def _find(self, listing: _Listing, path: bytes, name: bytes) -> Found | None:
        if name == b".":
            return self._look(listing.ino)
        if name == b"..":
            node = self._nodes.get(listing.ino)
            return self._look(node.parent if node else listing.ino)
        if listing.changes == self._tree.catalog.changes() and name in listing.cold:
            return listing.cold[name]
        return self._tree.find_or_none(join(path, name))


def _place_of(name: bytes) -> int:
    """Positive as an off_t, and behind the two names that every directory has."""
    return 3 + (int.from_bytes(blake2b(name, digest_size=8).digest()) >> 2)
