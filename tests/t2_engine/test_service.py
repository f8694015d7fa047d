"""What an operator is told and can do: outcomes, reasons, totals, findings."""

import os
from collections.abc import AsyncIterator
from typing import Any, TypeVar, cast

import trio

from tests.assembly import PREFIX, Machine, World, meanwhile
from tests.invariants import check_invariants
from tests.t2_engine.hydration import settled
from tests.t2_engine.test_recover import prepare
from tierfs.core.errors import AccessDenied
from tierfs.core.reports import CheckOrder, Entry, Finding, Outcome, Total
from tierfs.core.residency import Residency, Tier
from tierfs.engine.observed import Facts, Observations
from tierfs.engine.service import Engine, Operator

T = TypeVar("T")


def operator_of(machine: Machine) -> Operator:
    m = machine
    engine = Engine(m.tree, m.tier, m.cold, m.hydrator, m.archiver, m.restorer, m.daemon, machine.world.settings)
    facts = Facts("/mnt", "s3://bucket/p", str(m.world.hot), str(m.world.state), "1", 1, 2)
    return Operator(engine, facts, lambda: Observations(0, [], {}, {}, 0, 0, 0))


async def collect(reports: AsyncIterator[T]) -> list[T]:
    return [report async for report in reports]


async def entry(operator: Operator, path: bytes) -> Entry:
    (found,) = await collect(operator.list_entries([path], recursive=False))
    assert isinstance(found, Entry)
    return found


async def found_by(operator: Operator) -> list[Finding]:
    return [report async for report in operator.check(CheckOrder()) if isinstance(report, Finding)]


async def test_moving_a_tree_file_by_file(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        machine.mkdir(b"d")
        machine.mkdir(b"d/e")
        for path in (b"d/a", b"d/e/b"):
            await machine.write(path, b"12345")
        (await machine.open(b"d/empty", os.O_CREAT | os.O_WRONLY)).close()
        total, *outcomes = await collect(operator.move("archive", [b"d"], recursive=True))
        assert total == Total(3, 10)
        results = {o.path: (o.result, o.reason, o.bytes) for o in outcomes if isinstance(o, Outcome)}
        assert results == {
            b"d/a": ("done", "", 5),
            b"d/e/b": ("done", "", 5),
            b"d/empty": ("unchanged", "it is empty", 0),
        }
        again = await collect(operator.move("archive", [b"d/a"], recursive=False))
        assert again[1:] == [Outcome(b"d/a", "unchanged")]
        _, *released = await collect(operator.move("release", [b"d/a", b"d/a"], recursive=False))
        assert released == [Outcome(b"d/a", "done", bytes=5)]
        assert machine.residency(b"d/a") is Residency.COLD
        restored = await collect(operator.move("restore", [b"d"], recursive=True))
        assert [o.path for o in restored if isinstance(o, Outcome) and o.result == "done"] == [b"d/a"]
        check_invariants(machine)


async def test_who_wants_no_more_of_a_move_ends_it_without_an_error(world: World) -> None:
    """A client hangs up between two outcomes: that is no defect, and nothing that the log should hold."""
    async with world.running() as machine:
        operator = operator_of(machine)
        for path in (b"a", b"b", b"c"):
            await machine.write(path, b"12345")
        reports = operator.move("archive", [b"a", b"b", b"c"], recursive=False)
        assert await anext(reports) == Total(3, 15)
        assert isinstance(await anext(reports), Outcome)
        await reports.aclose()
        check_invariants(machine)


async def test_what_cannot_be_moved_says_why(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        machine.mkdir(b"d")
        machine.symlink(b"x", b"s")
        await machine.write(b"a", b"x")
        await machine.write(b"pinned", b"x")
        machine.tier.pins.add(b"pinned")
        reader = await machine.open(b"a", os.O_RDONLY)
        asked = [b"missing", b"a/below", b"d", b"s", b"a", b"pinned"]
        _, *outcomes = await collect(operator.move("release", asked, recursive=False))
        reasons = {o.path: o.reason for o in outcomes if isinstance(o, Outcome) and o.result == "failed"}
        assert reasons == {
            b"missing": "no such file",
            b"a/below": "no such file",
            b"d": "a directory; -r takes what is in it",
            b"s": "not a regular file",
            b"a": "open",
            b"pinned": "pinned",
        }
        assert PREFIX + "pinned" not in world.memory.objects
        reader.close()
        world.store.fail("head", AccessDenied("the store says no"))
        _, outcome = await collect(operator.move("release", [b"a"], recursive=False))
        assert outcome == Outcome(b"a", "failed", "the store says no")


async def test_an_entry_explains_itself(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        for state in ("plain", "stale", "mirrored", "cold"):
            await prepare(machine, state.encode(), state)
        plain, stale, warm, cold = [await entry(operator, p) for p in (b"plain", b"stale", b"mirrored", b"cold")]
        assert [e.tier for e in (plain, stale, warm, cold)] == [Tier.HOT, Tier.HOT, Tier.WARM, Tier.COLD]
        assert [e.key for e in (plain, stale, warm, cold)] == [None, None, PREFIX + "mirrored", PREFIX + "cold"]
        assert "changed too recently" in plain.reason
        assert "younger than cold_after" in warm.reason
        assert cold.reason == ""
        assert cold.size == len(b"first of cold")
        await machine.hydrator.evict(None)
        file = await machine.open(b"cold", os.O_RDONLY)
        await file.read(0, 2)
        file.close()
        await settled(machine.hydrator)
        assert (await entry(operator, b"cold")).cached_bytes >= 4
        outcomes = await operator.evict([b"cold", b"plain", b"missing"])
        assert [o.result for o in outcomes] == ["done", "unchanged", "failed"]
        assert (await entry(operator, b"cold")).cached_bytes == 0
        world.memory.delete(PREFIX + "cold")
        record = machine.catalog.get(b"cold")
        assert record
        assert record.object
        machine.tier.missing(record.object)
        assert "gone from the bucket" in (await entry(operator, b"cold")).reason


async def test_a_file_that_is_being_archived_says_so(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        await machine.write(b"a", b"x")
        async with meanwhile(world, "put", machine.archive, b"a"):
            found = await entry(operator, b"a")
            assert (found.residency, found.tier) == (Residency.ARCHIVING, Tier.HOT)
            status = await operator.status()
            assert status["queue"] == {"archiving": 1, "restoring": 0, "deletions": 0, "moves": 0}


async def test_listing_a_tree(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        machine.mkdir(b"d")
        await prepare(machine, b"d/x", "cold")
        await prepare(machine, b"a", "plain")
        machine.symlink(b"x", b"s")
        reports = await collect(operator.list_entries([b""], recursive=True))
        assert [(e.path, e.kind) for e in reports if isinstance(e, Entry)] == [
            (b"a", "file"),
            (b"d", "directory"),
            (b"d/x", "file"),
            (b"s", "symlink"),
        ]
        assert await collect(operator.list_entries([b"nothing"], False)) == [
            Outcome(b"nothing", "failed", "no such file")
        ]


async def test_status_counts(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        await prepare(machine, b"a", "plain")
        await prepare(machine, b"b", "mirrored")
        await prepare(machine, b"c", "cold")
        status = await operator.status()
        size = len(b"first of a")
        for tier in ("hot", "warm", "cold"):
            assert status[tier] == {"files": 1, "bytes": size}


async def test_pins_by_an_operator(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        machine.mkdir(b"d")
        await machine.write(b"d/a", b"x")
        assert [o.result for o in await collect(operator.pin([b"d", b"d", b"missing"]))] == [
            "done",
            "unchanged",
            "failed",
        ]
        assert (await entry(operator, b"d/a")).pinned
        outcomes = await collect(operator.unpin([b"d/a", b"d", b"d"]))
        assert [(o.result, o.reason) for o in outcomes] == [
            ("unchanged", "pinned by a directory above it or by a pattern"),
            ("done", ""),
            ("unchanged", "not pinned"),
        ]


async def test_plan_changes_nothing(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        await prepare(machine, b"a", "plain")
        await prepare(machine, b"b", "mirrored")
        world.offset_ns = 3 * 3600 * 10**9
        planned = await operator.plan()
        assert [(p.verb, p.path) for p in planned] == [("archive", b"a"), ("release", b"b")]
        assert all("unchanged for" in p.reason for p in planned)
        assert machine.residency(b"a") is Residency.HOT


async def test_check_finds_what_disagrees(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        for name in (b"gone", b"changed", b"unexpected"):
            await prepare(machine, name, "cold")
        await prepare(machine, b"missing", "mirrored")
        assert await found_by(operator) == []
        world.memory.delete(PREFIX + "gone")
        world.memory._store(PREFIX + "changed", b"by somebody else", {})
        (world.hot / "unexpected").write_bytes(b"x")
        (world.hot / "missing").unlink()
        world.memory._store(PREFIX + "stranger", b"x", {})
        world.memory._store(PREFIX + "a//b", b"x", {})
        found = {(finding.what, finding.path) for finding in await found_by(operator)}
        assert found == {
            ("object-missing", b"gone"),
            ("object-changed", b"changed"),
            ("hot-unexpected", b"unexpected"),
            ("hot-missing", b"missing"),
            ("object-unknown", b"stranger"),
            ("object-unnameable", b""),
        }


async def test_activity_shows_what_moves_and_what_was_read(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        await machine.write(b"f", b"1234567")
        before = await operator.activity()
        await machine.archiver.archive(b"f")
        await machine.archiver.release(b"f")
        assert await machine.read(b"f") == b"1234567"
        after: Any = await operator.activity()
        status: Any = await operator.status()
        assert before["since_ns"] == after["since_ns"] <= after["as_of_ns"]
        assert after["bytes"]["read_cold"] == status["cold_reads"]["bytes_asked"] == 7
        assert after["bytes"]["uploaded"] == status["store_io"]["bytes_uploaded"]
        assert after["transfers"] == []
        assert after["store"]["requests"].keys() == status["store_io"]["requests_by_operation"].keys()


async def test_the_next_worker_knows_how_the_tiers_filled(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"f", b"1234567")
        await machine.archiver.archive(b"f")
        operator = operator_of(machine)
        await operator.status()  # which looks at all files
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operator.keep_totals)
            while not (await operator.activity())["fill"]:
                await trio.sleep(1)
            nursery.cancel_scope.cancel()
        (sample,) = cast("list[dict[str, int]]", (await operator.activity())["fill"])
        assert (sample["hot_bytes"], sample["warm_bytes"], sample["cold_bytes"]) == (0, 7, 0)
        assert (await operator_of(machine).activity())["fill"] == [sample]


async def test_a_failure_is_among_the_errors(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        machine.tier.events.record("failure", b"f", reason="it did not work")
        activity: Any = await operator.activity()
        (error,) = activity["errors"]
        assert (error["path"], error["operation"], error["error"]) == ("f", "background", "it did not work")
