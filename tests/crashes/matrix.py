"""Every step, a crash before and after it, in every way: what the points are, how one is run, and the table."""

import contextlib
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from tests.crashes.arming import Moment, Order
from tests.crashes.held import Held
from tests.crashes.scenarios import FIRST_SNAPSHOT, S3, SETTINGS, Scenario, scenarios
from tests.crashes.scene import Scene, nothing
from tests.crashes.stage import INTERRUPTED, Stage, Theatre, stage
from tests.crashes.trees import Tree, differences
from tests.crashes.ways import POWER, Way
from tests.servers import moto
from tierfs.core.errors import ControlError, StoreError
from tierfs.stores.catalog import Catalog

#: Points that one stage goes through, one after the other: its tree grows with each.
_ON_ONE_STAGE = 32
_ON_ONE_STAGE_OF = {S3: 8, FIRST_SNAPSHOT: 1}
#: Stages at a time: two processors. Each has three loop devices, and a kernel often has no more than eight.
_AT_ONCE = 2
_BUCKET = "crashes"

#: The steps that change hot names.
_CHANGES_NAMES = {
    *("release.unlink", "restore.name", "overwrite.name", "unlink.name", "link.name"),
    *("rename.name", "rename_hot.name", "rename_cold.unlink", "recover.unlink", "recover.follow"),
}


@dataclass(frozen=True)
class Point:
    """One end of a mount. `step` is empty for the moment when the call has returned and was synced."""

    scenario: Scenario
    step: str
    moment: Moment
    way: Way

    def __str__(self) -> str:
        where = f"{self.moment} {self.step}" if self.step else "when all is synced"
        return f"{self.scenario.name}: {self.way} {where}"


@dataclass(frozen=True)
class Result:
    """What became of a point: empty when it passed."""

    point: Point
    failure: str = ""


def points(ways: Sequence[Way]) -> list[Point]:
    """All points of some ways, in the order in which they are run."""
    found: list[Point] = []
    known: set[str] = set()
    for scenario in scenarios():
        for step in (*scenario.steps, *scenario.cold_steps):
            for way in (way for way in ways if way in scenario.ways):
                found += [Point(scenario, step, moment, way) for moment in _moments(scenario, step, way, step in known)]
            known.add(step)
        if Way.POWER in ways and Way.POWER in scenario.ways and scenario.effect is not nothing:
            found.append(Point(scenario, "", "after", Way.POWER))
    return found


def one_of_each(wanted: Sequence[Point]) -> list[Point]:
    """A point for each step, and for each scenario that has none: what a run has time for that is made every day.

    One where the mount ends, and one where it is taken over. Other ways and moments take turns by a fixed rule: the one
    that came least often so far.
    """
    candidates: dict[tuple[str, bool], list[Point]] = defaultdict(list)
    for point in wanted:
        if point.scenario.theatre and point.way is not Way.CRASH:
            continue  # each way has stages of its own, and setting them up for a few points is what costs
        if point.step or not (point.scenario.steps or point.scenario.cold_steps):
            candidates[point.step or point.scenario.name, point.way is Way.TAKE_OVER].append(point)
    often: Counter[object] = Counter()
    found = []
    for points_of_step in candidates.values():
        point = min(points_of_step, key=lambda point: (often[point.way], often[point.way, point.moment]))
        often.update((point.way, (point.way, point.moment)))
        found.append(point)
    return found


def _moments(scenario: Scenario, step: str, way: Way, is_known: bool) -> tuple[Moment, ...]:
    """When to end at a step, in some way; `is_known`: another scenario has it too.

    What comes before a step also comes after the one before it: both are tried once. Power that goes from one disk, or
    again at the same step, is another thing only where hot names and the catalog both change.
    """
    changes_names = bool(_CHANGES_NAMES & {*scenario.steps})
    if step not in {Way.COLD_CRASH: scenario.cold_steps, Way.TAKE_OVER: scenario.steps}.get(way, (step,)):
        return ()
    if way in (Way.HOT_POWER, Way.STATE_POWER) or (way is Way.POWER and is_known):
        # A step that only syncs leaves less to lose than the one before it.
        return ("after",) if changes_names and ".sync" not in step else ()
    return ("after",) if is_known or way is Way.POWER else ("before", "after")


# -- running -----------------------------------------------------------------------------------------------------


def run(wanted: Sequence[Point]) -> Iterator[Result]:
    """Run points, several stages at a time. DisksMissing, ServerMissing."""
    groups: dict[tuple[str, bool, bool], list[Point]] = defaultdict(list)
    for point in wanted:
        groups[point.scenario.theatre, point.way in POWER, point.way is Way.TAKE_OVER].append(point)
    chains = [chain for (theatre, *_), group in groups.items() for chain in _cut(group, theatre)]
    with contextlib.ExitStack() as exits:
        theatres = _Theatres(exits, has_server=any(theatre == S3 for theatre, *_ in groups))
        pool = exits.enter_context(ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="stage"))
        exits.callback(theatres.close)  # who interrupts this waits for the points that are under way, not for all
        for results in pool.map(lambda chain: _run_chain(chain, theatres), chains):
            yield from results


class _Theatres:
    """Where the points are played."""

    def __init__(self, exits: contextlib.ExitStack, has_server: bool) -> None:
        compiled = exits.enter_context(tempfile.TemporaryDirectory(prefix="pyc-"))
        # Hundreds of processes compile the same modules: once is enough.
        self._environment = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        self._server = exits.enter_context(moto()) if has_server else None
        self._numbers = count()
        self.are_closed = False
        if self._server:
            self._server.create_bucket(_BUCKET)

    def close(self) -> None:
        """No further point is to be played."""
        self.are_closed = True

    def of(self, point: Point) -> Theatre:
        """A theatre for a chain that begins with this point."""
        if point.scenario.theatre != S3:
            settings = SETTINGS.get(point.scenario.theatre, {})
            has_disks, keeps_mount = point.way in POWER, point.way is Way.TAKE_OVER
            return Theatre(has_disks, keeps_mount, environment=self._environment, settings=settings)
        assert self._server is not None
        store = f"s3://{_BUCKET}/{next(self._numbers)}"
        of_server = {"endpoint_url": self._server.endpoint_url, "path_style": True}
        return Theatre(False, False, store, self._environment | self._server.environment, of_server)


def _cut(wanted: Sequence[Point], theatre: str) -> list[Sequence[Point]]:
    length = _ON_ONE_STAGE_OF.get(theatre, _ON_ONE_STAGE)
    return [wanted[start : start + length] for start in range(0, len(wanted), length)]


def _run_chain(chain: Sequence[Point], theatres: _Theatres) -> list[Result]:
    """The points one after the other over one tree; after a failure the rest gets a new one."""
    results: list[Result] = []
    while len(results) < len(chain) and not theatres.are_closed:
        with stage(theatres.of(chain[0])) as one:
            one.start()
            held = Held(one) if chain[0].way is Way.TAKE_OVER else None
            scenes = [held.scene] if held else []
            while len(results) < len(chain) and not theatres.are_closed:
                point = chain[len(results)]
                try:
                    _run_point(one, point, scenes, held)
                except Exception as error:
                    results.append(Result(point, f"{type(error).__name__}: {error}\n{one.log()}"))
                    break
                results.append(Result(point))
            else:
                try:
                    _finish(one, scenes, held)
                except Exception as error:
                    results[-1] = Result(point, f"at the end: {type(error).__name__}: {error}\n{one.log()}")
    return results


def _run_point(one: Stage, point: Point, scenes: list[Scene], held: Held | None) -> None:
    scene = Scene(one, f"s{len(scenes)}")
    scenes.append(scene)
    has_returned = _be_taken_over(one, point, scenes, held) if held else _be_ended(one, point, scene)
    point.scenario.settle(scene)
    _compare(one, scenes, _allowed(point, scene.tree, has_returned))
    findings = one.mount.check()
    assert not findings, f"check: {findings}"


def _be_ended(one: Stage, point: Point, scene: Scene) -> bool:
    """Go through a point after which there is another mount, or another cold process; whether the call returned."""
    point.scenario.prepare(scene)
    one.sync()
    met = one.orders.give(_order(one, point)) if point.step else None
    has_returned = False
    with contextlib.suppress(*INTERRUPTED):
        point.scenario.act(scene)
        has_returned = True
    if met is None:
        point.scenario.sync(scene)
        one.cut_power()
    else:
        one.wait_until(lambda: not met.exists(), "the step was reached")
    if point.way is Way.COLD_CRASH:
        one.wait_for_cold_process()
    else:
        one.wait_dead()
        one.orders.withdraw()
        if point.way in POWER:
            one.replug()
        one.start()
    return has_returned


def _be_taken_over(one: Stage, point: Point, scenes: Sequence[Scene], held: Held) -> bool:
    """Go through a point after which there is another worker; the call has always returned.

    Those of applications return what they would have returned. Those of operators end with the connection, and are
    made again.
    """
    *_, scene = scenes
    scenario = point.scenario
    with contextlib.ExitStack() as exits:
        exits.callback(held.close)
        held.open()
        scenario.prepare(scene)
        worker, before = one.worker(), scene.tree
        met = one.orders.give(_order(one, point))
        try:
            scenario.act(scene)
        except (ControlError, StoreError):
            one.wait_taken_over(worker)
            _compare(one, scenes, _allowed(point, before, False))
            scene.tree = before
            scenario.act(scene)
        one.wait_until(lambda: not met.exists(), "the step was reached")
        one.wait_taken_over(worker)
        one.orders.withdraw()
        held.look()
    return True


def _order(one: Stage, point: Point) -> Order:
    hot, state, bucket = _places(one)
    kept = {Way.HOT_POWER: (state,), Way.STATE_POWER: (hot,)}.get(point.way, ())
    lost = tuple(place for place in (hot, state, bucket) if place not in kept) if point.way in POWER else ()
    kill = "this" if point.way in (Way.COLD_CRASH, Way.TAKE_OVER) else "all"
    return Order(point.moment, point.step, kill, lose=lost, keep=kept)  # type: ignore[arg-type]


def _is_cold(point: Point) -> bool:
    return point.step in point.scenario.cold_steps


def _places(one: Stage) -> tuple[str, str, str]:
    return str(one.plan.hot), str(one.plan.state), str(one.plan.bucket)


def _allowed(point: Point, before: Tree, has_returned: bool) -> list[Tree]:
    """What the tree may be: what was promised is kept, and what was under way is done, not done, or half done."""
    scenario = point.scenario
    done = [scenario.effect]
    if point.step and not (has_returned and point.way not in POWER):
        done += [lambda tree: None, *scenario.halves]
        done += scenario.undone if point.way in POWER else ()
    trees = []
    for change in done:
        tree = copy(before)
        change(tree)
        if point.way in POWER:  # a file that is back under an older name may have another number
            tree = {path: replace(what, ino=None) for path, what in tree.items()}
        trees.append(tree)
    return trees


def _compare(one: Stage, scenes: Sequence[Scene], allowed: Sequence[Tree]) -> None:
    """The whole tree. The last scene may be one of several; from here on it has to stay what it is."""
    *others, last = scenes
    seen = one.look()
    wanted = _whole(others)
    here = {path: what for path, what in seen.items() if path.split("/")[0] == last.name}
    elsewhere = {path: what for path, what in seen.items() if path not in here}
    assert not differences(elsewhere, wanted), differences(elsewhere, wanted)
    said = [differences(here, _placed(last.name, tree)) for tree in allowed]
    for tree, different in zip(allowed, said, strict=True):
        if not different:
            last.tree = tree
            return
    raise AssertionError(f"the tree is none of those that it may be: {said}")


def _whole(scenes: Iterable[Scene]) -> Tree:
    tree: Tree = {}
    for scene in scenes:
        tree |= _placed(scene.name, scene.tree)
    return tree


def _placed(name: str, tree: Tree) -> Tree:
    return {os.path.normpath(f"{name}/{path}"): what for path, what in tree.items()}


def _finish(one: Stage, scenes: Sequence[Scene], held: Held | None) -> None:
    """All of it goes cold and reads right; then the bucket owes nothing, and has nothing that is not known."""
    if held:  # of a mount that has had many workers, and of the next mount
        _compare(one, scenes, [scenes[-1].tree])
        one.stop()
        one.start()
    one.mount.release_all()
    one.mount.evict()
    said = differences(one.look(), _whole(scenes))
    assert not said, said
    one.stop()
    if one.plan.store:
        return  # what is in the bucket of a server is looked at by check alone
    for _ in range(2):
        if _is_owed(one):  # an object that is moved is deleted by the pass after
            one.start()
            one.stop()
    assert not _is_owed(one)
    one.check_unmounted()
    with _catalog(one) as catalog:
        known = {record.object.key for record in catalog.records() if record.object and record.object.etag}
    real = {str(path.relative_to(one.plan.bucket)) for path in _objects(one.plan.bucket)}
    assert real == known, (real - known, known - real)


def _is_owed(one: Stage) -> bool:
    """Whether a pass has something to do in the bucket; what only recovery knows must be done by now."""
    with _catalog(one) as catalog:
        assert not catalog.intended()
        assert not catalog.doomed()
        return bool(catalog.tombstones() or catalog.misplaced())


def _catalog(one: Stage) -> contextlib.closing[Catalog]:
    return contextlib.closing(Catalog(one.plan.state / "catalog.sqlite", f"file://{one.plan.bucket}"))


def _objects(bucket: Path) -> list[Path]:
    """Without what belongs to the store: descriptions, what a self-test that was killed has left, and snapshots."""
    return [
        path
        for path in bucket.rglob("*")
        if path.is_file() and not any(part.startswith(".tierfs") for part in path.relative_to(bucket).parts)
    ]


# -- the table ---------------------------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
    """Passed and all points of each step, by way; failures in words below."""
    ways = [way for way in Way if any(result.point.way is way for result in results)]
    cells: dict[str, dict[Way, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        cells[result.point.step or "(all synced)"][result.point.way].append(not result.failure)
    width = max(map(len, cells), default=0)
    lines = [f"{'step':{width}}  " + "  ".join(f"{way:>17}" for way in ways)]
    for step in sorted(cells):
        passed = (cells[step][way] for way in ways)
        lines.append(f"{step:{width}}  " + "  ".join(f"{_cell(of):>17}" for of in passed))
    failed = [result for result in results if result.failure]
    lines += [f"\nFAILED {result.point}\n  {result.failure}" for result in failed]
    verdict = f"{len(failed)} FAILED" if failed else "all pass"
    return "\n".join([*lines, f"\n{len(results)} points, {verdict}"])


def _cell(passed: Sequence[bool]) -> str:
    if not passed:
        return "-"
    return f"{sum(passed)} of {len(passed)}" if not all(passed) else f"{len(passed)}"


def steps_reached(wanted: Sequence[Point]) -> set[str]:
    """The names of the steps that the points are about."""
    return {point.step for point in wanted if point.step}
