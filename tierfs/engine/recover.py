"""Recovery and check: making catalog, hot directory and bucket agree.

recover() runs before the mount serves. It finishes or forgets what a crash interrupted and never removes bytes that the
bucket might lack. check() changes nothing: it says what disagrees, what that means and what to do.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing

import trio

from tierfs.core.keys import Named, is_reserved, path_of
from tierfs.core.records import Record, why_lost
from tierfs.core.reports import Finding
from tierfs.core.residency import WITHOUT_HOT_BYTES, Residency
from tierfs.core.steps import step
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.tier import Tier
from tierfs.stores.cold import ObjectInfo
from tierfs.stores.hot import identity_of, split

log = logging.getLogger(__name__)


def recover(tier: Tier) -> int:
    """Bring the catalog into agreement with the hot directory; how many records it changed.

    Blocking; nothing else may use the tier meanwhile.
    """
    finish_renames(tier)
    finish_removals(tier)
    changed = 0
    for record in list(tier.catalog.records()):
        residency = tier.recover(record)
        changed += residency is not record.residency
        if residency in WITHOUT_HOT_BYTES:
            show_directory(tier, record.path)
    return changed


def show_directory(tier: Tier, path: bytes) -> None:
    """Make the directory of a cold file again, where it was removed behind the mount."""
    try:
        tier.hot.make_directories(split(path)[0])
    except OSError as error:
        log.warning("%s cannot be shown: %s", os.fsdecode(path), error.strerror)


def finish_renames(tier: Tier) -> None:
    """Renames that were written down: done if the target has the inode of the source, else withdrawn."""
    for rename in tier.catalog.intended():
        st = tier.hot.lstat_or_none(rename.target)
        if st is None or st.st_ino != rename.hot_ino:
            with step("recover.withdraw"):
                tier.catalog.withdraw(rename)
            continue
        with step("recover.follow"):
            tier.catalog.follow(rename, tier.now())
        for record in filter(None, (tier.catalog.get(rename.target), tier.catalog.get(rename.source))):
            _believe_after_rename(tier, record)


def _believe_after_rename(tier: Tier, record: Record) -> None:
    """The rename changed the ctime of the file and nothing else that an identity has."""
    st = tier.hot.lstat_or_none(record.path)
    if st and record.identity:
        now, then = identity_of(st), record.identity
        if (now.ino, now.size, now.mtime_ns) == (then.ino, then.size, then.mtime_ns):
            tier.refresh_identity(record.path, record.ino)


def finish_removals(tier: Tier) -> None:
    """Hot files that a committed rename of a cold file has replaced."""
    for path, hot_ino in tier.catalog.doomed():
        st = tier.hot.lstat_or_none(path)
        if st and st.st_ino == hot_ino:
            with step("recover.unlink"):
                tier.hot.unlink(path)
            with step("recover.sync_names"):
                tier.hot.sync_directory(split(path)[0])
        with step("recover.spare"):
            tier.catalog.spare(path)


async def check(tier: Tier, cold: ColdTier, online: bool) -> AsyncIterator[Finding]:
    """Everything in which catalog, hot directory and bucket disagree. `online`: bytes may be moving."""
    for problem in tier.catalog.check_integrity():
        yield Finding(
            "catalog-corrupt",
            b"",
            f"SQLite finds the catalog damaged: {problem}",
            "unmount, move the catalog away, mount again",
        )
    objects: dict[str, ObjectInfo] = {}
    async with aclosing(cold.objects(tier.prefix)) as listing:
        async for batch in listing:
            objects.update((info.key, info) for info in batch)
    for record in list(tier.catalog.records()):
        await trio.lowlevel.checkpoint()
        current = tier.catalog.get(record.path)
        if current == record:
            for finding in check_record(tier, record, objects, online):
                yield finding
    for finding in check_objects(tier, objects):
        yield finding


def check_record(tier: Tier, record: Record, objects: dict[str, ObjectInfo], online: bool) -> list[Finding]:
    """What is wrong with one record."""
    found: list[Finding] = []
    st = tier.hot.lstat_or_none(record.path)
    cold = record.residency in WITHOUT_HOT_BYTES
    if cold and st is not None:
        meaning = "the hot directory has a file where the catalog says that only the bucket has it"
        found.append(Finding("hot-unexpected", record.path, meaning, "remount: recovery decides which one is right"))
    if not cold and st is None:
        meaning = f"the catalog says {record.residency} but the hot directory has no such file"
        found.append(
            Finding("hot-missing", record.path, meaning, "remount: recovery takes it from the bucket if it can")
        )
    if not online and record.residency in (Residency.ARCHIVING, Residency.RESTORING):
        meaning = f"the file was {record.residency} when the worker ended"
        found.append(Finding("interrupted", record.path, meaning, "nothing: the next mount takes it back"))
    if record.residency in (Residency.MIRRORED, Residency.COLD, Residency.RESTORING) and record.object:
        info = objects.get(record.object.key)
        if info is None:
            meaning = f"the object {record.object.key} is gone" + (": the file is lost" if cold else "")
            found.append(Finding("object-missing", record.path, meaning, "bring the object back, or remove the file"))
        elif (info.etag, info.size) != (record.object.etag, record.object.size):
            meaning = f"the object {record.object.key} was overwritten by something else"
            found.append(Finding("object-changed", record.path, meaning, "bring the recorded version back"))
    if record.residency is Residency.LOST:
        remedy = "bring the bytes back into the tree or the bucket, or remove the file"
        found.append(Finding("lost", record.path, why_lost(record), remedy))
    return found


def check_objects(tier: Tier, objects: dict[str, ObjectInfo]) -> list[Finding]:
    """Objects below the prefix that the tree does not show."""
    found: list[Finding] = []
    for key in objects:
        if is_reserved(tier.prefix, key) or tier.catalog.get_by_key(key) or tier.catalog.is_buried(key):
            continue
        named = path_of(tier.prefix, key)
        if not isinstance(named, Named):
            found.append(Finding("object-unnameable", b"", f"the key {key!r} {named.reason}", "rename the object"))
        elif not named.is_directory and tier.hot.lstat_or_none(named.path) is None:
            meaning = f"the object {key} is not shown in the tree"
            found.append(
                Finding("object-unknown", named.path, meaning, "remove the object, or mount with an empty --state")
            )
    return found
