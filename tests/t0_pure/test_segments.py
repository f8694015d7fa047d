"""Which segment follows which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.segments import successor_of

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
