"""Who reads what cold: counts in a window, storms that begin and end, bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.access import Access, Opener
from tierfs.core.storms import WINDOW_NS, Census, ColdReader, Storm

MIB = 1 << 20
SECOND = 10**9
CLAM = Opener("clamscan", 110, 4711)
JAVA = Opener("java", 7, 12)


def only(census: Census, now_ns: int) -> ColdReader:
    """The one reader that is there."""
    (reader,) = census.present(now_ns)
    return reader


def test_what_was_fetched_in_the_last_minute_is_there() -> None:
    census = Census(0)
    for number in range(4):
        census.fetched(CLAM, f"logs/{number}", MIB, number * SECOND)
    census.fetched(CLAM, "other/x", 2 * MIB, 5 * SECOND)
    reader = only(census, 6 * SECOND)
    assert (reader.command, reader.uid, reader.pid, reader.bytes, reader.requests, reader.files, reader.directory) == (
        *("clamscan", 110, 4711),
        *(6 * MIB, 5, 5, "logs"),
    )
    assert only(census, WINDOW_NS + SECOND).directory == "other"
    assert census.present(2 * WINDOW_NS) == []


def test_a_storm_begins_once_and_is_over_once() -> None:
    census = Census(3 * MIB)
    said: list[Storm | None] = [census.fetched(CLAM, f"a/b/{n}", MIB, n * SECOND) for n in range(6)]
    assert [bool(one) for one in said] == [False, False, True, False, False, False]
    assert said[2] is not None
    assert str(said[2]) == (
        "clamscan (uid 110), pid 4711, reads cold files: 3.0 MiB of 3 files had to be fetched within a minute, most of "
        'it below /a/b; access = ["limit command=clamscan"] would hold it back'
    )
    assert census.ended(6 * SECOND) == []
    assert only(census, 6 * SECOND).is_storm
    (over,) = census.ended(2 + WINDOW_NS + 6 * SECOND)
    assert str(over) == "the storm of clamscan (uid 110) is over: 6.0 MiB had to be fetched for it in 64 s"
    assert census.ended(3 * WINDOW_NS) == []
    assert census.storms == 1


def test_a_storm_of_who_is_limited_already_says_so() -> None:
    census = Census(1)
    limited = Opener("", 110, 0, Access.LIMIT)
    storm = census.fetched(limited, "x", MIB, 0)
    assert "a process without a name (uid 110), pid 0" in str(storm)
    assert str(storm).endswith("; limited_rate holds it back")


def test_refusals_are_news_once_a_minute() -> None:
    census = Census(1)
    news = [census.denied(CLAM, "a/b", second * SECOND) for second in (0, 1, 30, 61, 62, 130)]
    assert news == [True, False, False, False, False, True]
    assert only(census, 130 * SECOND).denied == 1
    assert not only(census, 130 * SECOND).is_storm


def test_the_busiest_comes_first() -> None:
    census = Census(0)
    census.fetched(JAVA, "k", MIB, 0)
    census.fetched(CLAM, "k", 2 * MIB, 0)
    assert [one.command for one in census.present(0)] == ["clamscan", "java"]


def test_too_many_readers_are_counted_together() -> None:
    census = Census(1 << 40)
    for number in range(200):
        census.fetched(Opener(f"x{number}", 1), f"{number}/k", MIB, number)
    assert len(census.present(200)) == 65
    assert sum(one.bytes for one in census.present(200)) == 200 * MIB
    assert census.present(200)[0].name == "others"
    assert census.ended(3 * WINDOW_NS) == []
    assert census._readers == {}


@given(st.lists(st.tuples(st.sampled_from([CLAM, JAVA]), st.integers(0, 90), st.integers(1, 4)), max_size=60))
def test_storms_begin_and_end_in_turn(told: list[tuple[Opener, int, int]]) -> None:
    """Whatever happens when: for each reader a beginning, then an end; and who is one is said to be."""
    census, now, is_storm = Census(5 * MIB), 0, {CLAM.group: False, JAVA.group: False}
    for opener, pause, size in told:
        now += pause * SECOND
        for over in census.ended(now):
            group = (over.reader.command, over.reader.uid)
            assert is_storm[group]
            is_storm[group] = False
        storm = census.fetched(opener, "d/k", size * MIB, now)
        if storm:
            assert not is_storm[opener.group]
            assert storm.reader.bytes >= 5 * MIB
            is_storm[opener.group] = True
        assert {(one.command, one.uid): one.is_storm for one in census.present(now)}[opener.group] is is_storm[
            opener.group
        ]
