"""How many files are in which tier: exact where few are, kept up between looks where many are."""

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assembly import Machine, World
from tests.invariants import walked
from tierfs.core.errors import NotEligible
from tierfs.engine.inventory import Inventory
from tierfs.stores.catalog_rows import Tally

#: What a look at a large tree takes of the processor, nanoseconds.
_LONG_NS = 10**9


def inventory_of(machine: Machine) -> Inventory:
    return Inventory(machine.tier, machine.daemon, machine.restorer.restores, machine.archiver.releases)


def be_large(machine: Machine) -> None:
    """From here on the tree is one that takes a second to look at."""
    assert machine.daemon.look
    machine.daemon.look = replace(machine.daemon.look, cpu_ns=_LONG_NS)


def files_of(tiers: Mapping[str, Tally]) -> dict[str, tuple[int, int]]:
    return {tier: (one.files, one.bytes) for tier, one in tiers.items()}


async def three_files(machine: Machine) -> None:
    """One in each tier, of 1, 2 and 3 bytes."""
    for index, path in enumerate((b"hot", b"warm", b"cold"), start=1):
        await machine.write(path, b"x" * index)
    for path in (b"warm", b"cold"):
        await machine.archiver.archive(path)
    await machine.archiver.release(b"cold")


async def test_a_small_tree_is_counted_whenever_somebody_asks(world: World) -> None:
    async with world.running() as machine:
        inventory = inventory_of(machine)
        await three_files(machine)
        stock = await inventory.count()
        assert files_of(stock.tiers) == {"hot": (1, 1), "warm": (1, 2), "cold": (1, 3)}
        assert stock.is_complete
        await machine.write(b"new", b"1234")
        machine.unlink(b"hot")
        for counted in (await inventory.count(), await inventory.glance()):
            assert files_of(counted.tiers) == {"hot": (1, 4), "warm": (1, 2), "cold": (1, 3)}
            assert counted.as_of_ns >= stock.as_of_ns


async def test_a_large_tree_is_kept_up_with_what_moves(world: World) -> None:
    """Archives, releases and restores show at once; a new file with the next look, and the age is said."""
    async with world.running() as machine:
        inventory = inventory_of(machine)
        await three_files(machine)
        first = await inventory.count()
        be_large(machine)
        await machine.archiver.archive(b"hot")
        await machine.archiver.release(b"warm")
        await machine.restorer.restore(b"cold")
        await machine.write(b"new", b"1234")
        for stock in (await inventory.count(), await inventory.glance()):
            assert files_of(stock.tiers) == {"hot": (0, 0), "warm": (2, 4), "cold": (1, 2)}
            assert stock.as_of_ns == first.as_of_ns
        await machine.daemon.plan()  # as a pass does
        assert files_of((await inventory.count()).tiers) == {"hot": (1, 4), "warm": (2, 4), "cold": (1, 2)}


async def test_those_who_ask_often_have_looks_made_for_a_small_share_of_the_time(world: World) -> None:
    """Of 10 ms each: one in two seconds, however many ask."""
    async with world.running() as machine:
        inventory = inventory_of(machine)
        await three_files(machine)
        await inventory.count()
        assert machine.daemon.look
        await machine.write(b"new", b"1234")
        machine.daemon.look = first = replace(machine.daemon.look, at_ns=world.now(), cpu_ns=10_000_000)
        assert (await inventory.glance()).as_of_ns == first.at_ns
        world.offset_ns += 2 * 10**9
        assert files_of((await inventory.glance()).tiers) == {"hot": (2, 5), "warm": (1, 2), "cold": (1, 3)}


async def test_who_asks_first_waits_for_a_look_and_a_scrape_does_not(world: World) -> None:
    async with world.running() as machine:
        inventory = inventory_of(machine)
        await three_files(machine)
        stock = await inventory.glance()
        assert files_of(stock.tiers) == {"warm": (1, 2), "cold": (1, 3)}
        assert not stock.is_complete
        assert files_of((await inventory.count()).tiers) == {"hot": (1, 1), "warm": (1, 2), "cold": (1, 3)}


async def test_a_large_tree_is_looked_at_where_no_policy_does(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with world.running() as machine:
        inventory = inventory_of(machine)
        await three_files(machine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inventory.run, 60.0)
            while machine.daemon.look is None:
                await trio.sleep(1)
            be_large(machine)
            world.offset_ns += 121 * 10**9
            while machine.daemon.look.cpu_ns == _LONG_NS:
                await trio.sleep(1)
            nursery.cancel_scope.cancel()


async def test_a_scrape_does_not_wait_for_a_large_catalog(world: World, autojump_clock: trio.testing.MockClock) -> None:
    """It is told what was read last; somebody reads every few seconds."""
    async with world.running() as machine:
        inventory = inventory_of(machine)
        await three_files(machine)
        await inventory.count()
        machine.unlink(b"cold")
        inventory._cost_ns = _LONG_NS
        assert files_of((await inventory.glance()).tiers)["cold"] == (1, 3)
        assert files_of((await inventory.count()).tiers)["cold"] == (0, 0)
        assert files_of((await inventory.glance()).tiers)["cold"] == (0, 0)
        inventory._cost_ns = _LONG_NS
        await machine.archiver.release(b"warm")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inventory.run, 60.0)
            while inventory._cost_ns == _LONG_NS:
                await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert files_of((await inventory.glance()).tiers)["cold"] == (1, 2)


async def test_what_the_bucket_owes_is_counted(world: World) -> None:
    async with world.running() as machine:
        inventory = inventory_of(machine)
        await three_files(machine)
        await machine.rename(b"cold", b"elsewhere")
        machine.unlink(b"warm")
        stock = await inventory.count()
        assert (stock.deletions, stock.moves) == (1, 1)
        machine.tier.missing(machine.tier.cold_record(b"elsewhere").object)  # type: ignore[union-attr, arg-type]
        stock = await inventory.count()
        assert (stock.lost, stock.moves) == (Tally(1, 3), 0)
        assert files_of(stock.tiers)["cold"] == (1, 3)


async def test_a_file_with_several_names_takes_its_room_once(world: World) -> None:
    """Each name is a file of its own to who counts, as it is to find(1); a backup of hard links is not a full disk."""
    async with world.running() as machine:
        await machine.write(b"one", b"x" * 3 * 4096)
        for name in (b"two", b"three"):
            await machine.link(b"one", name)
        stock = await inventory_of(machine).count()
        assert files_of(stock.tiers)["hot"] == (3, 3 * 3 * 4096)
        assert stock.held == min(3 * 4096, (world.hot / "one").stat().st_blocks * 512) // 3 * 3


async def test_movements_are_counted_by_what_came_of_them(world: World) -> None:
    async with world.running() as machine:
        await three_files(machine)
        archives, releases, restores = machine.archiver.archives, machine.archiver.releases, machine.restorer.restores
        assert (archives.done, archives.bytes, releases.done, releases.bytes) == (2, 5, 1, 3)
        await machine.restorer.restore(b"cold")
        assert (restores.done, restores.bytes) == (1, 3)
        with pytest.raises(NotEligible):
            await machine.archiver.archive(b"warm")
        assert (archives.refused, archives.failed) == (1, 0)


VERBS = st.sampled_from(["archive", "release", "restore", "policy", "restart"])


@given(st.lists(st.tuples(VERBS, st.integers(0, 2)), max_size=12))
@settings(max_examples=12)
def test_whatever_tierfs_moves_the_sums_of_an_old_look_hold(moves: list[tuple[str, int]]) -> None:
    """Between two looks at a large tree, and from the first look of each worker on."""
    with tempfile.TemporaryDirectory() as home:
        trio.run(_move_and_count, World(Path(home) / "world"), moves)


async def _move_and_count(world: World, moves: list[tuple[str, int]]) -> None:
    paths = b"a", b"b", b"c"
    async with world.running() as machine:
        for index, path in enumerate(paths):
            await machine.write(path, b"x" * (1 << index))
    left = [*moves, ("restart", 0)]
    while left:
        async with world.running() as machine:
            inventory = inventory_of(machine)
            await inventory.count()
            while (move := left.pop(0))[0] != "restart":
                verb, index = move
                be_large(machine)
                with suppress(NotEligible, FileNotFoundError):  # there already
                    await (machine.daemon.run_pass() if verb == "policy" else getattr(machine, verb)(paths[index]))
                be_large(machine)
                assert files_of((await inventory.count()).tiers) == walked(machine)
