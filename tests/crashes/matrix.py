"""Every step, a crash before and after it, in every way: what the points are, how one is run, and the table."""

import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.crashes.arming import Moment, Order
from tests.crashes.scenarios import Scenario, scenarios
from tests.crashes.scene import Scene
from tests.crashes.stage import INTERRUPTED, PATIENCE_S, Stage, Theatre, stage
from tests.crashes.trees import Tree, differences
from tierfs.stores.catalog import Catalog
from tierfs.worker import check_state

#: Points that one stage goes through, one after the other: its tree grows with each.
_ON_ONE_STAGE = 16
#: Stages at a time: two processors, and a mount waits for its own processes now and then.
_AT_ONCE = 3


class Way(StrEnum):
    """How it ends. A power cut takes what was not synced: everywhere, or from one of the two disks."""

    CRASH = "crash"
    COLD_CRASH = "cold process"
    POWER = "power"
    HOT_POWER = "power, hot disk"
    STATE_POWER = "power, state disk"


POWER = (Way.POWER, Way.HOT_POWER, Way.STATE_POWER)


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
    found = []
    for scenario in scenarios():
        for step in scenario.steps:
            found += [
                Point(scenario, step, moment, way)
                for way in ways
                for moment in _moments(way)
                if way is not Way.COLD_CRASH
            ]
        for step in scenario.cold_steps:
            found += [
                Point(scenario, step, moment, way)
                for way in ways
                for moment in _moments(way)
                if way not in (Way.HOT_POWER, Way.STATE_POWER)
            ]
        if Way.POWER in ways:
            found.append(Point(scenario, "", "after", Way.POWER))
    return found


def _moments(way: Way) -> tuple[Moment, ...]:
    """Nothing can be lost between the end of one step and the beginning of the next: a power cut comes after."""
    return ("after",) if way in POWER else ("before", "after")


# -- running -----------------------------------------------------------------------------------------------------


def run(wanted: Sequence[Point]) -> Iterator[Result]:
    """Run points, several stages at a time. DisksMissing."""
    ordinary = [point for point in wanted if point.way not in POWER]
    chains = [*_cut(ordinary), *_cut([point for point in wanted if point.way in POWER])]
    with (
        tempfile.TemporaryDirectory(prefix="pyc-") as compiled,
        ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="stage") as pool,
    ):
        # Hundreds of processes compile the same modules: once is enough.
        environment = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        for results in pool.map(lambda chain: _run_chain(chain, environment), chains):
            yield from results


def _cut(wanted: Sequence[Point]) -> list[Sequence[Point]]:
    return [wanted[start : start + _ON_ONE_STAGE] for start in range(0, len(wanted), _ON_ONE_STAGE)]


def _run_chain(chain: Sequence[Point], environment: Mapping[str, str]) -> list[Result]:
    """The points one after the other over one tree; after a failure the rest gets a new one."""
    results: list[Result] = []
    while len(results) < len(chain):
        with stage(Theatre(chain[0].way in POWER, environment=environment)) as one:
            one.start()
            scenes: list[Scene] = []
            while len(results) < len(chain):
                point = chain[len(results)]
                try:
                    _run_point(one, point, scenes)
                except Exception as error:
                    results.append(Result(point, f"{type(error).__name__}: {error}\n{one.log()}"))
                    break
                results.append(Result(point))
            else:
                try:
                    _finish(one, scenes)
                except Exception as error:
                    results[-1] = Result(point, f"at the end: {type(error).__name__}: {error}\n{one.log()}")
    return results


def _run_point(one: Stage, point: Point, scenes: list[Scene]) -> None:
    scene = Scene(one, f"s{len(scenes)}")
    scenes.append(scene)
    scenario = point.scenario
    scenario.prepare(scene)
    one.sync()
    met = one.orders.give(_order(one, point)) if point.step else None
    has_returned = False
    with contextlib.suppress(*INTERRUPTED):
        scenario.act(scene)
        has_returned = True
    if met is None:
        scenario.sync(scene)
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
    scenario.settle(scene)
    _compare(one, scenes, _allowed(point, scene.tree, has_returned))
    findings = one.mount.check()
    assert not findings, f"check: {findings}"


def _order(one: Stage, point: Point) -> Order:
    hot, state, bucket = _places(one)
    kept = {Way.HOT_POWER: (state,), Way.STATE_POWER: (hot,)}.get(point.way, ())
    lost = tuple(place for place in (hot, state, bucket) if place not in kept) if point.way in POWER else ()
    kill = "all" if point.way in POWER or (_is_cold(point) and point.way is Way.CRASH) else "this"
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


def _finish(one: Stage, scenes: Sequence[Scene]) -> None:
    """All of it goes cold and reads right; then the bucket owes nothing, and has nothing that is not known."""
    one.mount.release_all()
    one.mount.evict()
    said = differences(one.look(), _whole(scenes))
    assert not said, said
    for _ in range(2):  # an object that is moved is deleted by the pass after
        one.stop()
        one.start()
    one.stop()
    mountpoint, findings = check_state(str(one.plan.state))
    assert (mountpoint, findings) == (str(one.path), []), findings
    catalog = Catalog(one.plan.state / "catalog.sqlite", f"file://{one.plan.bucket}")
    try:
        owed = [catalog.tombstones(), catalog.misplaced(), catalog.intended(), catalog.doomed()]
        assert not any(owed), owed
        known = {record.object.key for record in catalog.records() if record.object and record.object.etag}
        real = {str(path.relative_to(one.plan.bucket)) for path in _objects(one.plan.bucket)}
        assert real == known, (real - known, known - real)
    finally:
        catalog.close()


def _objects(bucket: Path) -> list[Path]:
    """Without what belongs to the store itself: descriptions, and the object of a self-test that was killed."""
    return [
        path
        for path in bucket.rglob("*")
        if path.is_file() and ".tierfs-store" not in path.parts and not path.name.startswith(".tierfs-self-test-")
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


__all__ = ["PATIENCE_S", "Point", "Result", "Way", "points", "run", "steps_reached", "table"]
