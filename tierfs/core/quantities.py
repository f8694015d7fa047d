"""Ages, sizes and watermarks as people write them, and exactly as the program counts them.

Ages     number and unit, also several in a row: 90s, 10m, 1h30m, 168h, 7d, 1w, 250ms; a plain number is seconds.
Sizes    KiB, MiB, GiB, TiB, and the bare letters K, M, G, T: powers of 1024, as in dd, du and df.
         kB, MB, GB, TB: powers of 1000. A plain number is bytes. Upper and lower case are the same.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_AGE_UNITS = {
    "w": 7 * 86_400 * 10**9,
    "d": 86_400 * 10**9,
    "h": 3_600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}
_AGE_ALIASES = {"min": "m", "sec": "s", "day": "d", "days": "d", "hours": "h", "weeks": "w"}
_BINARY_UNITS = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    **{unit.lower(): factor for unit, factor in _BINARY_UNITS.items()},
    **{unit[0].lower(): factor for unit, factor in _BINARY_UNITS.items()},
    **{f"{unit[0].lower()}b": 1000 ** (4 - power) for power, unit in enumerate(_BINARY_UNITS)},
}
_NUMBER = r"\d+(?:\.\d+)?"
_AGE_PART = re.compile(rf"\s*({_NUMBER})\s*([a-z]+)\s*", re.ASCII)
_SIZE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.ASCII)
_PLAIN = re.compile(_NUMBER, re.ASCII)

#: Times and sizes are kept in signed 64-bit integers by the kernel and by SQLite.
_LARGEST = 2**63 - 1


class Age(int):
    """A duration in nanoseconds."""

    @property
    def seconds(self) -> float:
        """The same in seconds, for deadlines."""
        return int(self) / 10**9

    def __str__(self) -> str:
        """The largest unit up to days that loses nothing: parse_age reads it back."""
        for unit, factor in _AGE_UNITS.items():
            if self and not self % factor and unit != "w":
                return f"{self // factor:d}{unit}"
        return "0s"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            parse_age, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


class Size(int):
    """A number of bytes."""

    def __str__(self) -> str:
        """The largest binary unit that loses nothing: parse_size reads it back."""
        for unit, factor in _BINARY_UNITS.items():
            if self and not self % factor:
                return f"{self // factor:d}{unit}"
        return f"{int(self):d}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            parse_size, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


@dataclass(frozen=True, slots=True)
class Watermark:
    """A fill level: percent of the hot tier's filesystem, or bytes in the hot tier."""

    amount: float
    is_percent: bool

    def excess_bytes(self, hot_bytes: int, used_bytes: int, capacity_bytes: int) -> int:
        """How many bytes lie above the mark; negative or 0 when it is not exceeded.

        `hot_bytes` is what the hot tier holds; `used_bytes` of `capacity_bytes` are used on its filesystem.
        """
        if self.is_percent:
            return used_bytes - int(capacity_bytes * self.amount / 100)
        return hot_bytes - int(self.amount)

    def __str__(self) -> str:
        return f"{self.amount:.12g}%" if self.is_percent else str(Size(self.amount))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            parse_watermark, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


def parse_age(value: object) -> Age:
    """Read an age ("7d", "1h30m", a number of seconds) into nanoseconds. ValueError."""
    if isinstance(value, Age):
        return value
    total = _age_ns(value)
    if total is None:
        raise ValueError(f"{_shown(value)} is not an age: write it as 90s, 10m, 168h, 7d or 1w")
    if total > _LARGEST:
        raise ValueError(f"{_shown(value)} is too long: an age is at most 292 years")
    return Age(total)


def _age_ns(value: object) -> int | None:
    text = _text(value)
    if text is None:
        return None
    if _PLAIN.fullmatch(text):
        return int(Fraction(text) * 10**9)
    total, position = Fraction(0), 0
    while position < len(text):
        part = _AGE_PART.match(text, position)
        unit = _AGE_UNITS.get(_AGE_ALIASES.get(part[2], part[2])) if part else None
        if part is None or unit is None:
            return None
        total += Fraction(part[1]) * unit
        position = part.end()
    return int(total) if position else None


def parse_size(value: object) -> Size:
    """Read a size ("10GiB", "1.5G", a number of bytes) into bytes. ValueError."""
    if isinstance(value, Size):
        return value
    text = _text(value)
    match = _SIZE.fullmatch(text) if text is not None else None
    factor = _SIZE_UNITS.get(match[2]) if match else None
    if match is None or factor is None or (factor == 1 and "." in match[1]):
        raise ValueError(f"{_shown(value)} is not a size: write it as 4096, 64KiB, 1.5G or 10GiB")
    size = int(Fraction(match[1]) * factor)
    if size > _LARGEST:
        raise ValueError(f"{_shown(value)} is too large: a size is less than 8 EiB")
    return Size(size)


def parse_watermark(value: object) -> Watermark:
    """Read a watermark ("90%", "400GiB"). ValueError."""
    if isinstance(value, Watermark):
        return value
    if isinstance(value, str) and value.strip().endswith("%"):
        number = value.strip()[:-1].strip()
        if not _PLAIN.fullmatch(number) or not 0 < float(number) <= 100:
            raise ValueError(f"{_shown(value)} is not a share: write it as more than 0% and at most 100%")
        return Watermark(float(number), is_percent=True)
    try:
        return Watermark(parse_size(value), is_percent=False)
    except ValueError:
        raise ValueError(f"{_shown(value)} is not a watermark: write it as 90% or as a size like 400GiB") from None


def _text(value: object) -> str | None:
    """Numbers and text as text in lower case; None for what is neither (bool is no number here)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()


def _shown(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else repr(value)
