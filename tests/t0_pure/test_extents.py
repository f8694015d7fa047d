"""Chunks, extents and the decision how far to read ahead."""

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from tierfs.core.extents import (
    Window,
    chunk_extent,
    chunk_indices,
    count_chunks,
    fill,
    plan_read_ahead,
    plan_window,
    runs,
    slice_of_chunk,
)

sizes = st.integers(0, 70)
chunk_sizes = st.integers(1, 9)
offsets = st.integers(0, 80)

CHUNK = 4
CAP = 64


@given(size=sizes, chunk_size=chunk_sizes, offset=offsets, length=st.integers(0, 80))
@example(size=8, chunk_size=4, offset=8, length=1)
@example(size=9, chunk_size=4, offset=8, length=4)
@example(size=0, chunk_size=4, offset=0, length=1)
def test_slices_of_the_chunks_of_an_extent_are_the_extent(size: int, chunk_size: int, offset: int, length: int) -> None:
    data = bytes(range(size))
    chunks = [data[start:stop] for start, stop in (chunk_extent(i, size, chunk_size) for i in _all(size, chunk_size))]
    indices = chunk_indices(offset, length, size, chunk_size)
    parts = [chunks[index][slice_of_chunk(index, chunk_size, offset, length)] for index in indices]
    assert b"".join(parts) == data[offset : offset + length]
    assert all(parts)  # no chunk is touched in vain


@given(size=sizes, chunk_size=chunk_sizes)
def test_chunks_tile_an_object(size: int, chunk_size: int) -> None:
    extents = [chunk_extent(index, size, chunk_size) for index in _all(size, chunk_size)]
    lengths = [stop - start for start, stop in extents]
    assert sum(lengths) == size
    assert all(length == chunk_size for length in lengths[:-1])
    assert all(0 < length <= chunk_size for length in lengths)


@given(indices=st.sets(st.integers(0, 40)).map(sorted), longest=st.integers(1, 6))
def test_runs_are_contiguous_short_enough_and_as_few_as_can_be(indices: list[int], longest: int) -> None:
    found = runs(indices, longest)
    assert [index for run in found for index in run] == indices
    assert all(0 < len(run) <= longest for run in found)
    for left, right in pairwise(found):
        assert left.stop < right.start or len(left) == longest


@given(blocks=st.lists(st.binary(max_size=9), max_size=9), lengths=st.lists(st.integers(1, 9), max_size=9))
@example(blocks=[b"abcd", b"", b"ef"], lengths=[4, 2])
@example(blocks=[b"abc"], lengths=[4])
def test_fill_fills_in_order_and_never_names_a_piece_that_is_not_full(blocks: list[bytes], lengths: list[int]) -> None:
    stream = b"".join(blocks)
    memory = {index + 5: bytearray(length) for index, length in enumerate(lengths)}
    full = list(fill(blocks, {index: memoryview(piece) for index, piece in memory.items()}))
    assert full == sorted(memory)[: len(full)]
    assert b"".join(memory[index] for index in full) == stream[: sum(lengths[: len(full)])]
    if len(full) < len(lengths):
        assert len(stream) < sum(lengths[: len(full) + 1])


def test_fill_gives_a_piece_before_it_asks_for_the_next_block() -> None:
    taken: list[int] = []

    def blocks() -> Iterator[bytes]:
        for index in range(4):
            taken.append(index)
            yield b"abcd"

    memory = [bytearray(4) for _ in range(4)]
    filled = fill(blocks(), dict(enumerate(map(memoryview, memory))))
    assert next(filled) == 0
    assert memory[0] == b"abcd"
    assert taken == [0]


@given(
    reads=st.lists(st.tuples(offsets, st.integers(1, 20)), max_size=20),
    size=st.integers(1, 80),
    chunk_size=chunk_sizes,
    longest=st.integers(1, 4),
)
def test_read_ahead_stays_in_the_object_and_asks_for_nothing_twice(
    reads: list[tuple[int, int]], size: int, chunk_size: int, longest: int
) -> None:
    window = Window()
    for offset, length in reads:
        window = plan_window(window, offset, length, chunk_size, CAP)
        chunks = plan_read_ahead(window, size, chunk_size, longest)
        assert window.ahead <= max(CAP, chunk_size)
        if chunks:
            assert chunks.stop <= count_chunks(size, chunk_size)
            assert chunks.start >= window.front
            assert chunks.start * chunk_size >= min(window.expected, size) or chunks.start == window.front
            assert window.ahead > 0
            window = Window(window.expected, window.ahead, chunks.stop)


def test_a_sequential_reader_gets_a_window_that_doubles_to_the_cap() -> None:
    window, seen = Window(), []
    for offset in range(0, 40, 2):
        window = plan_window(window, offset, 2, CHUNK, 32)
        seen.append(window.ahead)
    assert seen[:11] == [0, 4, 8, 8, 16, 16, 32, 32, 32, 32, 32]


def test_the_kernel_may_reorder_the_reads_of_a_sequential_reader() -> None:
    window = Window()
    for offset in (0, 4, 12, 8, 16, 24, 20):
        window = plan_window(window, offset, 4, CHUNK, CAP)
    assert window.expected == 28
    assert window.ahead == 32


def test_the_first_read_and_random_reads_open_no_window() -> None:
    window = Window()
    for offset in (0, 400, 40, 200):
        window = plan_window(window, offset, 4, CHUNK, CAP)
        assert window == Window(expected=offset + 4)


def test_reading_backwards_opens_no_window() -> None:
    window = Window()
    for offset in range(400, 0, -2):
        window = plan_window(window, offset, 2, CHUNK, CAP)
        assert window.ahead == 0


def test_a_small_read_ahead_of_the_kernel_at_a_random_place_opens_no_window() -> None:
    window = plan_window(Window(expected=7), 4096, 16, 1024, 8192)
    assert plan_window(window, 4096 + 16, 32, 1024, 8192).ahead == 0


def test_a_steady_reader_causes_long_gets() -> None:
    window, asked = Window(), []
    for offset in range(0, 800, 2):
        window = plan_window(window, offset, 2, CHUNK, CAP)
        if chunks := plan_read_ahead(window, 1000, CHUNK, 4):
            asked.append(len(chunks))
            window = Window(window.expected, window.ahead, chunks.stop)
    assert all(length >= 4 for length in asked[4:])
    assert sum(asked) * CHUNK >= 800


def _all(size: int, chunk_size: int) -> range:
    return range(count_chunks(size, chunk_size))
