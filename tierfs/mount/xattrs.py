"""Extended attributes of a node, as its file has them; those that tierfs answers itself are in labels.py."""

import errno
import os
from collections.abc import Awaitable, Callable

from tierfs.core.records import OWN_XATTRS, Ino
from tierfs.engine.numbers import FIRST_MADE
from tierfs.engine.tree import Tree
from tierfs.mount import again
from tierfs.mount.nodes import Nodes
from tierfs.mount.removed import RemovedFiles
from tierfs.mount.session import Session
from tierfs.stores.hot import by_fd

_ACL = b"system.posix_acl_"


class Xattrs:
    """Extended attributes by node id. `bring_back` waits until a file has hot bytes."""

    def __init__(
        self,
        tree: Tree,
        nodes: Nodes,
        removed: RemovedFiles,
        session: Session,
        bring_back: Callable[[Ino], Awaitable[None]],
    ) -> None:
        self._tree = tree
        self._nodes = nodes
        self._removed = removed
        self._session = session
        self._bring_back = bring_back

    def get(self, ino: Ino, name: bytes) -> bytes:
        """getxattr(2). What is in no tier has none: the kernel asks for access control lists."""
        if ino >= FIRST_MADE:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        node = self._nodes.removed_one(ino)
        return self._removed.getxattr(node, name) if node else self._tree.getxattr(self._nodes.path(ino), name)

    def list(self, ino: Ino) -> list[bytes]:
        """listxattr(2). What is listed is copied by cp, rsync and tar, so what tierfs answers itself is not."""
        if ino >= FIRST_MADE:
            return []
        node = self._nodes.removed_one(ino)
        names = self._removed.listxattr(node) if node else self._tree.listxattr(self._nodes.path(ino))
        return [name for name in names if not name.startswith(OWN_XATTRS)]

    async def set(self, ino: Ino, name: bytes, value: bytes, flags: int = 0) -> None:
        """setxattr(2). An access control list changes the mode too, in ways the local filesystem knows: it restores."""
        if name.startswith(_ACL):
            await self._bring_back(ino)
        node = self._nodes.removed_one(ino)
        if node:
            os.setxattr(by_fd(await self._removed.bytes_of(node)), name, value, flags)
        else:
            self._tree.setxattr(self._nodes.path(ino), name, value, flags)

    async def remove(self, ino: Ino, name: bytes) -> None:
        """removexattr(2)."""
        if name.startswith(_ACL):
            await self._bring_back(ino)
        try:
            self.get(ino, name)
            was_there = True
        except OSError as error:
            # Unlike names, attributes are not known to the kernel: that one is missing proves nothing.
            was_there = False
            if error.errno == errno.ENODATA and again.is_again() and self._session.begun == again.number():
                return
        if was_there:
            self._session.begun = again.number()
        node = self._nodes.removed_one(ino)
        if node:
            os.removexattr(by_fd(await self._removed.bytes_of(node)), name)
        else:
            self._tree.removexattr(self._nodes.path(ino), name)

    def has_cold_acl(self, ino: Ino) -> bool:
        """Whether a cold file has an access control list, which depends on its mode."""
        if self._nodes.removed_one(ino):
            return False
        record = self._tree.find(self._nodes.path(ino)).record
        return record is not None and any(name.startswith(_ACL) for name, _ in record.attributes.xattrs)
