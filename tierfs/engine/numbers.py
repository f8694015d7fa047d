"""Node ids: which number the kernel and applications know a file by.

The inode number of a hot file is its node id, so numbers are native and the same after every mount. A file keeps its
number when its hot bytes go and come back; the filesystem below may give the freed inode to another file meanwhile, and
that one then gets a number from a range that no filesystem hands out.
"""

import os
from collections.abc import Callable, Iterable

from tierfs.core.records import HotIno, Ino
from tierfs.core.residency import WITHOUT_HOT_BYTES
from tierfs.stores.catalog import Catalog

ROOT = Ino(1)  # FUSE_ROOT_ID
_REMEMBERED = 1 << 18
#: Numbers of what is in no tier, from here on: positive also where they have a sign.
FIRST_MADE = Ino((1 << 63) - (1 << 16))
_FIRST_OWN = 1 << 48  # ext4 and XFS inode numbers of disks below a petabyte are smaller


class Numbers:
    """Maps inodes of the hot directory to node ids.

    INVARIANT: no two living files have the same node id. `claims` tells whether a number is known to the kernel for a
    file that is no longer at the inode of that number.
    """

    def __init__(self, catalog: Catalog, root: os.stat_result, claims: Callable[[Ino], bool]) -> None:
        self._catalog = catalog
        self._device = root.st_dev
        self._claims = claims
        self._renumbered: dict[tuple[int, int], Ino] = {
            (self._device, hot): ino for hot, ino in catalog.renumbered().items()
        }
        self._renumbered[self._device, root.st_ino] = ROOT
        self._inodes = {ino: inode for inode, ino in self._renumbered.items()}
        self._own: set[int] = set()  # inodes whose number was found to be free: asked for once, until they are freed
        self._next = max(_FIRST_OWN, catalog.highest_ino() + 1)
        #: Told when an inode gets another number than its own, and (None) when it has that no more.
        self.on_renumbered: Callable[[tuple[int, int], Ino | None], None] = _ignore

    def of(self, st: os.stat_result) -> Ino:
        """The node id of a hot file."""
        key = (st.st_dev, st.st_ino)
        known = self._renumbered.get(key)
        if known is not None:
            return known
        own = Ino(st.st_ino)
        if own in self._own and st.st_dev == self._device:
            return own
        if st.st_dev == self._device and own not in self._inodes and not self._claims(own) and not self._is_taken(own):
            if len(self._own) >= _REMEMBERED:
                self._own.clear()
            self._own.add(own)
            return own
        ino = self.new()
        self._renumber(key, ino)
        return ino

    def new(self) -> Ino:
        """A number for a file that was never hot."""
        self._next += 1
        return Ino(self._next - 1)

    def bind(self, st: os.stat_result, ino: Ino) -> None:
        """A file that had a number before is now at this inode."""
        self.freed(st)
        if ino != st.st_ino or st.st_dev != self._device:
            self._renumber((st.st_dev, st.st_ino), ino)

    def freed(self, st: os.stat_result) -> None:
        """The inode is gone from the hot directory; whoever gets it next is another file."""
        self._own.discard(st.st_ino)
        ino = self._renumbered.pop((st.st_dev, st.st_ino), None)
        if ino is not None:
            del self._inodes[ino]
            self.on_renumbered((st.st_dev, st.st_ino), None)

    def forget(self, ino: Ino) -> None:
        """The file of this number is gone; whoever gets its inode next is another one."""
        self._own.discard(ino)
        key = self._inodes.pop(ino, None)
        if key is not None:
            del self._renumbered[key]
            self.on_renumbered(key, None)

    def take_over(self, numbers: Iterable[tuple[tuple[int, int], Ino]], used: Iterable[Ino]) -> None:
        """Go on with the numbers that another process gave to inodes; the `used` ones are not given again."""
        for key, ino in numbers:
            self._renumber(key, ino)
        self._next = max(self._next, max(used, default=ROOT) + 1)

    def _renumber(self, key: tuple[int, int], ino: Ino) -> None:
        before = self._inodes.pop(ino, None)
        if before is not None:
            del self._renumbered[before]
            self.on_renumbered(before, None)
        self._renumbered[key], self._inodes[ino] = ino, key
        self.on_renumbered(key, ino)

    def _is_taken(self, ino: Ino) -> bool:
        if ino >= FIRST_MADE:
            return True
        record = self._catalog.get_by_ino(ino)
        if record is None:
            return False
        return record.residency in WITHOUT_HOT_BYTES or record.identity is None or record.identity.ino != HotIno(ino)


def _ignore(_key: tuple[int, int], _ino: Ino | None) -> None:
    """Nobody else needs to know."""
