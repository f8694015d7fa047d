"""What a mount costs: looks at both tiers and at the last day, and has core.costs and core.cost_report count."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import trio

from tierfs.core.config import Settings
from tierfs.core.cost_report import Account, CostReport, Some, dollars
from tierfs.core.costs import Holdings, Move, move_of, requests_of, under_policy
from tierfs.core.errors import ConfigError
from tierfs.core.policy import Action, HotFile
from tierfs.core.prices import Rates
from tierfs.core.reports import PlannedAction
from tierfs.core.residency import Residency
from tierfs.engine.daemon import Daemon
from tierfs.engine.history import History
from tierfs.engine.measures import Odometer
from tierfs.engine.tier import Tier
from tierfs.stores.catalog_view import CatalogView
from tierfs.stores.price_file import rates_of
from tierfs.stores.s3_answers import TransferSizes, plan_part_size

_IN_THE_STORE_ALONE = (Residency.COLD, Residency.RESTORING)
_SIZES = TransferSizes()
#: The operator's table may lie on a disk that hangs: so many threads wait for it then, and others have theirs.
_MOST_THREADS = 2


class Money:
    """Answers for one mount; the store is its URL."""

    def __init__(self, tier: Tier, daemon: Daemon, odometer: Odometer, history: History, store: str) -> None:
        self._tier = tier
        self._daemon = daemon
        self._odometer = odometer
        self._history = history
        self._store = store
        self._threads = trio.CapacityLimiter(_MOST_THREADS)

    async def costs(self, own: str | None) -> Mapping[str, object]:
        """What the tree costs, at the mount's prices or at those of `own`, a table. ConfigError, CatalogError."""
        rates = await trio.to_thread.run_sync(rates_of, self._store, self._tier.settings, own, limiter=self._threads)
        files = await self._daemon.look_at_all()
        cache = (await self._odometer.read()).volume
        # In a thread, as the daemon plans: many files take longer than the loop may.
        held = await trio.to_thread.run_sync(self._account, files, cache, rates, self._tier.now())
        watched_ns, hour = self._history.last_day()
        account = replace(held, watched_ns=watched_ns, traffic=hour.traffic, gone=hour.gone)
        return await trio.to_thread.run_sync(lambda: CostReport(account, rates).as_json())

    async def priced(self, actions: Iterable[Action]) -> list[PlannedAction]:
        """Planned actions with what they cost; without dollars where nobody knows the prices."""
        return await trio.to_thread.run_sync(self._priced, actions, limiter=self._threads)

    def _priced(self, actions: Iterable[Action]) -> list[PlannedAction]:
        price = pricing(self._store, self._tier.settings)
        return [
            PlannedAction(
                action.path,
                action.verb.value,
                action.size,
                action.reason,
                action.rule or action.reason,
                *price(action),
            )
            for action in actions
        ]

    def _account(self, files: list[HotFile], cache: int, rates: Rates, now_ns: int) -> Account:
        """What lies where now, would lie if all was hot, and would under the policy; which objects had a short life."""
        view = CatalogView(self._tier.catalog.path)
        try:
            objects, cold = view.object_sizes(), view.tally(_IN_THE_STORE_ALONE)
            least_ns = rates.store.minimum_duration
            restored = view.restored_within(least_ns) if least_ns else ()
            rewritten = view.rewritten_since(now_ns - least_ns) if least_ns else ()
        finally:
            view.close()
        hot = sum(file.size - file.holes for file in files)
        now = Holdings(hot, cache, objects)
        policy = under_policy(now, files, self._tier.settings, now_ns)
        return Account(now, Holdings(hot + cold.bytes), policy, restored=Some(*restored), rewritten=Some(*rewritten))


def pricing(store: str, settings: Settings) -> Callable[[Action], tuple[int, str, str]]:
    """How to price a planned action: requests, dollars for them, dollars by which each month changes."""
    try:
        rates = rates_of(store, settings)
    except ConfigError:  # `tierfs cost` says why
        return lambda action: (sum(requests_of(action.verb, action.size, _part_size(action.size)).values()), "", "")
    known: dict[tuple[str, int], tuple[int, str, str]] = {}

    def price(action: Action) -> tuple[int, str, str]:
        key = action.verb.value, action.size
        if key not in known:
            known[key] = _texts(move_of(action.verb, action.size, _part_size(action.size), rates))
        return known[key]

    return price


def _texts(move: Move) -> tuple[int, str, str]:
    return move.requests, dollars(move.once), dollars(move.month)


def _part_size(size: int) -> int:
    return plan_part_size(size, _SIZES)
