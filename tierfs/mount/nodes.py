"""What the kernel knows: node ids, the names that led to them, and how many look-ups it still holds.

All of it stands in the session too, where the next worker finds it.
"""

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tierfs.core.records import Fd, Ino, Record
from tierfs.engine.numbers import FIRST_MADE, ROOT
from tierfs.mount.session import Cell, Kind, Session


@dataclass(slots=True)
class Node:
    """A file that the kernel may name by its number; `cell` is its place in the session.

    INVARIANT: `parent`, and that of each of `others`, is the number of a node in the table, which counts them in
    `children`; a node without `name` was removed from the tree, and lives on through its handles, its `descriptor` (a
    directory) or its `record` (a cold file).
    """

    ino: Ino
    parent: Ino
    name: bytes | None
    lookups: int = 0
    children: int = 0
    cell: int = 0
    others: dict[tuple[Ino, bytes], int] = field(default_factory=dict)  # further names, and their places
    descriptor: Fd | None = None
    record: Record | None = None


class Nodes:
    """All nodes that the kernel holds look-ups of, and the directories above them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        #: Told of a node without a name that the kernel has forgotten.
        self.on_forgotten: Callable[[Ino], None] = _ignore
        self._nodes: dict[Ino, Node] = {ROOT: Node(ROOT, ROOT, b"", lookups=1)}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, ino: Ino) -> Node | None:
        """The node of a number."""
        return self._nodes.get(ino)

    def is_orphan(self, ino: Ino) -> bool:
        """Whether the kernel still knows a number whose file was removed from the tree."""
        node = self._nodes.get(ino)
        return node is not None and node.name is None

    def removed_one(self, ino: Ino) -> Node | None:
        """The node of a number, if its file was removed from the tree."""
        node = self._nodes.get(ino)
        return node if node is not None and node.name is None else None

    def has_name(self, ino: Ino) -> bool:
        """Whether a number is known, and its file is in the tree."""
        node = self._nodes.get(ino)
        return node is not None and node.name is not None

    def removed_ones(self) -> list[Node]:
        """The nodes whose files were removed from the tree."""
        return [node for node in self._nodes.values() if node.name is None]

    def numbers(self) -> Iterable[Ino]:
        """The numbers of all nodes."""
        return self._nodes.keys()

    def named(self, parent: Ino, name: bytes) -> Node | None:
        """The node that a name led to. Looks at all of them: for requests that come again."""
        return next((node for node in self._nodes.values() if _is_named(node, parent, name)), None)

    def path(self, ino: Ino) -> bytes:
        """The path of a node. ESTALE: removed, or nobody looked it up. EROFS: in no tier."""
        names: list[bytes] = []
        node = self._nodes.get(ino)
        while node is not None and node.ino != ROOT:
            if node.name is None:
                node = None
                break
            names.append(node.name)
            node = self._nodes.get(node.parent)
        if node is None:
            number = errno.EROFS if ino >= FIRST_MADE else errno.ESTALE
            raise OSError(number, os.strerror(number))
        names.reverse()
        return b"/".join(names)

    def looked_up(self, ino: Ino, parent: Ino, name: bytes) -> Node:
        """The kernel was told a node: it holds one more look-up of it."""
        node = self._nodes.get(ino)
        if node is None:
            node = self._nodes[ino] = Node(ino, parent, name, lookups=1)
            node.cell = self._session.add(Kind.NODE, ino, 1, parent, name)
            self._hold(parent)
            return node
        if node.name is None:
            self._hold(parent)
            self._let_go(node.parent)
            self._rename(node, parent, name)
        elif (node.parent, node.name) != (parent, name) and (parent, name) not in node.others:
            self._hold(parent)
            node.others[parent, name] = self._session.add(Kind.NAME, ino, 0, parent, name)
        if ino != ROOT:
            node.lookups += 1
            self._session.count(node.cell, node.lookups)
        return node

    def forget(self, ino: Ino, count: int) -> None:
        """The kernel gives look-ups back; with the last one the node goes, unless it is above another one."""
        node = self._nodes.get(ino)
        if node is None or ino == ROOT:
            return
        node.lookups -= count
        if node.lookups > 0 or node.children > 0:
            self._session.recount(node.cell, max(0, node.lookups))
        else:
            self._drop_unneeded(node)

    def removed(self, ino: Ino, parent: Ino, name: bytes) -> Node | None:
        """A name is gone; the node, if that was the last name it is known by."""
        node = self._nodes.get(ino)
        if node is None:
            return None
        if (node.parent, node.name) == (parent, name):
            if node.others:
                (node.parent, node.name), place = node.others.popitem()
                self._rename(node, node.parent, node.name)
                self._session.drop(place)
                self._let_go(parent)
                return None
            self._rename(node, node.parent, None)
            return node
        if (parent, name) in node.others:
            self._session.drop(node.others.pop((parent, name)))
            self._let_go(parent)
        return None

    def renamed(self, ino: Ino, source: tuple[Ino, bytes], target: tuple[Ino, bytes]) -> None:
        """A name of a node became another one."""
        node = self._nodes.get(ino)
        if node is None:
            return
        if (node.parent, node.name) == source:
            self._rename(node, *target)
        elif source in node.others:
            before = node.others.pop(source)
            node.others[target] = self._session.add(Kind.NAME, ino, 0, *target)
            self._session.drop(before)
        else:
            return
        self._hold(target[0])
        self._let_go(source[0])

    def take_over(self, first: Iterable[Cell], further: Iterable[Cell]) -> None:
        """Know what another worker knew: cells of its nodes, and of further names. A kill may have left two for one."""
        nodes, orders = self._nodes, dict[Ino, int]()
        for place, kind, ino, lookups, _, parent, order, name in first:
            if order < orders.get(ino, 0):
                self._session.drop(place)
                continue
            if ino in orders:
                self._session.drop(nodes[ino].cell)
            orders[ino] = order
            nodes[ino] = Node(ino, Ino(parent), name if kind == Kind.NODE else None, lookups, 0, place)
        for cell in further:
            node, key = nodes.get(cell.ino), (Ino(cell.parent), cell.name)
            if node is None or key == (node.parent, node.name):
                self._session.drop(cell.place)
            else:
                node.others[key] = cell.place
        for node in nodes.values():
            for parent in [node.parent, *(other for other, _ in node.others)] if node.others else (node.parent,):
                above = nodes.get(parent)
                if above is not None:
                    above.children += 1
        for node in [node for node in nodes.values() if node.lookups <= 0 and node.children <= 0]:
            self._drop_unneeded(node)

    def close(self) -> None:
        """Close the descriptors of removed directories."""
        for node in self._nodes.values():
            if node.descriptor is not None:
                os.close(node.descriptor)
                node.descriptor = None

    # -- inside --------------------------------------------------------------------------------------------------

    def _rename(self, node: Node, parent: Ino, name: bytes | None) -> None:
        """Give a node its first name, or take it: a new cell, then the old one goes."""
        before = node.cell
        node.parent, node.name = parent, name
        kind = Kind.ORPHAN if name is None else Kind.NODE
        node.cell = self._session.add(kind, node.ino, node.lookups, parent, name or b"")
        self._session.drop(before)

    # The kernel may forget a directory while it knows a file in it: by another name, or by an open descriptor alone.

    def _hold(self, parent: Ino) -> None:
        node = self._nodes.get(parent)
        if node is not None:
            node.children += 1

    def _let_go(self, parent: Ino) -> None:
        node = self._nodes.get(parent)
        if node is not None:
            node.children -= 1
            self._drop_unneeded(node)

    def _drop_unneeded(self, node: Node) -> None:
        unneeded = [node]
        while unneeded:
            node = unneeded.pop()
            if node.lookups > 0 or node.children > 0 or node.ino == ROOT or self._nodes.pop(node.ino, None) is None:
                continue
            if node.descriptor is not None:
                os.close(node.descriptor)
                node.descriptor = None
            if node.name is None:
                self.on_forgotten(node.ino)
            for place in (node.cell, *node.others.values()):
                self._session.drop(place)
            for parent in [node.parent, *(other for other, _ in node.others)]:
                above = self._nodes.get(parent)
                if above is not None:
                    above.children -= 1
                    unneeded.append(above)


def _is_named(node: Node, parent: Ino, name: bytes) -> bool:
    return (node.parent, node.name) == (parent, name) or (parent, name) in node.others


def _ignore(_ino: Ino) -> None:
    """Nobody else needs to know."""
