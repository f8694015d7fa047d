"""The worker: the process that serves a mount. Everything is wired here, and every task has its nursery here.

Started by the supervisor with one end of a socket pair; see tierfs.mount.supervisor for what they say to each other.
"""

import errno
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import trio

from tierfs import __version__
from tierfs.admin import control, registry
from tierfs.admin.logs import start_logging
from tierfs.cold import Configuration
from tierfs.core.config import Settings
from tierfs.core.errors import CatalogError, ConfigError, MountError, NoLease, StoreUnavailable, TierfsError
from tierfs.core.lease import Owner
from tierfs.core.records import Fd
from tierfs.engine.archive import Archiver
from tierfs.engine.arena import Arena
from tierfs.engine.coldprocess import ColdProcess
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.daemon import Daemon
from tierfs.engine.hydrate import HydrateSettings, Hydrator
from tierfs.engine.numbers import ROOT
from tierfs.engine.recover import recover
from tierfs.engine.restore import Restorer
from tierfs.engine.room import Room
from tierfs.engine.scan import SCANNED, Scanner
from tierfs.engine.service import Engine, Facts, Observations, Operator
from tierfs.engine.snapshotter import SNAPSHOT, Snapshotter
from tierfs.engine.sweep import Sweeper
from tierfs.engine.tier import Tier
from tierfs.engine.tree import Tree
from tierfs.mount import fuse, kernel, tap
from tierfs.mount.filesystem import Filesystem
from tierfs.mount.passthrough import why_not
from tierfs.mount.supervisor import receive_line, send_line
from tierfs.stores.address import parse_store
from tierfs.stores.catalog import Catalog
from tierfs.stores.hot import HotTier, split
from tierfs.stores.identity import owner_of
from tierfs.stores.state import StateDirectory

log = logging.getLogger("tierfs")

_PROBE_PAUSE_S = 60.0
_SCAN_PATIENCE_S = 3.0
_LEASE_PATIENCE_S = 10.0
_LEAVING_S = 5.0  # for uploads to be given up in good order, and for a last snapshot


class Worker:
    """One mount's parts, from the request to the end. INVARIANT: what was opened is closed by `exits`, in reverse."""

    def __init__(self, request: dict[str, Any], hot: Fd, exits: ExitStack) -> None:
        self.request = request
        self.settings = settings = Settings.model_validate(request["settings"])
        self.address = parse_store(request["source"])
        self.state = StateDirectory(Path(request["state"]), exits)
        self.state.expect_catalog()
        self.warnings: tuple[str, ...] = ()
        self.store_warnings: tuple[str, ...] = ()
        self.catalog = Catalog(self.state.catalog, request["source"])
        exits.callback(self.catalog.close)
        self.hot = HotTier(hot)
        exits.callback(self.hot.close)
        self.tier = Tier(self.hot, self.catalog, settings, self.address.prefix, time.time_ns)

    def cold_configuration(self, owner: Owner | None = None) -> Configuration:
        """What the cold side needs to know of the mount. `owner` is who may write, nobody by default."""
        is_known = any(self.catalog.records())
        return Configuration(self.request["source"], self.request["state"], self.settings, is_known, owner)

    def lock_store(self, exits: ExitStack) -> Owner | None:
        """Keep the other mounts of this host off the prefix; who this one is to those elsewhere. MountError."""
        request, address = self.request, self.address
        if self.settings.read_only:
            return None
        bucket = os.path.realpath(address.bucket_or_dir) if address.kind == "file" else address.bucket_or_dir
        place = f"{address.kind} {self.settings.endpoint_url} {bucket} {address.prefix}"
        exits.callback(os.close, registry.lock_store(place, request["mountpoint"]))
        return owner_of(Path(request["state"]), request["mountpoint"])

    def wire(self, exits: ExitStack) -> None:
        """Everything that serves, and the process for what is cold, which begins to start."""
        settings, tier = self.settings, self.tier
        block = settings.cold_errors == "block"
        reading = HydrateSettings(
            chunk_size=settings.chunk_size,
            read_ahead_bytes=settings.read_ahead,
            deadline_ns=None if block else settings.cold_timeout,
        )
        arena = Arena(reading.memory_bytes)
        exits.callback(arena.close)
        self.cold_process = ColdProcess(self.cold_configuration(self.lock_store(exits)), arena.fd)
        self.cold = cold = ColdTier(self.cold_process)
        self.hydrator = Hydrator(cold, arena, reading)
        self.restorer = Restorer(tier, self.hydrator, fuse.forget_attributes)
        self.filesystem = Filesystem(Tree(tier), self.hydrator, self.restorer)
        if settings.warm_successor:
            self.filesystem.files.successor = self.filesystem.tree.successor
        exits.callback(self.filesystem.close)
        self.sweeper = Sweeper(tier, cold)
        self.archiver = Archiver(tier, cold, self.sweeper, settings.chunk_size, settings.archive_concurrency)
        self.snapshotter = Snapshotter(tier, cold)
        self.sweeper.covers = self.snapshotter.covers
        self.daemon = Daemon(tier, self.archiver, self.sweeper, settings)
        self.room = Room(tier, self.daemon, settings)
        self.restorer.make_room = self.room.make
        self.daemon.after_pass = self.snapshotter.after_pass
        self.scanner = Scanner(tier, cold, self._appeared)

    def _appeared(self, path: bytes) -> None:
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

    async def prepare(self) -> None:
        """Everything that can fail before the mount is made. TierfsError."""
        self._check_hot_directory()
        await self._take_lease()
        self.state.remember(self.request)
        changed = recover(self.tier)
        if changed:
            log.info("recovery changed %d records", changed)
        if not self._is_scanned():
            await self._expect_no_snapshot()
            # A bucket that cannot be listed is an error here; one with many objects is shown bit by bit.
            with trio.move_on_after(_SCAN_PATIENCE_S):
                await self.scanner.scan()

    async def _expect_no_snapshot(self) -> None:
        """CatalogError where the bucket knows of a tree that this new catalog does not: snapshots would be replaced."""
        if self.settings.read_only or self.catalog.fact(SNAPSHOT) or any(self.catalog.records()):
            return
        if await self.cold.snapshots(self.tier.prefix):
            raise CatalogError(
                f"the state directory {self.state.path} has no catalog, and {self.request['source']} has a snapshot of "
                f"the tree: `tierfs rebuild` with the same STORE, MOUNTPOINT, --hot and --state gives the tree back"
            )

    async def _take_lease(self) -> None:
        """Nobody else may write to the store. MountError when somebody does; a store that is away is asked later."""
        report = None
        with trio.move_on_after(_LEASE_PATIENCE_S), suppress(StoreUnavailable):
            report = await self.cold.take_lease(bool(self.request.get("take_over")))
        if report and report.state in ("refused", "lost"):
            raise MountError(report.reason)

    def _is_scanned(self) -> bool:
        return self.catalog.fact(SCANNED) is not None

    def _check_hot_directory(self) -> None:
        if self.settings.read_only:
            return
        try:
            os.close(self.hot.temporary(b""))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise ConfigError(
                    f"the filesystem of {self.request['hot']} has no O_TMPFILE, which restores need: "
                    "use ext4, XFS or Btrfs"
                ) from None
            raise

    async def serve(self, fuse_fd: int, serving: Callable[[], None]) -> None:
        """Answer until the mount is taken away, then stop everything else."""
        began = trio.Event()
        adapter = fuse.Adapter(self.filesystem, self.settings.shared_hot, on_init=began.set)
        wanted = self.settings.passthrough != "off" and not self.settings.read_only
        slot = self._register()
        try:
            fuse.start(adapter, fuse_fd, wanted, cache_directories=not self.settings.shared_hot)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.hydrator.run)
                await nursery.start(self.restorer.run)
                nursery.start_soon(self._serve_fuse, fuse_fd, nursery.cancel_scope)
                await began.wait()
                await trio.lowlevel.checkpoint()  # the reply to INIT is out
                self._choose_passthrough(fuse_fd, wanted)
                self.snapshotter.begin()
                operator = self._operator(adapter)
                nursery.start_soon(operator.keep_totals)
                await nursery.start(control.serve, operator, slot / registry.SOCKET_NAME)
                nursery.start_soon(self.daemon.run)
                nursery.start_soon(self.room.run)
                nursery.start_soon(self._watch_bucket)
                serving()
        finally:
            # Where the connection was cut off files are still open; their backing ids went with it.
            self.filesystem.files.modes.device = None
            fuse.stop()
            registry.unregister(self.request["mountpoint"])

    def _snapshot_warnings(self) -> list[str]:
        failure = self.snapshotter.failure
        return [f"no snapshot of the tree could be taken: {failure}"] if failure else []

    async def leave(self) -> None:
        """What is done when nobody uses the tree any more."""
        self.cold_process.end_soon(_LEAVING_S)
        await self.snapshotter.leave()

    async def _serve_fuse(self, fuse_fd: int, everything: trio.CancelScope) -> None:
        await fuse.serve(fuse_fd)
        log.info("the mount was taken away")
        self.cold_process.end_soon(_LEAVING_S)
        everything.cancel()

    def _choose_passthrough(self, fuse_fd: int, wanted: bool) -> None:
        """Passthrough or plain FUSE, once and for all. MountError where it is required and cannot be had."""
        self.filesystem.files.attachments = tap.Tap()
        if not wanted:
            return
        reason = "the kernel is older than 6.9, or built without CONFIG_FUSE_PASSTHROUGH"
        if tap.has_passthrough():
            device, probe = kernel.Backing(fuse_fd), self.hot.temporary(b"")
            reason = why_not(device, probe)
            os.close(probe)
            if not reason:
                self.filesystem.files.modes.device = device
                return
        if self.settings.passthrough == "required":
            raise MountError(f"hot files cannot be passed through to the kernel: {reason}")
        log.warning("plain FUSE, because %s: hot files are slower than they could be", reason)
        self.warnings = (f"plain FUSE, because {reason}",)

    async def _watch_bucket(self) -> None:
        """What is done while the mount serves: the store's self-test, and the rest of the first scan."""
        while True:
            try:
                is_tested = await self._test_store()
                if not self._is_scanned():
                    await self.scanner.scan()
                if is_tested:
                    return
            except TierfsError as error:
                self.store_warnings = (str(error),)
                log.warning("not all cold files can be read or seen now: %s", error)
            await trio.sleep(min(_PROBE_PAUSE_S, self.settings.policy_interval.seconds))

    async def _test_store(self) -> bool:
        """Say what the store cannot do; False where it may not be tried now. StoreError."""
        try:
            self.store_warnings = await self.cold.probe()
        except NoLease:
            self.store_warnings = ()  # `status` says why
            return False
        for warning in self.store_warnings:
            log.warning("%s: %s", self.request["source"], warning)
        return True

    def _register(self) -> Path:
        request = self.request
        return registry.register(
            registry.Mount(
                mountpoint=request["mountpoint"],
                store=request["source"],
                hot_directory=request["hot"],
                state_directory=request["state"],
                supervisor_pid=os.getppid(),
                worker_pid=os.getpid(),
                version=__version__,
            )
        )

    def _operator(self, adapter: fuse.Adapter) -> Operator:
        request = self.request
        facts = Facts(
            mountpoint=request["mountpoint"],
            store=request["source"],
            hot_directory=request["hot"],
            state_directory=request["state"],
            version=__version__,
            worker_pid=os.getpid(),
            supervisor_pid=os.getppid(),
            passthrough="on" if self.filesystem.files.modes.device else "off",
        )
        engine = Engine(
            tree=self.filesystem.tree,
            tier=self.tier,
            cold=self.cold,
            hydrator=self.hydrator,
            archiver=self.archiver,
            restorer=self.restorer,
            daemon=self.daemon,
            settings=self.settings,
            changed=self._appeared,
        )
        return Operator(engine, facts, lambda: self._observations(adapter))

    def _observations(self, adapter: fuse.Adapter) -> Observations:
        modes = self.filesystem.files.modes
        return Observations(
            read_errors=adapter.errors,
            warnings=[*self.warnings, *self.store_warnings, *self._snapshot_warnings()],
            requests=tap.counts(),
            opens=dict(modes.opens),
            open_files=len(self.filesystem.files),
            backing_ids=modes.backing_ids(),
            known_nodes=len(self.filesystem.nodes),
            cold_restarts=self.cold_process.restarts,
        )


async def run(channel: socket.socket) -> None:
    """Talk to the supervisor and serve. TierfsError and OSError before the mount serves are told to it."""
    request, (hot, *_) = receive_line(channel)
    start_logging(request)
    with ExitStack() as exits:
        worker = Worker(request, Fd(hot), exits)
        worker.wire(exits)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.cold_process.serve)
            await worker.prepare()
            send_line(channel, {"prepared": True})
            _, (fuse_fd, *_) = receive_line(channel)
            await worker.serve(fuse_fd, lambda: send_line(channel, {"serving": True}))
            await worker.leave()
            nursery.cancel_scope.cancel()


def main() -> int:
    """Run until the mount is taken away. Exit status 0 then, 1 when it could not be served."""
    os.umask(0)
    _raise_descriptor_limit()
    tap.take_precedence()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        try:
            trio.run(run, channel)
        except (TierfsError, OSError, BaseExceptionGroup) as error:
            first = _first(error)
            if not isinstance(first, TierfsError | OSError):
                log.exception("a defect of tierfs ended the worker")
            log.error("%s", first)
            _tell(channel, first)
            return 1
    return 0


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _tell(channel: socket.socket, error: BaseException) -> None:
    try:
        send_line(channel, {"failed": str(error), "kind": type(error).__name__})
    except OSError:
        log.debug("the supervisor is gone")


def _raise_descriptor_limit() -> None:
    """A descriptor for each of the applications' handles, and more: as many as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
