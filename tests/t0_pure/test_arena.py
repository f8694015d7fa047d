"""Memory for chunks: slots never overlap, and are free again exactly when nobody sees them any more."""

import gc
import mmap
import os
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tierfs.engine.arena import Arena, Place, Slot, give_back, map_shared


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=60))
def test_slots_never_overlap_and_all_of_it_comes_back(steps: list[tuple[bool, int]]) -> None:
    arena = Arena(64)
    whole = list(arena._free)
    held: list[Slot] = []
    for is_taken, size in steps:
        if is_taken:
            slot = arena.take(size)
            assert slot is not None
            slot.view[:] = bytes([len(held)]) * size
            held.append(slot)
        elif held:
            held.pop(size % len(held))
        places = sorted(slot.place for slot in held)
        assert all(left.start + left.size <= right.start for left, right in pairwise(places))
    held.clear()
    slot = None
    arena._take_back()
    assert arena._free == whole
    arena.close()


def test_a_view_keeps_its_slot() -> None:
    arena = Arena(4096)
    slot = arena.take(8)
    assert slot is not None
    slot.view[:] = b"abcdefgh"
    part = slot.view[2:5]
    place = slot.place
    del slot
    other = arena.take(8)
    assert other is not None
    assert other.place != place
    assert part.tobytes() == b"cde"
    del part
    gc.collect()
    again = arena.take(8)
    assert again is not None
    assert again.place == place
    arena.close()


def test_what_does_not_fit_is_refused_and_fits_later() -> None:
    arena = Arena(mmap.PAGESIZE)
    (whole,) = arena._free
    slot = arena.take(whole.size)
    assert slot is not None
    assert arena.take(1) is None
    del slot
    assert arena.take(1) is not None
    assert arena.take(whole.size + 1) is None
    arena.close()


def test_memory_beyond_the_usual_goes_back_to_the_system() -> None:
    arena = Arena(16 * mmap.PAGESIZE)
    slots = [arena.take(mmap.PAGESIZE) for _ in range(40)]
    for slot in slots:
        assert slot is not None
        slot.view[:] = bytes([1]) * mmap.PAGESIZE
    slot = None
    assert os.fstat(arena.fd).st_blocks * 512 == 40 * mmap.PAGESIZE
    slots.clear()
    assert arena.take(1) is not None
    assert os.fstat(arena.fd).st_blocks * 512 == 16 * mmap.PAGESIZE
    arena.close()


def test_the_other_side_sees_the_same_bytes() -> None:
    arena = Arena(mmap.PAGESIZE)
    slot = arena.take(5)
    assert slot is not None
    other = map_shared(arena.fd)
    other[slot.place.start : slot.place.start + 5] = b"hello"
    assert slot.view == b"hello"
    arena.close()


def test_pieces_that_adjoin_become_one() -> None:
    free = [Place(0, 4), Place(10, 2)]
    assert give_back(free, Place(6, 2)) == [Place(0, 4), Place(6, 2), Place(10, 2)]
    assert give_back(free, Place(4, 6)) == [Place(0, 12)]
