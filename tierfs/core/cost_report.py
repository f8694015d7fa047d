"""What an operator is told of costs: the figures as JSON, and where a class makes archiving a loss. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

from tierfs.core.costs import (
    Holdings,
    Month,
    SmallObjects,
    Traffic,
    left_to_pay,
    month_of,
    small_objects,
    traffic_cost,
)
from tierfs.core.prices import GB, Rates
from tierfs.core.quantities import Size

#: A millionth of a millionth of a dollar: what is rounded in each of a million files does not show in their sum.
_FINEST = Decimal("1e-12")
#: What is said in warnings is worth being said.
_WORTH_SAYING = Decimal("0.005")
_DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Some:
    """Some files, and their bytes."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """All that is known of a mount, as far as it costs.

    `traffic` and `gone` are of the last day, which was watched for `watched_ns`; `gone` are deleted objects: files and
    bytes by the days that they were there at most. `restored` and `rewritten` are files whose object was, at that
    moment, younger than the minimum duration of its class.
    """

    now: Holdings
    all_hot: Holdings
    policy: Holdings
    watched_ns: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    gone: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    restored: Some = Some()
    rewritten: Some = Some()


class CostReport:
    """The figures of one account at given prices."""

    def __init__(self, account: Account, rates: Rates) -> None:
        self._account = account
        self._rates = rates
        self.now, self.all_hot, self.policy = (
            month_of(held, rates) for held in (account.now, account.all_hot, account.policy)
        )
        self.small: SmallObjects = small_objects(account.policy.objects, rates)
        self.deleted = left_to_pay(account.gone, rates)

    def as_json(self) -> dict[str, object]:
        """Everything; dollars are decimal numbers as text: see dollars()."""
        account, rates = self._account, self._rates
        spent = traffic_cost(account.traffic, rates)
        return {
            "prices": {
                "storage_class": rates.storage_class,
                "date": rates.date,
                "source": rates.source,
                "ssd_gb_month": str(rates.ssd_gb_month),
                "store_gb_month": str(rates.store.gb_month),
            },
            "month": {
                "now": _month_json(self.now),
                "all_hot": _month_json(self.all_hot),
                "policy": _month_json(self.policy),
            },
            "day": {
                "seconds": account.watched_ns // 10**9,
                "requests": {
                    name: {"count": count, "dollars": dollars(spent.requests[name])}
                    for name, count in sorted(account.traffic.requests.items())
                },
                "bytes_uploaded": account.traffic.uploaded,
                "bytes_downloaded": account.traffic.downloaded,
                "retrieval": dollars(spent.retrieval),
                "egress": dollars(spent.egress),
                "total": dollars(spent.total),
            },
            "small_objects": {
                "files": self.small.files,
                "bytes": self.small.bytes,
                "dollars": dollars(self.small.dollars),
                "losing_files": self.small.losing_files,
                "losing_bytes": self.small.losing_bytes,
                "losing_dollars": dollars(self.small.losing_dollars),
                "pays_from_bytes": self.small.from_size,
            },
            "early": {
                "deleted": {"files": self.deleted[0], "bytes": self.deleted[1], "dollars": dollars(self.deleted[2])},
                "restored": {"files": account.restored.files, "bytes": account.restored.bytes},
                "rewritten": {"files": account.rewritten.files, "bytes": account.rewritten.bytes},
            },
            "warnings": self.warnings(),
        }

    def warnings(self) -> list[str]:
        """Where the class, or the policy, makes archiving a loss: what, how much, and what to do about it."""
        found = self._of_small(), self._of_losing(), self._of_deleted(), self._of_young(), self._of_all()
        return [*filter(None, found)]

    def _of_small(self) -> str:
        if self.small.dollars < _WORTH_SAYING:
            return ""
        least = Size(self._rates.store.minimum_size)
        return (
            f"{_files(self.small.files)} smaller than {least}, which is what {self._rates.storage_class} bills at "
            f"least: {shown(self.small.dollars)} a month for bytes that are not there"
        )

    def _of_losing(self) -> str:
        if self.small.losing_dollars < _WORTH_SAYING:
            return ""
        name, more = self._rates.storage_class or "the disk of the store", shown(self.small.losing_dollars)
        text = f"{_files(self.small.losing_files)} dearer in {name} than on the SSD, by {more} a month"
        if self.small.from_size is None:
            return f"{text}: no size pays off at these prices"
        size = Size(-(-self.small.from_size // 1024) * 1024)
        return f"{text}: min_size = {size} leaves such files hot"

    def _of_deleted(self) -> str:
        files, _, least = self.deleted
        if not files:
            return ""
        return (
            f"objects deleted in the last day before the {self._days()} days were over that "
            f"{self._rates.storage_class} bills: {files}, at least {shown(least)} for nothing; a longer warm_after "
            "keeps such files out of the bucket"
        )

    def _of_young(self) -> str:
        restored, rewritten = self._account.restored, self._account.rewritten
        if not (self._rates.store.minimum_duration and (restored.files or rewritten.files)):
            return ""
        retrieval = Fraction(self._rates.store.retrieval_gb) * restored.bytes / GB
        return (
            f"files that came back or changed before their objects were {self._days()} days old, which "
            f"{self._rates.storage_class} bills in any case: {restored.files} restored (reading them cost "
            f"{shown(retrieval)}), {rewritten.files} changed; they were archived too early"
        )

    def _of_all(self) -> str:
        more = Fraction(self.policy.total) - Fraction(self.all_hot.total)
        if more < Fraction(_WORTH_SAYING):
            return ""
        return f"under the policy the tree costs {shown(more)} a month more than it would all hot"

    def _days(self) -> int:
        return -(-self._rates.store.minimum_duration // _DAY_NS)


def dollars(value: Decimal | Fraction) -> str:
    """An amount as text, exact to a millionth of a millionth of a dollar, without an exponent."""
    with localcontext(prec=100):
        if isinstance(value, Fraction):
            value = Decimal(value.numerator) / value.denominator
        return f"{value.quantize(_FINEST, ROUND_HALF_EVEN).normalize() + 0:f}"


def shown(value: Decimal | Fraction | str) -> str:
    """An amount for a person: cents, and two digits more of what is less than a dollar."""
    exact = Decimal(value) if isinstance(value, str) else Decimal(dollars(value))
    with localcontext(prec=100):
        size = abs(exact)
        cents = size.quantize(Decimal("0.01") if size >= 1 or not size else Decimal("0.0001"), ROUND_HALF_EVEN)
        sign = "-" if exact < 0 else ""
        return f"{sign}${cents}" if cents or not size else f"{sign}<$0.0001"


def _month_json(month: Month) -> dict[str, object]:
    return {
        "ssd": dollars(month.ssd),
        "store": dollars(month.store),
        "total": dollars(month.total),
        "ssd_bytes": month.ssd_bytes,
        "objects": month.objects,
        "object_bytes": month.object_bytes,
        "billed_bytes": month.billed_bytes,
    }


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"
