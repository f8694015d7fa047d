"""What a person is told of one name of the tree: where its bytes are, and why they are there."""

import stat

from tierfs.core.policy import HotFile, why_not_archived_with, why_not_released_with
from tierfs.core.records import ObjectRef, Record, why_lost
from tierfs.core.reports import Entry
from tierfs.core.residency import Residency, tier_of
from tierfs.engine.daemon import Daemon
from tierfs.engine.hydrate import Hydrator
from tierfs.engine.segments import Surroundings
from tierfs.engine.stats import kind_of
from tierfs.engine.tree import Found, Tree


class Entries:
    """Looks at what was just found in the tree; never waits for the store. FileNotFoundError: it is gone since."""

    def __init__(self, tree: Tree, hydrator: Hydrator, daemon: Daemon) -> None:
        self._tree = tree
        self._hydrator = hydrator
        self._daemon = daemon

    async def of(self, path: bytes, found: Found, around: Surroundings | None = None) -> Entry:
        """The entry of what is at a path. `around` is for who looks at many."""
        return (await self.with_object(path, found, around))[0]

    async def with_object(
        self, path: bytes, found: Found, around: Surroundings | None = None
    ) -> tuple[Entry, ObjectRef | None]:
        """The same, and the object that holds its bytes; None where they are hot alone."""
        record, cached = found.record, 0
        hot = None if record else self._look(path)
        residency = hot.residency if hot else self.residency(path, found)
        stored = self._stored(path, record, residency)
        if hot:
            reason = await self._why_hot(hot, around or Surroundings(self._tree.tier))
        else:
            reason = why_lost(record) if record and residency is Residency.LOST else ""
            cached = await self._hydrator.cached_bytes(record.object) if record and record.object else 0
        entry = Entry(
            path=path,
            residency=residency,
            tier=tier_of(residency),
            size=found.st.st_size,
            mtime_ns=found.st.st_mtime_ns,
            key=stored.key if stored else None,
            cached_bytes=cached,
            pinned=self._tree.tier.pins.cover(path),
            reason=reason,
            kind=kind_of(found.st.st_mode),
        )
        return entry, stored

    def residency(self, path: bytes, found: Found) -> Residency:
        """Where the bytes of what is at a path are."""
        return found.record.residency if found.record else self._look(path).residency

    def stored(self, path: bytes, found: Found) -> ObjectRef | None:
        """The object that holds the bytes of what is at a path; None where they are hot alone."""
        return self._stored(path, found.record, self.residency(path, found))

    def _stored(self, path: bytes, record: Record | None, residency: Residency) -> ObjectRef | None:
        record = record or self._tree.catalog.get(path)
        is_kept = residency is not Residency.HOT
        return record.object if is_kept and record and record.object and record.object.etag else None

    def _look(self, path: bytes) -> HotFile:
        return self._tree.tier.look(path, self._tree.hot.lstat(path))

    async def _why_hot(self, file: HotFile, around: Surroundings) -> str:
        """Why what is in the hot directory is not archived, or not released, now; nothing of a directory."""
        settings, now_ns = self._tree.tier.settings, self._tree.tier.now()
        segment = await around.segment_with(file)
        if file.residency is Residency.MIRRORED:
            return why_not_released_with(file, segment, settings, now_ns) or ""
        if stat.S_ISDIR(file.mode):
            return ""
        why = why_not_archived_with(file, segment, settings, now_ns)
        return why or self._daemon.why_held() or "waits for the next policy pass"
