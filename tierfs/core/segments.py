"""Segments by their names: which files are one, which follows which (00000000000000000000.log, 17.blk).

A pattern for the files of segments is a file name with one "*" in it. Files of one directory whose names have the same
text in the place of the "*" are one segment: "*.log" and "*.index" make one of 42.log and 42.index.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_DIGITS = re.compile(rb"[0-9]+")


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What the files of one segment have in common; `text` is what stands for the "*" of the patterns."""

    directory: bytes
    text: bytes

    @property
    def sequence(self) -> tuple[bytes, bytes] | None:
        """What is the same in the names of segments that follow each other, None for one without a number."""
        number = _number_in(self.text)
        return (self.text[: number.start()], self.text[number.end() :]) if number else None

    @property
    def number(self) -> int:
        """Its place in its sequence, 0 without one."""
        number = _number_in(self.text)
        return int(number[0]) if number else 0

    def paths(self, patterns: Sequence[str]) -> list[bytes]:
        """The paths of all files that this segment may have, in the order of the patterns."""
        above = self.directory + b"/" if self.directory else b""
        made = [above + head + self.text + tail for head, tail in _around(tuple(patterns))]
        return [path for path in dict.fromkeys(made) if segment_of(path, patterns) == self]


def segment_of(path: bytes, patterns: Sequence[str]) -> SegmentName | None:
    """The segment that a file belongs to, None when its name matches no pattern.

    Of several patterns that match, the one with the most letters counts: of "*" and "*.log" the second.
    """
    directory, _, name = path.rpartition(b"/")
    best: tuple[int, bytes] | None = None
    for head, tail in _around(tuple(patterns)):
        given = len(head) + len(tail)
        if len(name) > given and name.startswith(head) and name.endswith(tail) and (best is None or best[0] < given):
            best = given, name[len(head) : len(name) - len(tail)]
    return SegmentName(directory, best[1]) if best else None


def newest_of(names: Iterable[SegmentName], count: int, is_counted: Collection[SegmentName]) -> set[SegmentName]:
    """The newest so many segments of each sequence, by their numbers; those without a number are not among them.

    Only what `is_counted` counts, and what is newer than that is among them too: an index that is written ahead of its
    log is no segment yet.
    """
    sequences: dict[tuple[bytes, bytes, bytes], list[SegmentName]] = {}
    for name in names:
        if name.sequence and count:
            sequences.setdefault((name.directory, *name.sequence), []).append(name)
    newest: set[SegmentName] = set()
    for sequence in sequences.values():
        numbers = sorted({name.number for name in sequence if name in is_counted}, reverse=True)
        lowest = numbers[count - 1] if len(numbers) >= count else 0
        newest.update(name for name in sequence if name.number >= lowest)
    return newest


@lru_cache(maxsize=64)
def _around(patterns: tuple[str, ...]) -> tuple[tuple[bytes, bytes], ...]:
    """What stands before the "*" of each pattern, and what stands behind it."""
    parts = [pattern.encode("utf-8", "surrogateescape").partition(b"*") for pattern in patterns]
    return tuple((head, tail) for head, _, tail in parts)


def _number_in(name: bytes) -> re.Match[bytes] | None:
    """The longest run of digits, the first of several."""
    return max(_DIGITS.finditer(name), key=lambda run: (len(run[0]), -run.start()), default=None)


def successor_of(name: bytes, names: Iterable[bytes]) -> bytes | None:
    """The one of `names` that is the same but for the next higher number; None when there is none.

    The number is the longest run of digits, the first of several. One with leading zeros is as wide as `name` has it.
    """
    number = _number_in(name)
    if number is None:
        return None
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
