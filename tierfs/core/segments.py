"""Which segment follows which, by their names: 00000000000000000000.log, 17.blk."""

import re
from collections.abc import Iterable

_DIGITS = re.compile(rb"[0-9]+")


def successor_of(name: bytes, names: Iterable[bytes]) -> bytes | None:
    """The one of `names` that is the same but for the next higher number; None when there is none.

    The number is the longest run of digits, the first of several. One with leading zeros is as wide as `name` has it.
    """
    runs = list(_DIGITS.finditer(name))
    if not runs:
        return None
    number = max(runs, key=lambda run: (len(run[0]), -run.start()))
    shape = re.compile(re.escape(name[: number.start()]) + rb"([0-9]+)" + re.escape(name[number.end() :]))
    higher = (
        (int(found[1]), other)
        for other in names
        if (found := shape.fullmatch(other)) and int(found[1]) > int(number[0]) and _is_alike(found[1], number[0])
    )
    return min(higher, default=(0, None))[1]


def _is_alike(one: bytes, other: bytes) -> bool:
    """Whether two numbers are written in the same way: with the same width, or both without leading zeros."""
    return len(one) == len(other) or not (_is_padded(one) or _is_padded(other))


def _is_padded(number: bytes) -> bool:
    return number.startswith(b"0") and len(number) > 1
