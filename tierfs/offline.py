"""Work on a tree that is not mounted: check, rebuild, and a forecast. Everything is wired here, in one process."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trio

from tierfs.cold import Configuration, open_side
from tierfs.core.config import MountRequest, Settings
from tierfs.core.errors import CatalogError, ConfigError
from tierfs.core.forecast import Forecast, forecast
from tierfs.core.policy import HotFile, matches
from tierfs.core.records import Fd
from tierfs.core.reports import CheckOrder, Finding, Outcome, PlannedAction, Total
from tierfs.core.steps import step
from tierfs.engine.calls import InThreads
from tierfs.engine.check import Checker
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.daemon import walk
from tierfs.engine.money import pricing
from tierfs.engine.rebuild import Rebuilder
from tierfs.engine.reconcile import Rebuilt
from tierfs.engine.tier import Tier
from tierfs.stores.address import parse_store
from tierfs.stores.catalog import Catalog
from tierfs.stores.catalog_view import CatalogView
from tierfs.stores.hot import HotTier
from tierfs.stores.state import StateDirectory, request_in


def check(state: Path, hot: str | None, order: CheckOrder, tell: Callable[[Finding | Total | Outcome], None]) -> None:
    """Check a state directory, its hot directory (`hot`: where that is now) and its bucket. TierfsError, OSError."""
    request = request_in(state) | ({"hot": hot} if hot else {})
    with ExitStack() as exits:
        directory = StateDirectory(state, exits)
        directory.expect_catalog()
        tier = _open_tier(request, directory.catalog, exits)
        cold = _open_cold(request, exits, is_known=True)

        async def run() -> None:
            async for report in Checker(tier, cold, False, lambda _path: None).run(order):
                tell(report)

        trio.run(run)


def mountpoint_of(state: Path) -> str:
    """Where the mount of a state directory was. ConfigError."""
    return str(request_in(state)["mountpoint"])


def rebuild(
    request: dict[str, Any], is_replacing: bool, tell: Callable[[Finding], None], progress: Callable[[str, int], None]
) -> Rebuilt:
    """Make the catalog of a mount anew; it takes its place when it is complete. TierfsError, OSError.

    ConfigError where there is a catalog already, unless it is to be replaced: then it gets another name.
    """
    with ExitStack() as exits:
        directory = StateDirectory(Path(request["state"]), exits)
        if not is_replacing and not _is_free(directory):
            raise ConfigError(
                f"there is a catalog already: {directory.catalog}; mount, or let --replace-catalog put it aside"
            )
        fresh = directory.fresh_catalog()
        with ExitStack() as parts:
            tier = _open_tier(request, fresh, parts)
            cold = _open_cold(request, parts, is_known=False)
            rebuilt = trio.run(Rebuilder(tier, cold, tell, progress).run, directory.path)
        if not rebuilt.taken_ns and not rebuilt.added:
            raise ConfigError(f"{request['source']} has no snapshot and no object: correct STORE, or mount its disk")
        with step("rebuild.aside"):
            directory.put_aside(time.time_ns())
        with step("rebuild.publish"):
            directory.publish(fresh)
        directory.remember(request)
        return rebuilt


def forecast_of(request: MountRequest) -> Forecast:
    """What the policy would do to the hot directory of a mount that was never made; only looks. OSError."""
    root = os.open(request.hot, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    hot = HotTier(Fd(root))
    pins = request.settings.pins
    try:
        files = [
            HotFile(
                path=path,
                mode=st.st_mode,
                nlink=st.st_nlink,
                size=st.st_size,
                mtime_ns=st.st_mtime_ns,
                ctime_ns=st.st_ctime_ns,
                pinned=matches(path, pins),
            )
            for path, st in walk(hot, b"")
        ]
    finally:
        hot.close()
        os.close(root)
    return forecast(files, parse_store(request.store_url).prefix, request.settings, time.time_ns())


def priced(found: Forecast, request: MountRequest) -> list[PlannedAction]:
    """What a forecast says would be done, with what it costs."""
    price = pricing(request.store_url, request.settings)
    return [
        PlannedAction(one.path, one.verb.value, one.size, one.reason, one.reason, *price(one)) for one in found.actions
    ]


def _is_free(directory: StateDirectory) -> bool:
    """Whether there is no catalog, or one in which nothing was ever written."""
    if not directory.has_catalog():
        return True
    try:
        view = CatalogView(directory.catalog)
    except CatalogError:
        return False
    try:
        return next(view.records(), None) is None and next(view.tombstones(), None) is None
    finally:
        view.close()


def _open_tier(request: dict[str, Any], path: Path, exits: ExitStack) -> Tier:
    settings = Settings.model_validate(request["settings"])
    root = os.open(request["hot"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    exits.callback(os.close, root)
    catalog = Catalog(path, request["source"])
    exits.callback(catalog.close)
    hot = HotTier(Fd(root))
    exits.callback(hot.close)
    return Tier(hot, catalog, settings, parse_store(request["source"]).prefix, time.time_ns)


def _open_cold(request: dict[str, Any], exits: ExitStack, is_known: bool) -> ColdTier:
    settings = Settings.model_validate(request["settings"])
    side = open_side(Configuration(request["source"], request["state"], settings, is_known), memoryview(b""))
    exits.callback(side.close)
    return ColdTier(InThreads(side))
