"""Check: every disagreement has a name and a remedy; a repair mends it and never takes the last copy of bytes away."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import trio

from tests.assembly import PREFIX, Machine, World
from tests.invariants import check_invariants
from tests.t2_engine.hydration import settled
from tests.t2_engine.test_recover import picture, prepare
from tierfs.core.errors import AccessDenied, NotEligible, ObjectMissing, StoreUnavailable
from tierfs.core.records import ObjectRef
from tierfs.core.reports import CheckOrder, Finding, Outcome, Total
from tierfs.core.residency import Residency
from tierfs.engine.check import Checker
from tierfs.engine.throttle import Throttle

DEEP = CheckOrder(is_deep=True)
REPAIR = CheckOrder(is_repairing=True)
DEEP_REPAIR = CheckOrder(is_deep=True, is_repairing=True)

Damage = Callable[[World, Machine], None]


def stored(machine: Machine, path: bytes) -> ObjectRef:
    record = machine.catalog.get(path)
    assert record
    assert record.object
    return record.object


def take_object(world: World, _machine: Machine) -> None:
    world.memory.delete(PREFIX + "a")


def overwrite_object(world: World, _machine: Machine) -> None:
    world.memory._store(PREFIX + "a", b"by somebody else", {})


def rot(world: World, _machine: Machine) -> None:
    """The bytes change, and nobody says so."""
    info, body = world.memory._objects[PREFIX + "a"]
    world.memory._objects[PREFIX + "a"] = info, body[:-1] + b"?"


def take_hot_bytes(world: World, _machine: Machine) -> None:
    (world.hot / "a").unlink()


def put_hot_bytes(world: World, _machine: Machine) -> None:
    (world.hot / "a").write_bytes(b"hot")


def bury(_world: World, machine: Machine) -> None:
    machine.catalog.bury(PREFIX + "a", 1)


def put_stranger(world: World, _machine: Machine) -> None:
    world.memory._store(PREFIX + "d/stranger", b"12345", {})


CASES: dict[str, tuple[str, Damage, str, bytes, Residency | None]] = {
    # name: state before, what happens, what is found, the path that is named, residency of `a` after the repair
    "cold, object gone": ("cold", take_object, "object-missing", b"a", Residency.LOST),
    "mirrored, object gone": ("mirrored", take_object, "object-missing", b"a", Residency.HOT),
    "mirrored, overwritten": ("mirrored", overwrite_object, "object-changed", b"a", Residency.HOT),
    "mirrored, hot bytes gone": ("mirrored", take_hot_bytes, "hot-missing", b"a", Residency.COLD),
    "stale, hot bytes gone": ("stale", take_hot_bytes, "hot-missing", b"a", Residency.LOST),
    "cold, hot bytes there": ("cold", put_hot_bytes, "hot-unexpected", b"a", Residency.HOT),
    "cold, to be deleted": ("cold", bury, "object-doomed", b"a", Residency.COLD),
    "an object of others": ("cold", put_stranger, "object-unknown", b"d/stranger", Residency.COLD),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_disagreement_is_named_and_repaired(world: World, name: str) -> None:
    state, damage, what, path, after = CASES[name]
    async with world.running() as machine:
        await prepare(machine, b"a", state)
        damage(world, machine)
        objects = world.memory.objects
        [found] = await machine.check()
        assert (found.what, found.path, found.repaired) == (what, path, "")
        assert found.meaning
        assert found.remedy
        [repaired] = await machine.check(REPAIR)
        assert repaired.repaired
        assert replace(repaired, repaired="") == found
        assert machine.residency(b"a") is after
        assert world.memory.objects == objects, "no repair touches the bucket"
        left = await machine.check()
        assert [finding.what for finding in left] == (["lost"] if after is Residency.LOST else [])


@pytest.mark.parametrize(
    ("damage", "what"), [(overwrite_object, "object-changed"), (rot, "object-damaged")], ids=["overwritten", "rotten"]
)
async def test_what_cannot_be_repaired_is_left_as_it_is(world: World, damage: Damage, what: str) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        damage(world, machine)
        for order in (DEEP, DEEP_REPAIR):
            [found] = await machine.check(order)
            assert (found.what, found.path, found.repaired) == (what, b"a", "")
        assert machine.residency(b"a") is Residency.COLD


async def test_an_object_that_is_there_again_is_found(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        before = world.memory._objects.pop(PREFIX + "a")
        await machine.check(REPAIR)
        assert machine.residency(b"a") is Residency.LOST
        world.memory._objects[PREFIX + "a"] = before
        [found] = await machine.check(REPAIR)
        assert (found.what, bool(found.repaired)) == ("lost", True)
        assert await machine.contents() == {b"a": b"first of a"}
        check_invariants(machine)


async def test_a_directory_that_is_gone_is_made_again(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"d", "directory")
        await prepare(machine, b"d/a", "cold")
        os.rmdir(world.hot / "d")
        machine.hot.forget(b"d")
        [found] = await machine.check(REPAIR)
        assert (found.what, found.path) == ("directory-missing", b"d/a")
        assert await machine.contents() == {b"d/a": b"first of d/a"}
        assert not await machine.check()


async def test_deep_reads_every_object_that_a_file_needs(world: World) -> None:
    async with world.running() as machine:
        for state in ("cold", "mirrored", "plain"):
            await prepare(machine, state.encode(), state)
        before = world.memory.counters.bytes_downloaded
        reports = [report async for report in Checker(machine.tier, machine.cold, True, print).run(DEEP)]
        size = len(b"first of cold") + len(b"first of mirrored")
        assert reports[0] == Total(2, size)
        assert {report.path for report in reports if isinstance(report, Outcome)} == {b"cold", b"mirrored"}
        assert not [report for report in reports if isinstance(report, Finding)]
        assert world.memory.counters.bytes_downloaded - before == size


async def test_a_rotten_object_of_a_mirrored_file_is_archived_again(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "mirrored")
        rot(world, machine)
        assert not await machine.check(), "only reading it tells"
        [found] = await machine.check(DEEP_REPAIR)
        assert (found.what, bool(found.repaired)) == ("object-damaged", True)
        await machine.release(b"a")
        assert not await machine.check(DEEP)
        assert await machine.contents() == {b"a": b"first of a"}


async def test_wrong_crcs_in_the_catalog_are_found(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        record = machine.catalog.get(b"a")
        assert record
        machine.catalog.put(replace(record, object=replace(stored(machine, b"a"), crcs=bytes(12))))
        [found] = await machine.check(DEEP)
        assert found.what == "object-damaged"
        assert "CRC-32" in found.meaning


async def test_an_object_that_may_not_be_read_does_not_end_a_deep_check(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        await prepare(machine, b"b", "cold")
        rot(world, machine)
        world.store.fail("get", AccessDenied("the store says no"), key=PREFIX + "b")
        found = {(finding.what, finding.path) for finding in await machine.check(DEEP)}
        assert found == {("object-damaged", b"a"), ("object-unreadable", b"b")}


async def test_a_store_that_fails_for_a_moment_does_not_end_a_deep_check(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        world.store.fail("get", StoreUnavailable("down"), times=2)
        assert not await machine.check(DEEP)
        world.store.fail("get", StoreUnavailable("down"), times=3)
        with pytest.raises(StoreUnavailable):
            await machine.check(DEEP)


async def test_a_listing_that_is_older_than_the_bucket_is_asked_again(world: World) -> None:
    """Archived, or removed, while the listing is looked at."""
    async with world.running() as machine:
        await prepare(machine, b"removed", "cold")
        listed = machine.cold.objects

        async def listing(prefix: str):  # type: ignore[no-untyped-def]
            async for batch in listed(prefix):
                await prepare(machine, b"new", "cold")
                machine.unlink(b"removed")
                await machine.sweep()
                yield batch

        machine.cold.objects = listing  # type: ignore[method-assign]
        assert not await machine.check()


@contextmanager
def damaged_cache(world: World, how: str) -> Iterator[None]:
    values = list((world.state / "cache").glob("?/*.val"))
    assert values
    for path in values:
        if how == "gone":
            path.unlink()
        elif how == "short":
            os.truncate(path, 5)
        else:
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"?")
    yield


@pytest.mark.parametrize(("how", "order"), [("gone", REPAIR), ("short", REPAIR), ("rotten", DEEP_REPAIR)])
async def test_damaged_chunks_are_dropped(world: World, how: str, order: CheckOrder) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        assert await machine.read(b"a") == b"first of a"
        await settled(machine.hydrator)
        with damaged_cache(world, how):
            [found] = await machine.check(replace(order, is_repairing=False))
            assert (found.what, found.path) == ("cache-damaged", b"")
            [found] = await machine.check(order)
            assert found.repaired
            assert not await machine.check(order)
            assert machine.cache.cached_bytes(stored(machine, b"a")) == 0
            assert await machine.read(b"a") == b"first of a"


async def test_a_read_only_mount_is_not_repaired(world: World) -> None:
    world.settings = world.settings.model_copy(update={"read_only": True})
    async with world.running() as machine:
        with pytest.raises(NotEligible, match="read-only"):
            await machine.check(REPAIR)


async def test_a_check_disturbs_nobody_and_invents_nothing(world: World) -> None:
    """Files are archived, written, removed and renamed while check after check, deep and repairing, looks at them."""
    async with world.running() as machine:
        for number in range(8):
            await prepare(machine, b"f%d" % number, ("cold", "mirrored", "plain", "stale")[number % 4])
        is_over = False

        async def work() -> None:
            nonlocal is_over
            for turn in range(12):
                path = b"f%d" % (turn % 8)
                if turn % 3 == 0:
                    await machine.write(path, b"turn %d" % turn)
                try:
                    await machine.release(path)
                except (NotEligible, FileNotFoundError, ObjectMissing):
                    pass
                if turn % 4 == 1:
                    await machine.rename(path, b"f%d" % ((turn + 1) % 8))
                    await machine.write(path, b"again")
                await machine.sweep()
            is_over = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            while not is_over:
                checker = Checker(machine.tier, machine.cold, True, lambda _path: None)
                found = [one async for one in checker.run(DEEP_REPAIR) if isinstance(one, Finding)]
                assert not found
        before = await picture(machine)
        check_invariants(machine)
        assert not await machine.check(DEEP)
        assert await picture(machine) == before


def test_a_throttle_counts_what_all_spend() -> None:
    stop = _Stop()
    throttle = Throttle(clock=lambda: 5 * 10**9)
    for _ in range(3):
        throttle.spend(1 << 20, 1 << 20, stop)  # type: ignore[arg-type]
    throttle.spend(1 << 30, 0, stop)  # type: ignore[arg-type]
    assert stop.pauses == [0, 1, 2]


class _Stop:
    """An Event that is never set, and remembers how long it was waited for."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def wait(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
