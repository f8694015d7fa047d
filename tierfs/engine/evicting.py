"""Chunks of one file are dropped from the cache, because an operator asks."""

from tierfs.core.reports import Outcome
from tierfs.engine.hydrate import Hydrator
from tierfs.engine.tree import Found
from tierfs.stores.catalog import Catalog


async def evict_one(path: bytes, found: Found | None, catalog: Catalog, hydrator: Hydrator) -> Outcome:
    """What became of the chunks of the file at `path`, which is what was found there."""
    if found is None:
        return Outcome(path, "failed", "no such file", error="FileNotFoundError")
    record = found.record or catalog.get(path)
    if record is None or record.object is None:
        return Outcome(path, "unchanged", "it has no object, so nothing of it is cached")
    cached = await hydrator.cached_bytes(record.object)
    await hydrator.evict(record.object)
    return Outcome(path, "done", bytes=cached)
