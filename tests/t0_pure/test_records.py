"""Records: the CRCs of chunks."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.records import ObjectRef


@given(st.lists(st.binary(max_size=8), max_size=6))
def test_each_chunk_finds_its_crc(chunks: list[bytes]) -> None:
    crcs = b"".join(zlib.crc32(chunk).to_bytes(4, "little") for chunk in chunks)
    ref = ObjectRef("k", "e", 1, crcs=crcs)
    assert [ref.crc_of(index) for index in range(len(chunks))] == [zlib.crc32(chunk) for chunk in chunks]
    assert ref.crc_of(len(chunks)) is None


def test_an_object_of_others_has_none() -> None:
    assert ObjectRef("k", "e", 10).crc_of(0) is None
