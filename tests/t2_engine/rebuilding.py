"""A world whose SSD is lost, and its rebuild from the bucket."""

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.assembly import PREFIX, STORE, Machine, World
from tierfs.core.records import Fd
from tierfs.core.reports import CheckOrder, Finding
from tierfs.engine.calls import InThreads
from tierfs.engine.coldside import ColdSide
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.rebuild import Rebuilder
from tierfs.engine.reconcile import Rebuilt
from tierfs.engine.tier import Tier
from tierfs.stores.cache import ChunkCache
from tierfs.stores.catalog import Catalog
from tierfs.stores.hot import HotTier

DEEP = CheckOrder(is_deep=True)


@dataclass
class Outcome:
    """What a rebuild said."""

    rebuilt: Rebuilt
    findings: Sequence[Finding]

    @property
    def told(self) -> set[tuple[str, bytes]]:
        """What is wrong with which path."""
        return {(finding.what, finding.path) for finding in self.findings}


def without_ssd(world: World, name: str = "fresh") -> World:
    """The same bucket, and an empty SSD."""
    fresh = World(world.home / name, world.settings)
    fresh.store, fresh.memory, fresh.held = world.store, world.memory, world.held
    return fresh


async def rebuild(world: World) -> Outcome:
    """Make the catalog of a world, in which nothing runs, anew."""
    for leftover in world.state.glob("catalog*"):
        leftover.unlink()
    findings: list[Finding] = []
    root = Fd(os.open(world.hot, os.O_RDONLY | os.O_DIRECTORY))
    catalog, cache = Catalog(world.catalog_path, STORE), ChunkCache(world.state / "cache", 1 << 20)
    hot = HotTier(root)
    try:
        tier = Tier(hot, catalog, world.settings, PREFIX, time.time_ns)
        cold = ColdTier(InThreads(ColdSide(world.store, cache, memoryview(b""))))
        rebuilt = await Rebuilder(tier, cold, findings.append, lambda _what, _count: None).run(world.state)
    finally:
        catalog.close()
        cache.close()
        hot.close()
        os.close(root)
    return Outcome(rebuilt, findings)


def age_objects(world: World) -> None:
    """Let hours pass by the clock of the store."""
    world.memory._generation += 10_000


def attributes_of_all(machine: Machine) -> dict[bytes, tuple[Any, ...]]:
    """What stat, readlink and getxattr say of every name; times of files and links, and of directories."""
    return {path: _attributes(machine, path) for path in machine.walk()}


def _attributes(machine: Machine, path: bytes) -> tuple[Any, ...]:
    st = machine.stat(path).st
    target = machine.readlink(path) if stat.S_ISLNK(st.st_mode) else b""
    xattrs = {} if stat.S_ISLNK(st.st_mode) else machine.xattrs(path)
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    return st.st_mode, st.st_uid, st.st_gid, size, st.st_mtime_ns, target, xattrs


def hot_path(world: World, path: bytes) -> Path:
    """Where a hot file is."""
    return world.hot / os.fsdecode(path)
