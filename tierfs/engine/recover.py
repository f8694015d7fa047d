"""Recovery: making catalog and hot directory agree before the mount serves.

It finishes or forgets what a crash interrupted and never removes bytes that the bucket might lack.
"""

import logging
import os

from tierfs.core.records import Ino, Record
from tierfs.core.residency import TRANSIENT, WITHOUT_HOT_BYTES
from tierfs.core.steps import step
from tierfs.engine.tier import Tier
from tierfs.stores.hot import identity_of, split

log = logging.getLogger(__name__)


def recover(tier: Tier) -> int:
    """Bring the catalog into agreement with the hot directory; how many records it changed.

    Blocking; nothing else may use the tier meanwhile.
    """
    finish_renames(tier)
    finish_removals(tier)
    return settle(tier)


def recover_interrupted(tier: Tier, in_hand: Ino | None) -> int:
    """recover() for who goes on at once where another worker died: only what that may have had in its hands.

    `in_hand` is the file whose hot bytes it was about to drop, or to replace.
    """
    finish_renames(tier)
    finish_removals(tier)
    found = [record for residency in sorted(TRANSIENT) for record in tier.catalog.records(residency)]
    record = tier.catalog.get_by_ino(in_hand) if in_hand is not None else None
    return sum(tier.recover(one) is not one.residency for one in [*found, *filter(None, [record])])


def settle(tier: Tier) -> int:
    """Let every record say where the bytes of its file are; how many changed. Blocking, as recover()."""
    changed = 0
    for page in tier.catalog.pages():
        for record in page:
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
