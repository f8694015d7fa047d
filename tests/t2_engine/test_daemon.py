"""The policy daemon: passes over real files, failures that do not stop the others, back-off, watermarks."""

import os
import time
from datetime import datetime
from pathlib import Path

import pytest
import trio

from tests.assembly import PREFIX, SETTINGS, Machine, World
from tests.invariants import check_invariants
from tierfs.core.config import Settings
from tierfs.core.errors import AccessDenied, NotEligible, StoreUnavailable
from tierfs.core.residency import Residency
from tierfs.core.windows import is_open, parse_windows
from tierfs.engine.daemon import local_minute

HOT, MIRRORED, COLD = Residency.HOT, Residency.MIRRORED, Residency.COLD

HOUR_NS = 3600 * 10**9


async def test_files_cool_down(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        await machine.write(b"d/a", b"content")
        await machine.daemon.run_pass()
        assert machine.residency(b"d/a") is HOT
        world.offset_ns = HOUR_NS
        await machine.daemon.run_pass()
        assert machine.residency(b"d/a") is MIRRORED
        await machine.daemon.run_pass()
        assert machine.residency(b"d/a") is MIRRORED
        world.offset_ns = 2 * HOUR_NS
        await machine.daemon.run_pass()
        assert machine.residency(b"d/a") is COLD
        assert machine.daemon.passes.failed == 0
        check_invariants(machine)


async def test_what_was_brought_back_stays_for_a_while(world: World) -> None:
    """Its mtime is old; it was restored because somebody wants it."""
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        world.offset_ns = 5 * HOUR_NS
        await machine.daemon.run_pass()
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is COLD
        await machine.restore(b"a")
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is MIRRORED
    async with world.running() as machine:
        world.offset_ns += HOUR_NS
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is MIRRORED
        world.offset_ns += HOUR_NS
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is COLD


async def test_the_failures_of_a_file_go_with_its_name(world: World) -> None:
    """Else `status` would name it for ever."""
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        world.offset_ns = HOUR_NS
        world.store.fail("put", StoreUnavailable("down"))
        await machine.daemon.run_pass()
        assert list(machine.tier.failures) == [b"a"]
        await machine.rename(b"a", b"b")
        await machine.daemon.run_pass()
        assert not machine.tier.failures
        assert machine.residency(b"b") is MIRRORED


async def test_what_waits_for_the_bucket_is_said_as_long_as_it_does(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        await machine.release(b"a")
        machine.unlink(b"a")
        world.store.fail("delete", AccessDenied("not yours"))
        await machine.daemon.run_pass()
        assert machine.daemon.passes.waiting == "deletions and renames wait for the bucket: not yours"
        await machine.daemon.run_pass()
        assert machine.daemon.passes.waiting == ""


async def test_one_failing_file_does_not_stop_the_others_and_is_tried_later(world: World) -> None:
    async with world.running() as machine:
        for name in (b"a", b"b", b"c"):
            await machine.write(name, b"content")
        world.offset_ns = HOUR_NS
        world.store.fail("put", AccessDenied("not this one"), times=None, key=PREFIX + "b")
        await machine.daemon.run_pass()
        assert [machine.residency(name) for name in (b"a", b"b", b"c")] == [MIRRORED, HOT, MIRRORED]
        assert machine.daemon.passes.failed == 1
        failures, retry_at_ns, reason = machine.tier.failures[b"b"]
        assert (failures, "not this one" in reason) == (1, True)
        assert retry_at_ns > world.now()
        await machine.daemon.run_pass()
        assert machine.daemon.passes.failed == 1
        world.offset_ns += 11 * 10**9
        await machine.daemon.run_pass()
        assert machine.tier.failures[b"b"][0] == 2
        world.store.heal()
        world.offset_ns += 60 * 10**9
        await machine.daemon.run_pass()
        assert machine.residency(b"b") is MIRRORED
        assert not machine.tier.failures


async def test_a_release_that_fails_is_not_tried_at_every_pass(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        await machine.archive(b"a")
        world.offset_ns = 3 * HOUR_NS
        world.store.fail("head", StoreUnavailable("down"), times=None)
        await machine.daemon.run_pass()
        await machine.daemon.run_pass()
        assert machine.daemon.passes.failed == 1
        world.store.heal()
        world.offset_ns += HOUR_NS
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is COLD


async def test_a_bucket_that_is_down_is_no_reason_to_stop(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"gone", b"content")
        await machine.release(b"gone")
        machine.unlink(b"gone")
        await machine.write(b"a", b"content")
        world.offset_ns = HOUR_NS
        world.store.fail("delete", StoreUnavailable("down"))
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is MIRRORED
        await machine.daemon.run_pass()
        assert set(world.memory.objects) == {PREFIX + "a"}


async def test_open_pinned_and_excluded_files_are_left_alone(world: World) -> None:
    world.settings = world.settings.model_copy(update={"exclude": ("*.tmp",), "pins": ("keep",)})
    async with world.running() as machine:
        for name in (b"open", b"x.tmp", b"keep", b"plain"):
            await machine.write(name, b"content")
        writer = await machine.open(b"open", os.O_WRONLY)
        world.offset_ns = 3 * HOUR_NS
        await machine.daemon.run_pass()
        await machine.daemon.run_pass()
        assert [machine.residency(name) for name in (b"open", b"x.tmp", b"keep", b"plain")] == [HOT, HOT, HOT, COLD]
        assert machine.daemon.passes.failed == 0
        writer.close()


@pytest.mark.parametrize("change", [{"auto_archive": False}, {"read_only": True}])
async def test_nothing_moves_by_itself_when_told_so(world: World, change: dict[str, bool]) -> None:
    world.settings = world.settings.model_copy(update=change)
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        world.offset_ns = 3 * HOUR_NS
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is HOT


async def test_the_high_watermark_releases_the_oldest_until_the_low_one(swift_path: Path) -> None:
    settings = Settings.of(
        **(SETTINGS.model_dump() | {"high_watermark": "35B", "low_watermark": "20B", "cold_after": "100h"})
    )
    world = World(swift_path / "world", settings)
    async with world.running() as machine:
        for age, name in enumerate((b"new", b"middle", b"old", b"oldest")):
            await machine.write(name, b"ten bytes!")
            await machine.change(name, mtime_ns=world.now() - age * 10**9)
        world.offset_ns = HOUR_NS
        await machine.daemon.run_pass()
        assert {machine.residency(name) for name in (b"new", b"middle", b"old", b"oldest")} == {MIRRORED}
        await machine.daemon.run_pass()
        found = [machine.residency(name) for name in (b"new", b"middle", b"old", b"oldest")]
        assert found == [MIRRORED, MIRRORED, COLD, COLD]


async def test_holes_fill_nothing(swift_path: Path) -> None:
    """A watermark in bytes is about room: a broker's index is of the size that it may have some day."""
    settings = Settings.of(**(SETTINGS.model_dump() | {"high_watermark": "1MiB", "low_watermark": "4KiB"}))
    world = World(swift_path / "world", settings)
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        await machine.archive(b"a")
        file = await machine.open(b"index", os.O_RDWR | os.O_CREAT)
        await file.truncate(10 << 20)
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is MIRRORED
        await file.write(0, bytes(range(256)) * 8192)
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is COLD


async def test_files_that_change_or_go_away_during_a_pass(world: World) -> None:
    async with world.running() as machine:
        for index in range(10):
            await machine.write(b"%d" % index, b"content")
        world.offset_ns = HOUR_NS
        world.held.hold("put")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.daemon.run_pass)
            await trio.to_thread.run_sync(world.held.wait_until_waiting, 4)
            machine.unlink(b"9")
            await machine.write(b"8", b"rewritten")
            world.held.release("put")
        assert machine.daemon.passes.failed == 0
        assert machine.residency(b"0") is MIRRORED
        check_invariants(machine)


async def test_it_runs_now_and_after_every_interval(world: World, autojump_clock: trio.testing.MockClock) -> None:
    async with world.running() as machine:
        passes = 0

        async def count(_nursery: trio.Nursery) -> None:
            nonlocal passes
            passes += 1
            if passes == 2:
                raise StoreUnavailable("no matter")

        machine.daemon.begin_pass = count  # type: ignore[method-assign]
        with trio.move_on_after(3.5 * machine.world.settings.policy_interval.seconds):
            await machine.daemon.run()
        assert passes == 4


# -- spread out ----------------------------------------------------------------------------------------------------


def settings_with(**values: object) -> Settings:
    return Settings.of(**(SETTINGS.model_dump(mode="json") | values))


async def test_archives_that_take_long_hold_up_neither_releases_nor_deletions(swift_path: Path) -> None:
    world = World(swift_path / "world", settings_with(archive_concurrency=1))
    async with world.running() as machine:
        for path in (b"old", b"removed"):
            await machine.write(path, b"content")
            await machine.archive(path)
        for path in (b"slow", b"next"):
            await machine.write(path, b"content")
        world.offset_ns = 3 * HOUR_NS
        world.held.hold("put")
        async with trio.open_nursery() as nursery:
            await machine.daemon.begin_pass(nursery)
            await trio.to_thread.run_sync(world.held.wait_until_waiting)
            assert machine.residency(b"old") is COLD
            await machine.write(b"late", b"content")
            await machine.change(b"late", mtime_ns=1)
            world.offset_ns += HOUR_NS
            machine.unlink(b"removed")
            await machine.daemon.begin_pass(nursery)
            assert set(world.memory.objects) == {PREFIX + "old"}
            assert len(machine.archiver.active) == 1
            world.held.release("put")
        assert set(world.memory.objects) == {PREFIX + name for name in ("old", "slow", "next", "late")}
        assert machine.daemon.passes.failed == 0
        check_invariants(machine)


async def test_outside_its_window_the_policy_archives_nothing(swift_path: Path) -> None:
    world = World(swift_path / "world", settings_with(archive_window="22:00-06:00"))
    async with world.running() as machine:
        await machine.write(b"warm", b"content")
        await machine.archive(b"warm")
        await machine.write(b"a", b"content")
        world.offset_ns = 5 * HOUR_NS
        machine.daemon.minute_of_day = lambda _now_ns: 12 * 60
        assert machine.daemon.why_held() == "waits for archive_window, which opens at 22:00"
        await machine.daemon.run_pass()
        assert (machine.residency(b"a"), machine.residency(b"warm")) == (HOT, COLD)
        machine.daemon.minute_of_day = lambda _now_ns: 23 * 60
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is MIRRORED


async def test_above_the_high_watermark_the_window_holds_nothing_back(swift_path: Path) -> None:
    """Room goes before calm."""
    marks = {"high_watermark": "10", "low_watermark": "5"}
    world = World(swift_path / "world", settings_with(archive_window="22:00-06:00", **marks))
    async with world.running() as machine:
        machine.daemon.minute_of_day = lambda _now_ns: 12 * 60
        await machine.write(b"a", b"more than ten bytes")
        world.offset_ns = HOUR_NS
        await machine.daemon.run_pass()
        await machine.daemon.run_pass()
        assert machine.residency(b"a") is COLD
        await machine.write(b"b", b"short")
        world.offset_ns = 2 * HOUR_NS
        await machine.daemon.run_pass()
        assert machine.residency(b"b") is HOT


async def test_when_the_window_closes_no_archive_is_begun_any_more(swift_path: Path) -> None:
    world = World(swift_path / "world", settings_with(archive_window="22:00-06:00", archive_concurrency=1))
    async with world.running() as machine:
        for path in (b"a", b"b"):
            await machine.write(path, b"content")
        world.offset_ns = HOUR_NS
        machine.daemon.minute_of_day = lambda _now_ns: 5 * 60 + 59
        world.held.hold("put")
        async with trio.open_nursery() as nursery:
            await machine.daemon.begin_pass(nursery)
            await trio.to_thread.run_sync(world.held.wait_until_waiting)
            machine.daemon.minute_of_day = lambda _now_ns: 6 * 60
            world.held.release("put")
        assert sorted(map(machine.residency, (b"a", b"b"))) == [HOT, MIRRORED]


async def test_so_many_files_are_archived_per_minute(swift_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(swift_path / "world", settings_with(archive_rate=6))
    async with world.running() as machine:
        for index in range(5):
            await machine.write(b"%d" % index, b"content")
        world.offset_ns = HOUR_NS
        began = trio.current_time()
        await machine.daemon.run_pass()
        assert trio.current_time() - began == pytest.approx(40, abs=0.01)  # the clock of the test, not of the machine
        assert len(world.memory.objects) == 5


async def test_an_upload_pays_for_its_bytes_and_stops_while_it_waits(swift_path: Path) -> None:
    world = World(swift_path / "world", settings_with(upload_rate="1"))
    async with world.running() as machine:
        await machine.write(b"a", b"free at first")
        await machine.archive(b"a")
        await machine.write(b"b", b"has to wait for a dozen seconds")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_archive_until_written, machine)
            while b"b" not in machine.archiver.active:
                await trio.sleep(0)
            await machine.write(b"b", b"changed")
        assert machine.residency(b"b") is HOT
        assert set(world.memory.objects) == {PREFIX + "a"}


async def _archive_until_written(machine: Machine) -> None:
    with pytest.raises(NotEligible):
        await machine.archive(b"b")


@pytest.mark.parametrize(("day", "open_hours"), [("2026-03-28", 7), ("2026-10-24", 9), ("2026-06-01", 8)])
def test_on_the_days_when_the_clock_is_set_a_window_goes_by_the_wall(
    day: str, open_hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour that is left out is not made up for; one that comes twice is open twice."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        noon_ns = int(datetime.fromisoformat(f"{day}T11:00+00:00").timestamp()) * 10**9
        minutes = [local_minute(noon_ns + quarter * 15 * 60 * 10**9) for quarter in range(24 * 4)]
    time.tzset()
    assert sum(is_open(parse_windows("22:00-06:00"), minute) for minute in minutes) == open_hours * 4
