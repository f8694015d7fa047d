"""What a tree costs: figures computed by hand, and what must hold for any figures."""

import stat
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.config import Settings
from tierfs.core.cost_report import Account, CostReport, Some, dollars, shown
from tierfs.core.costs import (
    Holdings,
    Traffic,
    left_to_pay,
    month_of,
    move_of,
    pays_from,
    small_objects,
    total_of,
    traffic_cost,
    under_policy,
)
from tierfs.core.policy import HotFile, Verb
from tierfs.core.prices import ClassPrices, Rates
from tierfs.core.residency import Residency

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DAY_NS = 86_400 * 10**9
NOW_NS = 1000 * DAY_NS
PART = 16 * MIB

#: An invented class with a minimum size and duration, and an SSD that costs eight times as much.
RATES = Rates(
    "IA",
    ClassPrices.model_validate(
        {
            "gb_month": Decimal("0.012"),
            "put_1000": Decimal("0.01"),
            "get_1000": Decimal("0.001"),
            "retrieval_gb": Decimal("0.01"),
            "minimum_size": "128KiB",
            "minimum_duration": "30d",
        }
    ),
    ssd_gb_month=Decimal("0.096"),
    egress_gb=Decimal("0.09"),
    date="2025-09",
    source="invented",
)
#: Another one, in which each object has its price.
BY_OBJECT = replace(
    RATES, store=ClassPrices.model_validate({"gb_month": Decimal("0.003"), "objects_1000": Decimal("0.0003")})
)


def file(path: bytes, age_days: float, residency: Residency = Residency.HOT, holes: int = 0) -> HotFile:
    then_ns = NOW_NS - int(age_days * DAY_NS)
    return HotFile(path, stat.S_IFREG | 0o644, 1, MIB, then_ns, then_ns, residency, holes=holes)


def test_a_month() -> None:
    """12 GB on the SSD at $0.096: $1.152. Objects: 4 of 1 GiB, and 16 of 64 KiB that are billed as 128 KiB, 2 MiB
    together: 4.001953125 GB at $0.012 are $0.0480234375."""
    month = month_of(Holdings(10 * GIB, 2 * GIB, {GIB: 4, 64 * KIB: 16}), RATES)
    assert (month.ssd, month.store) == (Decimal("1.152"), Decimal("0.0480234375"))
    assert month.total == Decimal("1.2000234375")
    assert (month.ssd_bytes, month.objects) == (12 * GIB, 20)
    assert (month.object_bytes, month.billed_bytes) == (4 * GIB + MIB, 4 * GIB + 2 * MIB)


def test_a_month_of_objects_that_each_cost_something() -> None:
    """3,000 objects of 1 MiB are 2.9296875 GB at $0.003: $0.0087890625; 3,000 at $0.0003 for 1,000: $0.0009."""
    assert month_of(Holdings(objects={MIB: 3000}), BY_OBJECT).store == Decimal("0.0096890625")
    watched = replace(BY_OBJECT, store=BY_OBJECT.store.model_copy(update={"objects_from": 128 * KIB}))
    assert month_of(Holdings(objects={MIB: 3000}), watched).store == Decimal("0.0096890625")
    assert month_of(Holdings(objects={64 * KIB: 16384}), watched).store == Decimal("0.003")


def test_what_was_asked_for() -> None:
    """2,000 PUTs $0.02, 100 LISTs $0.001, 5,000 GETs $0.005, 1,000 HEADs $0.001, deletions nothing; 3 GB that come
    back: $0.03 for reading them, $0.27 for leaving. $0.327 together."""
    requests = {"PutObject": 2000, "ListObjectsV2": 100, "GetObject": 5000, "HeadObject": 1000, "DeleteObjects": 7}
    spent = traffic_cost(Traffic(requests, uploaded=9 * GIB, downloaded=3 * GIB), RATES)
    assert spent.requests == {
        "PutObject": Decimal("0.02"),
        "ListObjectsV2": Decimal("0.001"),
        "GetObject": Decimal("0.005"),
        "HeadObject": Decimal("0.001"),
        "DeleteObjects": 0,
    }
    assert (spent.retrieval, spent.egress) == (Decimal("0.03"), Decimal("0.27"))
    assert spent.total == Decimal("0.327")


def test_an_archive_and_a_release() -> None:
    """40 MiB go in three parts: begin, three parts, end and a look are 5 at $0.01 and 1 at $0.001 for 1,000, $0.000051.
    From then on 40/1024 GB at $0.012 a month: $0.00046875. A release is one look, and saves a GB of SSD."""
    archive = move_of(Verb.ARCHIVE, 40 * MIB, PART, RATES)
    assert (archive.requests, archive.once, archive.month) == (6, Decimal("0.000051"), Decimal("0.00046875"))
    small = move_of(Verb.ARCHIVE, PART, PART, RATES)
    assert (small.requests, small.once) == (2, Decimal("0.000011"))
    release = move_of(Verb.RELEASE, GIB, PART, RATES)
    assert (release.requests, release.once, release.month) == (1, Decimal("0.000001"), Decimal("-0.096"))
    both = total_of([archive, release])
    assert (both.requests, both.once, both.month) == (7, Decimal("0.000052"), Decimal("-0.09553125"))
    assert move_of(Verb.RELEASE, GIB, PART, RATES, holes=GIB // 2).month == Decimal("-0.048")


def test_small_objects() -> None:
    """Below 128 KiB: 16 of 64 KiB and 1,000 of 8 KiB, 9,024 KiB; billed are 16 * 64 + 1,000 * 120 = 121,024 KiB more,
    0.11541748046875 GB at $0.012: $0.001385009765625. An object below 128 KiB costs as much as 16 KiB of SSD
    (128 * 0.012 / 0.096): those of 8 KiB lose (128 * 0.012 - 8 * 0.096) / 2^20 each, $0.000732421875 together."""
    small = small_objects({64 * KIB: 16, 8 * KIB: 1000, GIB: 1}, RATES)
    assert (small.files, small.bytes, small.dollars) == (1016, 9024 * KIB, Decimal("0.001385009765625"))
    assert (small.losing_files, small.losing_bytes) == (1000, 8000 * KIB)
    assert small.losing_dollars == Decimal("0.000732421875")
    assert small.from_size == 16 * KIB


def test_objects_that_each_cost_something_pay_off_from_a_size_on() -> None:
    """$0.0000003 an object, and a GB saves $0.093: 0.0000003 * 2^30 / 0.093 is 3463.68 bytes."""
    assert pays_from(BY_OBJECT) == 3464
    assert small_objects({3463: 1}, BY_OBJECT).losing_files == 1
    assert small_objects({3464: 1}, BY_OBJECT).losing_files == 0
    assert pays_from(replace(RATES, ssd_gb_month=Decimal("0.01"))) is None
    at_one_price = replace(RATES, ssd_gb_month=Decimal("0.012"))
    assert pays_from(at_one_price) == 128 * KIB
    assert pays_from(replace(BY_OBJECT, ssd_gb_month=Decimal("0.003"))) is None
    watched = BY_OBJECT.store.model_copy(update={"objects_from": 4096})
    assert pays_from(replace(BY_OBJECT, store=watched)) == 0
    watched = BY_OBJECT.store.model_copy(update={"objects_from": 3463})
    assert pays_from(replace(BY_OBJECT, store=watched)) == 3464


def test_what_is_left_to_pay_for_objects_that_went_young() -> None:
    """10 objects of 3 GB went on their 7th day: 23 whole days are left of 30, 69 GB-days; 5 of 1 GB on their 30th:
    no whole day. At $0.012 for 30 days that is $0.0276. The 7 of more than 30 days are paid for."""
    files, size, least = left_to_pay({6: (10, 3 * GIB), 29: (5, GIB), 30: (7, GIB)}, RATES)
    assert (files, size, least) == (15, 4 * GIB, Fraction("0.0276"))
    assert left_to_pay({0: (1, GIB)}, BY_OBJECT) == (0, 0, 0)


def test_what_would_be_where_under_the_policy() -> None:
    """Of five files of 1 MiB: one of 30 days goes up and off the SSD, one of 3 days goes up, one of today stays; a
    mirrored one of 30 days leaves the SSD, half of it holes; one that is kept hot goes up alone."""
    files = [
        file(b"old", 30),
        file(b"aged", 3),
        file(b"new", 0.1),
        file(b"copied", 30, Residency.MIRRORED, holes=MIB // 2),
        file(b"old.index", 30),
    ]
    now = Holdings(hot=4 * MIB + MIB // 2, cache=7, objects={MIB: 1})
    settings = Settings.of(keep_hot=["*.index"])
    assert under_policy(now, files, settings, NOW_NS) == Holdings(3 * MIB, 7, {MIB: 4})
    assert under_policy(now, files, Settings.of(auto_archive=False), NOW_NS) == now


def test_a_report_has_all_figures_and_says_what_is_a_loss() -> None:
    """A million objects of 8 KiB: 120 KiB more each are billed, 114.44091796875 GB at $0.012: $1.37; each loses
    0.768 / 2^20 against the SSD: $0.73. Deleted: 69 GB-days, as above, $0.03 when shown in full. All hot is
    7.62939453125 GB at $0.096, $0.7324; the policy has $1.4648 of objects: $0.7324 more."""
    objects = {8 * KIB: 1_000_000}
    account = Account(
        now=Holdings(objects=objects),
        all_hot=Holdings(hot=8 * KIB * 1_000_000),
        policy=Holdings(objects=objects),
        watched_ns=DAY_NS,
        traffic=Traffic({"PutObject": 2000}, downloaded=GIB),
        gone={6: (10, 3 * GIB)},
        restored=Some(4, 2 * GIB),
        rewritten=Some(3, GIB),
    )
    report = CostReport(account, RATES)
    assert report.warnings() == [
        "1000000 files are smaller than 128KiB, which is what IA bills at least: $1.37 a month for bytes that are not "
        "there",
        "1000000 files are dearer in IA than on the SSD, by $0.7324 a month: min_size = 16KiB leaves such files hot",
        "objects deleted in the last day before the 30 days were over that IA bills: 10, at least $0.0276 for nothing; "
        "a longer warm_after keeps such files out of the bucket",
        "files that came back or changed before their objects were 30 days old, which IA bills in any case: 4 restored "
        "(reading them cost $0.0200), 3 changed; they were archived too early",
        "under the policy the tree costs $0.7324 a month more than it would all hot",
    ]
    told = report.as_json()
    assert told["warnings"] == report.warnings()
    assert told["day"] == {
        "seconds": 86_400,
        "requests": {"PutObject": {"count": 2000, "dollars": "0.02"}},
        "bytes_uploaded": 0,
        "bytes_downloaded": GIB,
        "retrieval": "0.01",
        "egress": "0.09",
        "total": "0.12",
    }


def test_a_class_without_minima_and_a_tree_that_saves_gives_no_warning() -> None:
    plain = replace(RATES, store=ClassPrices(gb_month=Decimal("0.023")))
    objects = {KIB: 1_000_000}
    held = Holdings(objects=objects)
    account = Account(held, Holdings(hot=KIB * 1_000_000), held, gone={0: (9, 9)}, rewritten=Some(1, 1))
    assert CostReport(account, plain).warnings() == []


@pytest.mark.parametrize(
    ("amount", "text", "for_people"),
    [
        (Decimal(0), "0", "$0.00"),
        (Decimal("-0.0"), "0", "$0.00"),
        (Decimal("1.2000234375"), "1.2000234375", "$1.20"),
        (Decimal("0.0480234375"), "0.0480234375", "$0.0480"),
        (Decimal("-1.5"), "-1.5", "-$1.50"),
        (Decimal("0.00001"), "0.00001", "<$0.0001"),
        (Decimal("1E+3"), "1000", "$1000.00"),
        (Fraction(1, 3), "0.333333333333", "$0.3333"),
        (Decimal("0.0000000000005"), "0", "$0.00"),
    ],
)
def test_amounts_as_text(amount: Decimal | Fraction, text: str, for_people: str) -> None:
    assert dollars(amount) == text
    assert shown(amount) == for_people
    assert shown(text) == for_people


# -- what holds for any figures ----------------------------------------------------------------------------------------

prices = st.decimals(0, 1000, places=9, allow_nan=False)
sizes = st.integers(1, 1 << 44)
rates = st.builds(
    lambda store, ssd, egress: Rates("X", store, ssd, egress, "d", "s"),
    st.builds(
        ClassPrices,
        gb_month=prices,
        put_1000=prices,
        get_1000=prices,
        retrieval_gb=prices,
        objects_1000=prices,
        objects_from=st.sampled_from([0, 1, 4096, 128 * KIB]),
        minimum_size=st.sampled_from([0, 1, 4096, 128 * KIB]),
        minimum_duration=st.integers(0, 200).map(lambda days: days * DAY_NS / 10**9).map(str),
    ),
    prices,
    prices,
)
holdings = st.builds(
    Holdings,
    hot=st.integers(0, 1 << 60),
    cache=st.integers(0, 1 << 50),
    objects=st.dictionaries(sizes, st.integers(1, 10**9), max_size=5),
)


@given(holdings, holdings, rates)
def test_costs_add_up(one: Holdings, other: Holdings, at: Rates) -> None:
    """Two trees together cost what they cost apart, to the last digit; so nothing was rounded."""
    together = month_of(one.plus(other), at)
    assert Fraction(together.total) == Fraction(month_of(one, at).total) + Fraction(month_of(other, at).total)


@given(holdings, holdings, rates)
def test_more_never_costs_less(one: Holdings, more: Holdings, at: Rates) -> None:
    before, after = month_of(one, at), month_of(one.plus(more), at)
    assert after.ssd >= before.ssd
    assert after.store >= before.store
    assert after.billed_bytes >= after.object_bytes


@given(sizes, sizes, rates)
def test_a_larger_object_never_costs_less(one: int, other: int, at: Rates) -> None:
    small, large = sorted((one, other))
    assert month_of(Holdings(objects={small: 1}), at).store <= month_of(Holdings(objects={large: 1}), at).store
    archives = [move_of(Verb.ARCHIVE, size, PART, at) for size in (small, large)]
    assert archives[0].once <= archives[1].once


@given(holdings, rates)
def test_to_archive_and_to_release_change_the_month_by_what_they_say(held: Holdings, at: Rates) -> None:
    for size in held.objects:
        before = Holdings(hot=size)
        moved = total_of([move_of(Verb.ARCHIVE, size, PART, at), move_of(Verb.RELEASE, size, PART, at)])
        after = Holdings(objects={size: 1})
        assert Fraction(moved.month) == Fraction(month_of(after, at).total) - Fraction(month_of(before, at).total)


@given(sizes, rates)
def test_from_the_size_that_pays_off_nothing_loses(size: int, at: Rates) -> None:
    least = pays_from(at)
    if least is not None:
        assert small_objects({max(size, least): 1}, at).losing_files == 0
    if small_objects({size: 1}, at).losing_files:
        assert least is None or size < least


@given(rates)
def test_no_smaller_size_pays_off_for_all_that_are_larger(at: Rates) -> None:
    least = pays_from(at)
    if least:
        assert small_objects({least - 1: 1}, at).losing_files == 1


@given(st.dictionaries(st.sampled_from(["PutObject", "GetObject", "DeleteObject"]), st.integers(0, 10**12)), rates)
def test_requests_add_up(requests: dict[str, int], at: Rates) -> None:
    apart = [traffic_cost(Traffic({name: count}), at).total for name, count in requests.items()]
    assert Fraction(traffic_cost(Traffic(requests), at).total) == sum(map(Fraction, apart))
