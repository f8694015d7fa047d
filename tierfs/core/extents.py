"""Arithmetic of chunks and extents, and the decision how far to read ahead.

Offsets and sizes are bytes; a chunk index counts chunks from the beginning of the object; ranges are half-open.
"""

from dataclasses import dataclass


def count_chunks(size: int, chunk_size: int) -> int:
    """How many chunks an object of `size` bytes has; the last one may be short, an empty object has none."""
    return -(-size // chunk_size)


def chunk_indices(offset: int, length: int, size: int, chunk_size: int) -> range:
    """The chunks that the extent [offset, offset + length) touches, clipped to the object's size."""
    stop = min(offset + length, size)
    if offset >= stop:
        return range(0)
    return range(offset // chunk_size, count_chunks(stop, chunk_size))


def chunk_extent(index: int, size: int, chunk_size: int) -> tuple[int, int]:
    """The bytes [start, stop) of chunk `index` of an object of `size` bytes."""
    start = index * chunk_size
    return start, min(start + chunk_size, size)


def slice_of_chunk(index: int, chunk_size: int, offset: int, length: int) -> slice:
    """The part of chunk `index` that belongs to the extent [offset, offset + length)."""
    start = index * chunk_size
    return slice(max(0, offset - start), max(0, min(chunk_size, offset + length - start)))


def runs(indices: list[int], longest: int) -> list[range]:
    """Cut ascending chunk indices into contiguous runs of at most `longest` chunks: one GET each."""
    found: list[range] = []
    for index in indices:
        if found and found[-1].stop == index and len(found[-1]) < longest:
            found[-1] = range(found[-1].start, index + 1)
        else:
            found.append(range(index, index + 1))
    return found


@dataclass(frozen=True, slots=True)
class Window:
    """The read-ahead state of one handle: where a sequential reader is expected next, and how far ahead to fetch.

    INVARIANT: `ahead` is 0 for a reader that was not sequential lately.
    """

    expected: int = 0
    ahead: int = 0


def plan_window(window: Window, offset: int, length: int, chunk_size: int, cap: int) -> Window:
    """The window after a read of [offset, offset + length): doubles from one chunk to `cap` while the reader is sequential.

    The kernel splits and reorders the reads of one sequential reader, so one chunk of slack on either side still counts.
    """
    stop = offset + length
    if offset == 0 and window.expected == 0:
        return Window(expected=stop, ahead=0)
    if window.expected - chunk_size <= offset <= window.expected + chunk_size:
        return Window(max(stop, window.expected), min(cap, max(chunk_size, window.ahead * 2)))
    return Window(expected=stop, ahead=0)
