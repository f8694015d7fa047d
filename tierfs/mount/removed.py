"""Files that were removed from the tree and live on: by a descriptor, or, cold ones, by the record that they had."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tierfs.core.records import Fd, Handle
from tierfs.engine.stats import cold_stat
from tierfs.engine.tree import Found
from tierfs.mount.changes import Changes, change_open, change_recorded
from tierfs.mount.files import Files
from tierfs.mount.nodes import Node, Nodes
from tierfs.stores.hot import HotTier, by_fd


class RemovedFiles:
    """What can be done with a node that has no name."""

    def __init__(self, files: Files, nodes: Nodes, hot: HotTier) -> None:
        self._files = files
        self._nodes = nodes
        self._hot = hot

    # -- while the name goes -------------------------------------------------------------------------------------

    @contextmanager
    def keeping_directory(self, found: Found | None, path: bytes) -> Iterator[None]:
        """A directory that is removed in this block lives on for those who are in it."""
        node = self._nodes.get(found.ino) if found else None
        if node is None or found is None or not stat.S_ISDIR(found.st.st_mode) or node.descriptor is not None:
            yield
            return
        node.descriptor = self._hot.open(path, os.O_PATH | os.O_DIRECTORY)
        self._files.parked.directory(node.ino, node.descriptor)
        try:
            yield
        except BaseException:
            os.close(node.descriptor)
            node.descriptor = None
            self._files.parked.forgotten(node.ino)
            raise

    def park(self, found: Found) -> None:
        """What is open and about to lose its name is kept for the next worker."""
        file = self._files.handles.any_of(found.ino) if self._files.modes.is_open(found.ino) else None
        if file and file.fd is not None:
            self._files.parked.file(found.ino, file.fd)
        elif file and found.record:
            self._files.parked.record(found.ino, found.record)

    # -- afterwards ----------------------------------------------------------------------------------------------

    def stat(self, node: Node) -> Found:
        """fstat(2). ESTALE."""
        fd = self._descriptor(node)
        if fd is not None:
            return Found(node.ino, os.fstat(fd))
        assert node.record is not None
        return Found(node.ino, replace(cold_stat(node.record.attributes), st_nlink=0), node.record)

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """fgetxattr(2). ENODATA, ESTALE."""
        fd = self._descriptor(node)
        if fd is not None:
            return os.getxattr(by_fd(fd), name)
        value = dict(node.record.attributes.xattrs).get(name) if node.record else None
        if value is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return value

    def listxattr(self, node: Node) -> list[bytes]:
        """flistxattr(2). ESTALE."""
        fd = self._descriptor(node)
        if fd is not None:
            return [os.fsencode(name) for name in os.listxattr(by_fd(fd))]
        return [name for name, _ in node.record.attributes.xattrs] if node.record else []

    def change(self, node: Node, changes: Changes) -> None:
        """fchown(2), fchmod(2), futimens(3). ESTALE."""
        fd = self._descriptor(node)
        if fd is not None:
            change_open(fd, changes)
        elif node.record:
            changed = change_recorded(node.record.attributes, changes, self._files.now())
            node.record = replace(node.record, attributes=changed)
            self._files.parked.record(node.ino, node.record)

    async def bytes_of(self, node: Node, keeps_bytes: bool = True) -> int:
        """A descriptor, which stays the file's; a cold one gets hot bytes for it. ESTALE."""
        while (fd := self._descriptor(node)) is None:
            await self._files.revive(node, keeps_bytes)
        return fd

    async def open(self, node: Node, flags: int) -> Handle:
        """open(2) through a descriptor in /proc. ESTALE."""
        fd = await self.bytes_of(node, keeps_bytes=not flags & os.O_TRUNC)
        opened = os.open(by_fd(fd), flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) | os.O_CLOEXEC)
        return self._files.adopt(node.ino, Fd(opened), flags, None)

    def _descriptor(self, node: Node) -> int | None:
        """A descriptor, None for a cold file. ESTALE where nothing holds it open."""
        if node.descriptor is not None:
            return node.descriptor
        file = self._files.handles.any_of(node.ino)
        if file and file.fd is not None:
            return file.fd
        if node.record is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return None
