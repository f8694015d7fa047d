"""Check: where catalog, hot directory, bucket and cache disagree, what that means, and what to do.

Works on a mount that serves as well as on one that does not: what a listing or a page of the catalog said is asked
again, at the moment it counts, before it is called a disagreement. Repairs never take the last copy of any bytes away.
"""

import logging
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import trio

from tierfs.core.errors import (
    BucketMissing,
    IntegrityError,
    NotEligible,
    ObjectChanged,
    ObjectMissing,
    StoreError,
    StoreUnavailable,
)
from tierfs.core.keys import Named, is_reserved, path_of
from tierfs.core.records import Ino, ObjectRef, Record, why_lost
from tierfs.core.reports import CheckOrder, Finding, Outcome, Total
from tierfs.core.residency import WITHOUT_HOT_BYTES, Residency
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.scan import attributes_of
from tierfs.engine.tier import Tier
from tierfs.stores.catalog_rows import REBUILD
from tierfs.stores.cold import ObjectInfo
from tierfs.stores.hot import split

log = logging.getLogger(__name__)

_ARCHIVED = (Residency.MIRRORED, Residency.COLD, Residency.RESTORING)
_LOOKS_AT_ONCE = 50  # files that the loop looks at before it serves others
_READS_AT_ONCE = 4
_TRIES = 3  # of an object, before a store that does not answer ends the check
_PAUSE_S = 2.0

Repair = Callable[[], Awaitable[str] | str]


@dataclass(frozen=True, slots=True)
class _Case:
    """A finding, and what can safely be done about it: says what was done, nothing when it turned out otherwise."""

    finding: Finding
    repair: Repair | None = None


class Checker:
    """Checks one tree. `is_online`: a worker is at work on it. `changed` is told each path that a repair changed."""

    def __init__(self, tier: Tier, cold: ColdTier, is_online: bool, changed: Callable[[bytes], None]) -> None:
        self._tier = tier
        self._catalog = tier.catalog
        self._cold = cold
        self._is_online = is_online
        self._changed = changed

    async def run(self, order: CheckOrder) -> AsyncGenerator[Finding | Total | Outcome, None]:
        """Everything that disagrees, as it is found; deep: also a total, and an outcome for each object that was read.

        StoreError, CatalogError. NotEligible: repairs on a read-only mount.
        """
        if order.is_repairing and self._tier.settings.read_only:
            raise NotEligible("the mount is read-only: check it without --repair")
        for problem in await self._cold.inspect_catalog(self._catalog.path):
            order = replace(order, is_repairing=False)  # nothing is built on a damaged catalog
            meaning = f"SQLite finds the catalog damaged: {problem}"
            yield Finding("catalog-corrupt", b"", meaning, f"unmount; {REBUILD}")
        for stage in (self._check_bucket_and_records(), self._check_cache(order)):
            async with aclosing(stage) as cases:
                async for case in cases:
                    yield await self._settled(case, order)
        if order.is_deep:
            async with aclosing(self._read_all(order)) as reports:
                async for report in reports:
                    yield await self._settled(report, order) if isinstance(report, _Case) else report

    async def _settled(self, case: _Case, order: CheckOrder) -> Finding:
        finding = case.finding
        if not order.is_repairing or case.repair is None:
            return finding
        try:
            done = case.repair()
            repaired = done if isinstance(done, str) else await done
        except (OSError, NotEligible) as error:
            log.warning("%s of %s cannot be repaired: %s", finding.what, os.fsdecode(finding.path), error)
            return finding
        if repaired:
            log.info("repaired: %s of %s: %s", finding.what, os.fsdecode(finding.path), repaired)
            self._changed(finding.path)
        return replace(finding, repaired=repaired)

    # -- catalog, hot directory and bucket -----------------------------------------------------------------------

    async def _check_bucket_and_records(self) -> AsyncGenerator[_Case, None]:
        seen: set[Ino] = set()
        async with aclosing(self._cold.objects(self._tier.prefix)) as listing:
            async for batch in listing:
                for index, info in enumerate(batch):
                    if index % _LOOKS_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
                    record = self._catalog.get_by_key(info.key)
                    if record is None:
                        case = await self._unknown(info)
                    else:
                        seen.add(record.ino)
                        case = await self._overwritten(record, info)
                    if case:
                        yield case
        for page in self._catalog.pages(_LOOKS_AT_ONCE):
            await trio.lowlevel.checkpoint()
            for found in page:
                record = self._catalog.get(found.path)
                if record is not None and record.ino == found.ino:
                    for case in self._check_record(record):
                        yield case
                    if record.ino not in seen and (missing := await self._missing(record)):
                        yield missing

    def _check_record(self, record: Record) -> list[_Case]:
        """What is wrong with one record, as far as this host knows."""
        path, is_cold = record.path, record.residency in WITHOUT_HOT_BYTES
        st, cases = self._tier.hot.lstat_or_none(path), []

        def case(what: str, meaning: str, remedy: str, repair: Repair | None = None) -> None:
            cases.append(_Case(Finding(what, path, meaning, remedy), repair))

        if is_cold and st is not None:
            meaning = "the hot directory has a file where the catalog says that only the bucket has it"
            case("hot-unexpected", meaning, "repair, or remount: the hot bytes win", lambda: self._recover(record))
        elif is_cold and not self._has_directory(path):
            meaning = "the directory of this cold file is gone from the hot directory"
            case("directory-missing", meaning, "repair, or remount: it is made again", lambda: self._show(path))
        elif not is_cold and st is None:
            meaning = f"the catalog says {record.residency} but the hot directory has no such file"
            remedy = "repair, or remount: it is taken from the bucket if the bucket has it"
            case("hot-missing", meaning, remedy, lambda: self._recover(record))
        elif not self._is_online and record.residency in (Residency.ARCHIVING, Residency.RESTORING):
            meaning = f"the file was {record.residency} when the worker ended"
            case("interrupted", meaning, "nothing: the next mount takes it back", lambda: self._recover(record))
        if record.object and self._catalog.is_buried(record.object.key):
            meaning = f"the object {record.object.key} is to be deleted although this file needs it"
            case("object-doomed", meaning, "repair before the next mount", lambda: self._exhume(record))
        if record.residency is Residency.LOST:
            remedy = "bring the bytes back into the tree or the bucket, or remove the file"
            case("lost", why_lost(record), remedy, lambda: self._find(record))
        return cases

    def _has_directory(self, path: bytes) -> bool:
        directory = split(path)[0]
        st = self._tier.hot.lstat_or_none(directory) if directory else None
        return not directory or (st is not None and stat.S_ISDIR(st.st_mode))

    async def _overwritten(self, record: Record, info: ObjectInfo) -> _Case | None:
        stored = record.object
        if record.residency not in _ARCHIVED or stored is None or _is(stored, info):
            return None
        now = await self._head(stored.key)
        stored = self._still(record)
        if stored is None or now is None or _is(stored, now):
            return None
        meaning = f"the object {stored.key} was overwritten by something else"
        finding = Finding("object-changed", record.path, meaning, "bring the recorded version back")
        return _Case(finding, lambda: self._archive_again(record, "overwritten"))

    async def _missing(self, record: Record) -> _Case | None:
        """The listing did not have the object of a record: ask for it."""
        if record.residency not in _ARCHIVED or record.object is None:
            return None
        if await self._head(record.object.key) is not None or self._still(record) is None:
            return None
        is_cold = record.residency in WITHOUT_HOT_BYTES
        meaning = f"the object {record.object.key} is gone" + (": the file is lost" if is_cold else "")
        finding = Finding("object-missing", record.path, meaning, "bring the object back, or remove the file")
        return _Case(finding, lambda: self._give_up(record))

    async def _unknown(self, info: ObjectInfo) -> _Case | None:
        """An object that the tree does not show, and should."""
        prefix, key = self._tier.prefix, info.key
        if is_reserved(prefix, key) or key == prefix or self._catalog.is_buried(key):
            return None
        named = path_of(prefix, key)
        if not isinstance(named, Named):
            return _Case(Finding("object-unnameable", b"", f"the key {key!r} {named.reason}", "rename the object"))
        if named.is_directory or self._tier.hot.lstat_or_none(named.path) is not None:
            return None
        now = await self._head(key)
        if now is None or self._catalog.get_by_key(key) or self._catalog.is_buried(key):
            return None
        finding = Finding(
            "object-unknown",
            named.path,
            f"the object {key} is not shown in the tree",
            "repair, to show it as a cold file, or remove the object",
        )
        return _Case(finding, lambda: self._adopt(named.path, now))

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._cold.head(key)
        except ObjectMissing:
            return None

    def _still(self, record: Record) -> ObjectRef | None:
        """The object of a record that was looked at before something was waited for, if it still says the same."""
        now = self._catalog.get_by_ino(record.ino)
        return now.object if now and (now.residency, now.object) == (record.residency, record.object) else None

    # -- the cache -----------------------------------------------------------------------------------------------

    async def _check_cache(self, order: CheckOrder) -> AsyncGenerator[_Case, None]:
        count = await self._cold.inspect_cache(is_deep=order.is_deep, is_repaired=order.is_repairing)
        if count:
            meaning = f"{count} chunks of the cache are damaged; they are fetched again when they are read"
            finding = Finding("cache-damaged", b"", meaning, "nothing, or `tierfs evict`; look after the cache's disk")
            yield _Case(finding, lambda: "dropped from the cache")

    # -- deep ----------------------------------------------------------------------------------------------------

    async def _read_all(self, order: CheckOrder) -> AsyncGenerator[_Case | Total | Outcome, None]:
        """Read every object back that a file needs; some at a time."""
        tally = self._catalog.tally()
        sums = [tally[residency] for residency in _ARCHIVED if residency in tally]
        yield Total(sum(one.files for one in sums), sum(one.bytes for one in sums))
        for page in self._catalog.pages(_LOOKS_AT_ONCE):
            needed = [record for record in page if record.residency in _ARCHIVED]
            for start in range(0, len(needed), _READS_AT_ONCE):
                results: list[_Case | Outcome | StoreError] = []
                async with trio.open_nursery() as nursery:
                    for record in needed[start : start + _READS_AT_ONCE]:
                        nursery.start_soon(self._read_one, record, order.bytes_per_second, results)
                for result in results:
                    if isinstance(result, StoreError):
                        raise result
                    yield result

    async def _read_one(
        self, record: Record, bytes_per_second: int, results: list[_Case | Outcome | StoreError]
    ) -> None:
        stored = self._still(record)
        if stored is None:
            return  # it moves now, and is verified by who moves it
        try:
            await self._verify(stored, bytes_per_second)
        except (ObjectMissing, ObjectChanged):
            pass  # that was told already
        except IntegrityError as error:
            if self._still(record):
                remedy = "bring the object back from another version or copy of the bucket"
                finding = Finding("object-damaged", record.path, str(error), remedy)
                results.append(_Case(finding, lambda: self._archive_again(record, "damaged")))
                return
        except (StoreUnavailable, BucketMissing) as error:
            results.append(error)
            return
        except StoreError as error:
            remedy = "do what the store's message asks for"
            results.append(_Case(Finding("object-unreadable", record.path, str(error), remedy)))
            return
        results.append(Outcome(record.path, "done", bytes=stored.size))

    async def _verify(self, stored: ObjectRef, bytes_per_second: int) -> None:
        for _ in range(_TRIES - 1):
            try:
                await self._cold.verify(stored, bytes_per_second)
                return
            except StoreUnavailable as error:
                log.info("%s is read once more: %s", stored.key, error)
                await trio.sleep(_PAUSE_S)
        await self._cold.verify(stored, bytes_per_second)

    # -- repairs -------------------------------------------------------------------------------------------------

    def _recover(self, record: Record) -> str:
        if self._catalog.get(record.path) != record:
            return ""
        residency = self._tier.recover(record)
        return f"it is {residency} now" if self._catalog.get(record.path) else "the record is gone: there were no bytes"

    def _show(self, path: bytes) -> str:
        self._tier.hot.make_directories(split(path)[0])
        return "the directory was made again, with default attributes"

    def _exhume(self, record: Record) -> str:
        if not record.object or not self._catalog.get_by_key(record.object.key):
            return ""
        self._catalog.exhume(record.object.key)
        return "the object is not going to be deleted"

    async def _find(self, record: Record) -> str:
        stored = record.object
        info = await self._head(stored.key) if stored and stored.etag else None
        if stored is None or info is None or not _is(stored, info):
            return ""
        self._tier.found(record.path, stored)
        return "its object is there again: it is cold now"

    def _archive_again(self, record: Record, how: str) -> str:
        """The object is of no use. With hot bytes the file is hot, and archived again; else nothing can be done."""
        if self._catalog.get_by_ino(record.ino) != record or record.residency is not Residency.MIRRORED:
            return ""
        if record.object:
            self._tier.missing(record.object)
        return f"the object is {how}: the file is hot, and is archived again"

    def _give_up(self, record: Record) -> str:
        if record.object:
            self._tier.missing(record.object)
        now = self._catalog.get_by_ino(record.ino)
        if now and now.residency is Residency.LOST:
            return "it is lost now: reading says EIO until its object is back"
        return "it is hot now, and is archived again"

    def _adopt(self, path: bytes, info: ObjectInfo) -> str:
        root = os.fstat(self._tier.hot.root)
        attributes, sha256 = attributes_of(info, (root.st_uid, root.st_gid))
        stored = ObjectRef(info.key, info.etag, info.size, info.version_id, sha256=sha256)
        return "it is shown as a cold file" if self._tier.adopt(path, attributes, stored) else ""


def _is(stored: ObjectRef, info: ObjectInfo) -> bool:
    return (stored.etag, stored.size) == (info.etag, info.size)


async def findings_of(reports: AsyncIterator[Finding | Total | Outcome]) -> list[Finding]:
    """The findings alone."""
    return [report async for report in reports if isinstance(report, Finding)]
