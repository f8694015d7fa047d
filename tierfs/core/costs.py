"""What a tree costs: what lies where, and what was asked for, goes in; dollars come out, with their reasons. Pure.

All arithmetic is exact: bytes are counted as integers, prices are Decimals, and what is divided (by 2^30, by 1000, by
days) is rounded, if ever, where it is shown. A month has 30 days.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, localcontext
from fractions import Fraction

from tierfs.core.config import Settings
from tierfs.core.policy import Fill, HotFile, Verb, matches, plan
from tierfs.core.prices import GB, Rates

#: Wide enough for every sum of bytes (20 digits) by a price (15), divided by 2^30 (30 more); what would be rounded is
#: a defect, and raises.
_EXACT = Context(prec=100, traps=[Inexact, InvalidOperation, DivisionByZero])
_THOUSAND = Decimal(1000)
_GB = Decimal(GB)
_NOTHING = Decimal(0)

#: Requests at the price of PUT, COPY, POST and LIST; others are at that of GET, and deletions are free.
_LIKE_PUT = {"PutObject", "CopyObject", "CreateMultipartUpload", "UploadPart", "UploadPartCopy"} | {
    "CompleteMultipartUpload",
    "ListObjectsV2",
    "ListMultipartUploads",
    "ListParts",
}
_FREE = frozenset({"DeleteObject", "DeleteObjects", "AbortMultipartUpload"})


@dataclass(frozen=True, slots=True)
class Holdings:
    """What lies where: bytes that files take on the SSD, bytes of the chunk cache, objects by size: how many."""

    hot: int = 0
    cache: int = 0
    objects: Mapping[int, int] = field(default_factory=dict)

    def plus(self, other: "Holdings") -> "Holdings":
        """Both together."""
        objects = dict(Counter(self.objects) + Counter(other.objects))
        return Holdings(self.hot + other.hot, self.cache + other.cache, objects)


@dataclass(frozen=True, slots=True)
class Month:
    """What holdings cost in a month, in dollars. `billed_bytes` are those of objects as the store counts them."""

    ssd: Decimal
    store: Decimal
    ssd_bytes: int
    objects: int
    object_bytes: int
    billed_bytes: int

    @property
    def total(self) -> Decimal:
        """Both tiers."""
        with localcontext(_EXACT):
            return self.ssd + self.store


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was asked of a store: requests by operation, bytes by direction."""

    requests: Mapping[str, int] = field(default_factory=dict)
    uploaded: int = 0
    downloaded: int = 0


@dataclass(frozen=True, slots=True)
class TrafficCost:
    """What that cost, in dollars: requests by operation, bytes for being read, and for leaving the store."""

    requests: Mapping[str, Decimal]
    retrieval: Decimal
    egress: Decimal

    @property
    def total(self) -> Decimal:
        """All of it."""
        with localcontext(_EXACT):
            return sum(self.requests.values(), self.retrieval + self.egress)


@dataclass(frozen=True, slots=True)
class Move:
    """What one movement takes: requests, dollars for them, and dollars that each month costs more (or less) then."""

    requests: int
    once: Decimal
    month: Decimal


@dataclass(frozen=True, slots=True)
class SmallObjects:
    """Objects that are billed as more than they are, and those that cost more than their bytes on the SSD.

    Dollars are by the month: what the store bills for bytes that are not there, and what the SSD would save.
    `from_size` is the smallest size in bytes that pays off, None where none does.
    """

    files: int
    bytes: int
    dollars: Decimal
    losing_files: int
    losing_bytes: int
    losing_dollars: Decimal
    from_size: int | None


def month_of(held: Holdings, rates: Rates) -> Month:
    """What holdings cost in a month."""
    with localcontext(_EXACT):
        objects = sum(held.objects.values())
        billed = sum(_billed(size, rates) * count for size, count in held.objects.items())
        watched = sum(count for size, count in held.objects.items() if size >= rates.store.objects_from)
        return Month(
            ssd=_of_bytes(held.hot + held.cache, rates.ssd_gb_month),
            store=_of_bytes(billed, rates.store.gb_month) + _of_thousands(watched, rates.store.objects_1000),
            ssd_bytes=held.hot + held.cache,
            objects=objects,
            object_bytes=sum(size * count for size, count in held.objects.items()),
            billed_bytes=billed,
        )


def under_policy(now: Holdings, files: Sequence[HotFile], settings: Settings, now_ns: int) -> Holdings:
    """What would lie where once the policy has done all that is due by age now; `files` are those with hot bytes.

    A file that is archived now is released as well when it is old enough. Watermarks are left aside: what they ask for
    depends on the disk, not on the files.
    """
    is_on = settings.auto_archive and not settings.read_only
    actions = plan(files, Fill(hot=0, used=0, capacity=1), settings, now_ns) if is_on else []
    archived = {action.path for action in actions if action.verb is Verb.ARCHIVE}
    released = {action.path for action in actions if action.verb is Verb.RELEASE}
    objects, hot = Counter(now.objects), now.hot
    for file in files:
        if file.path in archived:
            objects[file.size] += 1
        if file.path in released or (file.path in archived and is_due(file, settings, now_ns)):
            hot -= file.size - file.holes
    return Holdings(hot, now.cache, dict(objects))


def is_due(file: HotFile, settings: Settings, now_ns: int) -> bool:
    """Whether a file that is being archived is to be released as soon as it is."""
    return file.fresh_ns + settings.cold_after <= now_ns and not matches(file.path, settings.keep_hot)


def traffic_cost(traffic: Traffic, rates: Rates) -> TrafficCost:
    """What requests and bytes cost. Uploaded bytes cost nothing but their requests."""
    with localcontext(_EXACT):
        return TrafficCost(
            {name: _of_thousands(count, _price_of(name, rates)) for name, count in traffic.requests.items()},
            retrieval=_of_bytes(traffic.downloaded, rates.store.retrieval_gb),
            egress=_of_bytes(traffic.downloaded, rates.egress_gb),
        )


def requests_of(verb: Verb, size: int, part_size: int) -> dict[str, int]:
    """The requests of one movement: of an archive in parts of `part_size` where it is larger, and the look after it."""
    if verb is Verb.RELEASE:
        return {"HeadObject": 1}
    if size <= part_size:
        return {"PutObject": 1, "HeadObject": 1}
    parts = -(-size // part_size)
    return {"CreateMultipartUpload": 1, "UploadPart": parts, "CompleteMultipartUpload": 1, "HeadObject": 1}


def move_of(verb: Verb, size: int, part_size: int, rates: Rates, holes: int = 0) -> Move:
    """What it costs to archive, or what it saves to release, a file of that size."""
    requests = requests_of(verb, size, part_size)
    once = traffic_cost(Traffic(requests), rates).total
    changed = Holdings(objects={size: 1}) if verb is Verb.ARCHIVE else Holdings(hot=size - holes)
    month = month_of(changed, rates).total
    return Move(sum(requests.values()), once, month if verb is Verb.ARCHIVE else month.copy_negate())


def total_of(moves: Iterable[Move]) -> Move:
    """All movements together."""
    requests, once, month = 0, _NOTHING, _NOTHING
    with localcontext(_EXACT):
        for move in moves:
            requests, once, month = requests + move.requests, once + move.once, month + move.month
    return Move(requests, once, month)


def small_objects(objects: Mapping[int, int], rates: Rates) -> SmallObjects:
    """What a class that bills small objects as larger ones, or each for itself, makes of these."""
    least = rates.store.minimum_size
    small = {size: count for size, count in objects.items() if size < least}
    extra, losing, lost = 0, Counter[int](), _NOTHING
    with localcontext(_EXACT):
        extra = sum((least - size) * count for size, count in small.items())
        for size, count in objects.items():
            more = month_of(Holdings(objects={size: 1}), rates).store - _of_bytes(size, rates.ssd_gb_month)
            if more > 0:
                losing[size], lost = count, lost + more * count
        return SmallObjects(
            files=sum(small.values()),
            bytes=sum(size * count for size, count in small.items()),
            dollars=_of_bytes(extra, rates.store.gb_month),
            losing_files=losing.total(),
            losing_bytes=sum(size * count for size, count in losing.items()),
            losing_dollars=lost,
            from_size=pays_from(rates),
        )


def pays_from(rates: Rates) -> int | None:
    """From which size on, in bytes, the store costs at most what the SSD does; None where it never does."""
    paid = _pays_from(rates, rates.store.objects_1000)
    if paid is None or paid > rates.store.objects_from:
        return paid
    return _pays_from(rates, _NOTHING)  # those that would be too small for it pay nothing for each object


def _pays_from(rates: Rates, objects_1000: Decimal) -> int | None:
    """The same where every object has this price."""
    least, store, ssd = rates.store.minimum_size, Fraction(rates.store.gb_month), Fraction(rates.ssd_gb_month)
    per_object = Fraction(objects_1000) * GB / 1000
    # Below the least billed size the store costs the same for any size, from there on it grows with the size.
    if store > ssd:
        return None
    if ssd and (flat := _ceil((least * store + per_object) / ssd)) <= least:
        return flat
    if store == ssd:
        return None if per_object else 0
    return max(least, _ceil(per_object / (ssd - store)))


def left_to_pay(gone: Mapping[int, tuple[int, int]], rates: Rates) -> tuple[int, int, Fraction]:
    """What is billed, at least, for objects that went away before the class' minimum duration: files, bytes, dollars.

    `gone` are files and bytes by the whole days that the objects were there at most: (d) less than d + 1 days.
    """
    days = -(-rates.store.minimum_duration // (86_400 * 10**9))
    early = {there: some for there, some in gone.items() if there < days}
    # What is billed is a day's worth of every day that is missing; of a day that had begun, nothing is said.
    byte_days = sum((days - there - 1) * size for there, (_, size) in early.items())
    dollars = Fraction(rates.store.gb_month) * byte_days / (30 * GB)
    return sum(files for files, _ in early.values()), sum(size for _, size in early.values()), dollars


def _billed(size: int, rates: Rates) -> int:
    return max(size, rates.store.minimum_size)


def _price_of(operation: str, rates: Rates) -> Decimal:
    if operation in _FREE:
        return _NOTHING
    return rates.store.put_1000 if operation in _LIKE_PUT else rates.store.get_1000


def _of_bytes(size: int, per_gb: Decimal) -> Decimal:
    return Decimal(size) * per_gb / _GB


def _of_thousands(count: int, per_thousand: Decimal) -> Decimal:
    return Decimal(count) * per_thousand / _THOUSAND


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
