"""What bytes and requests cost: a table as text, and the prices in it that hold for one store.

Prices are Decimals from the text on: no binary fraction ever stands for money. A GB is 2^30 bytes, as AWS bills it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tierfs.core.errors import ConfigError
from tierfs.core.quantities import Age, Size, parse_age, parse_size

GB = 1 << 30
#: The class that S3 gives to objects for which none was asked.
DEFAULT_CLASS = "STANDARD"


def _number(value: object) -> object:
    if isinstance(value, bool | float):
        raise ValueError("write a number")
    return value


#: Dollars. Digits enough for any price, few enough that arithmetic with any number of bytes stays exact.
Price = Annotated[Decimal, BeforeValidator(_number), Field(ge=0, max_digits=15, decimal_places=9)]
_FREE = Decimal(0)
_NOTHING, _AT_ONCE = parse_size(0), parse_age("0s")


class ClassPrices(BaseModel):
    """The prices of one storage class, as its table names them; sizes in bytes, the duration in nanoseconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gb_month: Price
    put_1000: Price = _FREE
    get_1000: Price = _FREE
    retrieval_gb: Price = _FREE
    objects_1000: Price = _FREE
    objects_from: Size = _NOTHING
    minimum_size: Size = _NOTHING
    minimum_duration: Age = _AT_ONCE


class PriceTable(BaseModel):
    """A whole table: when it was right, who says so, and the prices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str = Field(min_length=1)
    source: str = Field(min_length=1)
    ssd_gb_month: Price
    disk_gb_month: Price
    egress_gb: Price
    classes: dict[str, ClassPrices] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class StoreKind:
    """What of a store decides about its prices; `storage_class` and `endpoint_url` as in the settings."""

    is_directory: bool
    storage_class: str | None = None
    endpoint_url: str | None = None

    @property
    def is_aws(self) -> bool:
        """Whether the prices of AWS are its prices."""
        host = urlsplit(self.endpoint_url or "").hostname or ""
        return not self.is_directory and (not self.endpoint_url or f".{host}".endswith((".amazonaws.com", ".api.aws")))


@dataclass(frozen=True, slots=True)
class Rates:
    """The prices that hold for one store. `storage_class` is empty for a file:// store."""

    storage_class: str
    store: ClassPrices
    ssd_gb_month: Decimal
    egress_gb: Decimal
    date: str
    source: str


def price_table(builtin: str, own: str | None = None, name: str = "") -> PriceTable:
    """The table that comes with tierfs, with the operator's own (called `name` in messages) laid over it. ConfigError.

    Classes are not mixed: a table that has some has all of them, and says its date and source.
    """
    values = _read(builtin, "the table that comes with tierfs")
    if own is not None:
        over = _read(own, name)
        if "classes" in over and not {"date", "source"} <= over.keys():
            raise ConfigError(f"{name} has classes, and no date or source: say when its prices were right, and where")
        values = {**values, "source": f"{values['source']}; with changes in {name}", **over}
    try:
        return PriceTable.model_validate(values)
    except ValidationError as error:
        problems = [_sentence(one, name) for one in error.errors(include_url=False, include_context=False)]
    raise ConfigError("\n".join(problems))


def rates_for(table: PriceTable, kind: StoreKind, is_own: bool) -> Rates:
    """The prices of a store. ConfigError where the table has none for it.

    `is_own`: the table is the operator's. Without one, the prices of AWS are not said to be those of another server.
    """
    if kind.is_directory:
        disk = ClassPrices(gb_month=table.disk_gb_month)
        return Rates("", disk, table.ssd_gb_month, _FREE, table.date, table.source)
    if not kind.is_aws and not is_own:
        raise ConfigError(
            f"nobody knows what the store at {kind.endpoint_url} costs: the prices that come with tierfs are those of "
            "AWS; `tierfs cost --print-prices > FILE`, write yours into it, and say prices = FILE or --prices FILE"
        )
    wanted = kind.storage_class or DEFAULT_CLASS
    if wanted not in table.classes:
        known = ", ".join(table.classes)
        raise ConfigError(f"the price table has no class {wanted}, only {known}: add [classes.{wanted}] to a table")
    return Rates(wanted, table.classes[wanted], table.ssd_gb_month, table.egress_gb, table.date, table.source)


def _read(text: str, name: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:  # numbers without end, brackets without end
        raise ConfigError(f"the price table {name} is not TOML: {error}") from None


def _sentence(problem: Any, name: str) -> str:
    """One pydantic error in words: where, what is wrong."""
    where = ".".join(map(str, problem["loc"]))
    said = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{where} in {name} is not a price: `tierfs cost --print-prices` shows them all"
    return f"{where} in {name}: {said[:1].lower()}{said[1:]}"
