"""Serving one mount, from the preparations to its end or the hand-over to the next worker. Every task is begun here."""

import errno
import logging
import os
import socket
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import trio

from tierfs import __version__
from tierfs.admin import control, pages, registry
from tierfs.admin.gateway import Gateway, api_of
from tierfs.core.errors import CatalogError, ConfigError, MountError, NoLease, StoreUnavailable, TierfsError
from tierfs.core.reports import happened
from tierfs.engine.observed import Facts, Observations, Succession
from tierfs.engine.recover import recover, recover_interrupted
from tierfs.engine.scan import SCANNED
from tierfs.engine.service import Engine, Operator
from tierfs.engine.snapshotter import SNAPSHOT
from tierfs.mount import channel, fuse, kernel, session, tap
from tierfs.mount.parked import Parked
from tierfs.mount.passthrough import why_not
from tierfs.mount.received import Received
from tierfs.mount.sight import MountSight
from tierfs.wiring import Parts

log = logging.getLogger("tierfs")

_PROBE_PAUSE_S = 60.0
_SCAN_PATIENCE_S = 3.0
_LEASE_PATIENCE_S = 10.0
_LEAVING_S = 5.0  # for uploads to be given up in good order, and for a last snapshot
_LOOK_S = 0.02


class Serving:
    """One mount while this process serves it."""

    def __init__(self, parts: Parts, received: Received, line: socket.socket) -> None:
        self.parts = parts
        self.request = received.request
        self.is_gone = False
        self._gateway = Gateway(parts.settings)
        self._received = received
        self._line = line
        self._began_s = time.monotonic()
        self._serves = False
        self._warnings: tuple[str, ...] = ()
        self._store_warnings: tuple[str, ...] = ()
        self._supervisor_warning = ""
        self._upgrade_refused = ""
        self._refused_upgrades = 0
        self._took_s = 0.0

    # -- before it serves ----------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Everything that can fail before the mount is made. TierfsError."""
        self._gateway.open()
        self._check_hot_directory()
        await self._take_lease()
        self.parts.state.remember(self.request)
        changed = recover(self.parts.tier)
        if changed:
            log.info("recovery changed %d records", changed)
        if not self._is_scanned():
            await self._expect_no_snapshot()
            # A bucket that cannot be listed is an error here; one with many objects is shown bit by bit.
            with trio.move_on_after(_SCAN_PATIENCE_S):
                await self.parts.scanner.scan()

    def prepare_quickly(self) -> None:
        """What must be done before this worker goes on where another one ended; waits for nothing. TierfsError."""
        facts = self.parts.session.facts
        if facts is None:
            raise MountError("the session of this mount was never begun: unmount, and mount again")
        here = session.mount_of(self.request)
        if facts.mount != here:
            raise MountError(f"what is mounted is {facts.mount}, not {here}: unmount it first")
        changed = recover_interrupted(self.parts.tier, self.parts.session.in_hand)
        if changed:
            log.info("recovery changed %d records", changed)

    async def _expect_no_snapshot(self) -> None:
        """CatalogError where the bucket knows of a tree that this new catalog does not: snapshots would be replaced."""
        if self.parts.settings.read_only or self.parts.catalog.fact(SNAPSHOT) or any(self.parts.catalog.records()):
            return
        if await self.parts.cold.snapshots(self.parts.tier.prefix):
            raise CatalogError(
                f"the state directory {self.parts.state.path} has no catalog, and {self.request['source']} has a "
                "snapshot of the tree: `tierfs rebuild` with the same STORE, MOUNTPOINT, --hot and --state has it"
            )

    async def _take_lease(self) -> None:
        """Nobody else may write to the store. MountError when somebody does; a store that is away is asked later."""
        report = None
        with trio.move_on_after(_LEASE_PATIENCE_S), suppress(StoreUnavailable):
            report = await self.parts.cold.take_lease(bool(self.request.get("take_over")))
        if report and report.state in ("refused", "lost"):
            raise MountError(report.reason)

    def _is_scanned(self) -> bool:
        return self.parts.catalog.fact(SCANNED) is not None

    def _check_hot_directory(self) -> None:
        if self.parts.settings.read_only:
            return
        try:
            os.close(self.parts.hot.temporary(b""))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise ConfigError(
                    f"the filesystem of {self.request['hot']} has no O_TMPFILE, which restores need: "
                    "use ext4, XFS or Btrfs"
                ) from None
            raise

    # -- serving -------------------------------------------------------------------------------------------------

    async def serve(self, fuse_fd: int) -> None:
        """Answer until the mount is taken away or handed over, then stop everything else."""
        parts, settings = self.parts, self.parts.settings
        began = trio.Event()
        parts.cold_process.keep_lease(True)  # while there is a mount, no other host must find it free
        facts = parts.session.facts

        def on_init() -> None:
            self._agreed(fuse_fd, facts is not None)
            began.set()

        adapter = fuse.Adapter(parts.filesystem, settings.shared_hot, on_init, settings.slow_operation)
        try:
            wishes = tap.Wishes(self._wants_passthrough(), not settings.shared_hot)
            if facts:
                wishes = replace(wishes, init_request=facts.init_request, granted=facts.granted)
            fuse.start(adapter, fuse_fd, wishes)
            async with trio.open_nursery() as nursery:
                await nursery.start(parts.hydrator.run)
                await nursery.start(parts.restorer.run)
                if facts:
                    self._take_over(fuse_fd, facts)
                nursery.start_soon(self._serve_fuse, adapter, fuse_fd, nursery.cancel_scope)
                await began.wait()
                await trio.lowlevel.checkpoint()  # the reply to INIT is out
                self._go_on(facts) if facts else self._begin(fuse_fd)
                await self._run_others(nursery, adapter)
        finally:
            # Where the connection was cut off files are still open; their backing ids went with it. Who goes on with
            # the mount has them.
            parts.filesystem.files.modes.device = None
            fuse.stop()
            parts.journal.finish()
            if self.is_gone or not (self._serves or facts):  # else another worker goes on
                registry.unregister(self.request["mountpoint"])

    async def _run_others(self, nursery: trio.Nursery, adapter: fuse.Adapter) -> None:
        parts = self.parts
        parts.snapshotter.begin()
        self._gateway.try_open()  # where there was a worker before; else it is open
        operator = self._operator(adapter)
        parts.filesystem.control.offer(pages.pages_of(operator, self.request, parts.tier, adapter.last_errors))
        nursery.start_soon(self._listen)
        nursery.start_soon(operator.keep_totals)
        nursery.start_soon(parts.journal.run)
        await nursery.start(operator.own_jobs)
        nursery.start_soon(parts.hydrator.guard.run)
        nursery.start_soon(self._gateway.serve, api := api_of(parts.filesystem.tree, operator, parts.settings))
        await nursery.start(control.serve, operator, self._register() / registry.SOCKET_NAME, api)
        self._serves = True
        log.info("the mount at %s serves", self.request["mountpoint"], extra=happened("mount", after="serving"))
        channel.send(self._line, {"serving": True})  # only now: the next command of a script may be for operators
        await parts.cold_process.ready.wait()
        nursery.start_soon(parts.daemon.run)
        nursery.start_soon(parts.room.run)
        nursery.start_soon(self._watch_bucket)

    async def leave(self) -> None:
        """What is done when nobody uses the tree any more."""
        self.parts.cold_process.end_soon(_LEAVING_S)
        await self.parts.snapshotter.leave()

    async def _serve_fuse(self, adapter: fuse.Adapter, fuse_fd: int, everything: trio.CancelScope) -> None:
        await fuse.serve(adapter, fuse_fd, self.parts.hydrator.give_up)
        log.info("the mount was taken away")
        self.is_gone = True
        self.parts.cold_process.keep_lease(False)
        self.parts.cold_process.end_soon(_LEAVING_S)
        everything.cancel()

    # -- from one worker to the next -----------------------------------------------------------------------------

    def _begin(self, fuse_fd: int) -> None:
        """Agree with the kernel, and write down upon what. MountError."""
        self._choose_passthrough(fuse_fd)
        mount = session.mount_of(self.request)
        self.parts.filesystem.begin(Parked(self._park))
        self.parts.session.remember(session.Facts(tap.init_request(), tap.granted(), self.parts.lease_session, mount))

    def _agreed(self, fuse_fd: int, is_next: bool) -> None:
        """INIT was read. What the worker before did not answer is asked for now, and not a request later.

        The kernel sends all again that is not answered, also what this worker had read already.
        """
        unanswered = self.parts.session.unanswered
        if tap.sends_again():
            if is_next:
                kernel.send_again(fuse_fd)
            return
        if is_next:
            refused = kernel.refuse(fuse_fd, [request for request in unanswered if request])
            unanswered[:] = memoryview(bytes(unanswered.nbytes)).cast("Q")
            log.warning("the kernel (before 6.9) cannot send requests again: %d got EIO", refused)
        tap.write_down_requests(unanswered)

    def _take_over(self, fuse_fd: int, facts: session.Facts) -> None:
        """Know what the worker before knew, before the first request is read. MountError."""
        files = self.parts.filesystem.files
        files.attachments = tap.Tap()
        if tap.is_passthrough(facts.granted):
            files.modes.device = kernel.Backing(fuse_fd)
        self.parts.filesystem.take_over(Parked(self._park, self._received.parked))

    def _go_on(self, facts: session.Facts) -> None:
        """MountError where kernel and libfuse have agreed on something else than before."""
        if tap.granted() != facts.granted:
            raise MountError("this tierfs, or its libfuse, agrees with the kernel on other things than the one before")
        self._took_s = time.monotonic() - self._began_s
        self.parts.session.taken_over()
        files, nodes = len(self.parts.filesystem.files), len(self.parts.filesystem.nodes)
        extra = happened("take-over", duration_ns=int(self._took_s * 1e9))
        log.info("took over %d open files and %d nodes in %.0f ms", files, nodes, self._took_s * 1e3, extra=extra)

    def _park(self, name: str, fd: int | None) -> None:
        try:
            if fd is None:
                channel.send(self._line, {"let_go": name})
            else:
                channel.send(self._line, {"park": name}, [fd])
        except OSError as error:
            log.debug("%s is not parked: %s", name, error.strerror)

    async def _listen(self) -> None:
        """What the supervisor asks for while the mount serves."""
        while True:
            await trio.lowlevel.wait_readable(self._line)
            try:
                message, _ = channel.receive(self._line)
            except EOFError:
                self._supervisor_warning = "the supervisor is gone: the mount ends with this worker"
                log.error("%s", self._supervisor_warning, extra=happened("mount"))
                return
            if "upgrade_refused" in message:
                self._upgrade_refused, self._refused_upgrades = message["upgrade_refused"], self._refused_upgrades + 1
                log.error("no upgrade: %s", self._upgrade_refused, extra=happened("unfit"))
            elif "hand_over" in message:
                await self._end_movements(message["hand_over"])
                self._hand_over()

    async def _end_movements(self, patience_s: float) -> None:
        """Begin no movement any more, and let those under way end, for a while; the mount goes on serving."""
        log.info("handing over to the next worker", extra=happened("mount", before="serving", after="handing over"))
        self.parts.daemon.is_leaving = True
        with trio.move_on_after(patience_s):
            while self.parts.archiver.active or self.parts.restorer.active():  # noqa: ASYNC110  # seldom, brief
                await trio.sleep(_LOOK_S)

    def _hand_over(self) -> NoReturn:
        """End as after a kill, which the next worker knows how to go on from: nothing is left to wait for."""
        tap.finish_replies()
        self.parts.journal.finish()
        channel.send(self._line, {"leaving": "handed over"})
        logging.shutdown()
        os._exit(0)

    def _wants_passthrough(self) -> bool:
        return self.parts.settings.passthrough != "off" and not self.parts.settings.read_only

    def _snapshot_warnings(self) -> list[str]:
        failure = self.parts.snapshotter.failure
        return [f"no snapshot of the tree could be taken: {failure}"] if failure else []

    def _process_warnings(self) -> list[str]:
        refused = f"the last upgrade was refused: {self._upgrade_refused}" if self._upgrade_refused else ""
        return [*filter(None, (self._supervisor_warning, refused, self._gateway.warning))]

    def _choose_passthrough(self, fuse_fd: int) -> None:
        """Passthrough or plain FUSE, once and for all. MountError where it is required and cannot be had."""
        self.parts.filesystem.files.attachments = tap.Tap()
        if not self._wants_passthrough():
            return
        reason = "the kernel is older than 6.9, or built without CONFIG_FUSE_PASSTHROUGH"
        if tap.is_passthrough(tap.granted()):
            device, probe = kernel.Backing(fuse_fd), self.parts.hot.temporary(b"")
            reason = why_not(device, probe)
            os.close(probe)
            if not reason:
                self.parts.filesystem.files.modes.device = device
                return
        if self.parts.settings.passthrough == "required":
            raise MountError(f"hot files cannot be passed through to the kernel: {reason}")
        log.warning("plain FUSE, because %s: hot files are slower than they could be", reason, extra=happened("unfit"))
        self._warnings = (f"plain FUSE, because {reason}",)

    async def _watch_bucket(self) -> None:
        """What is done while the mount serves: the store's self-test, and the rest of the first scan."""
        while True:
            try:
                is_tested = await self._test_store()
                if not self._is_scanned():
                    await self.parts.scanner.scan()
                if is_tested:
                    return
            except TierfsError as error:
                self._store_warnings = (str(error),)
                log.warning("not all cold files can be read or seen now: %s", error, extra=happened("failure"))
            await trio.sleep(min(_PROBE_PAUSE_S, self.parts.settings.policy_interval.seconds))

    async def _test_store(self) -> bool:
        """Say what the store cannot do; False where it may not be tried now. StoreError."""
        try:
            self._store_warnings = await self.parts.cold.probe()
        except NoLease:
            self._store_warnings = ()  # `status` says why
            return False
        for warning in self._store_warnings:
            log.warning("%s: %s", self.request["source"], warning, extra=happened("unfit"))
        return True

    def _register(self) -> Path:
        request = self.request
        return registry.register(
            registry.Mount(
                mountpoint=request["mountpoint"],
                store=request["source"],
                hot_directory=request["hot"],
                state_directory=request["state"],
                supervisor_pid=self.request["supervisor_pid"],
                worker_pid=os.getpid(),
                version=__version__,
            )
        )

    def _operator(self, adapter: fuse.Adapter) -> Operator:
        passthrough = "on" if self.parts.filesystem.files.modes.device else "off"
        facts = Facts.of(self.request, __version__, passthrough)
        engine = Engine(
            tree=self.parts.filesystem.tree,
            tier=self.parts.tier,
            cold=self.parts.cold,
            hydrator=self.parts.hydrator,
            archiver=self.parts.archiver,
            restorer=self.parts.restorer,
            daemon=self.parts.daemon,
            settings=self.parts.settings,
            changed=self.parts.appeared,
            snapshotter=self.parts.snapshotter,
        )
        sight = MountSight(adapter.last_errors, self.parts.filesystem)
        return Operator(engine, facts, lambda: self._observations(adapter), sight)

    def _observations(self, adapter: fuse.Adapter) -> Observations:
        modes = self.parts.filesystem.files.modes
        return Observations(
            read_errors=adapter.errors.total(),
            warnings=[*self._warnings, *self._store_warnings, *self._snapshot_warnings(), *self._process_warnings()],
            requests=tap.counts(),
            opens=dict(modes.opens),
            open_files=len(self.parts.filesystem.files),
            backing_ids=modes.backing_ids(),
            known_nodes=len(self.parts.filesystem.nodes),
            cold_restarts=self.parts.cold_process.restarts,
            succession=Succession(self.parts.session.take_overs, self._took_s, adapter.repeats, self._refused_upgrades),
            errors=dict(adapter.errors),
            answered=adapter.answered,
            api=self._gateway.address,
        )
