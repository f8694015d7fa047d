"""What stands before the store: budgets that readers share, and rules for who may have bytes fetched."""

import errno
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.assembly import Machine, World
from tests.t2_engine import hydration
from tests.t2_engine.hydration import CHUNK, SETTINGS, Bucket, has_threads, in_background, read, running, settled
from tests.t2_engine.test_cold_queues import consume, is_past
from tierfs.core.access import ANYBODY, Access, Opener
from tierfs.core.errors import AccessDenied, DeadlineExceeded, OverBudget, ReadDenied
from tierfs.core.residency import Residency
from tierfs.engine.budget import Budget, Ticket
from tierfs.engine.hydrate import HydrateSettings, Hydrator
from tierfs.stores.cache import ChunkCache

JAVA = Opener("java", 7, 12)
GREP = Opener("grep", 1000, 13)
LIMITED = Opener("find", 1000, 14, Access.LIMIT)
DENIED = Opener("clamscan", 110, 15, Access.DENY)

#: A chunk each second.
SLOW = replace(SETTINGS, hydrate_rate=CHUNK, read_ahead_bytes=0)
#: The same for who is limited; others have what they like.
HELD = replace(SETTINGS, limited_rate=CHUNK)


async def pass_time(
    clock: trio.testing.MockClock, hydrator: Hydrator, until: Callable[[], bool], seconds: float = 0.25
) -> None:
    """Let virtual seconds pass, but none while a thread is at work: what is left are waits for budgets."""
    while not until():
        await trio.testing.wait_all_tasks_blocked()
        if has_threads(hydrator._fetcher) or trio.to_thread.current_default_thread_limiter().borrowed_tokens:
            await trio.to_thread.run_sync(time.sleep, 0.0002)
        else:
            clock.jump(seconds)


async def quiet(clock: trio.testing.MockClock, hydrator: Hydrator) -> None:
    """Until nothing is on its way, and the cache has what came."""
    await pass_time(clock, hydrator, lambda: not hydration._is_busy(hydrator._fetcher))


@asynccontextmanager
async def timed(
    bucket: Bucket, cache: ChunkCache, settings: HydrateSettings, clock: trio.testing.MockClock
) -> AsyncIterator[Hydrator]:
    """A hydrator whose time passes by hand."""
    async with running(bucket, cache, settings) as hydrator:
        yield hydrator
        bucket.let_go()
        await quiet(clock, hydrator)


async def test_chunks_come_at_their_rate_and_cached_ones_cost_nothing(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """Ten chunks, the first of them saved up: nine seconds. The second time, none."""
    ref, got = bucket.add(10 * CHUNK), list[Any]()
    async with timed(bucket, cache, SLOW, mock_clock) as hydrator, trio.open_nursery() as nursery:
        began = trio.current_time()
        in_background(nursery, partial(read, hydrator.reader(ref), 0, ref.size), got)
        await pass_time(mock_clock, hydrator, lambda: bool(got))
        assert 9 <= trio.current_time() - began <= 12
        await quiet(mock_clock, hydrator)
        assert hydrator.guard.numbers().fetched_bytes["allow"] == ref.size
        hydrator._fetcher.recent.evict(None)
        began = trio.current_time()
        assert await read(hydrator.reader(ref), 0, ref.size) == got[0] == bucket.objects["k"]
        assert trio.current_time() == began
    assert len(bucket.gets) == 10


async def test_a_storm_does_not_keep_off_who_reads_now_and_then(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """Fifty files wait, and hold no memory; the consumer's chunk is the next but one."""
    stormed, consumed = list[Any](), list[Any]()
    async with timed(bucket, cache, SLOW, mock_clock) as hydrator, trio.open_nursery() as nursery:
        for number in range(50):
            ref = bucket.add(CHUNK, f"storm/{number}")
            in_background(nursery, partial(read, hydrator.reader(ref, opener=lambda: GREP), 0, CHUNK), stormed)
        await pass_time(mock_clock, hydrator, lambda: len(stormed) >= 5)
        assert hydrator._fetcher._ledger.in_flight <= 2 * CHUNK
        assert hydrator.guard.numbers().waiting["hydrate"] >= 40
        wanted, began, before = bucket.add(3 * CHUNK, "segment"), trio.current_time(), len(stormed)
        in_background(nursery, partial(read, hydrator.reader(wanted, opener=lambda: JAVA), 4, CHUNK), consumed)
        await pass_time(mock_clock, hydrator, lambda: bool(consumed))
        assert trio.current_time() - began <= 4
        assert len(stormed) <= before + 3
        assert consumed == [bucket.objects["segment"][4:8]]
        await pass_time(mock_clock, hydrator, lambda: len(stormed) == 50)
        await quiet(mock_clock, hydrator)
    assert set(map(type, stormed)) == {bytes}


async def test_who_is_limited_waits_and_nobody_else_does(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """Also for the same chunk: a consumer has it fetched at once. What only the limited one wanted is not kept."""
    alone, shared = bucket.add(20 * CHUNK, "alone"), bucket.add(20 * CHUNK, "shared")
    slow = list[Any]()
    async with timed(bucket, cache, HELD, mock_clock) as hydrator, trio.open_nursery() as nursery:
        for ref in (alone, shared):
            in_background(nursery, partial(read, hydrator.reader(ref, opener=lambda: LIMITED), 0, ref.size), slow)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        assert await read(hydrator.reader(shared, opener=lambda: JAVA), 0, shared.size) == bucket.objects["shared"]
        assert trio.current_time() == began
        await pass_time(mock_clock, hydrator, lambda: len(slow) == 2)
        await quiet(mock_clock, hydrator)
        assert trio.current_time() - began >= 15
        assert sorted(slow) == sorted(bucket.objects.values())
        numbers = hydrator.guard.numbers()
        assert numbers.fetched_bytes["limit"] >= 19 * CHUNK
        assert await hydrator.cached_bytes(shared) >= 19 * CHUNK
        assert await hydrator.cached_bytes(alone) == 0
        assert hydrator._fetcher._background_gets.borrowed_tokens == 0


async def test_the_rate_of_all_holds_for_who_is_limited_too(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    ref, got = bucket.add(4 * CHUNK), list[Any]()
    async with (
        timed(bucket, cache, replace(SLOW, limited_rate=1 << 20), mock_clock) as hydrator,
        trio.open_nursery() as nursery,
    ):
        began = trio.current_time()
        in_background(nursery, partial(read, hydrator.reader(ref, opener=lambda: LIMITED), 0, ref.size), got)
        await pass_time(mock_clock, hydrator, lambda: bool(got))
        assert trio.current_time() - began >= 3
        await quiet(mock_clock, hydrator)
        assert got == [bucket.objects["k"]]


async def test_who_is_denied_causes_nothing(
    bucket: Bucket, cache: ChunkCache, caplog: pytest.LogCaptureFixture
) -> None:
    """No request, no read-ahead, nothing in memory; what is in the cache it may read."""
    ref = bucket.add(8 * CHUNK)
    async with running(bucket, cache) as hydrator:
        reader = hydrator.reader(ref, opener=lambda: DENIED)
        reader.start()
        reader.start_now()
        for offset in (0, 4, 8, 0):
            with pytest.raises(ReadDenied) as refusal:
                await read(reader, offset, 8)
            assert refusal.value.errno == errno.EACCES
        assert bucket.gets == []
        assert hydrator._fetcher.recent.held_bytes == 0
        with pytest.raises(ReadDenied):
            await hydrator.expect_at_hand(ref, DENIED)
        assert await read(hydrator.reader(ref, opener=lambda: JAVA), 0, ref.size) == bucket.objects["k"]
        await settled(hydrator)
        asked = list(bucket.gets)
        for _ in range(2):
            assert await read(reader, 4, 8) == bucket.objects["k"][4:12]
            hydrator._fetcher.recent.evict(None)
        await hydrator.expect_at_hand(ref, DENIED)
        assert bucket.gets == asked
        (seen,) = [one for one in hydrator.guard.numbers().readers if one.denied]
        assert (seen.command, seen.denied, seen.bytes) == ("clamscan", hydrator.guard.denied, 0)
    assert [record.message for record in caplog.records] == [
        "clamscan (uid 110, pid 15) is refused cold bytes by a rule of `access`: /k and perhaps more"
    ]


async def test_who_asks_with_somebody_that_is_denied_gets_its_bytes(bucket: Bucket, cache: ChunkCache) -> None:
    """In whichever order they come."""
    ref, got = bucket.add(4 * CHUNK), list[Any]()
    bucket.hold()
    async with running(bucket, cache) as hydrator, trio.open_nursery() as nursery:
        for opener in (DENIED, JAVA, DENIED):
            in_background(nursery, partial(read, hydrator.reader(ref, opener=partial(Opener, *opener)), 0, CHUNK), got)
        await bucket.wait_asked(1)
        bucket.let_go()
        with trio.fail_after(30):
            while len(got) < 3:
                await trio.sleep(0.001)
    assert bucket.objects["k"][:CHUNK] in got
    assert all(isinstance(one, ReadDenied) or one == bucket.objects["k"][:CHUNK] for one in got)


async def test_the_wait_for_a_budget_is_not_the_stores(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """Sixty chunks need two deadlines, and come; then the store is silent for one, and that is an error."""
    ref, got = bucket.add(60 * CHUNK), list[Any]()
    async with timed(bucket, cache, SLOW, mock_clock) as hydrator, trio.open_nursery() as nursery:
        began = trio.current_time()
        in_background(nursery, partial(read, hydrator.reader(ref), 0, ref.size), got)
        await pass_time(mock_clock, hydrator, lambda: bool(got))
        assert trio.current_time() - began >= 58
        await quiet(mock_clock, hydrator)
        assert got == [bucket.objects["k"]]
        bucket.hold()
        silent = bucket.add(CHUNK, "silent")
        in_background(nursery, partial(read, hydrator.reader(silent), 0, CHUNK), got)
        began = trio.current_time()
        await hydration.pass_time(mock_clock, lambda: len(got) == 2)  # a thread is held all the time
        assert isinstance(got[1], DeadlineExceeded)
        assert 30 <= trio.current_time() - began <= 33
        bucket.let_go()
        await quiet(mock_clock, hydrator)


async def test_restores_have_a_rate_of_their_own(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock
) -> None:
    """Two at a time, which share it; a third waits for its turn, longer than a deadline. Readers do not wait."""
    refs = [bucket.add(20 * CHUNK, f"file {number}") for number in range(3)]
    async with (
        timed(bucket, cache, replace(SETTINGS, restore_rate=CHUNK), mock_clock) as hydrator,
        trio.open_nursery() as nursery,
    ):
        began, done = trio.current_time(), list[Any]()
        for ref in refs:
            in_background(nursery, partial(consume, hydrator, ref), done)
        await pass_time(mock_clock, hydrator, lambda: is_past(began + 10))
        now = trio.current_time()
        wanted = bucket.add(CHUNK, "wanted")
        assert await read(hydrator.reader(wanted), 0, CHUNK) == bucket.objects["wanted"]
        assert trio.current_time() == now
        await pass_time(mock_clock, hydrator, lambda: len(done) == 3)
        assert done == [None] * 3
        assert trio.current_time() - began >= 58
        await quiet(mock_clock, hydrator)


async def test_a_budget_that_nobody_waits_for_any_more_is_the_others(mock_clock: trio.testing.MockClock) -> None:
    """Who looked at the clock for all has gone: somebody else does."""
    budget, through = Budget(1, 10**9, 1), list[str]()

    async def pay(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await budget.pay(Ticket(1), name, 0)
            through.append(name)

    scopes = {name: trio.CancelScope() for name in "abcdef"}
    async with trio.open_nursery() as nursery:
        for name, scope in scopes.items():
            nursery.start_soon(pay, name, scope)
            await trio.testing.wait_all_tasks_blocked()
        assert through == ["a"]
        for gone in "bd":
            scopes[gone].cancel()
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(1.001)
        await trio.testing.wait_all_tasks_blocked()
    assert through == ["a", "c", "e", "f"]
    assert budget.waiting == 0


@pytest.mark.parametrize("seed", range(8))
async def test_whoever_comes_and_goes_nobody_is_forgotten(seed: int, mock_clock: trio.testing.MockClock) -> None:
    """Payments of all sizes, some of which are given up, let through, or joined by others: the rest is paid."""
    choice, budget, tickets = random.Random(seed), Budget(10, 10**9, 10), list[Ticket]()
    scopes = [trio.CancelScope() for _ in range(60)]

    async def pay(scope: trio.CancelScope, ticket: Ticket) -> None:
        with scope:
            await budget.pay(ticket, choice.randrange(3), choice.randrange(3))

    async with trio.open_nursery() as nursery:
        for scope in scopes:
            tickets.append(Ticket(choice.randrange(1, 30), choice.randrange(5)))
            nursery.start_soon(pay, scope, tickets[-1])
            for _ in range(choice.randrange(3)):
                match choice.randrange(4):
                    case 0:
                        choice.choice(scopes[: len(tickets)]).cancel()
                    case 1:
                        choice.choice(tickets).let_through()
                    case 2:
                        choice.choice(tickets).join(choice.randrange(3), choice.randrange(3))
                    case 3:
                        await trio.testing.wait_all_tasks_blocked()
                        mock_clock.jump(1.0)
        for _ in range(200):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(1.0)
        nursery.cancel_scope.cancel()
    assert all(ticket.is_through or scope.cancelled_caught for ticket, scope in zip(tickets, scopes, strict=True))
    assert budget.waiting == 0


# -- restores that nobody asked for --------------------------------------------------------------------------------


async def cold_files(machine: Machine, *names: bytes, size: int = 40) -> None:
    """Cold files."""
    for name in names:
        await machine.write(name, name * size)
        await machine.release(name)


async def append(machine: Machine, name: bytes) -> None:
    """What a broker does to the tail of a segment."""
    file = await machine.open(name, os.O_WRONLY | os.O_APPEND)
    try:
        await file.write(0, b"!")
    finally:
        file.close()


async def test_writes_bring_back_no_more_than_their_limit(world: World, mock_clock: trio.testing.MockClock) -> None:
    """What is saved up comes at once, the next file when there is room for it; an operator need not wait."""
    names = [b"a", b"b", b"c", b"d"]
    async with world.running() as machine, trio.open_nursery() as nursery:
        await cold_files(machine, *names)
        machine.restorer.limit = Budget.per_hour(80)
        done = list[Any]()
        began = trio.current_time()
        for name in names:
            in_background(nursery, partial(append, machine, name), done)
            in_background(nursery, partial(append, machine, name), done)
        await pass_time(mock_clock, machine.hydrator, lambda: len(done) == 4)
        assert trio.current_time() - began < 60
        hot = [name for name in names if machine.residency(name) is Residency.HOT]
        waiting = [name for name in names if name not in hot]
        assert len(hot) == 2
        assert [machine.residency(name) for name in waiting] == [Residency.RESTORING] * 2
        await machine.restorer.restore(waiting[1])
        await pass_time(mock_clock, machine.hydrator, lambda: len(done) == 6)
        assert trio.current_time() - began < 60
        assert machine.restorer.limit is not None
        assert machine.restorer.limit.waiting == 1
        await pass_time(mock_clock, machine.hydrator, lambda: len(done) == 8, seconds=10)
        assert 1700 <= trio.current_time() - began <= 1900
        assert done == [None] * 8


async def test_a_writer_that_waited_long_enough_is_told_why(world: World, mock_clock: trio.testing.MockClock) -> None:
    """And the file is as cold as before."""
    async with world.running() as machine, trio.open_nursery() as nursery:
        await cold_files(machine, b"a", b"b")
        machine.restorer.limit, machine.restorer.patience_s = Budget.per_hour(40), 30.0
        await append(machine, b"a")
        done = list[Any]()
        in_background(nursery, partial(append, machine, b"b"), done)
        await pass_time(mock_clock, machine.hydrator, lambda: bool(done))
        (error,) = done
        assert isinstance(error, OverBudget)
        assert error.errno == errno.EDQUOT
        assert str(error).startswith("b: a write needs its 40 bytes back, and of restore_limit (40 bytes per hour) 0 ")
        assert machine.residency(b"b") is Residency.COLD
        assert await machine.read(b"b") == b"b" * 40
        await machine.truncate(b"b", 0)
        assert machine.residency(b"b") is Residency.HOT


async def test_what_did_not_come_back_costs_nothing(world: World) -> None:
    """The store is away: the next write has the whole budget."""
    async with world.running() as machine:
        await cold_files(machine, b"a")
        machine.restorer.limit, machine.restorer.patience_s = Budget.per_hour(40), 0.0
        world.store.fail("get", AccessDenied("not now"), times=None)
        with pytest.raises(AccessDenied):
            await append(machine, b"a")
        assert machine.restorer.limit.left() == 40


# -- storms ---------------------------------------------------------------------------------------------------------


async def test_a_storm_is_said_once_and_when_it_is_over(
    bucket: Bucket, cache: ChunkCache, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Operators are no storms, whatever they restore."""
    caplog.set_level(logging.INFO)
    refs = [bucket.add(CHUNK, f"logs/old/{number}") for number in range(30)]
    async with timed(bucket, cache, replace(SETTINGS, storm_bytes=10 * CHUNK), mock_clock) as hydrator:
        for ref in refs:
            await consume(hydrator, ref)
        for ref in refs:
            await read(hydrator.reader(ref, opener=lambda: GREP), 0, CHUNK)
        await read(hydrator.reader(refs[0], opener=lambda: ANYBODY), 0, CHUNK)
        (reader,) = hydrator.guard.numbers().readers
        assert (reader.is_storm, reader.files, reader.bytes, reader.directory) == (True, 30, 30 * CHUNK, "logs/old")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hydrator.guard.run)
            await pass_time(mock_clock, hydrator, lambda: len(caplog.records) == 2, seconds=5)
            nursery.cancel_scope.cancel()
        assert hydrator.guard.numbers().readers == ()
        assert hydrator.guard.numbers().storms == 1
    begun, over = (record.message for record in caplog.records)
    assert begun.startswith("grep (uid 1000), pid 13, reads cold files: 40 bytes of 10 files had to be fetched")
    assert begun.endswith('below /logs/old; access = ["limit command=grep"] would hold it back')
    assert over.startswith("the storm of grep (uid 1000) is over: 120 bytes had to be fetched for it in ")
