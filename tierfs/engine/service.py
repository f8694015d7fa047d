"""What an operator can ask of a running mount, and what it is told: the engine behind the control API.

Every answer is made of core.reports. Work on many files goes on file by file; what fails for one is its outcome.
"""

import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

import trio

from tierfs.core.errors import NotEligible, TierfsError
from tierfs.core.policy import matches
from tierfs.core.reports import CheckOrder, Entry, Finding, Outcome, PlannedAction, Total, Verb
from tierfs.core.residency import Residency
from tierfs.engine.activity import Activity
from tierfs.engine.check import Checker
from tierfs.engine.entries import Entries
from tierfs.engine.events import because, sentence
from tierfs.engine.evicting import evict_one
from tierfs.engine.figures import Engine, Figures
from tierfs.engine.leaving import EVERYTHING, expect_room, hold
from tierfs.engine.measures import Measures
from tierfs.engine.observed import Facts, NoSight, Observations, Sight
from tierfs.engine.oversight import Oversight
from tierfs.engine.segments import Surroundings, to_move_along
from tierfs.engine.tree import Found
from tierfs.stores.hot import join

__all__ = ["Engine", "Operator"]

_LOOKS_AT_ONCE = 200  # files that a walk looks at before the loop serves others
_FILES_AT_ONCE = 64  # waiting files of one request; the engine's own limits are lower


class Operator(Oversight):
    """Answers for one mount. `observe` asks the mount what it saw, `sight` is what it sees of the use of its files."""

    def __init__(
        self, engine: Engine, facts: Facts, observe: Callable[[], Observations], sight: Sight | None = None
    ) -> None:
        super().__init__(self.move, engine.tier)
        self._engine = engine
        self.facts = facts
        self.figures = Figures(engine, facts, observe)
        self._activity = Activity(self.figures, sight or NoSight())
        self.entries = Entries(engine.tree, engine.hydrator, engine.daemon)

    # -- status --------------------------------------------------------------------------------------------------

    async def status(self, is_quick: bool = False) -> Mapping[str, object]:
        """The mount in figures; `is_quick`: with what is known of the hot files, where to look takes a while."""
        return await self.figures.status(is_quick)

    async def keep_totals(self) -> None:
        """Keep up what would be lost, or known too late, if nobody asked for it; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.figures.keep_up)
            nursery.start_soon(self._activity.run)

    async def activity(self) -> Mapping[str, object]:
        """What goes on right now; quickly: this is asked every second."""
        return await self._activity.report()

    async def measure(self) -> Measures:
        """The mount in figures, for metrics."""
        return replace(await self.figures.measure(), jobs=self.counts_of_jobs())

    # -- looking -------------------------------------------------------------------------------------------------

    async def list_entries(self, paths: Sequence[bytes], recursive: bool) -> AsyncIterator[Entry | Outcome]:
        """A file itself, the entries of a directory; a failed outcome for a path that is not there."""
        around = Surroundings(self._engine.tier)
        for path in paths:
            found = self._find(path)
            if found is None:
                yield Outcome(path, "failed", "no such file")
            elif not stat.S_ISDIR(found.st.st_mode):
                yield await self.entries.of(path, found, around)
            else:
                for below, inside in self._below(path, recursive):
                    yield await self.entries.of(below, inside, around)

    def _find(self, path: bytes) -> Found | None:
        try:
            return self._engine.tree.find_or_none(path)
        except NotADirectoryError:
            return None

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
        await self._engine.cold.come_up()
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

        try:
            async with trio.open_nursery() as nursery, receive:
                nursery.start_soon(self._move_all, files, work, send)
                async for outcome in receive:
                    yield outcome
        except* GeneratorExit:
            pass  # nobody wants the rest; the nursery makes an error of that, which is none

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
                if self._engine.daemon.is_leaving:
                    await trio.sleep_forever()  # this worker is about to end: what it begins now would be cut off
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
        e = self._engine
        if paths is None:
            before = await self.figures.cached_bytes()
            await e.hydrator.evict(None)
            return [Outcome(b"", "done", bytes=max(0, before - await self.figures.cached_bytes()))]
        return [await evict_one(path, self._find(path), e.tier.catalog, e.hydrator) for path in paths]

    async def plan(self) -> Sequence[PlannedAction]:
        """What the policy would do now; changes nothing."""
        return await self.figures.money.priced(await self._engine.daemon.plan())

    async def costs(self, own: str | None) -> Mapping[str, object]:
        """What the tree costs: see docs of `tierfs cost --json`. `own`: the text of a price table. ConfigError."""
        return await self.figures.money.costs(own)

    def check(self, order: CheckOrder) -> AsyncGenerator[Finding | Total | Outcome, None]:
        """Where catalog, hot directory, bucket and cache disagree. See Checker."""
        return Checker(self._engine.tier, self._engine.cold, True, self._engine.changed).run(order)
