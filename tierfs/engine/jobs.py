"""Jobs: archive, release and restore of many files, in tasks of the worker instead of an operator's shell.

A job ends with its worker. Which ones run is noted in the catalog, so that the next worker can say of those that it
did not end by itself: what it had done stands, and it can be started again.
"""

import json
import logging
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

import trio

from tierfs.core.errors import CatalogError, ControlError, NoSuchJob, NotEligible, TierfsError
from tierfs.core.reports import JobReport, JobState, Outcome, Total, Verb
from tierfs.engine.events import because, sentence
from tierfs.engine.tier import Tier

log = logging.getLogger(__name__)

#: How files are moved: a total first, then an outcome for each. Operator.move().
Move = Callable[[Verb, Sequence[bytes], bool], AsyncGenerator[Total | Outcome, None]]

#: The states in which a job is over.
ENDED = ("done", "failed", "cancelled")
JOBS = "jobs"  # the fact in the catalog: those that run, as JSON
_MOST_ENDED = 100  # that are remembered
_MOST_RUNNING = 100  # at the same time: each has a list of its files
_MOST_FAILURES = 1000  # of one job that are remembered; the others are counted

_CANCELLED = "an operator cancelled it; what it had done stands"
_ENDED = "the mount was taken away, or handed over to the next worker; what it had done stands"
_INTERRUPTED = "its worker ended before it did; what it had done stands, and it can be started again"


class _Job:
    """One job: its report so far, what failed, and the scope that cancels it."""

    def __init__(self, report: JobReport) -> None:
        self.report = report
        self.failures: list[Outcome] = []
        self.scope = trio.CancelScope()

    def count(self, report: Total | Outcome) -> None:
        """Take into account what became of one more file."""
        now = self.report
        if isinstance(report, Total):
            self.report = replace(now, files=report.files, bytes=report.bytes)
        elif report.result == "failed":
            self.report = replace(now, failed=now.failed + 1)
            if len(self.failures) < _MOST_FAILURES:
                self.failures.append(report)
        else:
            self.report = replace(now, done=now.done + 1, done_bytes=now.done_bytes + report.bytes)

    def what(self) -> str:
        """The job for a person."""
        now = self.report
        failed = f", {now.failed} failed" if now.failed else ""
        return f"job {now.id} ({now.verb}): {now.done} of {now.files} files{failed}"


class Jobs:
    """The jobs of one worker: those that run, and the last hundred that ended.

    INVARIANT: a job that is not running is never running again. INVARIANT: every job has a task in the nursery of
    run(), and ends with it.
    """

    def __init__(self, move: Move, tier: Tier) -> None:
        self._move = move
        self._tier = tier
        self._jobs: dict[str, _Job] = {}  # in the order in which they began
        self._nursery: trio.Nursery | None = None
        self._ended: Counter[str] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the jobs, until cancelled; says first which ones of the worker before did not end."""
        self._say_interrupted()
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def start(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> JobReport:
        """Begin a job. ControlError where none can run, NotEligible where too many do."""
        if self._nursery is None:
            raise ControlError("no job can run: the mount is going away, or not there yet")
        if self.counts()["running"] >= _MOST_RUNNING:
            raise NotEligible(f"{_MOST_RUNNING} jobs are running: wait for one, or cancel it")
        job = _Job(JobReport(secrets.token_hex(4), verb, "running", self._tier.now()))
        self._add(job)
        self._nursery.start_soon(self._work, job, tuple(paths), recursive)
        return job.report

    def all(self) -> list[JobReport]:
        """All that are known, the newest last."""
        return [job.report for job in self._jobs.values()]

    def counts(self) -> Mapping[str, int]:
        """How many run, and how many have ended since the worker began, by how."""
        running = sum(job.report.state == "running" for job in self._jobs.values())
        return {"running": running, **{state: self._ended[state] for state in ENDED}}

    def get(self, job_id: str) -> JobReport:
        """One of them. NoSuchJob."""
        return self._find(job_id).report

    def outcomes(self, job_id: str) -> list[Outcome]:
        """What failed of a job, up to a thousand files. NoSuchJob."""
        return list(self._find(job_id).failures)

    def cancel(self, job_id: str) -> JobReport:
        """End a job soon: what it is moving now is taken back, what it had moved stands. NoSuchJob."""
        job = self._find(job_id)
        if job.report.state == "running":
            job.report = replace(job.report, reason="it is being cancelled")
            job.scope.cancel()
        return job.report

    # -- inside --------------------------------------------------------------------------------------------------

    def _find(self, job_id: str) -> _Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise NoSuchJob(f"there is no job {job_id!r} of this mount: `tierfs jobs` lists those that are") from None

    async def _work(self, job: _Job, paths: Sequence[bytes], recursive: bool) -> None:
        state: JobState = "cancelled"
        reason = _ENDED
        try:
            with job.scope, because(f"job {job.report.id} of an operator"):
                async with aclosing(self._move(job.report.verb, paths, recursive)) as reports:
                    async for report in reports:
                        job.count(report)
            if job.scope.cancelled_caught:
                reason = _CANCELLED
            elif job.report.failed:
                state, reason = "failed", f"{job.report.failed} failed"
            else:
                state, reason = "done", ""
        except Exception as error:
            if not isinstance(error, TierfsError | OSError):
                log.exception("a defect of tierfs met a job")
            state, reason = "failed", sentence(error)
        finally:
            self._end(job, state, reason)

    def _add(self, job: _Job) -> None:
        self._jobs[job.report.id] = job
        self._note()
        self._tier.events.record("job", after=job.report.state, reason=f"job {job.report.id} ({job.report.verb})")

    def _end(self, job: _Job, state: JobState, reason: str) -> None:
        now = job.report = replace(job.report, state=state, reason=reason, ended_ns=self._tier.now())
        self._ended[state] += 1
        said, took_ns = f"{job.what()}{f': {reason}' if reason else ''}", max(0, now.ended_ns - now.begun_ns)
        self._tier.events.record(
            "job", before="running", after=state, reason=said, size=now.done_bytes, duration_ns=took_ns
        )
        ended = [one.report.id for one in self._jobs.values() if one.report.state != "running"]
        for job_id in ended[:-_MOST_ENDED]:
            del self._jobs[job_id]
        self._note()

    def _note(self) -> None:
        """Write down which ones run, or end with this worker. A catalog that cannot be written to is said elsewhere."""
        left = [one for one in self.all() if one.state == "running" or one.reason == _ENDED]
        with suppress(CatalogError):
            self._tier.catalog.state_fact(JOBS, json.dumps([(one.id, one.verb, one.begun_ns) for one in left]))

    def _say_interrupted(self) -> None:
        for job_id, verb, begun_ns in _noted(self._tier.catalog.fact(JOBS) or "[]"):
            job = _Job(JobReport(job_id, verb, "running", begun_ns))
            self._jobs[job_id] = job
            self._end(job, "cancelled", _INTERRUPTED)


def _noted(text: str) -> list[tuple[str, Verb, int]]:
    """What the worker before has noted; nothing of what one of another version may have noted in its own way."""
    try:
        return [(str(job_id), verb, int(begun_ns)) for job_id, verb, begun_ns in json.loads(text)]
    except (ValueError, TypeError) as error:
        log.warning("which jobs the worker before did not end cannot be read: %s", error)
        return []
