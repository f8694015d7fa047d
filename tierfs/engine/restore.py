"""Restore: the way back up, a whole file at a time.

The bytes go into a nameless file (O_TMPFILE), are verified and synced, and get their name in the same breath as the
commit: after a crash there is nothing to clean up. Several writers that wait for the same file share one restore.
"""

import errno
import hashlib
import logging
import math
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Protocol

import trio

from tierfs.core.access import ANYBODY, Opener
from tierfs.core.errors import CatalogError, IntegrityError, NotEligible, ObjectMissing, OverBudget, TierfsError
from tierfs.core.records import Fd, Ino, ObjectRef, Record
from tierfs.core.reports import happened
from tierfs.core.residency import WITHOUT_HOT_BYTES, Residency
from tierfs.core.steps import step
from tierfs.engine.budget import Budget, Ticket
from tierfs.engine.durable import sync_directory
from tierfs.engine.events import because, sentence
from tierfs.engine.movements import Movement, Movements
from tierfs.engine.tier import Tier
from tierfs.engine.waits import note, waiting_for
from tierfs.stores.hot import apply_attributes, split

log = logging.getLogger(__name__)


class ObjectStream(Protocol):
    """Where whole objects come from: blocks in order, each verified."""

    def stream(self, ref: ObjectRef, opener: Opener) -> AsyncGenerator[memoryview, None]: ...


@contextmanager
def naming(tier: Tier, ino: Ino, fd: Fd) -> Iterator[None]:
    """The nameless file `fd` gets its name in this block; when that cannot be written down, it has none again.

    Nothing is lost with it: the record still says that the bytes of the file are those in the bucket.
    """
    try:
        yield
    except CatalogError:
        record, made = tier.catalog.get_by_ino(ino), os.fstat(fd)
        st = tier.hot.lstat_or_none(record.path) if record else None
        if record and st and st.st_ino == made.st_ino:
            with step("restore.unname"):
                tier.hot.unlink(record.path)
            tier.numbers.freed(made)
        raise


async def _make_none(_needed_bytes: int) -> bool:
    return False


class _Restore:
    """One restore under way, because `opener` writes, or ANYBODY for an operator; `ticket` pays for it."""

    def __init__(self, opener: Opener, movement: Movement) -> None:
        self.done = trio.Event()
        self.error: BaseException | None = None
        self.movement = movement
        self.held_ns = 0  # how long it waited for a budget
        self.opener = opener
        self.ticket = Ticket(movement.bytes)


class Restorer:
    """Brings whole cold files back to the hot tier.

    `changed` is told the node id of each file that came back: its ctime and blocks are new to the kernel. `came_back`
    is told in the same breath as the file gets its name. `make_room` is asked for bytes that the hot tier lacks.
    `along` says which files come back in the background because one is written to.
    """

    def __init__(self, tier: Tier, objects: ObjectStream, changed: Callable[[Ino], None]) -> None:
        self._tier = tier
        self._objects = objects
        self._changed = changed
        self.make_room: Callable[[int], Awaitable[bool]] = _make_none
        self.limit: Budget | None = None  # of bytes that no operator asked for
        self.patience_s = math.inf  # of who waits for it
        self.came_back: Callable[[Ino], None] = lambda _ino: None
        self.along: Callable[[bytes], list[bytes]] = lambda _path: []
        self._nursery: trio.Nursery | None = None
        self._active: dict[Ino, _Restore] = {}
        self.restores = Movements()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the restores: they go on when the one who asked first goes away."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def active(self) -> int:
        """How many files are being restored now."""
        return len(self._active)

    def under_way(self) -> list[Movement]:
        """The files that are being restored now."""
        return [restore.movement for restore in self._active.values()]

    def _begun(self, path: bytes, opener: Opener, size: int) -> _Restore:
        return _Restore(opener, Movement(path, "restore", size, self._tier.now()))

    async def restore_to_write(self, path: bytes, opener: Opener) -> None:
        """Wait until the file at `path` can be written to; what comes along with it is not waited for. As restore()."""
        assert self._nursery is not None, "run() comes first"
        for other in self.along(path):
            self._nursery.start_soon(self._restore_along, other, opener)
        await self.restore(path, opener)

    async def _restore_along(self, path: bytes, opener: Opener) -> None:
        try:
            with because("its segment is written to"):
                await self.restore(path, opener)
        except (TierfsError, OSError) as error:
            log.info("%s stays cold, although its segment is written to: %s", os.fsdecode(path), error)

    async def restore(self, path: bytes, opener: Opener = ANYBODY) -> None:
        """Wait until the file at `path` has hot bytes, because of who writes to it; ANYBODY: an operator asks.

        FileLost, OverBudget, StoreError, DeadlineExceeded, OSError (ENOSPC).
        """
        record = self._tier.cold_record(path)
        if record is None:
            return
        restore = self._active.get(record.ino)
        if restore is None:
            self._tier.restore_aborted(record.ino, "its end could not be written down")
            with because(f"{opener.command or 'a process'} writes to it"):
                record = self._tier.restore_started(path)
                restore = self._active[record.ino] = self._begun(path, opener, record.attributes.size)
                assert self._nursery is not None, "run() comes first"
                self._nursery.start_soon(self._run_one, record, restore)
        if opener is ANYBODY:
            restore.ticket.let_through()
        with waiting_for("all of its bytes"):
            await restore.done.wait()
        note("restore_limit", restore.held_ns)
        if restore.error:
            raise restore.error

    async def nameless(self, stored: ObjectRef, opener: Opener) -> Fd:
        """The bytes of an object in a file without a name, which belongs to the caller: a removed file that is open.

        OverBudget, StoreError, DeadlineExceeded, OSError (ENOSPC).
        """
        restore = self._begun(b"", opener, stored.size)
        await self._wait_affordable(stored.key, restore)
        fd = self._tier.hot.temporary(b"")
        try:
            await self._fill(fd, stored, restore)
        except BaseException:
            os.close(fd)
            raise
        return fd

    async def _run_one(self, record: Record, restore: _Restore) -> None:
        try:
            with self.restores.watching():
                await self._bring_back(record, restore)
            self.restores.moved(restore.movement.done_bytes)
        except (TierfsError, OSError) as error:
            now = self._tier.catalog.get_by_ino(record.ino)
            if now is None or now.residency in WITHOUT_HOT_BYTES:  # else something replaced the file: it is hot
                restore.error = error
            is_unasked = restore.opener is not ANYBODY  # else the operator's command says it
            if restore.error and is_unasked and not isinstance(error, NotEligible):
                name = os.fsdecode(record.path)
                log.warning("cannot restore %s: %s", name, sentence(error), extra=happened("failure", record.path))
        except BaseException:
            restore.error = NotEligible("tierfs is stopping")
            raise
        finally:
            with suppress(CatalogError):  # the next restore takes it back, or the next mount
                self._tier.restore_aborted(record.ino, sentence(restore.error) if restore.error else "")
            if restore.error and restore.ticket.is_paid and self.limit and not restore.movement.done_bytes:
                self.limit.give_back(restore.ticket.size)
            del self._active[record.ino]
            restore.done.set()

    async def _wait_affordable(self, name: str, restore: _Restore) -> None:
        """Until restore_limit has room for a restore that no operator asked for. OverBudget."""
        ticket, budget = restore.ticket, self.limit
        if budget is None or ticket.is_through:
            return
        began_s = trio.current_time()
        with trio.move_on_after(self.patience_s):
            await budget.pay(ticket, restore.opener.group, name)
        restore.held_ns = int((trio.current_time() - began_s) * 1e9)
        if not ticket.is_through:
            raise OverBudget(
                f"{name}: a write needs its {ticket.size} bytes back, and of restore_limit ({budget.amount} bytes per "
                f"hour) {budget.left()} are left; there is room in {budget.wait_s(ticket.size):.0f} s, or at once "
                "when an operator restores it"
            )

    async def _bring_back(self, record: Record, restore: _Restore) -> None:
        await self._wait_affordable(os.fsdecode(record.path), restore)
        # A sweep may have moved the object before this task began, and an application the file.
        current = self._tier.catalog.get_by_ino(record.ino) or record
        stored, directory = current.object, split(current.path)[0]
        if current.residency is not Residency.RESTORING:
            raise NotEligible("removed or replaced while it waited to be restored")
        if stored is None:
            raise IntegrityError(f"{os.fsdecode(current.path)} has no object")
        self._tier.open_files.opened_object(stored.key)
        try:
            fd = self._tier.hot.temporary(directory)
            try:
                with step("restore.fill"):
                    await self._fill(fd, stored, restore)
                await self._finish(fd, record.ino, stored)
            finally:
                os.close(fd)
        finally:
            self._tier.open_files.closed_object(stored.key)

    async def _finish(self, fd: Fd, ino: Ino, stored: ObjectRef) -> None:
        current = self._tier.catalog.get_by_ino(ino)
        if current is None or current.residency not in WITHOUT_HOT_BYTES:
            raise NotEligible("removed or replaced while it was being restored")
        with step("restore.sync"):
            apply_attributes(fd, current.attributes)
            await trio.to_thread.run_sync(os.fsync, fd)
        with naming(self._tier, ino, fd):
            restored = self._tier.restored(ino, stored, fd)
        self.came_back(ino)
        if restored.attributes != current.attributes:  # somebody changed them during the fsync
            apply_attributes(fd, restored.attributes, before=current.attributes)
            self._tier.refresh_identity(restored.path, ino)
        self._changed(ino)
        with step("restore.sync_names"):
            await sync_directory(self._tier.hot, split(restored.path)[0])

    async def _allocate(self, fd: Fd, size: int) -> None:
        """Have the room for a whole file. OSError (ENOSPC)."""
        try:
            await trio.to_thread.run_sync(os.posix_fallocate, fd, 0, size)
        except OSError as error:
            os.ftruncate(fd, 0)
            if error.errno != errno.ENOSPC or not await self.make_room(size):
                raise
            await trio.to_thread.run_sync(os.posix_fallocate, fd, 0, size)

    async def _fill(self, fd: Fd, stored: ObjectRef, restore: _Restore) -> None:
        digest, offset = hashlib.sha256(), 0

        def write(block: memoryview) -> None:
            digest.update(block)
            view, at = block, offset
            while view:
                written = os.pwrite(fd, view, at)
                view, at = view[written:], at + written

        try:
            async with aclosing(self._objects.stream(stored, restore.opener)) as blocks:
                async for block in blocks:
                    if not offset:  # not before: those that wait for a store that is away would fill the hot tier
                        await self._allocate(fd, stored.size)
                    await trio.to_thread.run_sync(write, block)
                    offset += len(block)
                    restore.movement.reached(offset)
        except ObjectMissing:
            self._tier.missing(stored)
            raise
        if offset != stored.size or (stored.sha256 and digest.digest() != stored.sha256):
            raise IntegrityError(f"{stored.key} does not hold the bytes that were archived")
