"""The parts of a mount, wired: what the worker runs."""

import logging
import os
import time
import uuid
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tierfs.admin import registry
from tierfs.cold import Configuration
from tierfs.core.config import Settings
from tierfs.core.lease import Owner
from tierfs.core.records import Fd, Ino
from tierfs.engine.archive import Archiver
from tierfs.engine.arena import Arena
from tierfs.engine.budget import Budget
from tierfs.engine.coldprocess import ColdProcess
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.daemon import Daemon
from tierfs.engine.entries import Entries
from tierfs.engine.hydrate import HydrateSettings, Hydrator
from tierfs.engine.journal import Collector, Journal
from tierfs.engine.numbers import ROOT
from tierfs.engine.restore import Restorer
from tierfs.engine.room import Room
from tierfs.engine.scan import Scanner
from tierfs.engine.segments import to_bring_along
from tierfs.engine.snapshotter import Snapshotter
from tierfs.engine.sweep import Sweeper
from tierfs.engine.tier import Tier
from tierfs.engine.tree import Tree
from tierfs.mount import fuse
from tierfs.mount.access import Gate, rules_of
from tierfs.mount.filesystem import Filesystem
from tierfs.mount.session import Session
from tierfs.stores.address import parse_store
from tierfs.stores.catalog import Catalog
from tierfs.stores.hot import HotTier, split
from tierfs.stores.identity import owner_of
from tierfs.stores.state import StateDirectory


class Parts:
    """One mount's parts, from the request to the end. INVARIANT: what was opened is closed by `exits`, in reverse."""

    def __init__(self, request: dict[str, Any], hot: Fd, session: int, exits: ExitStack) -> None:
        self.request = request
        self.session = Session(session)
        self.settings = settings = Settings.model_validate(request["settings"])
        self.address = parse_store(request["source"])
        self.state = StateDirectory(Path(request["state"]), exits)
        self.state.expect_catalog()
        self.catalog = Catalog(self.state.catalog, request["source"])
        exits.callback(self.catalog.close)
        self.hot = HotTier(hot)
        exits.callback(self.hot.close)
        facts = self.session.facts
        self.lease_session = facts.lease_session if facts else uuid.uuid4().hex
        self.tier = Tier(self.hot, self.catalog, settings, self.address.prefix, time.time_ns)
        self.journal = Journal(self.tier.events)
        logging.getLogger("tierfs").addHandler(Collector(self.tier.events))

    def _cold_configuration(self, owner: Owner | None = None) -> Configuration:
        """What the cold side needs to know of the mount. `owner` is who may write, nobody by default."""
        is_known = any(self.catalog.records())
        return Configuration(self.request["source"], self.request["state"], self.settings, is_known, owner)

    def _lock_store(self, exits: ExitStack) -> Owner | None:
        """Keep the other mounts of this host off the prefix; who this one is to those elsewhere. MountError."""
        request, address = self.request, self.address
        if self.settings.read_only:
            return None
        bucket = os.path.realpath(address.bucket_or_dir) if address.kind == "file" else address.bucket_or_dir
        place = f"{address.kind} {self.settings.endpoint_url} {bucket} {address.prefix}"
        exits.callback(os.close, registry.lock_store(place, request["mountpoint"]))
        return owner_of(Path(request["state"]), request["mountpoint"], self.lease_session)

    def wire(self, exits: ExitStack) -> None:
        """Everything that serves, and the process for what is cold, which begins to start."""
        settings, tier = self.settings, self.tier
        block = settings.cold_errors == "block"
        reading = HydrateSettings(
            chunk_size=settings.chunk_size,
            read_ahead_bytes=settings.read_ahead,
            deadline_ns=None if block else settings.cold_timeout,
            streams=settings.restore_concurrency,
            hydrate_rate=settings.hydrate_rate,
            limited_rate=settings.limited_rate,
            restore_rate=settings.restore_rate,
            storm_bytes=settings.storm_threshold,
        )
        arena = Arena(reading.memory_bytes)
        exits.callback(arena.close)
        is_next = self.session.facts is not None
        self.cold_process = ColdProcess(self._cold_configuration(self._lock_store(exits)), arena.fd, is_next)
        self.cold = cold = ColdTier(self.cold_process)
        self.hydrator = Hydrator(cold, arena, reading)
        self.restorer = Restorer(tier, self.hydrator, fuse.forget_attributes)
        self._wire_guard()
        self.filesystem = Filesystem(Tree(tier), self.hydrator, self.restorer, self.session)
        self.filesystem.files.gate = Gate(rules_of(settings.access, is_next))
        if settings.warm_successor:
            self.filesystem.files.successor = self.filesystem.tree.successor
        tier.in_hand = self._in_hand
        self.sweeper = Sweeper(tier, cold)
        self.archiver = Archiver(tier, cold, self.sweeper, settings.chunk_size, settings.archive_concurrency)
        self.snapshotter = Snapshotter(tier, cold)
        self.sweeper.covers = self.snapshotter.covers
        self.daemon = Daemon(tier, self.archiver, self.sweeper, settings)
        self.filesystem.labels.entries = Entries(self.filesystem.tree, self.hydrator, self.daemon)
        self.room = Room(tier, self.daemon, settings)
        self.restorer.make_room = self.room.make
        self.restorer.along = partial(to_bring_along, tier)
        self.daemon.after_pass = self.snapshotter.after_pass
        self.scanner = Scanner(tier, cold, self.appeared)

    def _wire_guard(self) -> None:
        """Budgets for what comes back, and names for what is said of it."""
        settings, guard = self.settings, self.hydrator.guard
        guard.path_of = lambda key: key.removeprefix(self.address.prefix)
        guard.restore_limit = self.restorer.limit = Budget.per_hour(settings.restore_limit)
        if settings.cold_errors != "block":
            self.restorer.patience_s = settings.cold_timeout.seconds

    def _in_hand(self, ino: Ino | None) -> None:
        self.session.in_hand = ino

    def appeared(self, path: bytes) -> None:
        """A name came into the tree that the kernel may know as missing, perhaps with directories above it."""
        tree, nodes = self.filesystem.tree, self.filesystem.nodes
        while path:
            directory, name = split(path)
            above = tree.find_or_none(directory)
            if above is None:
                return
            fuse.forget_name(above.ino if directory else ROOT, name)
            if not directory or nodes.get(above.ino):
                return
            path = directory
