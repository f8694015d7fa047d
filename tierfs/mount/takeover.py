"""Going on where another worker ended: its session becomes this worker's, and its unanswered requests come again.

What the kernel was told must stay true: node ids, look-ups, handles with their I/O modes, positions in listings. What
the dead worker had done of a request that it did not answer is undone or found done here, so that the application gets
the answer that it would have got.
"""

import gc
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tierfs.core.records import Fd, Handle, HotIno, Ino
from tierfs.engine.numbers import Numbers
from tierfs.engine.tree import Found
from tierfs.mount import again
from tierfs.mount.control_directory import ControlDirectory
from tierfs.mount.files import Files
from tierfs.mount.listings import Listings
from tierfs.mount.nodes import Node, Nodes
from tierfs.mount.session import Cell, Kind, Session
from tierfs.stores.hot import RENAME_EXCHANGE

_NODES = (Kind.NODE, Kind.ORPHAN)

#: Numbers of requests (two apart) that may have been given while one that waits for nothing was answered.
_RECENT = 1 << 14
#: Those that find out by what they meet whether they were carried out.
_FIND_OUT = ("rename", "unlink", "rmdir")

#: A name as the kernel says it: the number of its directory, and the last component.
Name = tuple[Ino, bytes]


@dataclass(frozen=True, slots=True)
class Known:
    """The parts of a filesystem that a session is about."""

    nodes: Nodes
    files: Files
    listings: Listings
    control: ControlDirectory
    numbers: Numbers


@contextmanager
def _without_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Numbering:
    """Writes into the session which inodes have another number than their own."""

    def __init__(self, session: Session, numbers: Numbers) -> None:
        self._session = session
        self._places: dict[tuple[int, int], int] = {}
        numbers.on_renumbered = self._renumbered

    def _renumbered(self, key: tuple[int, int], ino: Ino | None) -> None:
        self._session.drop(self._places.pop(key, 0))
        if ino is not None:
            self._places[key] = self._session.number(key[0], HotIno(key[1]), ino)


class TakenOver:
    """What is left of a worker that died: the requests that it had begun, by their numbers."""

    def __init__(self, known: Known, session: Session) -> None:
        self._known = known
        self._session = session
        self._begun: defaultdict[int, list[Cell]] = defaultdict(list)

    def load(self) -> None:
        """Know what the other worker knew. MountError for a session that cannot be read."""
        known = self._known
        cells: defaultdict[int, list[Cell]] = defaultdict(list)
        with _without_collector():  # it would look at all that is made here again and again
            for cell in self._session.cells():
                cells[cell.kind].append(cell)
            self._note_begun(cells)
            known.nodes.take_over([*cells[Kind.NODE], *cells[Kind.ORPHAN]], cells[Kind.NAME])
        self._take_numbers(cells[Kind.NUMBER])
        for node in known.nodes.removed_ones():
            node.record = known.files.parked.inherited_record(node.ino)
            directory = known.files.parked.inherited_fd("dir", node.ino)
            node.descriptor = None if directory is None else Fd(os.dup(directory))
        known.files.take_over(cells[Kind.HANDLE])
        known.listings.take_over(cells[Kind.LISTING])
        known.control.take_over(cells[Kind.PAGE])

    def comes_again(self, operation: str) -> None:
        """Take back what the other worker did of a request that comes again: look-ups, handles."""
        if operation in _FIND_OUT:
            return
        for cell in self._begun.pop(again.number(), ()):
            if cell.kind == Kind.HANDLE:
                self._known.files.release(Handle(cell.parent))
            elif cell.kind == Kind.LISTING:
                self._known.listings.close(Handle(cell.parent))
            elif cell.kind == Kind.PAGE:
                self._known.control.release(Handle(cell.parent))
            elif cell.kind in _NODES:
                self._known.nodes.forget(cell.ino, 1)

    def was_removed(self, parent: Ino, name: bytes) -> bool:
        """Whether an unlink or rmdir that comes again, and finds no such name, was carried out already."""
        if not again.is_again():
            return False
        node = self._known.nodes.named(parent, name)
        if node:
            self._removed(node, parent, name)
        return True

    def was_renamed(self, source: Name, target: Name, now: tuple[Found | None, Found | None], flags: int) -> bool:
        """Whether a rename that comes again was carried out; `now` is what the two names lead to."""
        nodes, exchange = self._known.nodes, bool(flags & RENAME_EXCHANGE)
        at_source, at_target = now
        moved = nodes.get(at_target.ino) if at_target else None
        if moved is None or (at_source is not None) is not exchange:
            return False
        is_noted = any(cell.ino == moved.ino for cell in self._begun.pop(again.number(), ()))
        if not is_noted and nodes.named(*source) is not moved:
            return False
        replaced = nodes.named(*target)
        if exchange and at_source:
            nodes.renamed(at_source.ino, target, source)
        elif replaced and replaced is not moved:
            self._removed(replaced, *target)
        nodes.renamed(moved.ino, source, target)
        return True

    # -- inside --------------------------------------------------------------------------------------------------

    def _note_begun(self, cells: dict[int, list[Cell]]) -> None:
        """Whatever has a request that may come again. Look-ups are answered at once: only the latest may."""
        latest = max((cell.request for kind in _NODES for cell in cells[kind]), default=0)
        found = [cell for kind in _NODES for cell in cells[kind] if cell.request > latest - _RECENT]
        for cell in [*found, *cells[Kind.HANDLE], *cells[Kind.LISTING], *cells[Kind.PAGE]]:
            self._begun[cell.request].append(cell)

    def _removed(self, node: Node, parent: Ino, name: bytes) -> None:
        """The other worker removed a name, and may not have come to write that down."""
        if self._known.nodes.removed(node.ino, parent, name):
            node.record = self._known.files.parked.inherited_record(node.ino)
            self._known.numbers.forget(node.ino)

    def _take_numbers(self, cells: list[Cell]) -> None:
        """Those of files that the kernel knows by a name: others are never asked for by their number."""
        known = self._known
        numbers = [((cell.parent, cell.value), cell.ino) for cell in cells if known.nodes.has_name(cell.ino)]
        for cell in cells:
            self._session.drop(cell.place)
        Numbering(self._session, known.numbers)
        known.numbers.take_over(numbers, known.nodes.numbers())
