"""Snapshots: when they are taken, that they are whole, how many stay, and that nobody has to wait for them."""

import gzip
import json
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.assembly import PREFIX, Machine, World, meanwhile
from tests.t2_engine.test_recover import prepare
from tierfs.core.errors import IntegrityError, StoreUnavailable
from tierfs.core.snapshot import snapshots_of
from tierfs.engine.snapshot import read

INTERVAL_S = 600


@pytest.fixture
def world(world: World) -> World:
    """Snapshots every ten minutes."""
    assert world.settings.snapshot_interval.seconds == INTERVAL_S
    return world


def snapshots(world: World) -> list[str]:
    """Their keys, the newest first."""
    return sorted((key for key in world.memory.objects if key.startswith(snapshots_of(PREFIX))), reverse=True)


def lines(world: World, key: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in gzip.decompress(world.memory.objects[key]).splitlines()]


async def after(machine: Machine, seconds: float) -> None:
    """Time goes by, and a pass of the policy ends."""
    await trio.sleep(seconds)
    await machine.snapshotter.after_pass()


async def test_one_is_taken_after_a_pass_when_something_changed(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with world.running() as machine:
        machine.snapshotter.begin()
        await prepare(machine, b"a", "cold")
        await after(machine, 1)
        assert not snapshots(world), "the first one is an interval away"
        await after(machine, INTERVAL_S)
        assert len(snapshots(world)) == 1
        await after(machine, INTERVAL_S)
        await prepare(machine, b"b", "cold")
        await after(machine, 1)
        assert len(snapshots(world)) == 1
        await after(machine, INTERVAL_S)
        assert len(snapshots(world)) == 2


@pytest.mark.parametrize("change", ["mkdir", "symlink", "chmod", "pin", "unlink", "rename"])
async def test_every_change_of_names_counts(world: World, change: str, autojump_clock: trio.testing.MockClock) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        await prepare(machine, b"a", "cold")
        await machine.snapshotter.take()
        machine.snapshotter.begin()
        await after(machine, INTERVAL_S)
        assert len(snapshots(world)) == 1
        match change:
            case "mkdir":
                machine.mkdir(b"e")
            case "symlink":
                machine.symlink(b"x", b"s")
            case "chmod":
                await machine.change(b"d", mode=0o700)
            case "pin":
                machine.tier.pins.add(b"a")
            case "unlink":
                machine.unlink(b"a")
            case "rename":
                await machine.rename(b"a", b"b")
        await after(machine, 2 * INTERVAL_S)
        assert len(snapshots(world)) == 2


async def test_what_says_the_same_is_not_uploaded_again(world: World) -> None:
    for _ in range(2):
        async with world.running() as machine:
            if not snapshots(world):
                await prepare(machine, b"a", "cold")
            await machine.snapshotter.leave()
    assert len(snapshots(world)) == 1


async def test_two_generations_stay(world: World) -> None:
    async with world.running() as machine:
        keys = []
        for number in range(5):
            machine.mkdir(b"d%d" % number)
            keys.append((await machine.snapshotter.take()).key)
        assert keys == sorted(keys)
        assert snapshots(world) == [keys[4], keys[3]]


async def test_the_last_one_is_taken_at_the_end_if_anything_changed(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        await machine.snapshotter.leave()
        assert len(snapshots(world)) == 1
        requests = dict(world.memory.counters.requests)
        machine.snapshotter._seen = machine.snapshotter._changes()
        await machine.snapshotter.leave()
        assert world.memory.counters.requests == requests


@pytest.mark.parametrize("setting", [{"snapshot_interval": "0s"}, {"read_only": True}])
async def test_none_are_taken_where_none_are_wanted(world: World, setting: dict[str, object]) -> None:
    world.settings = type(world.settings).of(**setting)
    async with world.running() as machine:
        machine.snapshotter.begin()
        await machine.snapshotter.after_pass()
        await machine.snapshotter.leave()
        assert not snapshots(world)


async def test_a_failure_is_told_and_tried_again(world: World, autojump_clock: trio.testing.MockClock) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        machine.snapshotter.begin()
        world.store.fail("put", StoreUnavailable("down"), times=1)
        await after(machine, INTERVAL_S)
        assert machine.snapshotter.failure == "down"
        assert not snapshots(world)
        await after(machine, INTERVAL_S)
        assert machine.snapshotter.failure == ""
        assert len(snapshots(world)) == 1
        assert {path.name for path in world.state.iterdir()} <= {"catalog.sqlite", "cache", "catalog.durable"} | {
            f"catalog.sqlite-{ending}" for ending in ("wal", "shm")
        }, "the spool has no name"


async def test_objects_go_only_when_no_snapshot_names_them(world: World) -> None:
    async with world.running() as machine:
        machine.sweeper.covers = machine.snapshotter.covers
        for name in (b"a", b"b"):
            await prepare(machine, name, "cold")
        machine.unlink(b"a")
        await machine.sweep()
        assert PREFIX + "a" not in world.memory.objects, "there is no snapshot yet"
        await machine.snapshotter.take()
        machine.unlink(b"b")
        await machine.sweep()
        assert PREFIX + "b" in world.memory.objects
    async with world.running() as machine:
        machine.sweeper.covers = machine.snapshotter.covers
        await machine.sweep()
        assert PREFIX + "b" in world.memory.objects, "also after a restart"
        await machine.snapshotter.take()
        await machine.sweep()
        assert PREFIX + "b" not in world.memory.objects


async def test_a_key_that_a_snapshot_names_is_not_overwritten_by_a_move(world: World) -> None:
    async with world.running() as machine:
        machine.sweeper.covers = machine.snapshotter.covers
        await prepare(machine, b"a", "cold")
        await prepare(machine, b"b", "cold")
        await machine.snapshotter.take()
        await machine.rename(b"a", b"c")
        await machine.sweep()
        await machine.rename(b"b", b"a")
        await machine.sweep()
        assert world.memory.objects[PREFIX + "a"] == b"first of a"
        for _ in range(3):
            await machine.snapshotter.take()
            await machine.sweep()
        assert {key: body for key, body in world.memory.objects.items() if ".tierfs" not in key} == {
            PREFIX + "a": b"first of b",
            PREFIX + "c": b"first of a",
        }


async def test_it_is_the_tree_of_one_moment(world: World) -> None:
    """What is committed while a snapshot is made is not in it; whoever commits does not wait."""
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        async with meanwhile(world, "put", machine.snapshotter.take):
            machine.unlink(b"a")
            machine.mkdir(b"d")
        found = lines(world, snapshots(world)[0])
        assert [line["file"] for line in found if "file" in line] == ["a"]
        assert not [line for line in found if "gone" in line]
        assert [line["name"] for line in found if "name" in line] == [""]


async def test_a_snapshot_says_what_it_is(world: World) -> None:
    async with world.running() as machine:
        await prepare(machine, b"a", "cold")
        machine.symlink(b"to", b"link")
        machine.tier.pins.add(b"a")
        await machine.snapshotter.take()
    header, *entries, footer = lines(world, snapshots(world)[0])
    assert header["tierfs-snapshot"] == 1
    assert str(header["by"]).startswith("tierfs ")
    assert footer["end"] == len(entries) == 4
    assert [next(iter(entry)) for entry in entries] == ["name", "name", "pin", "file"]


@pytest.mark.parametrize("position", range(0, 100, 7))
async def test_no_damage_goes_unnoticed(world: World, tmp_path: Path, position: int) -> None:
    async with world.running() as machine:
        for number in range(20):
            machine.symlink(os.urandom(20).hex().encode(), b"s%d" % number)
        await machine.snapshotter.take()
    body = bytearray(world.memory.objects[snapshots(world)[0]])
    whole = tmp_path / "whole"
    whole.write_bytes(body)
    with whole.open("rb") as file:
        entries = list(read(file, PREFIX))
    body[len(body) * position // 100] ^= 1
    whole.write_bytes(body)
    with whole.open("rb") as file:
        try:
            assert list(read(file, PREFIX)) == entries, "only gzip's own header may be different"
        except IntegrityError:
            pass
