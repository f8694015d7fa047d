"""The model of a filesystem: a dict of paths. It knows what Linux answers, and nothing of tiers."""

import errno
import os
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from tierfs.stores.hot import RENAME_EXCHANGE, RENAME_NOREPLACE

Kind = Literal["file", "directory", "symlink"]


@dataclass(eq=False)
class Node:
    """One file; its names are the paths that lead to it. `mtime_ns` is None where nobody set it."""

    kind: Kind
    mode: int = 0
    data: bytearray = field(default_factory=bytearray)
    target: bytes = b""
    mtime_ns: int | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What can be seen of one path; the same for a model and for the real thing."""

    kind: Kind
    mode: int = 0
    data: bytes = b""
    target: bytes = b""
    nlink: int = 1
    mtime_ns: int | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(eq=False)
class Handle:
    """An open file."""

    node: Node
    flags: int

    @property
    def can_read(self) -> bool:
        """Whether it was opened for reading."""
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def can_write(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    def write(self, offset: int, data: bytes) -> None:
        """pwrite(2)."""
        content = self.node.data
        if self.flags & os.O_APPEND:
            offset = len(content)
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self.node.mtime_ns = None

    def truncate(self, size: int) -> None:
        """ftruncate(2)."""
        truncate(self.node, size)


def truncate(node: Node, size: int) -> None:
    """Cut or fill the content of a file."""
    node.data[size:] = bytes(max(0, size - len(node.data)))
    node.mtime_ns = None


def fail(number: int) -> NoReturn:
    """Raise the OSError of an errno."""
    raise OSError(number, os.strerror(number))


class Model:
    """The tree. Methods are system calls: they raise OSError with Linux's errno, and then change nothing."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, Node] = {b"": Node("directory")}

    # -- looking -------------------------------------------------------------------------------------------------

    def lookup(self, path: bytes) -> Node:
        """The node of a path; the last name is not followed."""
        self._check_parent(path)
        return self.nodes.get(path) or fail(errno.ENOENT)

    def _check_parent(self, path: bytes) -> None:
        names = path.split(b"/")
        for depth in range(len(names)):
            node = self.nodes.get(b"/".join(names[:depth]))
            if node is None or node.kind == "symlink":  # every symlink is dangling
                fail(errno.ENOENT)
            if node.kind != "directory":
                fail(errno.ENOTDIR)

    def paths(self, kind: Kind | None = None) -> list[bytes]:
        """The paths of the tree, without the root, or those of one kind."""
        return sorted(path for path, node in self.nodes.items() if path and kind in (None, node.kind))

    def crosses_symlink(self, path: bytes) -> bool:
        """Whether a name in front of the last one is a symlink."""
        names = path.split(b"/")
        above = [self.nodes.get(b"/".join(names[:depth])) for depth in range(1, len(names))]
        return any(node is not None and node.kind == "symlink" for node in above)

    def _file(self, path: bytes) -> Node:
        node = self.lookup(path)
        if node.kind == "symlink":
            fail(errno.ENOENT)
        if node.kind == "directory":
            fail(errno.EISDIR)
        return node

    def _is_empty(self, path: bytes) -> bool:
        return not any(other.startswith(path + b"/") for other in self.nodes)

    def seen(self) -> dict[bytes, Seen]:
        """What the tree looks like."""
        return {path: self._seen(node) for path, node in self.nodes.items() if path}

    def _seen(self, node: Node) -> Seen:
        if node.kind == "symlink":
            return Seen("symlink", target=node.target)
        if node.kind == "directory":
            return Seen("directory", node.mode)
        nlink = sum(other is node for other in self.nodes.values())
        xattrs = tuple(sorted(node.xattrs.items()))
        return Seen("file", node.mode, bytes(node.data), b"", nlink, node.mtime_ns, xattrs)

    # -- names ---------------------------------------------------------------------------------------------------

    def open(self, path: bytes, flags: int, mode: int) -> Handle:
        """open(2)."""
        self._check_parent(path)
        node = self.nodes.get(path)
        if node is None:
            if not flags & os.O_CREAT:
                fail(errno.ENOENT)
            node = self.nodes[path] = Node("file", mode)
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            fail(errno.EEXIST)
        else:
            node = self._file(path)
            if flags & os.O_TRUNC:
                truncate(node, 0)
        return Handle(node, flags)

    def mkdir(self, path: bytes, mode: int) -> None:
        """mkdir(2)."""
        self._check_parent(path)
        if path in self.nodes:
            fail(errno.EEXIST)
        self.nodes[path] = Node("directory", mode)

    def symlink(self, target: bytes, path: bytes) -> None:
        """symlink(2)."""
        self._check_parent(path)
        if path in self.nodes:
            fail(errno.EEXIST)
        self.nodes[path] = Node("symlink", target=target)

    def link(self, source: bytes, path: bytes) -> None:
        """link(2)."""
        node = self.lookup(source)
        self._check_parent(path)
        if path in self.nodes:
            fail(errno.EEXIST)
        if node.kind == "directory":
            fail(errno.EPERM)
        self.nodes[path] = node

    def unlink(self, path: bytes) -> None:
        """unlink(2)."""
        if self.lookup(path).kind == "directory":
            fail(errno.EISDIR)
        del self.nodes[path]

    def rmdir(self, path: bytes) -> None:
        """rmdir(2)."""
        if self.lookup(path).kind != "directory":
            fail(errno.ENOTDIR)
        if not self._is_empty(path):
            fail(errno.ENOTEMPTY)
        del self.nodes[path]

    def rename(self, source: bytes, target: bytes, flags: int) -> None:
        """renameat2(2)."""
        self._check_parent(source)
        self._check_parent(target)
        moved, replaced = self.nodes.get(source) or fail(errno.ENOENT), self.nodes.get(target)
        exchange = bool(flags & RENAME_EXCHANGE)
        if replaced and flags & RENAME_NOREPLACE:
            fail(errno.EEXIST)
        if exchange and not replaced:
            fail(errno.ENOENT)
        if target.startswith(source + b"/"):
            fail(errno.EINVAL)
        if source.startswith(target + b"/"):
            fail(errno.EINVAL if exchange else errno.ENOTEMPTY)
        if moved is replaced:
            return
        if replaced and not exchange:
            if moved.kind == "directory" and replaced.kind != "directory":
                fail(errno.ENOTDIR)
            if moved.kind != "directory" and replaced.kind == "directory":
                fail(errno.EISDIR)
            if not self._is_empty(target):
                fail(errno.ENOTEMPTY)
        below = self._take(source)
        other = self._take(target)
        self.nodes.update({target + rest: node for rest, node in below.items()})
        if exchange:
            self.nodes.update({source + rest: node for rest, node in other.items()})

    def _take(self, path: bytes) -> dict[bytes, Node]:
        paths = [other for other in self.nodes if other == path or other.startswith(path + b"/")]
        return {other[len(path) :]: self.nodes.pop(other) for other in paths}

    # -- attributes ----------------------------------------------------------------------------------------------

    def truncate(self, path: bytes, size: int) -> None:
        """truncate(2)."""
        truncate(self._file(path), size)

    def chmod(self, path: bytes, mode: int) -> None:
        """chmod(2)."""
        node = self.lookup(path)
        if node.kind == "symlink":
            fail(errno.ENOENT)
        node.mode = mode

    def utime(self, path: bytes, mtime_ns: int) -> None:
        """utimensat(2) of a file."""
        self._file(path).mtime_ns = mtime_ns

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        """setxattr(2) of a file."""
        self._file(path).xattrs[name] = value

    def removexattr(self, path: bytes, name: bytes) -> None:
        """removexattr(2) of a file."""
        node = self._file(path)
        if name not in node.xattrs:
            fail(errno.ENODATA)
        del node.xattrs[name]
