"""What an operator can ask of a running mount, and what it is told: the engine behind the control API.

Every answer is made of core.reports. Work on many files goes on file by file; what fails for one is its outcome.
"""

import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace

import trio

from tierfs.core.config import Settings
from tierfs.core.errors import NotEligible, TierfsError
from tierfs.core.histogram import Histogram
from tierfs.core.policy import matches, why_not_archived_with, why_not_released_with
from tierfs.core.records import why_lost
from tierfs.core.reports import CheckOrder, Entry, Finding, Outcome, PlannedAction, Total, Verb
from tierfs.core.residency import Residency, tier_of
from tierfs.engine.archive import Archiver
from tierfs.engine.check import Checker
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.daemon import Daemon
from tierfs.engine.events import because, sentence
from tierfs.engine.hydrate import Hydrator
from tierfs.engine.leaving import EVERYTHING, expect_room, hold
from tierfs.engine.measures import Measures, Odometer
from tierfs.engine.observed import WHERE, Facts, Observations
from tierfs.engine.oversight import Oversight
from tierfs.engine.restore import Restorer
from tierfs.engine.segments import Surroundings, to_move_along
from tierfs.engine.stats import kind_of
from tierfs.engine.tier import Tier
from tierfs.engine.tree import Found, Tree
from tierfs.stores.hot import join

_LOOKS_AT_ONCE = 200  # files that a walk looks at before the loop serves others
_FILES_AT_ONCE = 64  # waiting files of one request; the engine's own limits are lower


@dataclass(frozen=True, slots=True)
class Engine:
    """The parts of a running mount."""

    tree: Tree
    tier: Tier
    cold: ColdTier
    hydrator: Hydrator
    archiver: Archiver
    restorer: Restorer
    daemon: Daemon
    settings: Settings
    #: Told each path that changed without an application's doing.
    changed: Callable[[bytes], None] = lambda _path: None


class Operator(Oversight):
    """Answers for one mount. `observe` asks the mount what it saw."""

    def __init__(self, engine: Engine, facts: Facts, observe: Callable[[], Observations]) -> None:
        super().__init__(self.move, engine.tier)
        self._engine = engine
        self.facts = facts
        self._observe = observe
        self._odometer = Odometer(engine.cold)

    # -- status --------------------------------------------------------------------------------------------------

    async def status(self) -> Mapping[str, object]:
        """The mount in figures."""
        e, facts, seen = self._engine, self.facts, self._observe()
        passes, measured = e.daemon.passes, await self.measure()
        return {
            **{name: getattr(facts, name) for name in WHERE},
            **await self._tiers(),
            "lost": self._lost(),
            **measured.as_json(),
            "queue": {
                "archiving": len(e.archiver.active),
                "restoring": e.restorer.active(),
                "deletions": len(e.tier.catalog.tombstones()),
                "moves": sum(not matches(one.path, e.settings.transient) for one in e.tier.catalog.misplaced()),
            },
            "errors": {
                "reads": seen.read_errors,
                "policy": passes.failed,
                "files": {os.fsdecode(path): reason for path, (_, _, reason) in list(e.tier.failures.items())[:20]},
            },
            "policy": {"last_pass_ns": passes.last_ns, "next_pass_ns": passes.next_ns, "planned": passes.planned},
            "passthrough": facts.passthrough,
            "read_only": e.settings.read_only,
            "version": facts.version,
            "warnings": [*seen.warnings, *measured.warnings(), *filter(None, [passes.waiting])],
            "fuse": {
                "requests": seen.requests,
                "opens": seen.opens,
                "open_files": seen.open_files,
                "backing_ids": seen.backing_ids,
                "known_nodes": seen.known_nodes,
            },
            "succession": asdict(seen.succession),
            "worker_pid": facts.worker_pid,
            "supervisor_pid": facts.supervisor_pid,
        }

    async def keep_totals(self) -> None:
        """Look at the cold process's totals now and then, until cancelled: they should outlive it."""
        await self._odometer.run()

    async def measure(self) -> Measures:
        """The cold side in figures: quickly, however many files there are."""
        e, facts = self._engine, self.facts
        cold, seen, counters = await self._odometer.read(), self._observe(), e.hydrator.counters
        return Measures(
            mountpoint=facts.mountpoint,
            version=facts.version,
            reads=replace(counters, waited=counters.waited.plus(Histogram())),
            cold=cold,
            cold_restarts=seen.cold_restarts,
            take_overs=seen.succession.take_overs,
            cache_limit=int(e.settings.cache_size),
            operation_errors=seen.read_errors,
            lost_files=e.tier.catalog.count(Residency.LOST),
            guard=e.hydrator.guard.numbers(),
        )

    async def _cached_total(self) -> int:
        return (await self._odometer.read()).volume

    def _lost(self) -> dict[str, int]:
        """Those of the cold files whose bytes cannot be had."""
        files, size = self._engine.tier.catalog.tally().get(Residency.LOST, (0, 0))
        return {"files": files, "bytes": size}

    async def _tiers(self) -> dict[str, dict[str, int]]:
        sums = {tier: {"files": 0, "bytes": 0} for tier in ("hot", "warm", "cold")}
        for residency, (files, size) in self._engine.tier.catalog.tally().items():
            if tier_of(residency) == "cold":
                sums["cold"]["files"] += files
                sums["cold"]["bytes"] += size
        for file in await self._engine.daemon.look_at_all():
            tier = tier_of(file.residency)
            sums[tier]["files"] += 1
            sums[tier]["bytes"] += file.size
        return sums

    # -- looking -------------------------------------------------------------------------------------------------

    async def list_entries(self, paths: Sequence[bytes], recursive: bool) -> AsyncIterator[Entry | Outcome]:
        """A file itself, the entries of a directory; a failed outcome for a path that is not there."""
        around = Surroundings(self._engine.tier)
        for path in paths:
            found = self._find(path)
            if found is None:
                yield Outcome(path, "failed", "no such file")
            elif not stat.S_ISDIR(found.st.st_mode):
                yield await self._entry(path, found, around)
            else:
                for below, inside in self._below(path, recursive):
                    yield await self._entry(below, inside, around)

    def _find(self, path: bytes) -> Found | None:
        try:
            return self._engine.tree.find_or_none(path)
        except NotADirectoryError:
            return None

    async def _entry(self, path: bytes, found: Found, around: Surroundings) -> Entry:
        tier, settings, st = self._engine.tier, self._engine.settings, found.st
        record = found.record or tier.catalog.get(path)
        cached, reason = 0, ""
        if found.record:
            residency = found.record.residency
            cached = await self._engine.hydrator.cached_bytes(found.record.object) if found.record.object else 0
            reason = why_lost(found.record) if residency is Residency.LOST else ""
        else:
            file = tier.look(path, tier.hot.lstat(path))
            residency, now_ns = file.residency, tier.now()
            segment = await around.segment_with(file)
            if residency is Residency.MIRRORED:
                reason = why_not_released_with(file, segment, settings, now_ns) or ""
            elif not stat.S_ISDIR(st.st_mode):
                reason = (
                    why_not_archived_with(file, segment, settings, now_ns)
                    or self._engine.daemon.why_held()
                    or "waits for the next policy pass"
                )
        key = record.object.key if record and record.object and record.object.etag else None
        is_kept = residency is not Residency.HOT
        return Entry(
            path=path,
            residency=residency,
            tier=tier_of(residency),
            size=st.st_size,
            mtime_ns=st.st_mtime_ns,
            key=key if is_kept else None,
            cached_bytes=cached,
            pinned=tier.pins.cover(path),
            reason=reason,
            kind=kind_of(st.st_mode),
        )

    def _below(self, path: bytes, recursive: bool) -> Iterator[tuple[bytes, Found]]:
        """The entries of a directory in order of their names, those of its directories behind each."""
        tree = self._engine.tree
        try:
            names = sorted(name for name, _, _ in tree.names(path))
        except (FileNotFoundError, NotADirectoryError):
            return  # it went away while the ones before it were looked at
        for name in names:
            inside = join(path, name)
            found = tree.find_or_none(inside)
            if found:
                yield inside, found
                if recursive and stat.S_ISDIR(found.st.st_mode):
                    yield from self._below(inside, recursive)

    # -- moving --------------------------------------------------------------------------------------------------

    async def move(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> AsyncGenerator[Total | Outcome, None]:
        """Archive, release or restore: a total first, then an outcome for each file as it is done.

        A file that the rules keep where it is has failed when it was named, and is unchanged when -r came across it,
        or the segment that another one belongs to.
        """
        files: list[tuple[bytes, Found]] = []
        refused: list[Outcome] = []
        for path in dict.fromkeys(paths):
            await self._collect(path, recursive, files, refused)
        await self._complete(verb, files)
        yield Total(len(files), sum(found.st.st_size for _, found in files))
        for outcome in refused:
            yield outcome
        send, receive = trio.open_memory_channel[Outcome](_FILES_AT_ONCE)
        moving = {"archive": self._archive, "release": self._release, "restore": self._restore}[verb]
        named = frozenset(paths)

        async def work(path: bytes) -> Outcome:
            if verb == "release" and path not in named and matches(path, self._engine.settings.keep_hot):
                return Outcome(path, "unchanged", "kept hot by a pattern")
            return await self._outcome(path, moving, path in named)

        async with trio.open_nursery() as nursery, receive:
            nursery.start_soon(self._move_all, files, work, send)
            async for outcome in receive:
                yield outcome

    async def leave(self) -> AsyncGenerator[Total | Outcome, None]:
        """Pin everything, then restore everything; see move(). NotEligible where there is no room for it."""
        expect_room(self._engine.tier)
        hold(self._engine.tier)
        async with aclosing(self.move("restore", [EVERYTHING], recursive=True)) as reports:
            async for report in reports:
                yield report

    async def _collect(
        self, path: bytes, recursive: bool, files: list[tuple[bytes, Found]], refused: list[Outcome]
    ) -> None:
        if len(files) % _LOOKS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        found = self._find(path)
        if found is None:
            refused.append(Outcome(path, "failed", "no such file", error="FileNotFoundError"))
        elif not stat.S_ISDIR(found.st.st_mode):
            files.append((path, found))
        elif not recursive:
            refused.append(Outcome(path, "failed", "a directory; -r takes what is in it", error="IsADirectoryError"))
        else:
            for index, (inside, at) in enumerate(self._below(path, recursive=True)):
                if index % _LOOKS_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
                if stat.S_ISREG(at.st.st_mode):
                    files.append((inside, at))

    async def _complete(self, verb: Verb, files: list[tuple[bytes, Found]]) -> None:
        """Add what is missing of the segments that are to be moved."""
        known = {path for path, _ in files}
        for index, path in enumerate(list(known) if self._engine.settings.segments else []):
            if index % _LOOKS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            for other in to_move_along(self._engine.tier, verb, path, known):
                found = self._find(other)
                if found:
                    known.add(other)
                    files.append((other, found))

    async def _move_all(
        self,
        files: list[tuple[bytes, Found]],
        work: Callable[[bytes], Awaitable[Outcome]],
        send: "trio.MemorySendChannel[Outcome]",
    ) -> None:
        limit = trio.CapacityLimiter(self._engine.settings.archive_concurrency)

        async def one(path: bytes, turn: object) -> None:
            try:
                await send.send(await work(path))
            finally:
                limit.release_on_behalf_of(turn)

        async with send, trio.open_nursery() as nursery:
            for path, _ in files:  # a task for each of them at once would take gigabytes
                turn = object()
                await limit.acquire_on_behalf_of(turn)
                nursery.start_soon(one, path, turn)

    async def _outcome(self, path: bytes, work: Callable[[bytes], Awaitable[int]], is_named: bool) -> Outcome:
        try:
            with because("an operator asks"):
                moved = await work(path)
        except NotEligible as reason:
            return Outcome(path, "failed" if is_named else "unchanged", str(reason), error="NotEligible")
        except (TierfsError, OSError) as error:
            self.say_failed(path, error)
            return Outcome(path, "failed", sentence(error), error=type(error).__name__)
        return Outcome(path, "done", bytes=moved) if moved else Outcome(path, "unchanged")

    async def _archive(self, path: bytes) -> int:
        tier = self._engine.tier
        if tier.cold_record(path):
            return 0
        if tier.look(path, tier.hot.lstat(path)).residency is Residency.MIRRORED:
            return 0
        record = await self._engine.archiver.archive(path)
        return record.attributes.size

    async def _release(self, path: bytes) -> int:
        if self._engine.tier.pins.cover(path):
            raise NotEligible("pinned")
        if self._engine.tier.cold_record(path):
            return 0
        await self._archive(path)
        try:
            record = await self._engine.archiver.release(path)
        except FileNotFoundError:
            if self._engine.tier.cold_record(path):
                return 0  # somebody else was faster
            raise
        return record.attributes.size

    async def _restore(self, path: bytes) -> int:
        record = self._engine.tier.cold_record(path)
        if record is None:
            return 0
        await self._engine.restorer.restore(path)
        return max(1, record.attributes.size)

    # -- the rest ------------------------------------------------------------------------------------------------

    async def pin(self, paths: Sequence[bytes]) -> AsyncIterator[Outcome]:
        """Never release these files, or the files below these directories."""
        for path in paths:
            if self._find(path) is None:
                yield Outcome(path, "failed", "no such file", error="FileNotFoundError")
            elif path in self._engine.tier.pins:
                yield Outcome(path, "unchanged", "pinned already")
            else:
                self._engine.tier.pins.add(path)
                yield Outcome(path, "done")

    async def unpin(self, paths: Sequence[bytes]) -> AsyncIterator[Outcome]:
        """Take pins away."""
        for path in paths:
            if self._engine.tier.pins.discard(path):
                yield Outcome(path, "done")
            else:
                above = "pinned by a directory above it or by a pattern" if self._engine.tier.pins.cover(path) else ""
                yield Outcome(path, "unchanged", above or "not pinned")

    async def evict(self, paths: Sequence[bytes] | None) -> Sequence[Outcome]:
        """Drop the chunks of these files from the cache, or all of them."""
        hydrator = self._engine.hydrator
        if paths is None:
            before = await self._cached_total()
            await hydrator.evict(None)
            return [Outcome(b"", "done", bytes=max(0, before - await self._cached_total()))]
        outcomes = []
        for path in paths:
            found = self._find(path)
            record = (found and found.record) or self._engine.tier.catalog.get(path)
            if found is None:
                outcomes.append(Outcome(path, "failed", "no such file"))
            elif record is None or record.object is None:
                outcomes.append(Outcome(path, "unchanged", "it has no object, so nothing of it is cached"))
            else:
                cached = await hydrator.cached_bytes(record.object)
                await hydrator.evict(record.object)
                outcomes.append(Outcome(path, "done", bytes=cached))
        return outcomes

    async def plan(self) -> Sequence[PlannedAction]:
        """What the policy would do now; changes nothing."""
        actions = await self._engine.daemon.plan()
        return [PlannedAction(a.path, a.verb.value, a.size, a.reason) for a in actions]

    def check(self, order: CheckOrder) -> AsyncGenerator[Finding | Total | Outcome, None]:
        """Where catalog, hot directory, bucket and cache disagree. See Checker."""
        return Checker(self._engine.tier, self._engine.cold, True, self._engine.changed).run(order)
