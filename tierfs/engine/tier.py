"""The only writer of residency.

Every change of residency is one method here: it looks at the hot file and its record again, asks the table of
core.residency, commits, and only then takes bytes away. The methods are synchronous, so nothing happens between the
look and the act; what takes time (uploads, downloads, fsync) happens between two methods, in engine.archive and
engine.restore, and is checked again afterwards. ARCHIVING and RESTORING in the catalog keep a second mover away.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tierfs.core.config import Settings
from tierfs.core.errors import FileLost, NotEligible
from tierfs.core.keys import is_storable, key_of
from tierfs.core.policy import HotFile, why_kept, why_never
from tierfs.core.records import Attributes, Fd, HotIno, Ino, ObjectRef, Record, believed, is_same_upload
from tierfs.core.residency import TRANSIENT, WITHOUT_HOT_BYTES, Event, Residency, next_residency
from tierfs.core.steps import step
from tierfs.engine.events import Events
from tierfs.engine.numbers import Numbers
from tierfs.engine.openfiles import OpenFiles
from tierfs.engine.pins import Pins
from tierfs.stores.catalog import Catalog
from tierfs.stores.hot import HotTier, directories_above, identity_of, split


class Tier:
    """Owns the residency of every file.

    INVARIANT: hot bytes are removed in release() alone (and by names that applications remove), after the commit
    that says COLD. INVARIANT: a record is believed for hot bytes only while their identity is the recorded one.
    """

    def __init__(self, hot: HotTier, catalog: Catalog, settings: Settings, prefix: str, now: Callable[[], int]) -> None:
        self.hot = hot
        self.catalog = catalog
        self.settings = settings
        self.prefix = prefix
        self.now = now
        self.events = Events(now)
        self.open_files = OpenFiles()
        self.numbers = Numbers(catalog, os.fstat(hot.root), lambda ino: self.is_claimed(ino))
        self.is_claimed: Callable[[Ino], bool] = lambda _ino: False
        self.in_hand: Callable[[Ino | None], None] = lambda _ino: None  # told whose hot bytes go or come, None: no more
        self.failures: dict[bytes, tuple[int, int, str]] = {}  # path: failures in a row, next try, the last reason
        self.pins = Pins(catalog, settings.pins)
        self._cancels: dict[Ino, Callable[[], None]] = {}

    # -- looking -------------------------------------------------------------------------------------------------

    def look(self, path: bytes, st: os.stat_result) -> HotFile:
        """What the policy may know of a file with hot bytes."""
        record = self.catalog.get(path)
        _, retry_at_ns, failure = self.failures.get(path, (0, 0, ""))
        ino = HotIno(st.st_ino)
        return HotFile(
            path=path,
            mode=st.st_mode,
            nlink=st.st_nlink,
            size=st.st_size,
            mtime_ns=st.st_mtime_ns,
            ctime_ns=st.st_ctime_ns,
            residency=believed(record, identity_of(st)),
            restored_ns=record.restored_ns if record else 0,
            readers=self.open_files.readers[ino],
            writers=self.open_files.writers[ino],
            pinned=self.pins.cover(path),
            retry_at_ns=retry_at_ns,
            failure=failure,
            holes=st.st_size - min(st.st_size, st.st_blocks * 512) // max(1, st.st_nlink),
        )

    def cold_record(self, path: bytes) -> Record | None:
        """The record of a file whose bytes are not in the hot directory."""
        record = self.catalog.get(path)
        return record if record and record.residency in WITHOUT_HOT_BYTES else None

    # -- archive -------------------------------------------------------------------------------------------------

    def archive_started(self, path: bytes) -> Record:
        """HOT to ARCHIVING. NotEligible says why not."""
        st = self.hot.lstat(path)
        file = self.look(path, st)
        if reason := why_never(file, self.settings):
            raise NotEligible(reason)
        if file.residency is not Residency.HOT:
            raise NotEligible("already archived" if file.residency is Residency.MIRRORED else "being archived")
        key = key_of(self.prefix, path)
        if not is_storable(key):
            raise NotEligible("its path is too long for an object key")
        ino = self.numbers.of(st)
        self._check_unclaimed(path, ino, key)
        known = self.catalog.get(path)
        stale = known.object if known and known.object else ObjectRef(key, etag="", size=0)
        record = Record(
            path=path,
            ino=ino,
            residency=next_residency(Residency.HOT, Event.ARCHIVE_STARTED),
            attributes=self.hot.attributes(path, st),
            # The key that is going to be written, so that an upload that nobody remembers is found again.
            object=stale if stale.key == key else ObjectRef(key, etag="", size=0),
            identity=identity_of(st),
            restored_ns=known.restored_ns if known else 0,
        )
        with step("archive.start"):
            if stale.key == key:
                self.catalog.put(record)
            else:
                self.catalog.put_and_bury(record, stale.key, self.now())
        self.events.turned(Residency.HOT, record, Event.ARCHIVE_STARTED)
        return record

    def _check_unclaimed(self, path: bytes, ino: Ino, key: str) -> None:
        """NotEligible where an object of this key, or a record of this file, belongs to something else."""
        if self.catalog.is_buried(key) or self.open_files.objects[key]:
            raise NotEligible("an open file still reads the older object that has its key")
        other = self.catalog.get_by_ino(ino)
        if other and other.path != path:
            raise NotEligible(f"it is recorded as {os.fsdecode(other.path)}: renamed behind the mount, remount")
        holder = self.catalog.get_by_key(key)
        if holder is None or holder.path == path:
            return
        if holder.residency is not Residency.HOT:
            raise NotEligible(f"its object key still belongs to {os.fsdecode(holder.path)}, which was renamed")
        # What a HOT file left in the bucket is an older version of it: the key is free.
        self._commit("archive.take_key", replace(holder, object=None, misplaced=False))

    def on_cancel(self, ino: Ino, cancel: Callable[[], None] | None) -> None:
        """What to call when a file that is being archived is written to; None when the archive is over."""
        if cancel:
            self._cancels[ino] = cancel
        else:
            self._cancels.pop(ino, None)

    def archived(self, started: Record, stored: ObjectRef) -> Record:
        """ARCHIVING to MIRRORED, if the bytes are still those that were read. NotEligible otherwise."""
        record = self.catalog.get_by_ino(started.ino)
        if record is None or not is_same_upload(started, record):
            if self.catalog.get_by_key(stored.key) is None:
                with step("archive.bury"):
                    self.catalog.bury(stored.key, self.now())
            raise NotEligible("removed, replaced or linked while it was being archived")
        st = self.hot.lstat_or_none(record.path)
        if st is None or identity_of(st) != record.identity or self.open_files.writers[HotIno(st.st_ino)]:
            self._turn("archive.give_up", record, Event.WRITTEN, object=replace(stored, etag=""))
            raise NotEligible("changed while it was being archived")
        misplaced = stored.key != key_of(self.prefix, record.path)
        now = self.hot.attributes(record.path, st)
        self.failures.pop(record.path, None)
        return self._turn("archive.commit", record, Event.ARCHIVED, object=stored, misplaced=misplaced, attributes=now)

    def archive_aborted(self, started: Record, reason: str = "") -> None:
        """ARCHIVING back to HOT. Without effect when something else already took the file out of ARCHIVING."""
        record = self.catalog.get_by_ino(started.ino)
        if record and is_same_upload(started, record):
            self._turn("archive.abort", record, Event.ABORTED, reason)

    # -- release -------------------------------------------------------------------------------------------------

    def check_releasable(self, path: bytes) -> Record:
        """The record of a MIRRORED file whose hot bytes may go. NotEligible says why not."""
        st = self.hot.lstat(path)
        file = self.look(path, st)
        record = self.catalog.get(path)
        if file.residency is not Residency.MIRRORED or record is None:
            raise NotEligible("not archived")
        if reason := why_kept(file) or why_never(file, self.settings) or self._why_busy(path, st):
            raise NotEligible(reason)
        return record

    def release(self, path: bytes, checked: Record) -> Record:
        """MIRRORED to COLD: the one place where hot bytes are dropped.

        The caller has made the catalog durable after `checked` was read, and has seen its object in the bucket since.
        """
        record = self.check_releasable(path)
        if (record.ino, record.object) != (checked.ino, checked.object):
            raise NotEligible("replaced while its object was looked at")
        st = self.hot.lstat(path)
        cold = _changed(record, Event.RELEASED, attributes=self.hot.attributes(path, st), restored_ns=0)
        with self.open_files.letting_go(record):
            if reason := self._why_busy(path, st):
                raise NotEligible(reason)
            self.in_hand(record.ino)
            self._commit("release.commit", cold)
            try:
                with self.hot.keeping_directory_times(path), step("release.unlink"):
                    self.hot.unlink(path)
            except OSError:
                self._commit("release.undo", record)
                raise
        self.events.turned(record.residency, cold, Event.RELEASED)
        self.in_hand(None)
        self.numbers.freed(st)
        self.failures.pop(path, None)
        return cold

    # -- restore -------------------------------------------------------------------------------------------------

    def restore_started(self, path: bytes) -> Record:
        """COLD to RESTORING. FileLost, NotEligible."""
        record = self.catalog.get(path)
        if record is None or record.residency not in WITHOUT_HOT_BYTES:
            raise NotEligible("already hot")
        if record.residency is Residency.LOST:
            raise FileLost(f"{os.fsdecode(path)}: its object {record.object and record.object.key} is gone")
        if record.residency is Residency.RESTORING:
            raise NotEligible("being restored")
        return self._turn("restore.start", record, Event.RESTORE_STARTED)

    def restored(self, ino: Ino, stored: ObjectRef, fd: Fd) -> Record:
        """RESTORING to MIRRORED: gives the complete, synced, nameless file `fd` its name. NotEligible."""
        record = self.catalog.get_by_ino(ino)
        if record is None or record.residency is not Residency.RESTORING or record.object != stored:
            raise NotEligible("removed or replaced while it was being restored")
        with self.hot.keeping_directory_times(record.path), step("restore.name"):
            self.hot.link_temporary(fd, record.path)
        st = os.fstat(fd)
        self.numbers.bind(st, record.ino)
        return self._turn("restore.commit", record, Event.RESTORED, identity=identity_of(st), restored_ns=self.now())

    def restore_aborted(self, ino: Ino, reason: str = "") -> None:
        """RESTORING back to COLD."""
        record = self.catalog.get_by_ino(ino)
        if record and record.residency is Residency.RESTORING:
            self._turn("restore.abort", record, Event.ABORTED, reason)

    def missing(self, stored: ObjectRef) -> None:
        """The bucket says that an object is gone: MIRRORED is HOT again, what is cold is LOST until it is found."""
        record = self.catalog.get_by_key(stored.key)
        if record is None or record.object != stored:
            return
        if record.residency in (Residency.COLD, Residency.RESTORING):
            self._turn("lost.commit", record, Event.MISSING)
        elif record.residency is Residency.MIRRORED:
            self._turn("write.commit", record, Event.WRITTEN, "its object is gone from the bucket, or another one")

    def found(self, path: bytes, stored: ObjectRef) -> None:
        """The object of a LOST file is there again."""
        record = self.catalog.get(path)
        if record and record.residency is Residency.LOST and record.object == stored:
            self._turn("found.commit", record, Event.FOUND)

    # -- writes and names ----------------------------------------------------------------------------------------

    def write_expected(self, path: bytes) -> None:
        """A file with hot bytes is opened for writing: an upload of it is pointless."""
        record = self.catalog.get(path)
        if record and record.residency is Residency.ARCHIVING and (cancel := self._cancels.get(record.ino)):
            cancel()

    def written(self, path: bytes) -> None:
        """The hot bytes are no longer those of the object (also: they got a second name)."""
        record = self.catalog.get(path)
        if record and record.residency in (Residency.ARCHIVING, Residency.MIRRORED):
            self.write_expected(path)
            self._turn("write.commit", record, Event.WRITTEN)

    def noticed(self, record: Record | None) -> None:
        """Commit what a look at the file says anyway: a MIRRORED file has changed. A lost hot file is then not cold."""
        st = self.hot.lstat_or_none(record.path) if record and record.residency is Residency.MIRRORED else None
        if record and st and identity_of(st) != record.identity:
            self._turn("write.commit", record, Event.WRITTEN)

    def replaced(self, path: bytes, fd: Fd) -> Record:
        """From COLD, RESTORING or LOST to HOT with new content: gives the nameless file `fd` the name.

        The name is durable before the catalog gives the old bytes up: after a power cut there is one or the other.
        """
        record = self.catalog.get(path)
        if record is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))
        with self.hot.keeping_directory_times(path), step("overwrite.name"):
            self.hot.link_temporary(fd, path)
        with step("overwrite.sync_names"):
            self.hot.sync_directory(split(path)[0])
        st = os.fstat(fd)
        self.numbers.bind(st, record.ino)
        return self._turn("overwrite.commit", record, Event.REPLACED, identity=identity_of(st))

    def removed(self, path: bytes) -> None:
        """The name is about to go, or another file has taken it: forget the record, bury the object."""
        self.failures.pop(path, None)
        if self.catalog.get(path):
            self.write_expected(path)
            with step("forget.commit"):
                self.catalog.remove(path, self.now())

    @contextmanager
    def changing_attributes(self, *paths: bytes) -> Iterator[None]:
        """Metadata of hot files changes in this block by our own hand, their bytes do not: go on believing."""
        records = [record for record in map(self.catalog.get, paths) if record and self._is_intact(record)]
        yield
        for record in records:
            self.refresh_identity(record.path, record.ino)

    def refresh_identity(self, path: bytes, ino: Ino) -> None:
        """Take the identity of the hot file at `path` for that of its record: the bytes are known to be the same."""
        record, st = self.catalog.get_by_ino(ino), self.hot.lstat_or_none(path)
        if record and st and record.path == path and record.identity and st.st_ino == record.identity.ino:
            now = replace(record, identity=identity_of(st), attributes=self.hot.attributes(path, st))
            self._commit("identity.commit", now)

    def set_attributes(self, path: bytes, attributes: Attributes) -> Record:
        """Change what is recorded of a file without hot bytes."""
        record = self.cold_record(path)
        if record is None:
            raise FileNotFoundError(path)
        return self._commit("attributes.commit", replace(record, attributes=attributes))

    def is_intact(self, path: bytes) -> bool:
        """Whether the hot bytes at `path` are the recorded ones and nobody can be writing them."""
        record = self.catalog.get(path)
        return record is not None and self._is_intact(record)

    # -- from the bucket -----------------------------------------------------------------------------------------

    def adopt(self, path: bytes, attributes: Attributes, stored: ObjectRef) -> bool:
        """Show an object that the catalog does not know as a cold file. False where a name is taken or given up.

        FileExistsError where a file stands in the way of its directory.
        """
        if self.catalog.is_buried(stored.key) or self.catalog.get_by_key(stored.key):
            return False
        if self.catalog.get(path) or self.hot.lstat_or_none(path):
            return False
        directory = split(path)[0]
        if any(self.cold_record(above) for above in directories_above(path)):
            raise FileExistsError(errno.EEXIST, "a cold file is where a directory is needed", os.fsdecode(path))
        self.hot.make_directories(directory)
        self._commit("scan.adopt", Record(path, self.numbers.new(), Residency.COLD, attributes, stored))
        return True

    def recover(self, record: Record) -> Residency:
        """Make the record of one file agree with the hot directory after a crash, or after work behind the mount.

        Never removes hot bytes: where both tiers claim the file, identical bytes are MIRRORED and others are HOT.
        """
        st = self.hot.lstat_or_none(record.path)
        settled = _changed(record, Event.CRASHED) if record.residency in TRANSIENT else record
        if st is None:
            return self._recover_without_hot_bytes(record, settled)
        if not stat.S_ISREG(st.st_mode):
            # Something else took the place of hot bytes, or was made where nobody saw that there is a cold file.
            is_cold = record.residency in WITHOUT_HOT_BYTES
            with step("recover.forget"):
                self.catalog.drop(record.path) if is_cold else self.catalog.remove(record.path, self.now())
            return Residency.HOT
        self.numbers.bind(st, record.ino)
        if record.identity == identity_of(st) and settled.residency in (Residency.MIRRORED, Residency.COLD):
            settled = replace(settled, residency=Residency.MIRRORED)
        else:
            settled = replace(settled, residency=Residency.HOT, identity=identity_of(st))
        return self._settle(record, settled)

    def _recover_without_hot_bytes(self, record: Record, settled: Record) -> Residency:
        if settled.residency is Residency.HOT:
            if settled.object is None or not settled.object.etag:
                with step("recover.forget"):  # was never in the bucket: removed behind the mount
                    self.catalog.remove(record.path, self.now())
                return Residency.HOT
            # The bucket has an older version at best. EIO is honest, the older version would be an invention.
            settled = replace(settled, residency=Residency.LOST, object=replace(settled.object, etag=""))
        elif settled.residency is Residency.MIRRORED:
            settled = replace(settled, residency=Residency.COLD, restored_ns=0)
        return self._settle(record, settled)

    # -- inside --------------------------------------------------------------------------------------------------

    def _is_intact(self, record: Record) -> bool:
        st = self.hot.lstat_or_none(record.path)
        return st is not None and record.identity == identity_of(st) and not self.open_files.is_written(st.st_ino)

    def _why_busy(self, path: bytes, st: os.stat_result) -> str:
        return "" if self.open_files.is_virtual(st.st_ino) else self.hot.why_busy(path)

    def _settle(self, record: Record, settled: Record) -> Residency:
        if settled != record:
            self._commit("recover.commit", settled)
            self.events.turned(record.residency, settled, Event.CRASHED)
        return settled.residency

    def _turn(self, name: str, record: Record, event: Event, reason: str = "", **found: object) -> Record:
        changed = self._commit(name, _changed(record, event, **found))
        self.events.turned(record.residency, changed, event, reason)
        return changed

    def _commit(self, name: str, record: Record) -> Record:
        with step(name):
            self.catalog.put(record)
        return record


def _changed(record: Record, event: Event, **fields: object) -> Record:
    return replace(record, residency=next_residency(record.residency, event), **fields)  # type: ignore[arg-type]
