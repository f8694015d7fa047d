"""Arithmetic of chunks and extents, and the decision how far to read ahead.

Offsets and sizes are bytes; a chunk index counts chunks from the beginning of the object; ranges are half-open.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from tierfs.core.records import ObjectRef


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


@dataclass(frozen=True, slots=True)
class Item:
    """One object and the size of the chunks that it is fetched in."""

    ref: ObjectRef
    chunk_size: int

    def key_of(self, index: int) -> tuple[str, str, str | None, int, int]:
        """The name of a chunk: key, ETag, version, chunk size, index."""
        return (self.ref.key, self.ref.etag, self.ref.version_id, self.chunk_size, index)

    def size_of(self, index: int) -> int:
        """The length of a chunk of this object."""
        start, stop = chunk_extent(index, self.ref.size, self.chunk_size)
        return stop - start


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


def fill(blocks: Iterable[bytes], targets: Mapping[int, memoryview]) -> Iterator[int]:
    """Copy a stream of blocks of any size into `targets`, in the order of their indices; yields each that is full.

    A stream that ends early leaves the rest unfilled and unnamed. Bytes beyond the last target are not looked at.
    """
    wanted = iter(sorted(targets))
    index = next(wanted, None)
    filled = 0
    for block in blocks:
        rest = memoryview(block)
        while index is not None and rest:
            target = targets[index]
            piece = rest[: len(target) - filled]
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            rest = rest[len(piece) :]
            if filled == len(target):
                yield index
                index, filled = next(wanted, None), 0
        if index is None:
            return


_KERNEL_READ_AHEAD = 256 << 10  # twice the kernel's default, VM_READAHEAD_PAGES


@dataclass(frozen=True, slots=True)
class Window:
    """The read-ahead state of one handle: where a sequential reader is expected next, and how far ahead to fetch.

    `front` is the first chunk index that read-ahead has not asked for yet.

    INVARIANT: `ahead` is 0 for a reader that was not sequential lately.
    """

    expected: int = 0
    ahead: int = 0
    front: int = 0


def slack_of(chunk_size: int) -> int:
    """How far the kernel may have read ahead of the application: two of its windows, in large chunks."""
    return min(chunk_size // 4, _KERNEL_READ_AHEAD)


def plan_window(window: Window, offset: int, length: int, chunk_size: int, cap: int) -> Window:
    """The window after a read of [offset, offset + length): doubles up to `cap` while the reader is sequential.

    It opens when the reader nears the end of a chunk and doubles with each chunk that the reader enters; the kernel's
    own read-ahead behind what an application reads does neither (see slack_of). The kernel splits and reorders the
    reads of one sequential reader, so a read that comes one chunk early, and the one that it overtook, still count;
    reading backwards never widens the window.
    """
    stop = offset + length
    is_near = window.expected - 2 * chunk_size <= offset <= window.expected + chunk_size
    if window.expected == 0 or not is_near:
        return Window(expected=stop)
    if stop <= window.expected:
        return window
    slack = slack_of(chunk_size)
    has_entered = (stop - 1 - slack) // chunk_size > (window.expected - 1 - slack) // chunk_size
    nears_end = (stop - 1) % chunk_size >= chunk_size // 2
    ahead = window.ahead
    if has_entered or (ahead == 0 and nears_end):
        ahead = max(chunk_size, min(cap, ahead * 2))
    return replace(window, expected=stop, ahead=ahead)


def is_near_end(window: Window, size: int, chunk_size: int) -> bool:
    """Whether a sequential reader has come so far that its window reaches the end of an object."""
    return window.ahead > 0 and window.expected - slack_of(chunk_size) + window.ahead >= size


def plan_read_ahead(window: Window, size: int, chunk_size: int, longest: int) -> range:
    """The chunks to ask for now so that the window is filled; the caller advances `front` to the range's end.

    Waits until `longest` chunks (or half the window, while it is small) are missing, so that a steady reader causes
    long GETs rather than one for each chunk; the end of the object is asked for at once. Never beyond `size`.
    """
    if window.ahead == 0:
        return range(0)
    start = max(window.front, count_chunks(min(window.expected, size), chunk_size))
    reached = window.expected - slack_of(chunk_size)
    stop = count_chunks(min(reached + window.ahead, size), chunk_size)
    step = max(1, min(longest, window.ahead // chunk_size // 2))
    if stop - start >= step or stop == count_chunks(size, chunk_size):
        return range(start, max(start, stop))
    return range(0)
