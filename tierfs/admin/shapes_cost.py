"""What the REST API answers of costs: see docs/COST.md. Dollars are decimal numbers as text."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict


class CostPrices(TypedDict):
    """By which prices."""

    storage_class: Annotated[str, Field(description="Empty for a directory.")]
    date: str
    source: str
    ssd_gb_month: str
    store_gb_month: str


class CostMonth(TypedDict):
    """What lies somewhere for a month."""

    ssd: str
    store: str
    total: str
    ssd_bytes: int
    objects: int
    object_bytes: int
    billed_bytes: Annotated[int, Field(description="Those of the objects as their class bills them.")]


class CostMonths(TypedDict):
    """A month as the tree is now, if all of it was hot, and under the policy."""

    now: CostMonth
    all_hot: CostMonth
    policy: CostMonth


class CostRequests(TypedDict):
    """Requests of one kind."""

    count: int
    dollars: str


class CostDay(TypedDict):
    """What was asked of the store in the last day."""

    seconds: Annotated[int, Field(description="How much of the day is known.")]
    requests: dict[str, CostRequests]
    bytes_uploaded: int
    bytes_downloaded: int
    retrieval: str
    egress: str
    total: str


class CostSmall(TypedDict):
    """Objects below the minimum size of their class, and those that cost more than their bytes on the SSD."""

    files: int
    bytes: int
    dollars: str
    losing_files: int
    losing_bytes: int
    losing_dollars: str
    pays_from_bytes: int | None


class CostSome(TypedDict):
    """Some files."""

    files: int
    bytes: int


class CostDeleted(CostSome):
    """Objects that were deleted early."""

    dollars: str


class CostEarly(TypedDict):
    """Objects that did not reach the minimum duration of their class."""

    deleted: CostDeleted
    restored: CostSome
    rewritten: CostSome


class Cost(TypedDict):
    """What the tree costs."""

    prices: CostPrices
    month: CostMonths
    day: CostDay
    small_objects: CostSmall
    early: CostEarly
    warnings: list[str]
