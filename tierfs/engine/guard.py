"""What stands before the store: who may have bytes fetched, at which rate, and who has how many."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import trio

from tierfs.core.access import ANYBODY, Access, Opener
from tierfs.core.errors import ReadDenied
from tierfs.core.reports import happened
from tierfs.core.storms import Census, ColdReader, Storm
from tierfs.engine.budget import Budget, Ticket
from tierfs.engine.flights import Flight, pending_of
from tierfs.engine.reading import HydrateSettings

_log = logging.getLogger(__name__)

_PAUSE_S = 5.0  # between two looks whether a storm is over


@dataclass(frozen=True, slots=True)
class GuardNumbers:
    """Totals since the start by access and by budget, and who waits or reads now."""

    fetched_bytes: Mapping[str, int] = field(default_factory=dict)
    denied: int = 0
    waited_ns: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    storms: int = 0
    readers: tuple[ColdReader, ...] = ()

    def as_json(self) -> Mapping[str, object]:
        """For `status`."""
        return {
            "cold_readers": [
                asdict(one) | {"access": one.access.name.lower(), "name": one.name} for one in self.readers
            ],
            "budgets": {
                name: {"waiting": self.waiting[name], "waited_s": self.waited_ns[name] / 1e9} for name in self.waiting
            },
        }


class Guard:
    """Asked before a GET, and told of each chunk that came. `directory_of` is how people know the directory of a key.

    INVARIANT: a chunk is paid for at most once, whatever becomes of its GETs; one that the cache has costs nothing.
    """

    def __init__(self, settings: HydrateSettings) -> None:
        self.path_of: Callable[[str], str] = lambda key: key
        self.census = Census(settings.storm_bytes)
        self.denied = 0
        self.fetched_bytes = dict.fromkeys(Access, 0)
        self._fetch_bytes = settings.fetch_bytes
        self._budgets = {
            "hydrate": Budget.per_second(settings.hydrate_rate),
            "limited": Budget.per_second(settings.limited_rate),
            "restore": Budget.per_second(settings.restore_rate),
        }
        self.restore_limit: Budget | None = None  # of what no operator asked for; the restorer's

    # -- before a GET --------------------------------------------------------------------------------------------

    def is_concerned(self, flight: Flight) -> bool:
        """Whether its bytes are limited or refused, so that the cache has to be asked before the store."""
        return flight.opener.access is not Access.ALLOW or bool(self._of(flight))

    def longest(self, flight: Flight) -> int:
        """How many bytes one GET may have: a quarter of a second of its budgets, that others come to their turn."""
        return min([self._fetch_bytes, *(budget.amount // 4 for budget in self._of(flight))])

    def refused(self, flights: list[Flight]) -> list[tuple[Flight, ReadDenied]]:
        """Those that no reader may have fetched, and the error for each."""
        found = []
        for flight in flights:
            if flight.is_kept and flight.opener.access is Access.DENY:
                key = flight.item.ref.key
                self.deny(flight.opener, key)
                found.append((flight, ReadDenied(f"{key}: its bytes are not fetched for {flight.opener.command}")))
        return found

    def deny(self, opener: Opener, key: str) -> None:
        """Somebody was refused: counted, and said once a minute."""
        self.denied += 1
        if self.census.denied(opener, self.path_of(key), _now_ns()):
            who = f"{opener.command or 'a process without a name'} (uid {opener.uid}, pid {opener.pid})"
            _log.warning("%s is refused cold bytes by a rule of `access`: /%s and perhaps more", who, self.path_of(key))

    async def wait_affordable(self, flights: list[Flight]) -> None:
        """Until the budgets allow to fetch flights, which hold no memory meanwhile."""
        now_s = trio.current_time()
        for flight in flights:
            flight.hold(now_s)
        try:
            for budget in self._of(*flights):
                await self._pay(budget, flights)
        finally:
            now_s = trio.current_time()
            for flight in flights:
                flight.ticket = None
                flight.let_go(now_s)

    async def _pay(self, budget: Budget, flights: list[Flight]) -> None:
        pending = pending_of(flights)
        if not pending or (budget is self._budgets["limited"] and budget not in self._of(*pending)):
            return  # all have gone, or somebody wants it who is not limited
        ticket = Ticket(sum(flight.size for flight in pending), pending[0].order)
        for flight in flights:
            flight.ticket = ticket
        await budget.pay(ticket, pending[0].opener.group, pending[0].item.ref.key)

    def joined(self, flight: Flight, opener: Opener) -> None:
        """Somebody else wants a chunk that is on its way: it is not held up by who wanted it first."""
        if opener.access < flight.opener.access:
            flight.opener = opener
            if flight.ticket and flight.ticket.budget is self._budgets["limited"]:
                flight.ticket.let_through()
        elif flight.ticket and opener.access is Access.ALLOW:
            flight.ticket.join(opener.group, flight.item.ref.key)

    def _of(self, *flights: Flight) -> list[Budget]:
        """The budgets that flights of one GET have to be paid from."""
        if not flights[0].is_kept:
            names = ["restore"]
        elif any(flight.opener.access is Access.ALLOW for flight in flights):
            names = ["hydrate"]
        else:
            names = ["limited", "hydrate"]
        return [budget for name in names if (budget := self._budgets[name])]

    def slowest_s(self, size: int) -> float:
        """How long a restore may have to wait for so many bytes by its budget alone."""
        restore = self._budgets["restore"]
        return size / restore.amount if restore else 0.0

    # -- afterwards ----------------------------------------------------------------------------------------------

    def fetched(self, flight: Flight) -> None:
        """A chunk came from the store."""
        opener = flight.opener
        self.fetched_bytes[opener.access] += flight.size
        key = self.path_of(flight.item.ref.key)
        if opener is not ANYBODY:  # an operator
            self._say(self.census.fetched(opener, key, flight.size, _now_ns(), is_restore=not flight.is_kept))

    async def run(self) -> None:
        """Look now and then whether a storm is over, until cancelled."""
        while True:
            await trio.sleep(_PAUSE_S)
            for storm in self.census.ended(_now_ns()):
                self._say(storm)

    def numbers(self) -> GuardNumbers:
        """What was counted."""
        budgets = {name: budget for name, budget in self._all().items() if budget}
        return GuardNumbers(
            fetched_bytes={access.name.lower(): size for access, size in self.fetched_bytes.items()},
            denied=self.denied,
            waited_ns={name: budget.waited_ns for name, budget in budgets.items()},
            waiting={name: budget.waiting for name, budget in budgets.items()},
            storms=self.census.storms,
            readers=tuple(self.census.present(_now_ns())),
        )

    def _all(self) -> dict[str, Budget | None]:
        return {**self._budgets, "restore_limit": self.restore_limit}

    def _say(self, storm: Storm | None) -> None:
        if storm and storm.is_over:
            _log.info("%s", storm, extra=happened("storm", before="storm", after="over"))
        elif storm:
            _log.warning("%s", storm, extra=happened("storm", after="storm"))


def _now_ns() -> int:
    return int(trio.current_time() * 1e9)
