"""What a mount costs, and what it remembers of the last hours, from the engine itself."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.assembly import SETTINGS, Machine, World
from tests.t2_engine.test_recover import prepare
from tests.t2_engine.test_service import operator_of
from tierfs.core.config import Settings
from tierfs.core.errors import ConfigError
from tierfs.core.reports import PlannedAction
from tierfs.engine.history import History
from tierfs.engine.measures import Odometer
from tierfs.stores.history_file import HistoryFile

HOUR_NS = 3_600 * 10**9
KIB_128 = 128 << 10
SIZE = len(b"first of a")


@pytest.fixture
def world(swift_path: Path) -> World:
    """Objects are of a class with minima."""
    return World(swift_path / "world", SETTINGS.model_copy(update={"storage_class": "STANDARD_IA"}))


def history_of(machine: Machine) -> tuple[History, Odometer]:
    odometer = Odometer(machine.cold)
    return History(machine.tier, machine.archiver, machine.restorer, odometer, machine.world.state), odometer


async def test_what_a_tree_costs(world: World) -> None:
    """A hot, a mirrored and a cold file of ten bytes: two objects, billed as 128 KiB each; under the policy, hours
    later, three, and nothing on the SSD but the cache. A KiB of SSD is cheaper than 128 KiB of STANDARD_IA."""
    async with world.running() as machine:
        operator = operator_of(machine)
        for name, state in ((b"a", "plain"), (b"b", "mirrored"), (b"c", "cold")):
            await prepare(machine, name, state)
        world.offset_ns = 3 * HOUR_NS
        hot = sum(min(SIZE, (world.hot / name).stat().st_blocks * 512) for name in ("a", "b"))
        told: dict[str, Any] = dict(await operator.costs(None))
        now, all_hot, policy = (told["month"][name] for name in ("now", "all_hot", "policy"))
        assert (now["objects"], now["object_bytes"], now["billed_bytes"]) == (2, 2 * SIZE, 2 * KIB_128)
        assert (all_hot["ssd_bytes"], all_hot["objects"], all_hot["store"]) == (hot + SIZE, 0, "0")
        assert (policy["objects"], policy["ssd_bytes"]) == (3, now["ssd_bytes"] - hot)
        assert told["small_objects"]["files"] == told["small_objects"]["losing_files"] == 3
        assert told["small_objects"]["pays_from_bytes"] == 20 << 10
        assert told["day"]["requests"]["PutObject"] == {"count": 2, "dollars": "0.00002"}
        assert told["day"]["bytes_uploaded"] == 2 * SIZE
        assert told["early"]["deleted"]["files"] == 0


async def test_objects_that_had_a_short_life_are_counted(world: World) -> None:
    """One is deleted with its file, one was restored, one file has changed since: all within the first of 30 days."""
    async with world.running() as machine:
        operator = operator_of(machine)
        for name, state in ((b"a", "cold"), (b"b", "cold"), (b"c", "stale"), (b"d", "plain")):
            await prepare(machine, name, state)
        machine.unlink(b"a")
        machine.unlink(b"d")
        await machine.restore(b"b")
        told: dict[str, Any] = dict(await operator.costs(None))
        counts = {what: (one["files"], one["bytes"]) for what, one in told["early"].items()}
        assert counts == {"deleted": (1, SIZE), "restored": (1, SIZE), "rewritten": (1, SIZE)}
        assert any("deleted in the last day before the 30 days were over" in warning for warning in told["warnings"])
        plain: dict[str, Any] = dict(await operator.costs('date="d"\nsource="s"\n[classes.STANDARD_IA]\ngb_month=0.01'))
        assert {one["files"] for one in plain["early"].values()} == {0}


async def test_planned_actions_say_what_they_cost(world: World) -> None:
    """A PUT at $0.01 and a HEAD at $0.001 for 1,000; 128 KiB at $0.0125 a GB. Ten bytes of SSD at $0.08 a GB are
    $0.000000000745."""
    async with world.running() as machine:
        operator = operator_of(machine)
        await prepare(machine, b"a", "plain")
        await prepare(machine, b"b", "mirrored")
        world.offset_ns = 3 * HOUR_NS
        archive, release = await operator.plan()
        of_archive, of_release = "unchanged for 1h (warm_after)", "unchanged for 2h (cold_after)"
        known = archive.reason, release.reason
        assert archive == PlannedAction(b"a", "archive", SIZE, known[0], of_archive, 2, "0.000011", "0.000001525879")
        assert release == PlannedAction(b"b", "release", SIZE, known[1], of_release, 1, "0.000001", "-0.000000000745")


async def test_where_nobody_knows_the_prices_there_are_no_dollars(swift_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    world = World(swift_path / "world", settings)
    async with world.running() as machine:
        operator = operator_of(machine)
        await prepare(machine, b"a", "plain")
        world.offset_ns = 3 * HOUR_NS
        [archive] = await operator.plan()
        assert (archive.requests, archive.dollars, archive.month) == (2, "", "")
        with pytest.raises(ConfigError, match="nobody knows what the store at http://127"):
            await operator.costs(None)


async def test_history_outlives_the_worker(world: World) -> None:
    """Requests, objects that went, and what was moved: the next worker goes on with them, and counts nothing twice."""
    async with world.running() as machine:
        history, odometer = history_of(machine)
        await prepare(machine, b"a", "cold")
        await prepare(machine, b"b", "cold")
        machine.unlink(b"a")
        await odometer.read()
        await history.look()
        _, before = history.last_day()
        assert before.traffic.requests["PutObject"] == 2
        assert before.gone == {0: (1, SIZE)}
        assert machine.archiver.released_bytes >= 0
    async with world.running() as machine:
        history, odometer = history_of(machine)
        assert history.last_day()[1] == before
        await machine.restore(b"b")
        assert machine.restorer.restores.bytes == SIZE
        await odometer.read()
        await history.look()
        after = history.last_day()[1].traffic.requests
        assert after["PutObject"] >= 2
        first, second = HistoryFile(world.state).read()["samples"]
        assert second[3] - first[3] == SIZE
        assert history.runway(await odometer.read()).up.state == "unknown"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"usage": 3}', '{"usage": {}, "samples": [[1]]}'])
async def test_a_damaged_history_begins_anew(world: World, content: str) -> None:
    (world.state / "history.json").write_text(content)
    async with world.running() as machine:
        history, _ = history_of(machine)
        assert history.last_day()[1].traffic.requests == {}
        await history.look()
        assert HistoryFile(world.state).read()["samples"]


async def test_history_is_written_when_the_worker_ends_and_does_without_a_disk(world: World) -> None:
    async with world.running() as machine:
        history, odometer = history_of(machine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(history.run)
            with trio.fail_after(60):
                while not HistoryFile(world.state).read():
                    await trio.sleep(0.001)
            await prepare(machine, b"a", "mirrored")
            await odometer.read()
            nursery.cancel_scope.cancel()
        [hour] = HistoryFile(world.state).read()["usage"]["hours"]
        assert hour["requests"]["PutObject"] == 1
        (world.state / "history.json").unlink()
        (world.state / "history.new").mkdir()  # in the way of every write
        await history.look()
        assert HistoryFile(world.state).read() == {}


async def test_what_stays_in_any_case_is_no_room(world: World) -> None:
    """Of four mirrored files one is pinned, one below a pinned directory, one kept hot by a pattern."""
    world.settings = Settings.model_validate(world.settings.model_dump() | {"auto_archive": True})
    async with world.running() as machine:
        history, odometer = history_of(machine)
        machine.mkdir(b"d")
        paths = b"a", b"b", b"d/c", b"e.index"
        for path in paths:
            await prepare(machine, path, "mirrored")
        await history.look()
        all_of_them = sum((world.hot / os.fsdecode(path)).stat().st_size for path in paths)
        assert history.runway(odometer.known()).releasable_bytes == all_of_them
        machine.tier.pins.add(b"b")
        machine.tier.pins.add(b"d")
        machine.tier.settings = Settings.model_validate(world.settings.model_dump() | {"keep_hot": ("*.index",)})
        await history.look()
        assert history.runway(odometer.known()).releasable_bytes == SIZE


async def test_a_price_table_that_hangs_takes_no_thread_from_others(world: World, swift_path: Path) -> None:
    """It lies on a disk that is away, and a page asks for the plan again and again."""
    table, other = swift_path / "prices.toml", swift_path / "other.toml"
    os.mkfifo(table)
    other.touch()
    world.settings = world.settings.model_copy(update={"prices": str(table)})
    async with world.running() as machine:
        operator = operator_of(machine)
        everybody = int(trio.to_thread.current_default_thread_limiter().total_tokens)
        ours = operator.figures.money._threads
        async with trio.open_nursery() as nursery:
            for _ in range(everybody):
                nursery.start_soon(operator.plan)
            with trio.fail_after(60):
                while ours.borrowed_tokens + ours.statistics().tasks_waiting < everybody:
                    await trio.sleep(0.001)
                await trio.to_thread.run_sync(int)
            writer = os.open(table, os.O_RDWR)
            other.replace(table)
            os.close(writer)
