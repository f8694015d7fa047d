"""Extended attributes `user.tierfs.*`: what tierfs says of a file where `getfattr -n` finds it.

    state    the residency: hot, archiving, mirrored, cold, restoring, lost
    object   the key of the object that has its bytes        } ENODATA for a file
    etag     the ETag of that object                         } that is hot alone
    cached   how many of its bytes the chunk cache has
    pinned   1 or 0; its owner, and root, write it
    reason   why it is where it is

They are computed when they are asked for, never stored, and in no listing, because cp, rsync and tar copy what is
listed. Directories have `state` and `pinned`. The kernel lets those ask who may read the file.
"""

import errno
import os
import stat

from tierfs.core.records import OWN_XATTRS, Ino
from tierfs.core.residency import Residency
from tierfs.engine.entries import Entries
from tierfs.engine.tree import Found, Tree
from tierfs.mount.nodes import Nodes
from tierfs.mount.owners import Caller

_PINNED = OWN_XATTRS + b"pinned"
_SETTLED = {
    Residency.MIRRORED: "waits for the next policy pass",
    Residency.COLD: "its bytes are in the bucket alone",
    Residency.RESTORING: "being restored",
}


class Labels:
    """Answers for all nodes that have a name. `entries` is set before the first request."""

    entries: Entries

    def __init__(self, tree: Tree, nodes: Nodes) -> None:
        self._tree = tree
        self._nodes = nodes

    async def get(self, ino: Ino, name: bytes) -> bytes:
        """getxattr(2) of a name that begins with OWN_XATTRS. ENODATA. Waits for no store."""
        path, found = self._find(ino)
        what = name.removeprefix(OWN_XATTRS)
        if what == b"pinned":
            return b"%d" % self._tree.tier.pins.cover(path)
        if what == b"state":
            return self.entries.residency(path, found).value.encode()
        if not stat.S_ISREG(found.st.st_mode):
            raise _none()
        if what in (b"object", b"etag"):
            stored = self.entries.stored(path, found)
            if stored is None:
                raise _none()
            return (stored.key if what == b"object" else stored.etag).encode("utf-8", "surrogateescape")
        if what not in (b"cached", b"reason"):
            raise _none()
        entry = await self.entries.of(path, found)
        if what == b"cached":
            return b"%d" % entry.cached_bytes
        return (entry.reason or _SETTLED.get(entry.residency, "")).encode("utf-8", "backslashreplace")

    def set(self, ino: Ino, name: bytes, value: bytes, caller: Caller) -> None:
        """setxattr(2): 1 pins, 0 takes the pin away. EPERM for all others, and for a pin that is not the file's own."""
        self._change(ino, name, caller)
        if value not in (b"0", b"1"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        path, pins = self._nodes.path(ino), self._tree.tier.pins
        if value == b"1":
            if path not in pins:
                pins.add(path)
        elif not pins.discard(path) and pins.cover(path):
            raise _forbidden()

    def remove(self, ino: Ino, name: bytes, caller: Caller) -> None:
        """removexattr(2): as if 0 were written. EPERM."""
        self.set(ino, name, b"0", caller)

    def _change(self, ino: Ino, name: bytes, caller: Caller) -> None:
        """EPERM for who may not, EROFS in the control directory."""
        found = self._tree.find(self._nodes.path(ino))
        if name != _PINNED or caller.uid not in (0, found.st.st_uid):
            raise _forbidden()

    def _find(self, ino: Ino) -> tuple[bytes, Found]:
        """The path, and what is there. ENODATA for what has no name, or is in no tier, or is gone since."""
        try:
            path = self._nodes.path(ino)
            return path, self._tree.find(path)
        except OSError:
            raise _none() from None


def _none() -> OSError:
    return OSError(errno.ENODATA, os.strerror(errno.ENODATA))


def _forbidden() -> OSError:
    return OSError(errno.EPERM, os.strerror(errno.EPERM))
