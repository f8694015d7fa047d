"""The sums of a plan: files, bytes, requests and dollars by verb and rule."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from tierfs.cli import rendering
from tierfs.core.cost_report import dollars, shown
from tierfs.core.reports import PlannedAction


@dataclass(slots=True)
class _Sum:
    """What one rule does. Dollars are None where nobody knows the prices."""

    files: int = 0
    bytes: int = 0
    requests: int = 0
    once: Decimal | None = Decimal(0)
    month: Decimal | None = Decimal(0)


class Rules:
    """Counts planned actions as they come; verbs and rules in the order in which they are met."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], _Sum] = {}

    def add(self, action: PlannedAction) -> None:
        """One more."""
        found = self._sums.setdefault((action.verb, action.rule or action.reason), _Sum())
        found.files += 1
        found.bytes += action.size
        found.requests += action.requests
        found.once = _plus(found.once, action.dollars)
        found.month = _plus(found.month, action.month)

    def as_json(self) -> list[dict[str, object]]:
        """One object for each rule."""
        return [
            {
                "verb": verb,
                "rule": rule,
                "files": one.files,
                "bytes": one.bytes,
                "requests": one.requests,
                "dollars": "" if one.once is None else dollars(one.once),
                "month": "" if one.month is None else dollars(one.month),
            }
            for (verb, rule), one in self._sums.items()
        ]

    def lines(self) -> Iterator[str]:
        """One line for each rule."""
        for (verb, rule), one in self._sums.items():
            moved = f"{verb:<8}{one.files:>9} files {rendering.shown_size(one.bytes):>6}  {one.requests:>8} requests"
            yield f"{moved}{_shown(one.once, one.month)}  {rule}"


def _shown(once: Decimal | None, month: Decimal | None) -> str:
    if once is None or month is None:
        return "  (no prices: `tierfs cost` says why)"
    change = f"{shown(month.copy_abs())} {'less' if month < 0 else 'more'} a month"
    return f"  {shown(once):>8}, then {change:<20}"


def _plus(total: Decimal | None, amount: str) -> Decimal | None:
    return total + Decimal(amount) if amount and total is not None else None
