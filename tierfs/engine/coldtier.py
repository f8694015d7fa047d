"""The cold tier as the engine sees it: the store's objects, and chunks of them by way of the cache. All of it waits."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import outcome
import trio

from tierfs.core.errors import StoreUnavailable
from tierfs.core.extents import Item
from tierfs.core.records import Attributes, Fd, ObjectRef
from tierfs.core.reports import LeaseReport
from tierfs.engine.arena import Slot
from tierfs.engine.calls import Call, Calls
from tierfs.engine.coldside import ColdNumbers
from tierfs.engine.snapshot import Order, Taken
from tierfs.stores.cold import Deleted, ObjectInfo

_COMING_UP_S = 15.0  # an interpreter, boto3 and the first connection, on a busy machine

#: Told that one chunk is in its slot, verified; answers whether the others are still wanted.
Landed = Callable[[int], bool]


def upload_of(
    fd: Fd,
    key: str,
    attributes: Attributes,
    chunk_size: int,
    bytes_per_second: int = 0,
    sent: Callable[[int], None] | None = None,
) -> Call:
    """An upload for ColdTier.put: the bytes of an open file become an object, which is verified; end() stops it.

    All uploads together send no more than `bytes_per_second`, on average; 0: no limit. `sent` is told now and then how
    many bytes have left.
    """

    def moved(size: int) -> bool:
        if sent:
            sent(size)
        return True

    return Call("put", key, attributes, chunk_size, bytes_per_second, fd=fd, on_event=moved)


class ColdTier:
    """Every method raises StoreError; stores.cold.ColdStore says which. Cancelled, it does not wait for the store."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    # -- objects -------------------------------------------------------------------------------------------------

    async def head(self, key: str) -> ObjectInfo:
        """Describe one object."""
        return cast(ObjectInfo, await self._run("head", key))

    async def confirm(self, key: str) -> ObjectInfo:
        """head(), for who is about to rely on the object alone. NoLease when another mount may take it away."""
        return cast(ObjectInfo, await self._run("confirm", key))

    async def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        """Copy an object inside the store; what a HEAD of the copy says."""
        return cast(ObjectInfo, await self._run("copy", source, key))

    async def delete(self, key: str) -> None:
        """Delete an object; deleting one that is not there succeeds."""
        await self._run("delete", key)

    async def delete_many(self, keys: Sequence[str]) -> Deleted:
        """Delete objects with as few requests as the store takes; what became of each. What is raised is about all."""
        return cast(Deleted, await self._run("delete_many", keys))

    async def objects(self, prefix: str) -> AsyncGenerator[list[ObjectInfo], None]:
        """All objects whose key begins with `prefix`, many at a time; close it with aclosing()."""
        listing = await self._run("list_open", prefix)
        try:
            while batch := cast(list[ObjectInfo], await self._run("list_more", listing)):
                yield batch
        finally:
            with trio.CancelScope(shield=True), suppress(StoreUnavailable):
                await self._run("list_close", listing)

    async def put(self, call: Call) -> ObjectRef:
        """Run an upload (see upload_of), and wait for its end even when cancelled, which ends it soon.

        NotEligible when the bytes change meanwhile or the upload is ended, OSError of the file.
        """
        return cast(ObjectRef, await self._run_to_its_end(call))

    async def sha256(self, fd: Fd, size: int) -> bytes:
        """Read a whole file where it is not felt; its SHA-256. NotEligible when it is shorter than `size`, OSError."""
        return cast(bytes, await self._run_to_its_end(Call("sha256", size, fd=fd)))

    async def take_lease(self, is_forced: bool) -> LeaseReport | None:
        """Ask for the right to write to the store, which is then kept; None for a mount that writes nothing."""
        return cast(LeaseReport | None, await self._run("take_lease", is_forced))

    async def come_up(self) -> None:
        """Wait until the cold side of a worker that has just begun is there, some seconds at most."""
        with trio.move_on_after(_COMING_UP_S):
            await self._calls.ready.wait()

    async def tidy(self) -> None:
        """Remove what uploads of this mount have left in the store, and nobody goes on with."""
        await self._run("tidy")

    async def probe(self) -> tuple[str, ...]:
        """The self-test of the store: in sentences, what it cannot do."""
        return cast(tuple[str, ...], await self._run("probe"))

    # -- snapshots, and what check asks --------------------------------------------------------------------------

    async def take_snapshot(self, root: Fd, order: Order) -> Taken:
        """Put a snapshot of the tree whose hot directory is `root` into the bucket. CatalogError, OSError."""
        return cast(Taken, await self._calls.run(Call("take_snapshot", order, fd=root)))

    async def snapshots(self, prefix: str) -> list[ObjectInfo]:
        """The snapshots in the bucket, the newest first."""
        return cast(list[ObjectInfo], await self._run("snapshots", prefix))

    async def download(self, target: Fd, key: str) -> None:
        """Bring an object into an open, empty file. OSError."""
        await self._calls.run(Call("download", key, fd=target))

    async def verify(self, ref: ObjectRef, bytes_per_second: int) -> None:
        """Read an object back and compare it with its record. IntegrityError when it is not what was archived."""
        await self._run("verify", ref, bytes_per_second)

    async def inspect_catalog(self, path: Path) -> list[str]:
        """What SQLite finds wrong with the catalog. CatalogError."""
        return cast(list[str], await self._run("inspect_catalog", path))

    async def inspect_cache(self, *, is_deep: bool, is_repaired: bool) -> int:
        """How many chunks of the cache are damaged; they are dropped if that is wanted."""
        return cast(int, await self._run("inspect_cache", is_deep, is_repaired))

    # -- chunks --------------------------------------------------------------------------------------------------

    async def load(self, item: Item, slots: Mapping[int, Slot], landed: Landed) -> None:
        """Bring those chunks that the cache has into their slots. One that is away for the moment has none."""
        with suppress(StoreUnavailable):
            await self._bring("load", item, slots, landed)

    async def fetch(self, item: Item, slots: Mapping[int, Slot], landed: Landed, *, is_kept: bool) -> None:
        """Fetch contiguous chunks with one GET into their slots; the cache has them afterwards if they are to be kept.

        IntegrityError when a chunk does not have its CRC or the body ends early: what landed before is good.
        """
        await self._bring("fetch", item, slots, landed, is_kept)

    async def bring(self, item: Item, slots: Mapping[int, Slot], found: Landed, landed: Landed) -> None:
        """Bring contiguous chunks into their slots: those that the cache has (`found`), the others with one GET.

        Less than load() and then fetch(), for who has a GET to spare while the cache is asked. IntegrityError as there.
        """
        await self._bring("bring", item, slots, lambda event: (found if event[1] else landed)(event[0]))

    async def evict(self, ref: ObjectRef | None) -> int:
        """Drop the chunks of one object, or of all, from the cache; returns how many there were."""
        return cast(int, await self._run("evict", ref))

    async def cached_bytes(self, ref: ObjectRef) -> int:
        """How many bytes of an object the cache has; none, while it is away for the moment."""
        with suppress(StoreUnavailable):
            return cast(int, await self._run("cached_bytes", ref))
        return 0

    async def cached_files(self, item: Item, most: int) -> dict[int, str]:
        """In which files the cache has chunks of an object, by index, at most so many; none while it is away."""
        with suppress(StoreUnavailable):
            return cast(dict[int, str], await self._run("cached_files", item, most))
        return {}

    async def mark_used(self, item: Item, indices: set[int]) -> None:
        """Chunks were read from their files: the cache is to keep them."""
        with suppress(StoreUnavailable):
            await self._run("mark_used", item, indices)

    async def numbers(self) -> ColdNumbers:
        """Totals since the cold side was started."""
        return cast(ColdNumbers, await self._run("numbers"))

    # -- inside --------------------------------------------------------------------------------------------------

    async def _run(self, name: str, *arguments: object) -> object:
        return await self._calls.run(Call(name, *arguments))

    async def _run_to_its_end(self, call: Call) -> object:
        """For calls that use a descriptor of the caller: cancelled, they are ended, and waited for."""
        ended: list[outcome.Outcome[object]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_cancelled, call)
            with trio.CancelScope(shield=True):
                ended.append(await outcome.acapture(self._calls.run, call))
            nursery.cancel_scope.cancel()
        return ended[0].unwrap()

    async def _bring(
        self, name: str, item: Item, slots: Mapping[int, Slot], on_event: Callable[[Any], bool], *more: object
    ) -> None:
        places = {index: slot.place for index, slot in slots.items()}
        call = Call(name, item, places, *more, on_event=on_event, kept=list(slots.values()))
        await self._calls.run(call)


async def _end_when_cancelled(call: Call) -> None:
    try:
        await trio.sleep_forever()
    finally:
        call.end()
