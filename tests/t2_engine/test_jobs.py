"""Jobs: how far they are, what failed, how they end, and what is said of those that did not."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
import trio
import trio.testing

from tests.assembly import Machine, World, until_waiting
from tests.t2_engine.test_service import operator_of
from tierfs.core.errors import AccessDenied, ControlError, NoSuchJob
from tierfs.core.reports import JobReport, Outcome
from tierfs.core.residency import Residency
from tierfs.engine import jobs as jobs_module
from tierfs.engine.service import Operator


async def ended(operator: Operator, job_id: str) -> JobReport:
    """A job when it has ended; its end is an event."""
    async with aclosing(operator.events(0, follow=True)) as events:
        async for event in events:
            if event.kind == "job" and event.before and job_id in event.reason:
                break
    return await operator.job(job_id)


@asynccontextmanager
async def operating(world: World) -> AsyncIterator[tuple[Machine, Operator]]:
    """A machine whose operator can begin jobs."""
    async with world.running() as machine, trio.open_nursery() as nursery:
        operator = operator_of(machine)
        await nursery.start(operator.own_jobs)
        yield machine, operator
        nursery.cancel_scope.cancel()


async def written(machine: Machine, *paths: bytes) -> None:
    for path in paths:
        await machine.write(path, b"12345")


async def test_a_job_goes_on_by_itself(world: World) -> None:
    async with operating(world) as (machine, operator):
        await written(machine, b"a", b"b")
        begun = await operator.start_job("archive", [b""], True)
        assert (begun.state, begun.files, begun.verb) == ("running", 0, "archive")
        job = await ended(operator, begun.id)
        assert (job.state, job.files, job.bytes) == ("done", 2, 10)
        assert (job.done, job.done_bytes, job.failed) == (2, 10, 0)
        assert job.ended_ns >= job.begun_ns > 0
        assert await operator.jobs() == [job]
        assert operator.counts_of_jobs() == {"running": 0, "done": 1, "failed": 0, "cancelled": 0}
        assert {machine.residency(path) for path in (b"a", b"b")} == {Residency.MIRRORED}


async def test_what_failed_is_known_afterwards(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "_MOST_FAILURES", 1)
    async with operating(world) as (machine, operator):
        await written(machine, b"a")
        world.store.fail("put", AccessDenied("the store says no"))
        begun = await operator.start_job("archive", [b"a", b"gone"], False)
        job = await ended(operator, begun.id)
        assert (job.state, job.done, job.failed, job.reason) == ("failed", 0, 2, "2 failed")
        assert await operator.job_failures(begun.id) == [Outcome(b"gone", "failed", "no such file")]
        failures = [event for event in machine.tier.events.since(0) if event.after == "failed"]
        assert [event.kind for event in failures] == ["job"]


async def test_a_job_is_cancelled_and_what_it_had_done_stands(world: World) -> None:
    async with operating(world) as (machine, operator):
        await written(machine, b"a", b"b")
        await machine.archive(b"a")
        world.held.hold("put")
        begun = await operator.start_job("archive", [b"a", b"b"], False)
        await until_waiting(world)
        assert (await operator.cancel_job(begun.id)).reason == "it is being cancelled"
        world.held.release("put")
        job = await ended(operator, begun.id)
        assert job.state == "cancelled"
        assert "an operator cancelled it" in job.reason
        assert machine.residency(b"a") is Residency.MIRRORED
        assert (await operator.cancel_job(begun.id)).state == "cancelled", "once more does nothing"


async def test_an_unmount_ends_jobs_and_says_so(world: World) -> None:
    async with world.running() as machine:
        operator = operator_of(machine)
        await written(machine, b"a")
        world.held.hold("put")
        async with trio.open_nursery() as nursery:
            await nursery.start(operator.own_jobs)
            begun = await operator.start_job("archive", [b"a"], False)
            await until_waiting(world)
            nursery.cancel_scope.cancel()
            world.held.release("put")
        job = await operator.job(begun.id)
        assert job.state == "cancelled"
        assert "the mount was taken away" in job.reason
        with pytest.raises(ControlError, match="no job can run"):
            await operator.start_job("archive", [b"a"], False)
    async with operating(world) as (_, operator):
        (told,) = await operator.jobs()
        assert (told.id, told.state) == (begun.id, "cancelled"), "whoever asks after the next mount is told, too"


async def test_a_worker_that_hands_over_begins_nothing_more_for_a_job(world: World) -> None:
    """What it moves ends in order; the rest would be cut off, and have the next worker wait."""
    world.settings = world.settings.model_copy(update={"archive_concurrency": 1})
    async with operating(world) as (machine, operator):
        await written(machine, b"a", b"b")
        world.held.hold("put")
        begun = await operator.start_job("archive", [b"a", b"b"], False)
        await until_waiting(world)
        machine.daemon.is_leaving = True
        world.held.release("put")
        while (await operator.job(begun.id)).done == 0:
            await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked()
        job = await operator.job(begun.id)
        assert (job.state, job.done, machine.archiver.active) == ("running", 1, {})
        assert machine.residency(b"b") is Residency.HOT


async def test_the_next_worker_says_what_the_one_before_did_not_end(world: World) -> None:
    async with world.running() as machine:
        machine.catalog.state_fact(jobs_module.JOBS, '[["0123abcd", "release", 5]]')
    async with operating(world) as (machine, operator):
        (job,) = await operator.jobs()
        assert (job.id, job.verb, job.state, job.begun_ns) == ("0123abcd", "release", "cancelled", 5)
        assert "its worker ended before it did" in job.reason
        assert machine.catalog.fact(jobs_module.JOBS) == "[]"


@pytest.mark.parametrize(
    "noted", ['[["0123abcd", "release", 5, "more"]]', '{"jobs": []}', "5", "[[1, 2, null]]", "no json"]
)
async def test_what_another_version_noted_keeps_no_worker_from_serving(world: World, noted: str) -> None:
    async with world.running() as machine:
        machine.catalog.state_fact(jobs_module.JOBS, noted)
    async with operating(world) as (machine, operator):
        assert await operator.jobs() == []
        await written(machine, b"a")
        begun = await operator.start_job("archive", [b"a"], False)
        assert (await ended(operator, begun.id)).state == "done"


async def test_the_last_ones_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "_MOST_ENDED", 2)
    async with operating(world) as (_, operator):
        ids = []
        for _ in range(3):
            ids.append((await operator.start_job("archive", [], False)).id)
            await ended(operator, ids[-1])
        assert [job.id for job in await operator.jobs()] == ids[1:]
        with pytest.raises(NoSuchJob, match=ids[0]):
            await operator.job(ids[0])
