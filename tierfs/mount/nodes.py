"""What the kernel knows: node ids, the names that led to them, and how many look-ups it still holds.

Everything here can be said in plain numbers and bytes, so another process could take it over.
"""

import errno
import os
from dataclasses import dataclass, field

from tierfs.core.records import Fd, Ino, Record
from tierfs.engine.numbers import ROOT


@dataclass(slots=True)
class Node:
    """A file that the kernel may name by its number.

    INVARIANT: `parent`, and that of each of `others`, is the number of a node in the table, which counts them in
    `children`; a node without `name` was removed from the tree, and lives on through its handles, its `descriptor` (a
    directory) or its `record` (a cold file).
    """

    ino: Ino
    parent: Ino
    name: bytes | None
    lookups: int = 0
    children: int = 0
    others: set[tuple[Ino, bytes]] = field(default_factory=set)  # further names of a file with hard links
    descriptor: Fd | None = None
    record: Record | None = None


class Nodes:
    """All nodes that the kernel holds look-ups of, and the directories above them."""

    def __init__(self) -> None:
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

    def path(self, ino: Ino) -> bytes:
        """The path of a node. ESTALE for one that was removed, or that nobody looked up."""
        names: list[bytes] = []
        node = self._nodes.get(ino)
        while node is not None and node.ino != ROOT:
            if node.name is None:
                node = None
                break
            names.append(node.name)
            node = self._nodes.get(node.parent)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        names.reverse()
        return b"/".join(names)

    def looked_up(self, ino: Ino, parent: Ino, name: bytes) -> Node:
        """The kernel was told a node: it holds one more look-up of it."""
        node = self._nodes.get(ino)
        if node is None:
            node = self._nodes[ino] = Node(ino, parent, name)
            self._hold(parent)
        elif node.name is None:
            self._hold(parent)
            self._let_go(node.parent)
            node.parent, node.name = parent, name
        elif (node.parent, node.name) != (parent, name) and (parent, name) not in node.others:
            self._hold(parent)
            node.others.add((parent, name))
        node.lookups += 1
        return node

    def forget(self, ino: Ino, count: int) -> None:
        """The kernel gives look-ups back; with the last one the node goes, unless it is above another one."""
        node = self._nodes.get(ino)
        if node is None or ino == ROOT:
            return
        node.lookups -= count
        self._drop_unneeded(node)

    def removed(self, ino: Ino, parent: Ino, name: bytes) -> Node | None:
        """A name is gone; the node, if that was the last name it is known by."""
        node = self._nodes.get(ino)
        if node is None:
            return None
        if (node.parent, node.name) == (parent, name):
            if node.others:
                node.parent, node.name = node.others.pop()
                self._let_go(parent)
                return None
            node.name = None
            return node
        if (parent, name) in node.others:
            node.others.discard((parent, name))
            self._let_go(parent)
        return None

    def renamed(self, ino: Ino, source: tuple[Ino, bytes], target: tuple[Ino, bytes]) -> None:
        """A name of a node became another one."""
        node = self._nodes.get(ino)
        if node is None:
            return
        if (node.parent, node.name) == source:
            node.parent, node.name = target
        elif source in node.others:
            node.others.discard(source)
            node.others.add(target)
        else:
            return
        self._hold(target[0])
        self._let_go(source[0])

    def close(self) -> None:
        """Close the descriptors of removed directories."""
        for node in self._nodes.values():
            if node.descriptor is not None:
                os.close(node.descriptor)
                node.descriptor = None

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
            for parent in [node.parent, *(other for other, _ in node.others)]:
                above = self._nodes.get(parent)
                if above is not None:
                    above.children -= 1
                    unneeded.append(above)
