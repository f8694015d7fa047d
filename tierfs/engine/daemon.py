"""The policy daemon: every interval it looks at all hot files, plans, and carries the plan out.

The plan is advice: a file that changed since is refused by tier, which is no failure. A file that fails is tried again
later, less and less often, and does not stop the others.
"""

import logging
import os
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import groupby

import outcome
import trio

from tierfs.core.config import Settings
from tierfs.core.errors import CatalogError, NotEligible, TierfsError
from tierfs.core.pace import Pace
from tierfs.core.policy import Action, Fill, HotFile, Verb, next_try_ns, plan
from tierfs.core.reports import happened
from tierfs.core.windows import parse_windows, why_held
from tierfs.engine.archive import Archiver
from tierfs.engine.events import because, sentence
from tierfs.engine.look import Look, Stopwatch
from tierfs.engine.sweep import Sweeper
from tierfs.engine.tier import Tier
from tierfs.stores.hot import HotTier, join

log = logging.getLogger(__name__)

_CANDIDATES = 20
_LOOKS_AT_ONCE = 50  # files that the loop looks at before it serves others


@dataclass(slots=True)
class Passes:
    """When the policy ran; times in nanoseconds since the epoch, 0 for never.

    `waiting` is why deletions and renames did not reach the bucket the last time, empty when they did. `done` passes
    ended, `broken` ones by an error of their own; the last one took `took_ns`, and planned so much `by_verb`.
    """

    last_ns: int = 0
    next_ns: int = 0
    planned: int = 0
    failed: int = 0
    waiting: str = ""
    done: int = 0
    broken: int = 0
    took_ns: int = 0
    by_verb: Mapping[str, int] = field(default_factory=lambda: {verb.value: 0 for verb in Verb})


class Daemon:
    """Runs the policy.

    Archives may take hours, releases and deletions must not wait for them: a pass hands its archives to a task that
    goes on with them, and the next pass replaces those that have not begun by what it plans.

    INVARIANT: at most `archive_concurrency` files are being archived for the policy at any time, and as many released.
    """

    def __init__(self, tier: Tier, archiver: Archiver, sweeper: Sweeper, settings: Settings) -> None:
        self._tier = tier
        self._archiver = archiver
        self._sweeper = sweeper
        self._settings = settings
        self.passes = Passes()
        self.is_leaving = False  # no movement is begun any more
        self.minute_of_day: Callable[[int], int] = local_minute
        self._windows = parse_windows(settings.archive_window)
        self._is_above_high = False  # the hot tier, as the last plan saw it
        self._pace = Pace(settings.archive_rate / 60)
        self._waiting: deque[list[Action]] = deque()  # archives that have not begun, by segment
        self._is_archiving = False
        self._archives = trio.CapacityLimiter(settings.archive_concurrency)
        #: What is done after a pass, whatever became of it.
        self.after_pass: Callable[[], Awaitable[None]] = _nothing
        #: How many files the last plan wants to be archived whose turn has not come.
        self.waiting_files = 0
        #: The largest files that the last plan wants to move, and of when it is; 0 before the first.
        self.candidates: list[Action] = []
        self.candidates_at_ns = 0
        #: The last look at all hot files, None before the first.
        self.look: Look | None = None
        #: Files and bytes that were moved to the hot tier until now, less what was released: see Look.
        self.brought: Callable[[], tuple[int, int]] = lambda: (0, 0)

    async def run(self) -> None:
        """A pass now and after every interval, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                began = trio.current_time()
                try:
                    await self.begin_pass(nursery)
                    self.passes.done += 1
                except (TierfsError, OSError) as error:
                    self.passes.broken += 1
                    log.warning("the policy pass failed: %s", sentence(error), extra=happened("failure"))
                self.passes.took_ns = round((trio.current_time() - began) * 1e9)
                await self.after_pass()
                self.passes.next_ns = self._tier.now() + self._settings.policy_interval
                await trio.sleep(self._settings.policy_interval.seconds)

    async def run_pass(self) -> None:
        """One pass, and all that it archives."""
        async with trio.open_nursery() as nursery:
            passed = await outcome.acapture(self.begin_pass, nursery)
        passed.unwrap()

    async def begin_pass(self, nursery: trio.Nursery) -> None:
        """One pass: what the bucket owes, and releases; archives go on in the nursery when it is over."""
        self.passes.last_ns = self._tier.now()
        if not self._settings.read_only:
            await self._sweep()
            self._archiver.take_back()
        if not self._settings.auto_archive or self._settings.read_only or self.is_leaving:
            return
        began_ns = time.monotonic_ns()
        actions = await self.plan()
        self.passes.planned = len(actions)
        self._say_planned(actions, time.monotonic_ns() - began_ns)
        archives = [action for action in actions if action.verb is Verb.ARCHIVE]
        releases = [action for action in actions if action.verb is Verb.RELEASE]
        self.passes.by_verb = {Verb.ARCHIVE.value: len(archives), Verb.RELEASE.value: len(releases)}
        self._waiting, self.waiting_files = deque(_by_segment(archives)), len(archives)
        if self._waiting and not self._is_archiving:
            self._is_archiving = True
            nursery.start_soon(self._archive_waiting, nursery)
        await self.release(releases)

    def _say_planned(self, actions: list[Action], took_ns: int) -> None:
        """A pass that found something to do is an event; most find nothing."""
        if actions:
            parts = [
                f"{len(some)} to {verb.value} ({sum(one.size for one in some)} bytes)"
                for verb in Verb
                if (some := [one for one in actions if one.verb is verb])
            ]
            size = sum(one.size for one in actions)
            self._tier.events.record("pass", reason=", ".join(parts), size=size, duration_ns=took_ns)

    async def release(self, actions: list[Action]) -> None:
        """Release files; what fails is tried again later, as in a pass."""
        await self._carry_out(actions, self._archiver.release)

    async def plan(self) -> list[Action]:
        """What a pass would do now."""
        files, look = await self._look_at_all()
        for gone in self._tier.failures.keys() - {file.path for file in files} if self._tier.failures else ():
            del self._tier.failures[gone]  # renamed, or removed behind the mount
        filesystem = self._tier.hot.statvfs()
        fill = Fill(
            hot=look.held,
            used=(filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_frsize,
            capacity=filesystem.f_blocks * filesystem.f_frsize,
        )
        self._is_above_high = fill.excess_over(self._settings.high_watermark) > 0
        # A second for 100,000 files, in which the loop would answer nobody.
        at_ns, is_held = self._tier.now(), bool(self.why_held())
        actions, self.candidates = await trio.to_thread.run_sync(_plan, files, fill, self._settings, at_ns, is_held)
        self.candidates_at_ns = at_ns
        return actions

    def why_held(self) -> str | None:
        """Why no archive is begun now; None when it may."""
        return why_held(self._windows, self.minute_of_day(self._tier.now()), self._is_above_high)

    async def _sweep(self) -> None:
        try:
            await self._sweeper.sweep()
        except TierfsError as error:
            self.passes.waiting = f"deletions and renames wait for the bucket: {error}"
            log.warning("%s", self.passes.waiting, extra=happened("failure"))
        else:
            self.passes.waiting = ""

    async def look_at_all(self) -> list[HotFile]:
        """Every hot file as the policy sees it; the walk itself runs in a thread."""
        return (await self._look_at_all())[0]

    async def _look_at_all(self) -> tuple[list[HotFile], Look]:
        look = Look(self._tier.now(), self.brought())
        found, look.cpu_ns = await self._walk()
        files = []
        spent = Stopwatch()
        for index, (path, st) in enumerate(found):
            if index % _LOOKS_AT_ONCE == 0:
                spent.pause()
                await trio.lowlevel.checkpoint()
                spent.go_on()
            with suppress(CatalogError):  # the look itself sees what the file is, written down or not
                self._tier.noticed(self._tier.catalog.get(path))
            file = self._tier.look(path, st)
            look.add(file)
            files.append(file)
        spent.pause()
        look.cpu_ns += spent.spent_ns
        self.look = look
        return files, look

    async def _walk(self) -> tuple[list[tuple[bytes, os.stat_result]], int]:
        """All regular files, with their stat, and what finding them took of the processor, in nanoseconds."""
        hot = self._tier.hot.for_thread()

        def timed_walk() -> tuple[list[tuple[bytes, os.stat_result]], int]:
            spent = Stopwatch()
            found = list(walk(hot, b""))
            spent.pause()
            return found, spent.spent_ns

        try:
            return await trio.to_thread.run_sync(timed_walk)
        finally:
            hot.close()

    async def _archive(self, path: bytes) -> object:
        return await self._archiver.archive(path)

    async def _archive_waiting(self, nursery: trio.Nursery) -> None:
        """Begin one archive after the other, as concurrency, rate and window let them, until none waits."""
        try:
            while True:
                turn = object()
                await self._archives.acquire_on_behalf_of(turn)
                together = await self._next_archives()
                if not together:
                    self._archives.release_on_behalf_of(turn)
                    return
                nursery.start_soon(self._carry_out_together, together, self._archive, self._archives, turn)
        finally:
            self._is_archiving = False

    async def _next_archives(self) -> list[Action]:
        """The archives of the next segment, or of the next file on its own; none when nothing may begin."""
        while self._waiting and not self.is_leaving:
            now_ns = round(trio.current_time() * 1e9)
            if wait_ns := self._pace.wait_ns(now_ns):
                await trio.sleep(wait_ns / 1e9)  # what waits then may be something else
            elif self.why_held():
                self._waiting.clear()
                self.waiting_files = 0
            else:
                together = self._waiting.popleft()
                self.waiting_files -= len(together)
                self._pace = self._pace.spent(len(together), now_ns)
                return together
        return []

    async def _carry_out(self, actions: list[Action], work: Callable[[bytes], Awaitable[object]]) -> None:
        limit = trio.CapacityLimiter(self._settings.archive_concurrency)
        async with trio.open_nursery() as nursery:
            for together in _by_segment(actions):
                if self.is_leaving:
                    break
                turn = object()
                await limit.acquire_on_behalf_of(turn)
                nursery.start_soon(self._carry_out_together, together, work, limit, turn)

    async def _carry_out_together(
        self,
        together: list[Action],
        work: Callable[[bytes], Awaitable[object]],
        limit: trio.CapacityLimiter,
        turn: object,
    ) -> None:
        """Move a segment, file by file, until one of them does not: the next pass looks at all of them again."""
        try:
            if self._is_kept(together):
                return
            for action in together:
                if self.is_leaving or not await self._carry_out_one(action, work):
                    return
        finally:
            limit.release_on_behalf_of(turn)

    def _is_kept(self, together: list[Action]) -> bool:
        """Whether a file of a segment that was to be released has found a use since: all of it stays then."""
        for action in together if len(together) > 1 else ():
            try:
                if action.verb is Verb.RELEASE:
                    self._tier.check_releasable(action.path)
            except (NotEligible, OSError) as reason:
                log.debug("the segment of %s left alone: %s", os.fsdecode(action.path), reason)
                return True
        return False

    async def _carry_out_one(self, action: Action, work: Callable[[bytes], Awaitable[object]]) -> bool:
        """Move one file; whether it did."""
        try:
            with because(action.reason):
                await work(action.path)
        except NotEligible as reason:
            log.debug("%s left alone: %s", os.fsdecode(action.path), reason)
        except FileNotFoundError:
            log.debug("%s went away", os.fsdecode(action.path))
        except (TierfsError, OSError) as error:
            self._failed(action, error)
        else:
            return True
        return False

    def _failed(self, action: Action, error: Exception) -> None:
        failures = self._tier.failures.get(action.path, (0, 0, ""))[0] + 1
        self._tier.failures[action.path] = (failures, next_try_ns(failures, self._tier.now()), str(error))
        self.passes.failed += 1
        name = os.fsdecode(action.path)
        extra = happened("failure", action.path)
        log.warning("cannot %s %s (try %d): %s", action.verb, name, failures, error, extra=extra)


def _plan(
    files: list[HotFile], fill: Fill, settings: Settings, now_ns: int, is_held: bool
) -> tuple[list[Action], list[Action]]:
    """What is to be moved, without archives where those are held; and the largest files of it."""
    actions = plan(files, fill, settings, now_ns)
    if is_held:
        actions = [action for action in actions if action.verb is not Verb.ARCHIVE]
    return actions, nlargest(_CANDIDATES, actions, key=lambda action: action.size)


def local_minute(now_ns: int) -> int:
    """Minutes since midnight, by the clock on the wall."""
    local = time.localtime(now_ns // 1_000_000_000)
    return local.tm_hour * 60 + local.tm_min


async def _nothing() -> None:
    """Nothing is done after a pass."""


def _by_segment(actions: list[Action]) -> Iterator[list[Action]]:
    """The actions of one segment together, the others one by one."""
    for segment, group in groupby(actions, key=lambda action: action.segment):
        together = list(group)
        yield from [together] if segment else [[action] for action in together]


def walk(hot: HotTier, directory: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """All regular files below a directory, with their stat. What goes away meanwhile is left out."""
    try:
        entries = list(hot.scan(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = join(directory, os.fsencode(entry.name))
        st = hot.lstat_or_none(path)
        if st is None:
            continue
        if stat.S_ISDIR(st.st_mode):
            yield from walk(hot, path)
        elif stat.S_ISREG(st.st_mode):
            yield path, st
