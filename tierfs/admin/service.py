"""What the control API needs of a running mount: the port that engine.service fills."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from tierfs.core.reports import (
    CheckOrder,
    Entry,
    EventReport,
    Finding,
    JobReport,
    Outcome,
    PlannedAction,
    Total,
    Verb,
)
from tierfs.engine.measures import Measures


class Service(Protocol):
    """What the control API offers of a running mount. Paths are bytes relative to the mountpoint; b"" is the root.

    Methods raise TierfsError or OSError when the whole request fails; what fails for one file is its outcome.
    """

    async def status(self, is_quick: bool = False) -> Mapping[str, object]:
        """The mount in figures, see `tierfs status --json`; `is_quick`: hot files as they were counted a while ago."""
        ...

    async def activity(self) -> Mapping[str, object]:
        """What goes on right now, quickly: this is asked every second. See docs/API.md."""
        ...

    async def measure(self) -> Measures:
        """What is counted, quickly: this is asked often."""
        ...

    def list_entries(self, paths: Sequence[bytes], recursive: bool) -> AsyncIterator[Entry | Outcome]:
        """A file itself, the entries of a directory; a failed outcome for a path that is not there."""
        ...

    def move(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> AsyncIterator[Total | Outcome]:
        """Archive, release or restore files: a total first, then an outcome for each as it is reached."""
        ...

    def leave(self) -> AsyncIterator[Total | Outcome]:
        """Pin everything, then restore everything. NotEligible where there is no room for it."""
        ...

    def pin(self, paths: Sequence[bytes]) -> AsyncIterator[Outcome]:
        """Never release these files, or the files below these directories."""
        ...

    def unpin(self, paths: Sequence[bytes]) -> AsyncIterator[Outcome]:
        """Take pins away."""
        ...

    async def evict(self, paths: Sequence[bytes] | None) -> Sequence[Outcome]:
        """Drop the chunks of these files from the cache, or all of them."""
        ...

    async def plan(self) -> Sequence[PlannedAction]:
        """What the policy would do now; changes nothing."""
        ...

    async def costs(self, own: str | None) -> Mapping[str, object]:
        """What the tree costs, at the mount's prices or at those of `own`, the text of a table. ConfigError."""
        ...

    def check(self, order: CheckOrder) -> AsyncIterator[Finding | Total | Outcome]:
        """Where catalog, hot directory, bucket and cache disagree; deep: also a total, and an outcome per object."""
        ...

    def events(self, after: int, follow: bool) -> AsyncIterator[EventReport]:
        """The events after this number, 0 for all that are kept; with `follow` also those that are still to come."""
        ...

    async def start_job(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> JobReport:
        """Begin to archive, release or restore files, and do not wait for it."""
        ...

    async def jobs(self) -> Sequence[JobReport]:
        """The jobs that run, and the last ones that ended; the newest last."""
        ...

    async def job(self, job_id: str) -> JobReport:
        """One job. NoSuchJob."""
        ...

    async def job_failures(self, job_id: str) -> Sequence[Outcome]:
        """What failed of a job. NoSuchJob."""
        ...

    async def cancel_job(self, job_id: str) -> JobReport:
        """End a job soon; what it had done stands. NoSuchJob."""
        ...
