"""Events: what is recorded, in which order, how much is kept, and that nobody who follows holds up anybody."""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

import pytest
import trio
import trio.testing

from tests.assembly import Machine, World, meanwhile
from tierfs.core.errors import AccessDenied, TierfsError
from tierfs.core.reports import EventReport, happened
from tierfs.core.residency import Residency
from tierfs.engine.events import Events, because
from tierfs.engine.journal import Collector, Journal, fields_of, line_of

Change = tuple[bytes, str, str]


def changes(machine: Machine) -> list[Change]:
    """Path, from and to of the changes of residency."""
    return [(e.path, e.before, e.after) for e in machine.tier.events.since(0) if e.kind == "residency"]


def events_of(machine: Machine, kind: str) -> list[EventReport]:
    return [event for event in machine.tier.events.since(0) if event.kind == kind]


async def test_every_change_of_residency_is_an_event_with_its_reason(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"12345")
        with because("an operator asks"):
            await machine.release(b"a")
            await machine.restore(b"a")
        await machine.write(b"a", b"new")
        machine.tier.noticed(machine.catalog.get(b"a"))
        found = events_of(machine, "residency")
        assert [(e.before, e.after, e.reason, e.bytes) for e in found] == [
            ("hot", "archiving", "an operator asks", 5),
            ("archiving", "mirrored", "an operator asks", 5),
            ("mirrored", "cold", "an operator asks", 5),
            ("cold", "restoring", "an operator asks", 5),
            ("restoring", "mirrored", "an operator asks", 5),
            ("mirrored", "hot", "it was written to", 0),
        ]
        assert [bool(e.duration_ns) for e in found] == [False, True, False, False, True, False]
        assert [e.number for e in found] == list(range(found[0].number, found[0].number + 6))
        assert {e.path for e in found} == {b"a"}


async def test_a_write_says_who_has_a_file_brought_back(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"12345")
        await machine.release(b"a")
        file = await machine.open(b"a", os.O_WRONLY)
        await file.write(0, b"x")
        file.close()
        restoring = [e for e in events_of(machine, "residency") if e.after == "restoring"]
        assert [e.reason.endswith("writes to it") for e in restoring] == [True]


async def test_what_is_given_up_says_why(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"x")
        world.store.fail("put", AccessDenied("the store says no"))
        with pytest.raises(TierfsError):
            await machine.archive(b"a")
        assert changes(machine) == [(b"a", "hot", "archiving"), (b"a", "archiving", "hot")]
        assert events_of(machine, "residency")[-1].reason == "the store says no"


async def test_what_is_overwritten_while_it_is_archived(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"x")
        async with meanwhile(world, "put", machine.archive, b"a"):
            machine.tier.written(b"a")
        assert changes(machine)[:2] == [(b"a", "hot", "archiving"), (b"a", "archiving", "hot")]


async def test_deletions_and_renames_are_said_when_the_bucket_knows(world: World) -> None:
    async with world.running() as machine:
        for path in (b"a", b"b"):
            await machine.write(path, b"x")
            await machine.release(path)
        machine.unlink(b"a")
        await machine.rename(b"b", b"c")
        assert events_of(machine, "deletion") == events_of(machine, "move") == []
        await machine.sweep()
        assert [e.path for e in events_of(machine, "deletion")] == [b"a"]
        assert [e.path for e in events_of(machine, "move")] == [b"c"]


async def test_a_lost_file_and_one_that_is_found(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"x")
        await machine.release(b"a")
        record = machine.catalog.get(b"a")
        assert record
        assert record.object
        machine.tier.missing(record.object)
        machine.tier.found(b"a", record.object)
        assert changes(machine)[-2:] == [(b"a", "cold", "lost"), (b"a", "lost", "cold")]
        assert machine.residency(b"a") is Residency.COLD


async def test_recovery_is_told(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"x")
        machine.tier.archive_started(b"a")
    async with world.running() as machine:
        assert changes(machine) == [(b"a", "archiving", "hot")]


# -- the ring, and who follows ---------------------------------------------------------------------------------------


def test_the_last_ones_are_kept_and_numbers_go_on() -> None:
    events = Events(lambda: 7 * 10**9, most=3)
    first = events.last
    for index in range(5):
        events.record("job", reason=str(index))
    assert [event.reason for event in events.since(0)] == ["2", "3", "4"]
    assert [event.number for event in events.since(0)] == [first + 3, first + 4, first + 5]
    assert [event.reason for event in events.since(first + 4)] == ["4"]
    assert events.since(events.last) == []
    assert len(events.since(events.last + 1)) == 3, "the number of a worker whose clock was ahead"
    assert Events(lambda: 8 * 10**9).last > events.last


async def numbers(events: AsyncIterator[EventReport], count: int) -> list[EventReport]:
    return [await anext(events) for _ in range(count)]


async def test_followers_have_all_in_order(nursery: trio.Nursery) -> None:
    events = Events(lambda: 0)
    events.record("job", reason="before")
    found: list[str] = []

    async def follow() -> None:
        async with aclosing(events.follow()) as following:
            async for event in following:
                found.append(event.reason)  # noqa: PERF401  # they are looked at while more come

    nursery.start_soon(follow)
    await trio.testing.wait_all_tasks_blocked()
    for index in range(3):
        events.record("job", reason=str(index))
    await trio.testing.wait_all_tasks_blocked()
    events.record("job", reason="later")
    await trio.testing.wait_all_tasks_blocked()
    assert found == ["before", "0", "1", "2", "later"]


async def test_a_follower_that_is_slow_holds_up_nobody_and_is_told(nursery: trio.Nursery) -> None:
    events = Events(lambda: 0, most=3)
    async with aclosing(events.follow()) as following:
        events.record("job", reason="seen")
        assert (await anext(following)).reason == "seen"
        for index in range(10):
            events.record("job", reason=str(index))
        found = await numbers(following, 4)
    assert [(event.kind, event.reason) for event in found[1:]] == [("job", "7"), ("job", "8"), ("job", "9")]
    assert found[0].kind == "gap"
    assert [event.number for event in found] == list(range(events.last - 3, events.last + 1))


async def test_a_follower_that_was_up_to_date_misses_nothing(nursery: trio.Nursery) -> None:
    events = Events(lambda: 0, most=3)
    for index in range(9):
        events.record("job", reason=str(index))
    async with aclosing(events.follow(events.last - 3)) as following:
        assert [event.reason for event in await numbers(following, 3)] == ["6", "7", "8"]


def test_no_reason_has_a_secret() -> None:
    events = Events(lambda: 0)
    events.record("failure", reason="GET https://user:hunter22@proxy/?X-Amz-Signature=abc&x=1 by AKIAABCDEFGHIJKLMNOP")
    assert events.since(0)[0].reason == "GET https://***@proxy/?X-Amz-Signature=***&x=1 by ***"


# -- the log ---------------------------------------------------------------------------------------------------------


@contextmanager
def collected(events: Events) -> Iterator[None]:
    """Lines of the log become events in this block."""
    collector, logger = Collector(events), logging.getLogger("tierfs")
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)


async def test_the_log_has_a_line_for_each_event_and_each_line_once(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tierfs")
    events = Events(lambda: 0)
    journal = Journal(events)
    with collected(events):
        nursery.start_soon(journal.run)
        events.record("residency", "ä".encode(), before="hot", after="archiving", reason="why", size=7)
        logging.getLogger("tierfs.x").warning("the store is %s", "away", extra=happened("breaker", after="open"))
        await trio.testing.wait_all_tasks_blocked()
        events.record("residency", b"b", before="cold", after="lost")
        journal.finish()
        await trio.testing.wait_all_tasks_blocked()
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "the store is away"),
        ("INFO", "ä: hot to archiving, 7 bytes: why"),
        ("WARNING", "b: cold to lost"),
    ]
    assert [(e.kind, e.after, e.reason) for e in events.since(0)] == [
        ("residency", "archiving", "why"),
        ("breaker", "open", "the store is away"),
        ("residency", "lost", ""),
    ]


async def test_lines_of_other_threads_are_events_too(caplog: pytest.LogCaptureFixture) -> None:
    events = Events(lambda: 0)
    with collected(events):
        log = logging.getLogger("tierfs.x")
        await trio.to_thread.run_sync(lambda: log.warning("from afar", extra=happened("unfit")))
        await trio.testing.wait_all_tasks_blocked()
    assert [event.reason for event in events.since(0)] == ["from afar"]


async def test_a_line_that_is_no_event_after_all_ends_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither who writes it nor, from another thread, the loop."""
    events = Events(lambda: 0)
    log, wrong = logging.getLogger("tierfs.x"), {"event": {"kind": "unfit", "unheard_of": 1}}
    with collected(events):
        log.warning("from here", extra=wrong)
        await trio.to_thread.run_sync(lambda: log.warning("from afar", extra=wrong))
        await trio.testing.wait_all_tasks_blocked()
        log.warning("well", extra=happened("unfit"))
    assert [event.reason for event in events.since(0)] == ["well"]
    assert capsys.readouterr().err.count("unheard_of") >= 2


def test_an_event_as_a_line_and_as_fields() -> None:
    event = EventReport(9, 1, "residency", b"d/a", "archiving", "mirrored", "why", 10, 1_500_000_000)
    assert line_of(event) == "d/a: archiving to mirrored, 10 bytes in 1.5 s: why"
    assert fields_of(event) == {
        "kind": "residency",
        "path": "d/a",
        "from": "archiving",
        "to": "mirrored",
        "reason": "why",
        "bytes": 10,
        "duration": 1.5,
    }
    assert line_of(EventReport(9, 1, "pass", reason="2 to archive")) == "pass: 2 to archive"
