"""Which segment follows which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.segments import SegmentName, newest_of, segment_of, successor_of

KAFKA = [b"%020d%s" % (base, side) for base in (0, 99, 100, 5000) for side in (b".log", b".index", b".timeindex")]
NATS = [b"%d.blk" % number for number in (1, 2, 9, 10, 11, 100)] + [b"index.db", b"1.fss"]
REDPANDA = [b"0-1-v1.log", b"1200-1-v1.log", b"90000-1-v1.log", b"archival_metadata.bin"]


@pytest.mark.parametrize(
    ("name", "names", "successor"),
    [
        (b"%020d.log" % 0, KAFKA, b"%020d.log" % 99),
        (b"%020d.log" % 99, KAFKA, b"%020d.log" % 100),
        (b"%020d.log" % 50, KAFKA, b"%020d.log" % 99),
        (b"%020d.index" % 100, KAFKA, b"%020d.index" % 5000),
        (b"%020d.log" % 5000, KAFKA, None),
        (b"1.blk", NATS, b"2.blk"),
        (b"9.blk", NATS, b"10.blk"),
        (b"11.blk", NATS, b"100.blk"),
        (b"100.blk", NATS, None),
        (b"0-1-v1.log", REDPANDA, b"1200-1-v1.log"),
        (b"1200-1-v1.log", REDPANDA, b"90000-1-v1.log"),
        (b"segment.lz4", [b"segment.lz5", b"segment.lz4"], b"segment.lz5"),
        (b"wal-0007.log.1", [b"wal-0008.log.1", b"wal-0008.log.2", b"wal-8.log.1"], b"wal-0008.log.1"),
        (b"07", [b"8", b"008", b"08"], b"08"),
        (b"7", [b"08", b"9"], b"9"),
        (b"a+(1", [b"aa(2", b"a+(2"], b"a+(2"),
        (b"1\n.log", [b"2.log", b"2\n.log"], b"2\n.log"),
        (b"\xff1", [b"\xff2", b"2"], b"\xff2"),
        (b"leader-epoch-checkpoint", KAFKA, None),
        (b"1", [], None),
    ],
)
def test_successors(name: bytes, names: list[bytes], successor: bytes | None) -> None:
    assert successor_of(name, names) == successor
    assert successor_of(name, reversed(names)) == successor


@given(st.sets(st.integers(0, 10**20 - 1), min_size=1), st.sampled_from([b"%020d.log", b"%d.blk"]))
def test_a_walk_from_the_first_meets_all_in_order(numbers: set[int], shape: bytes) -> None:
    names = [shape % number for number in numbers]
    name: bytes | None = shape % min(numbers)
    walked = []
    while name is not None:
        walked.append(name)
        name = successor_of(name, names)
    assert walked == [shape % number for number in sorted(numbers)]


SIDES = ("*.log", "*.index", "*.timeindex")


@pytest.mark.parametrize(
    ("path", "patterns", "text"),
    [
        (b"t-0/42.log", SIDES, b"42"),
        (b"t-0/42.timeindex", SIDES, b"42"),
        (b"42.index", SIDES, b"42"),
        (b"42.index.deleted", SIDES, None),
        (b".index", SIDES, None),
        (b"42.log/x", SIDES, None),
        (b"a.log.index", SIDES, b"a.log"),
        (b"seg-7", ("seg-*",), b"7"),
        (b"abc", ("a*", "ab*"), b"c"),
        (b"aba", ("ab*ba",), None),
        (b"\xff.log", SIDES, b"\xff"),
        (b"42.log", (), None),
    ],
)
def test_which_segment_a_file_belongs_to(path: bytes, patterns: tuple[str, ...], text: bytes | None) -> None:
    expected = SegmentName(path.rpartition(b"/")[0], text) if text else None
    assert segment_of(path, patterns) == expected
    assert segment_of(path, patterns[::-1]) == expected


@given(st.binary(max_size=4).filter(lambda d: not set(d) & set(b"\0")), st.binary(min_size=1, max_size=5))
def test_the_paths_of_a_segment_are_its_own(directory: bytes, text: bytes) -> None:
    name = SegmentName(directory, text.replace(b"/", b"x"))
    for path in name.paths(SIDES):
        assert segment_of(path, SIDES) == name
    assert SegmentName(b"d", b"a").paths(("*", "*.log", "*.log")) == [b"d/a", b"d/a.log"]


def test_a_name_that_a_closer_pattern_takes_is_of_another_segment() -> None:
    """xa.log is the log of "xa", and no file of "a.log"."""
    assert SegmentName(b"", b"a.log").paths(("x*", "*.log")) == [b"a.log.log"]
    assert SegmentName(b"", b"a.lo").paths(("*g", "*.log")) == [b"a.lo.log"]


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.integers(0, 4))
def test_the_newest_are_at_the_end(logs: set[int], others: set[int], count: int) -> None:
    names = {number: SegmentName(b"d", b"%020d" % number) for number in logs | others}
    newest = newest_of(names.values(), count, {names[number] for number in logs})
    kept = {number for number, name in names.items() if name in newest}
    if not count:
        assert not kept
    elif len(logs) <= count:
        assert kept == (set(names) if len(logs) < count else {n for n in names if n >= min(logs, default=0)})
    else:
        assert len(kept & logs) == count
        assert min(kept) == sorted(logs)[-count]
        assert kept == {number for number in names if number >= min(kept)}
