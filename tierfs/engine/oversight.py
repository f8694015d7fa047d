"""What an operator watches and steers while the mount goes on: events, and jobs."""

import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import trio

from tierfs.core.reports import EventReport, JobReport, Outcome, Verb, happened
from tierfs.engine.events import sentence
from tierfs.engine.jobs import Jobs, Move
from tierfs.engine.tier import Tier

log = logging.getLogger(__name__)


class Oversight:
    """The half of the Operator that is about what happened, and about what goes on by itself."""

    def __init__(self, move: Move, tier: Tier) -> None:
        self._events = tier.events
        self._jobs = Jobs(move, tier)

    async def own_jobs(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the jobs until cancelled: they end with this."""
        await self._jobs.run(task_status=task_status)

    async def events(self, after: int = 0, follow: bool = False) -> AsyncGenerator[EventReport, None]:
        """The events after this number, 0 for all that are kept; with `follow` also those that are still to come."""
        if not follow:
            for event in self._events.since(after):
                yield event
            return
        async with aclosing(self._events.follow(after)) as events:
            async for event in events:
                yield event

    async def start_job(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> JobReport:
        """Begin to archive, release or restore files, and do not wait for it. ControlError, NotEligible."""
        return self._jobs.start(verb, paths, recursive)

    async def jobs(self) -> Sequence[JobReport]:
        """The jobs that run, and the last hundred that ended; the newest last."""
        return self._jobs.all()

    def counts_of_jobs(self) -> Mapping[str, int]:
        """How many jobs run, and how many have ended since the worker began, by how."""
        return self._jobs.counts()

    async def job(self, job_id: str) -> JobReport:
        """One job. NoSuchJob."""
        return self._jobs.get(job_id)

    async def job_failures(self, job_id: str) -> Sequence[Outcome]:
        """What failed of a job, up to a thousand files. NoSuchJob."""
        return self._jobs.outcomes(job_id)

    async def cancel_job(self, job_id: str) -> JobReport:
        """End a job soon; what it had done stands. NoSuchJob."""
        return self._jobs.cancel(job_id)

    def say_failed(self, path: bytes, error: Exception) -> None:
        """What an operator asked for did not work out for one file."""
        log.warning("%s: %s", os.fsdecode(path), sentence(error), extra=happened("failure", path))
