"""Scan: objects that are in the bucket already show up as cold files.

One listing; objects of tierfs carry the attributes of their file in their metadata (one HEAD each), others get those of
the root directory. A name that the tree has, and an object that the tree gave up, are left alone.
"""

import errno
import json
import logging
import os
import stat
from base64 import b64decode
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import trio

from tierfs.core.errors import ObjectMissing, StoreRefused, TierfsError
from tierfs.core.keys import Unnameable, is_reserved, path_of
from tierfs.core.records import OWN_XATTRS, Attributes, ObjectRef, is_possible
from tierfs.core.steps import step
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.tier import Tier
from tierfs.stores.cold import ObjectInfo

log = logging.getLogger(__name__)

#: The fact that the bucket was listed to its end at least once.
SCANNED = "scanned"

_BATCH = 1000  # keys of one answer to ListObjectsV2
_HEADS = 8  # requests at a time: a scan is not urgent


@dataclass(slots=True)
class Scanned:
    """What a scan met."""

    objects: int = 0
    shown: int = 0
    unnameable: int = 0
    failures: list[TierfsError] = field(default_factory=list)


class Scanner:
    """Brings objects that the catalog does not know into the tree. `appeared` is told each new path."""

    def __init__(self, tier: Tier, cold: ColdTier, appeared: Callable[[bytes], None]) -> None:
        self._tier = tier
        self._cold = cold
        self._appeared = appeared
        self._heads = trio.CapacityLimiter(_HEADS)
        root = os.fstat(tier.hot.root)
        self._owner = (root.st_uid, root.st_gid)

    async def scan(self) -> Scanned:
        """List the bucket once. TierfsError: what could be is shown, the rest is left for the next scan."""
        scanned = Scanned()
        async with aclosing(self._cold.objects(self._tier.prefix)) as listing:
            async for batch in listing:
                async with trio.open_nursery() as nursery:
                    for info in batch:
                        if self._is_news(info, scanned):
                            await self._heads.acquire_on_behalf_of(info.key)
                            nursery.start_soon(self._show, info, scanned)
        if scanned.failures:
            raise scanned.failures[0]
        with step("scan.complete"):
            self._tier.catalog.state_fact(SCANNED, "yes")
        log.info("%d objects in the bucket, %d of them appeared in the tree", scanned.objects, scanned.shown)
        return scanned

    def _is_news(self, info: ObjectInfo, scanned: Scanned) -> bool:
        if is_reserved(self._tier.prefix, info.key) or info.key == self._tier.prefix:
            return False
        scanned.objects += 1
        catalog = self._tier.catalog
        known = catalog.get_by_key(info.key)
        if known and known.object and (known.object.etag, known.object.size) == (info.etag, info.size):
            self._tier.found(known.path, known.object)
        return known is None and not catalog.is_buried(info.key)

    async def _show(self, info: ObjectInfo, scanned: Scanned) -> None:
        try:
            named = path_of(self._tier.prefix, info.key)
            if isinstance(named, Unnameable):
                scanned.unnameable += 1
                log.warning("the object %r cannot be shown: its key %s", info.key, named.reason)
            elif named.is_directory:
                self._tier.hot.make_directories(named.path)
                self._appeared(named.path)
            else:
                await self._show_file(named.path, info, scanned)
        except ObjectMissing:
            log.info("the object %r went away while it was looked at", info.key)
        except StoreRefused as error:  # encrypted with somebody's own key, perhaps: another try changes nothing
            scanned.unnameable += 1
            log.warning("the object %r cannot be shown: %s", info.key, error)
        except TierfsError as error:  # the others are shown all the same
            scanned.failures.append(error)
        except OSError as error:
            scanned.unnameable += 1
            log.warning("the object %r cannot be shown: %s", info.key, error.strerror)
        finally:
            self._heads.release_on_behalf_of(info.key)

    async def _show_file(self, path: bytes, info: ObjectInfo, scanned: Scanned) -> None:
        if self._has_name(path):
            return
        full = await self._cold.head(info.key)
        attributes, sha256 = attributes_of(full, self._owner)
        stored = ObjectRef(info.key, full.etag, full.size, full.version_id, sha256=sha256)
        if self._tier.adopt(path, attributes, stored):
            scanned.shown += 1
            self._appeared(path)
        else:
            self._has_name(path)

    def _has_name(self, path: bytes) -> bool:
        """Whether the hot directory has a file of this name. EEXIST for a directory, which hides the object."""
        st = self._tier.hot.lstat_or_none(path)
        if st and stat.S_ISDIR(st.st_mode):
            raise FileExistsError(errno.EEXIST, "a directory has its name", os.fsdecode(path))
        return st is not None


def attributes_of(info: ObjectInfo, owner: tuple[int, int]) -> tuple[Attributes, bytes]:
    """The attributes of the file that an object holds, and its SHA-256 (empty when not known).

    Objects of others are plain files of mode 0644 that belong to `owner` and changed when the object did. Metadata of
    tierfs that makes no sense counts as somebody else's: an object must not be able to hurt the mount.
    """
    plain = Attributes(stat.S_IFREG | 0o644, *owner, info.size, info.modified_ns, info.modified_ns, info.modified_ns)
    m = info.metadata
    if "tierfs-format" not in m or m.get("tierfs-size") != str(info.size):
        return plain, b""
    try:
        mtime_ns = int(m["tierfs-mtime-ns"])
        pairs = json.loads(m.get("tierfs-xattrs", "[]"))
        named = [(b64decode(name), b64decode(value)) for name, value in pairs]
        xattrs = tuple(pair for pair in named if not pair[0].startswith(OWN_XATTRS))
        mode = stat.S_IFREG | int(m["tierfs-mode"], 8) & 0o7777
        uid, gid = int(m["tierfs-uid"]), int(m["tierfs-gid"])
        sha256 = bytes.fromhex(m.get("tierfs-sha256", ""))
        given = Attributes(mode, uid, gid, info.size, mtime_ns, mtime_ns, info.modified_ns, xattrs)
        return (given, sha256) if is_possible(given) else (plain, b"")
    except (KeyError, ValueError, TypeError):
        return plain, b""
