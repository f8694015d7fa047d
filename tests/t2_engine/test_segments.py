"""Segments over real files: moved as one, whatever fails, is open, or is asked for by an operator."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.assembly import PREFIX, SETTINGS, Machine, World
from tests.invariants import check_invariants
from tests.t2_engine.test_service import collect, entry, operator_of
from tierfs.core.config import Settings
from tierfs.core.errors import AccessDenied, StoreUnavailable
from tierfs.core.reports import Outcome
from tierfs.core.residency import Residency
from tierfs.engine.room import Room

HOT, MIRRORED, COLD = Residency.HOT, Residency.MIRRORED, Residency.COLD
HOUR_NS = 3600 * 10**9
SEGMENTS = SETTINGS.model_copy(update={"segments": ("*.log", "*.index", "*.snapshot")})
KAFKA = SEGMENTS.model_copy(update={"keep_hot": ("*.index", "*.snapshot"), "keep_newest": 1})
LOG, INDEX, SNAPSHOT = b"t-0/1.log", b"t-0/1.index", b"t-0/1.snapshot"
NEXT = b"t-0/2.log"


@pytest.fixture
def world(swift_path: Path) -> World:
    return World(swift_path / "world", SEGMENTS)


def content(path: bytes) -> bytes:
    """What is in a file: more in a log than in its index."""
    return path * (3 if path.endswith(b".log") else 1)


async def wrote(machine: Machine, *paths: bytes) -> None:
    """Files with contents of their own."""
    machine.mkdir(b"t-0")
    for path in paths:
        await machine.write(path, content(path))


def residencies(machine: Machine, *paths: bytes) -> list[Residency]:
    return [machine.residency(path) for path in paths]


async def results(moved: AsyncIterator[object]) -> dict[bytes, tuple[str, str]]:
    return {one.path: (one.result, one.reason) for one in await collect(moved) if isinstance(one, Outcome)}


async def wait_until_idle(machine: Machine) -> None:
    """Until no restore is under way, or about to begin."""
    with trio.fail_after(60):
        await trio.testing.wait_all_tasks_blocked()
        while machine.restorer.active():
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_a_segment_goes_and_comes_as_one(world: World) -> None:
    async with world.running() as machine:
        await wrote(machine, LOG, INDEX)
        world.offset_ns = 2 * HOUR_NS
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [MIRRORED, MIRRORED]
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [COLD, COLD]
        outcomes = await results(operator_of(machine).move("restore", [INDEX], recursive=False))
        assert outcomes == {LOG: ("done", ""), INDEX: ("done", "")}
        assert await machine.read(LOG) == content(LOG)
        check_invariants(machine)


async def test_a_member_that_is_written_to_holds_the_others_back_and_is_named(world: World) -> None:
    async with world.running() as machine:
        await wrote(machine, LOG, INDEX)
        writer = await machine.open(INDEX, os.O_WRONLY)
        world.offset_ns = 2 * HOUR_NS
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [HOT, HOT]
        operator = operator_of(machine)
        assert (await entry(operator, LOG)).reason == "its segment waits for 1.index: open for writing"
        assert (await entry(operator, INDEX)).reason == "open for writing"
        writer.close()
        assert [(one.verb, one.path) for one in await operator.plan()] == [("archive", LOG), ("archive", INDEX)]
        await machine.daemon.run_pass()
        reader = await machine.open(INDEX, os.O_RDONLY)
        world.offset_ns = 3 * HOUR_NS
        assert (await entry(operator, LOG)).reason == "its segment waits for 1.index: open"
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [MIRRORED, MIRRORED]
        reader.close()


async def test_when_the_data_cannot_be_archived_nothing_of_the_segment_is(world: World) -> None:
    """An index without its log is of no use in the bucket; the next try takes both."""
    async with world.running() as machine:
        await wrote(machine, LOG, INDEX, NEXT)
        world.offset_ns = HOUR_NS
        world.store.fail("put", AccessDenied("not this one"), key=PREFIX + os.fsdecode(LOG))
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX, NEXT) == [HOT, HOT, MIRRORED]
        assert machine.daemon.passes.failed == 1
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [HOT, HOT]
        assert "its segment waits for 1.log: failed" in (await entry(operator_of(machine), INDEX)).reason
        world.offset_ns += HOUR_NS
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [MIRRORED, MIRRORED]


async def test_a_segment_with_a_member_that_failed_is_not_released(world: World) -> None:
    async with world.running() as machine:
        await wrote(machine, LOG, INDEX)
        world.offset_ns = 3 * HOUR_NS
        world.store.fail("put", StoreUnavailable("down"), key=PREFIX + os.fsdecode(INDEX))
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [MIRRORED, HOT]
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [MIRRORED, HOT]
        world.offset_ns += HOUR_NS
        await machine.daemon.run_pass()
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [COLD, COLD]


async def test_a_member_that_finds_a_use_keeps_the_whole_segment(world: World) -> None:
    """It was opened after the plan was made, and stands behind the data in it."""
    async with world.running() as machine:
        await wrote(machine, LOG, INDEX)
        await machine.archive(LOG, INDEX)
        world.offset_ns = 3 * HOUR_NS
        actions = await machine.daemon.plan()
        reader = await machine.open(INDEX, os.O_RDONLY)
        await machine.daemon.release(actions)
        assert residencies(machine, LOG, INDEX) == [MIRRORED, MIRRORED]
        reader.close()
        await machine.daemon.release(actions)
        assert residencies(machine, LOG, INDEX) == [COLD, COLD]


async def test_a_release_that_was_cut_off_is_gone_on_with(world: World) -> None:
    async with world.running() as machine:
        await wrote(machine, LOG, INDEX)
        await machine.archive(LOG, INDEX)
        await machine.release(LOG)
    async with world.running() as machine:
        world.offset_ns = 3 * HOUR_NS
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX) == [COLD, COLD]


async def test_side_files_that_are_kept_hot(world: World) -> None:
    """They get their copy, and an operator who names one may release it; -r lets them be."""
    world.settings = KAFKA
    async with world.running() as machine:
        operator = operator_of(machine)
        await wrote(machine, LOG, INDEX, SNAPSHOT, NEXT)
        world.offset_ns = 3 * HOUR_NS
        reader = await machine.open(INDEX, os.O_RDONLY)
        await machine.daemon.run_pass()
        await machine.daemon.run_pass()
        assert residencies(machine, LOG, INDEX, SNAPSHOT, NEXT) == [COLD, MIRRORED, MIRRORED, HOT]
        assert (await entry(operator, INDEX)).reason == "kept hot by a pattern"
        assert (await entry(operator, NEXT)).reason == "one of the newest segments (keep_newest is 1)"
        reader.close()
        assert await results(operator.move("release", [b"t-0"], recursive=True)) == {
            LOG: ("unchanged", ""),
            INDEX: ("unchanged", "kept hot by a pattern"),
            SNAPSHOT: ("unchanged", "kept hot by a pattern"),
            NEXT: ("done", ""),
        }
        assert await results(operator.move("release", [INDEX], recursive=False)) == {INDEX: ("done", "")}
        assert residencies(machine, INDEX, SNAPSHOT) == [COLD, MIRRORED]
        check_invariants(machine)


async def test_an_operator_moves_what_belongs_to_a_file(world: World) -> None:
    """Without what stays hot for good; that what was not named cannot move is no failure."""
    world.settings = KAFKA.model_copy(update={"keep_hot": ("*.index",)})
    async with world.running() as machine:
        operator = operator_of(machine)
        await wrote(machine, LOG, INDEX, SNAPSHOT)
        machine.tier.pins.add(SNAPSHOT)
        assert set(await results(operator.move("archive", [LOG], recursive=False))) == {LOG, INDEX}
        machine.tier.pins.discard(SNAPSHOT)
        reader = await machine.open(SNAPSHOT, os.O_RDONLY)
        assert await results(operator.move("release", [LOG], recursive=False)) == {
            LOG: ("done", ""),
            SNAPSHOT: ("unchanged", "open"),
        }
        reader.close()
        check_invariants(machine)


async def test_a_write_to_the_log_brings_its_indexes_in_the_background(world: World) -> None:
    """What is larger, and other segments, stay where they are."""
    async with world.running() as machine:
        await wrote(machine, LOG, INDEX, NEXT)
        await machine.release(LOG, INDEX, NEXT)
        writer = await machine.open(LOG, os.O_WRONLY)
        await writer.write(0, b"A")
        writer.close()
        await wait_until_idle(machine)
        assert residencies(machine, LOG, INDEX, NEXT) == [HOT, MIRRORED, COLD]
        check_invariants(machine)


async def test_a_write_to_an_index_does_not_bring_the_log(world: World) -> None:
    async with world.running() as machine:
        await wrote(machine, LOG, INDEX)
        await machine.release(LOG, INDEX)
        await machine.truncate(INDEX, 3)
        await wait_until_idle(machine)
        assert residencies(machine, LOG, INDEX) == [COLD, HOT]


async def test_a_writer_gets_its_file_although_the_others_cannot_come(world: World) -> None:
    async with world.running() as machine:
        await wrote(machine, LOG, INDEX)
        await machine.release(LOG, INDEX)
        world.store.fail("get", AccessDenied("not yours"), times=None, key=PREFIX + os.fsdecode(INDEX))
        await machine.truncate(LOG, 3)
        await wait_until_idle(machine)
        assert residencies(machine, LOG, INDEX) == [HOT, COLD]
        world.store.heal()
        assert await machine.read(INDEX) == content(INDEX)
        check_invariants(machine)


@pytest.mark.parametrize("keep_newest", [0, 1])
async def test_the_watermark_takes_whole_segments(swift_path: Path, keep_newest: int) -> None:
    """The oldest first, the newest not at all; as old as its youngest member."""
    marks = {"high_watermark": "45B", "low_watermark": "20B", "cold_after": "100h", "keep_newest": keep_newest}
    world = World(swift_path / "world", Settings.of(**(SEGMENTS.model_dump() | marks)))
    async with world.running() as machine:
        machine.mkdir(b"t-0")
        ages = {b"1.log": 9, b"1.index": 1, b"2.log": 3, b"2.index": 8, b"3.log": 9}
        for name, age in ages.items():
            await machine.write(b"t-0/" + name, b"ten bytes!")
            await machine.change(b"t-0/" + name, mtime_ns=world.now() - age * 10**9)
        await machine.archive(*[b"t-0/" + name for name in ages])
        await machine.daemon.run_pass()
        cold = {name for name in ages if machine.residency(b"t-0/" + name) is COLD}
        oldest = {b"2.log", b"2.index", b"3.log"}
        assert cold == ({b"1.log", b"1.index", b"2.log", b"2.index"} if keep_newest else oldest)


async def test_room_is_made_of_whole_segments(world: World) -> None:
    """What holds a segment back is not MIRRORED, and so not among what the catalog calls so."""
    world.settings = SEGMENTS.model_copy(update={"keep_newest": 1})
    async with world.running() as machine:
        room = Room(machine.tier, machine.daemon, world.settings)
        await wrote(machine, LOG, INDEX, NEXT, b"t-0/3.log")
        await machine.archive(LOG, NEXT, b"t-0/3.log")
        writer = await machine.open(INDEX, os.O_WRONLY)
        assert [file.path for file in await room._mirrored() if file.residency is HOT] == [INDEX]
        await room.make(1 << 62)
        assert residencies(machine, LOG, INDEX, NEXT, b"t-0/3.log") == [MIRRORED, HOT, COLD, MIRRORED]
        writer.close()
