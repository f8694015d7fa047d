"""The union of both tiers by path: what names there are, and what the metadata calls do to them.

Nothing here waits for the bucket. A file with hot bytes is whatever the hot directory says; a name that is not there
may be the record of a cold file. Renames of hot names that carry records are written down first (see
docs/ARCHITECTURE.md, crash table); deletions are committed first and carried to the bucket later. What takes the place
of a cold file is durable before the cold file is given up: after a power cut there is one or the other.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import trio

from tierfs.core.records import Attributes, HotIno, Ino, ObjectRef, Record
from tierfs.core.residency import Residency
from tierfs.core.segments import successor_of
from tierfs.core.steps import step
from tierfs.engine.stats import ColdStat, Stat, cold_stat, without_privileges
from tierfs.engine.tier import Tier
from tierfs.engine.waits import waiting_for
from tierfs.stores.catalog_rows import Rename
from tierfs.stores.hot import RENAME_EXCHANGE, RENAME_NOREPLACE, split


class Found(NamedTuple):
    """A file of the tree: its node id, its stat, and its record where it has no hot bytes."""

    ino: Ino
    st: Stat
    record: Record | None = None


class Ends(NamedTuple):
    """What a rename moves, and what it replaces or takes the place of."""

    moved: Found
    replaced: Found | None


class Name(NamedTuple):
    """An entry of a directory; `type` is the S_IFMT part of the mode."""

    name: bytes
    ino: Ino | None
    cold: ColdStat | None


class Tree:
    """Names and metadata over both tiers; methods raise OSError with the errno of the local filesystem."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.hot = tier.hot
        self.catalog = tier.catalog
        #: Told of a file or directory whose name is about to go, for good.
        self.removing: Callable[[Found], None] = _ignore

    # -- looking -------------------------------------------------------------------------------------------------

    def find(self, path: bytes) -> Found:
        """The file at a path. ENOENT, ENOTDIR."""
        try:
            st = self.hot.lstat(path)
        except FileNotFoundError:
            record = self.tier.cold_record(path)
            if record is None:
                raise
            return Found(record.ino, cold_stat(record.attributes), record)
        return Found(self.tier.numbers.of(st), st)

    def find_or_none(self, path: bytes) -> Found | None:
        """The file at a path, None for ENOENT."""
        try:
            return self.find(path)
        except FileNotFoundError:
            return None

    def names(self, path: bytes) -> Iterator[Name]:
        """The names in a directory: hot ones (to be looked up) and cold ones (complete)."""
        seen: set[bytes] = set()
        cold = self.catalog.list_cold(path)
        for entry in self.hot.scan(path):
            name = os.fsencode(entry.name)
            seen.add(name) if cold else None
            yield Name(name, None, None)
        for name, ino, attributes in cold:
            if name not in seen:
                yield Name(name, ino, cold_stat(attributes))

    def successor(self, path: bytes) -> ObjectRef | None:
        """The object of the segment that follows the one at a path, if that is cold."""
        directory, name = split(path)
        following = successor_of(name, (entry.name for entry in self.names(directory)))
        record = self.tier.cold_record(os.path.join(directory, following)) if following else None
        return record.object if record and record.residency is not Residency.LOST else None

    # -- names ---------------------------------------------------------------------------------------------------

    def claim_name(self, path: bytes) -> None:
        """EEXIST if a cold file has this name; for a hot one the system call that makes the new file says so."""
        if self.tier.cold_record(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(path))

    def unlink(self, path: bytes) -> Found:
        """Remove a file from both tiers, and return what it was; the object goes later."""
        found = self.find(path)
        if stat.S_ISDIR(found.st.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        self.removing(found)
        self.tier.removed(path)
        self.tier.pins.discard(path)
        if isinstance(found.st, os.stat_result):
            with step("unlink.name"):
                self.hot.unlink(path)
            self._freed(found.st)
        else:
            self.hot.touch_directory(path, self.tier.now())
        return found

    def rmdir(self, path: bytes) -> None:
        """Remove an empty directory: empty in both tiers."""
        st = self.hot.lstat(path)
        if self.catalog.has_cold(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), os.fsdecode(path))
        self.hot.rmdir(path)
        self.tier.pins.discard(path)
        self.tier.numbers.freed(st)

    def link(self, source: bytes, target: bytes) -> None:
        """Give a hot file a second name; files with several names are always hot."""
        self.claim_name(target)
        with step("link.name"):
            self.hot.link(source, target)
        self.tier.written(source)

    def ends(self, source: bytes, target: bytes) -> Ends:
        """What there is for a rename. ENOENT, ENOTDIR."""
        return Ends(self.find(source), self.find_or_none(target))

    async def rename(self, source: bytes, target: bytes, flags: int, ends: Ends | None = None) -> Found | None:
        """renameat2(2), with the flags below, over both tiers; what was at the target, if it had to look again.

        `ends` is what the caller has just seen there, if it looked.
        """
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        replaced: Found | None = None
        while intent := self._intend(source, target, flags, ends or self.ends(source, target)):
            ends = None
            try:
                with step("rename.sync_catalog"), waiting_for("the disk of the state directory"):
                    await trio.to_thread.run_sync(self.catalog.sync)
            except BaseException:
                self._withdraw(intent)
                raise
            replaced = self.find_or_none(target)
            if self._carry_out(intent, flags):
                break
        return replaced

    def _intend(self, source: bytes, target: bytes, flags: int, ends: Ends) -> Rename | None:
        """Do the rename at once where one step is enough (None), else write down what is to be done."""
        moved, replaced = ends
        self._check_rename(source, target, moved, replaced, flags)
        if source == target or (replaced and moved.ino == replaced.ino):
            return None
        exchange = bool(flags & RENAME_EXCHANGE)
        if moved.record and exchange and replaced and not replaced.record:
            moved, replaced, source, target = replaced, moved, target, source
        if not isinstance(moved.st, os.stat_result):
            self._rename_cold(source, target, replaced, exchange)
            return None
        if not self._carries(source, moved) and not (replaced and self._gives_up(target, replaced, exchange)):
            self._rename_hot(source, target, flags, replaced)
            return None
        for path in (source, target):
            self.tier.noticed(self.catalog.get(path))  # recovery takes the ctime for the rename's
        rename = Rename(source, target, moved.st.st_ino, exchange)
        with step("rename.intend"):
            self.catalog.intend(rename)
        return rename

    def _carries(self, path: bytes, found: Found) -> bool:
        """Whether records have to follow when a name goes elsewhere."""
        return self.catalog.has_below(path) if stat.S_ISDIR(found.st.st_mode) else self.catalog.get(path) is not None

    def _gives_up(self, path: bytes, found: Found, exchange: bool) -> bool:
        """Whether records need care when another file takes a name: that of a cold file, or those that move."""
        return found.record is not None or (exchange and self._carries(path, found))

    def _check_rename(self, source: bytes, target: bytes, moved: Found, replaced: Found | None, flags: int) -> None:
        """The errors that the hot directory cannot give, because it does not see the cold files."""
        number = 0
        if replaced and flags & RENAME_NOREPLACE:
            number = errno.EEXIST
        elif not replaced and flags & RENAME_EXCHANGE:
            number = errno.ENOENT
        elif replaced and not flags & RENAME_EXCHANGE:
            from_directory, to_directory = stat.S_ISDIR(moved.st.st_mode), stat.S_ISDIR(replaced.st.st_mode)
            if from_directory and not to_directory:
                number = errno.ENOTDIR
            elif to_directory and not from_directory:
                number = errno.EISDIR
            elif to_directory and source != target and self.catalog.has_cold(target):
                number = errno.ENOTEMPTY
        if number:
            raise OSError(number, os.strerror(number), os.fsdecode(source), None, os.fsdecode(target))

    def _rename_cold(self, source: bytes, target: bytes, replaced: Found | None, exchange: bool) -> None:
        now_ns = self.tier.now()
        if exchange:
            with step("rename_cold.exchange"):
                self.catalog.follow(Rename(source, target, 0, True), now_ns)
        else:
            if replaced:
                self.removing(replaced)
            doomed = self.hot.lstat(target) if replaced and not replaced.record else None
            with step("rename_cold.commit"):
                self.catalog.move_cold(source, target, HotIno(doomed.st_ino) if doomed else None, now_ns)
            if doomed:
                with step("rename_cold.sync_catalog"):
                    self.catalog.sync()
                with step("rename_cold.unlink"):
                    self.hot.unlink(target)
                with step("rename_cold.sync_names"):  # else a power cut may bring it back, and nobody would remove it
                    self.hot.sync_directory(split(target)[0])
                with step("rename_cold.spare"):
                    self.catalog.spare(target)
                self._freed(doomed)
        self._renamed_cold(source, target)
        self.tier.pins.move(source, target, exchange)

    def _rename_hot(self, source: bytes, target: bytes, flags: int, replaced: Found | None) -> None:
        """A hot name without records. That of a hot file at the target goes last: until then recovery sees HOT win."""
        if replaced and not flags & RENAME_EXCHANGE:
            self.removing(replaced)
        with step("rename_hot.name"):
            self.hot.rename(source, target, flags)
        if not flags & RENAME_EXCHANGE:
            self.tier.removed(target)
            if replaced and isinstance(replaced.st, os.stat_result):
                self._freed(replaced.st)
        self.tier.pins.move(source, target, exchange=bool(flags & RENAME_EXCHANGE))

    def _carry_out(self, rename: Rename, flags: int) -> bool:
        """The second half of a rename that carries records: looked at again, then done without a pause.

        False when the source is not what it was: released, restored or replaced meanwhile.
        """
        source, target = rename.source, rename.target
        try:
            st = self.hot.lstat_or_none(source)
            if st is None or st.st_ino != rename.hot_ino:
                self._withdraw(rename)
                return False
            replaced = self.find_or_none(target)
            self._check_rename(source, target, self.find(source), replaced, flags)
            intact = [r.ino for r in map(self.catalog.get, (source, target)) if r and self.tier.is_intact(r.path)]
            gone = None if rename.exchange else self.hot.lstat_or_none(target)
            if replaced and not rename.exchange:
                self.removing(replaced)
            with step("rename.name"):
                self.hot.rename(source, target, 0 if replaced and replaced.record else flags)
        except BaseException:
            self._withdraw(rename)
            raise
        if (replaced and replaced.record) or stat.S_ISDIR(st.st_mode):
            with step("rename.sync_names"):
                self.hot.sync_directory(split(target)[0])
        with step("rename.follow"):
            self.catalog.follow(rename, self.tier.now())
        for ino in intact:
            record = self.catalog.get_by_ino(ino)
            if record:
                self.tier.refresh_identity(record.path, ino)
        if rename.exchange and replaced and replaced.record:
            self._renamed_cold(source)
        self._freed(gone)
        self.tier.pins.move(source, target, rename.exchange)
        return True

    def _withdraw(self, rename: Rename) -> None:
        with step("rename.withdraw"):
            self.catalog.withdraw(rename)

    def _renamed_cold(self, *paths: bytes) -> None:
        """A rename changes the ctime of what it renames, and the times of the directories."""
        for path in paths:
            self.hot.touch_directory(path, self.tier.now())
            record = self.tier.cold_record(path)
            if record:
                self._record(path, record.attributes)

    def _freed(self, gone: os.stat_result | None) -> None:
        """A hot file was removed: was this its last name?"""
        if gone and (gone.st_nlink == 1 or stat.S_ISDIR(gone.st_mode)):
            self.tier.numbers.freed(gone)

    # -- attributes ----------------------------------------------------------------------------------------------

    def chmod(self, path: bytes, mode: int) -> None:
        """chmod(2)."""
        record = self._cold(path)
        if record:
            kind = stat.S_IFMT(record.attributes.mode)
            self._record(path, replace(record.attributes, mode=kind | stat.S_IMODE(mode)))
        else:
            with self.tier.changing_attributes(path):
                self.hot.chmod(path, stat.S_IMODE(mode))

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """lchown(2); -1 leaves an owner as it is."""
        record = self._cold(path)
        if record:
            a = record.attributes
            uid, gid = a.uid if uid == -1 else uid, a.gid if gid == -1 else gid
            self._record(path, replace(a, uid=uid, gid=gid, mode=without_privileges(a.mode)))
        else:
            with self.tier.changing_attributes(path):
                self.hot.chown(path, uid, gid)

    def utime(self, path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
        """utimensat(2); None leaves a time as it is."""
        record = self._cold(path)
        st: Stat = cold_stat(record.attributes) if record else self.hot.lstat(path)
        atime_ns = st.st_atime_ns if atime_ns is None else atime_ns
        mtime_ns = st.st_mtime_ns if mtime_ns is None else mtime_ns
        if record:
            self._record(path, replace(record.attributes, atime_ns=atime_ns, mtime_ns=mtime_ns))
        else:
            with self.tier.changing_attributes(path):
                self.hot.utime(path, atime_ns, mtime_ns)

    def listxattr(self, path: bytes) -> list[bytes]:
        """llistxattr(2)."""
        record = self._cold(path)
        return [name for name, _ in record.attributes.xattrs] if record else self.hot.listxattr(path)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        """lgetxattr(2). ENODATA."""
        record = self._cold(path)
        if record is None:
            return self.hot.getxattr(path, name)
        for known, value in record.attributes.xattrs:
            if known == name:
                return value
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        """lsetxattr(2)."""
        record = self._cold(path)
        if record is None:
            with self.tier.changing_attributes(path):
                self.hot.setxattr(path, name, value, flags)
            return
        known = dict(record.attributes.xattrs)
        if flags & os.XATTR_CREATE and name in known:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if flags & os.XATTR_REPLACE and name not in known:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        known[name] = value
        self._try_xattrs(known)
        self._record(path, replace(record.attributes, xattrs=tuple(sorted(known.items()))))

    def removexattr(self, path: bytes, name: bytes) -> None:
        """lremovexattr(2). ENODATA."""
        record = self._cold(path)
        if record is None:
            with self.tier.changing_attributes(path):
                self.hot.removexattr(path, name)
            return
        known = dict(record.attributes.xattrs)
        if name not in known:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        del known[name]
        self._record(path, replace(record.attributes, xattrs=tuple(sorted(known.items()))))

    def _try_xattrs(self, xattrs: dict[bytes, bytes]) -> None:
        """What the local filesystem does not take, a restore could not bring back: ENOTSUP, ENOSPC, E2BIG."""
        fd = self.hot.temporary(b"")
        try:
            for name, value in xattrs.items():
                os.setxattr(fd, name, value)
        finally:
            os.close(fd)

    def _cold(self, path: bytes) -> Record | None:
        return self.tier.cold_record(path) if self.hot.lstat_or_none(path) is None else None

    def _record(self, path: bytes, attributes: Attributes) -> None:
        self.tier.set_attributes(path, replace(attributes, ctime_ns=self.tier.now()))


def _ignore(_found: Found) -> None:
    """Nobody needs to know."""
