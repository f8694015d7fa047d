"""Leaving: everything comes back, stays, and is asked for only where there is room for it."""

from dataclasses import replace

import pytest
import trio

from tests.assembly import Machine, World
from tests.invariants import check_invariants
from tests.t2_engine.test_service import collect, operator_of
from tierfs.core.errors import NotEligible
from tierfs.core.reports import Outcome, Total
from tierfs.core.residency import Residency

NAMES = [b"a", b"d/b", b"d/e/c"]
CONTENTS = {name: b"content of " + name for name in NAMES}


async def prepare(machine: Machine) -> None:
    machine.mkdir(b"d")
    machine.mkdir(b"d/e")
    for name, content in CONTENTS.items():
        await machine.write(name, content)
        await machine.release(name)
    await machine.hydrator.evict(None)


async def test_everything_comes_back_and_stays(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine)
        total, *outcomes = await collect(operator_of(machine).leave())
        assert total == Total(3, sum(map(len, CONTENTS.values())))
        assert sorted((one.path, one.result) for one in outcomes if isinstance(one, Outcome)) == [
            (name, "done") for name in NAMES
        ]
        await machine.write(b"old", b"never archived")
        world.offset_ns += 10**18
        await machine.daemon.run_pass()
        assert {machine.residency(name) for name in NAMES} == {Residency.MIRRORED}
        assert machine.residency(b"old") is Residency.HOT
        check_invariants(machine)
    assert {name: (world.hot / name.decode()).read_bytes() for name in NAMES} == CONTENTS
    async with world.running() as machine:
        await machine.daemon.run_pass()
        assert {machine.residency(name) for name in NAMES} == {Residency.MIRRORED}
        await collect(operator_of(machine).unpin([b""]))
        await machine.daemon.run_pass()
        assert {machine.residency(name) for name in NAMES} == {Residency.COLD}


async def test_what_was_interrupted_goes_on_when_it_is_asked_for_again(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine)
        world.held.hold("get")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(collect, operator_of(machine).leave())
                await trio.to_thread.run_sync(world.held.wait_until_waiting)
                scope.cancel()
        world.held.release()
    async with world.running() as machine:
        assert machine.tier.pins.cover(b"a")
        await machine.restore(b"a")
        _, *outcomes = await collect(operator_of(machine).leave())
        assert {one.path: one.result for one in outcomes if isinstance(one, Outcome)} == {
            b"a": "unchanged",
            b"d/b": "done",
            b"d/e/c": "done",
        }
        assert await machine.contents() == CONTENTS
        check_invariants(machine)


async def test_where_there_is_no_room_nothing_begins(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine)
        record = machine.catalog.get(b"a")
        assert record is not None
        machine.catalog.put(replace(record, attributes=replace(record.attributes, size=1 << 60)))
        with pytest.raises(NotEligible, match=r"3 cold files take \d+MiB, and the hot tier has \d+MiB free: make room"):
            await collect(operator_of(machine).leave())
        assert not machine.tier.pins.cover(b"a")
        assert machine.residency(b"d/b") is Residency.COLD
        machine.catalog.put(record)
