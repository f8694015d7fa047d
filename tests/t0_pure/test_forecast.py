"""What is told before the first mount: what would move, why the rest stays, how long it takes."""

import stat

import pytest

from tierfs.core.config import Settings
from tierfs.core.forecast import forecast
from tierfs.core.policy import HotFile

DAY_NS = 86_400 * 10**9
NOW_NS = 1000 * DAY_NS


def file(path: bytes, age_days: float, size: int = 1 << 20, nlink: int = 1) -> HotFile:
    then_ns = NOW_NS - int(age_days * DAY_NS)
    return HotFile(path, stat.S_IFREG | 0o644, nlink, size, then_ns, then_ns)


FILES = [
    file(b"a/1.log", 30),
    file(b"a/2.log", 3),
    file(b"a/3.log", 0.1),
    file(b"a/4.log", 0.2),
    file(b"b/c/1.log", 30),
    file(b"top.log", 30),
    file(b"top.tmp", 30),
    file(b"small", 30, size=10),
    file(b"empty", 30, size=0),
    file(b"linked", 30, nlink=3),
    file(b"linked-too", 30, nlink=2),
]


def test_what_would_move_and_why_the_rest_stays() -> None:
    found = forecast(FILES, "", Settings.of(exclude=["*.tmp"], min_size="4KiB"), NOW_NS)
    assert (found.archived.files, found.archived.bytes) == (4, 4 << 20)
    assert (found.released.files, found.released.bytes) == (3, 3 << 20)
    assert {path: share.files for path, share in found.directories.items()} == {b"a": 2, b"b": 1, b"": 1}
    assert {reason: share.files for reason, share in found.kept.items()} == {
        "changed too recently": 2,
        "excluded by a pattern": 1,
        "smaller than min_size (4KiB)": 1,
        "it is empty": 1,
        "it has several names": 2,
    }
    assert (found.seconds, found.days) == (None, None)


def test_a_path_that_is_too_long_for_a_key_stays() -> None:
    found = forecast([file(b"x" * 200, 30)], "p" * 900, Settings.of(), NOW_NS)
    assert found.archived.files == 0
    assert [share.files for share in found.kept.values()] == [1]


@pytest.mark.parametrize(
    ("settings", "seconds", "days"),
    [
        ({"upload_rate": "1MiB"}, 4, None),
        ({"archive_rate": 2}, 120, None),
        ({"archive_rate": 2, "upload_rate": "1MiB"}, 120, None),
        ({"upload_rate": "64KiB", "archive_window": "22:00-04:00"}, 64, 64 * 4 / 86_400),
        ({"archive_window": "22:00-04:00"}, None, None),
    ],
)
def test_how_long_it_takes(settings: dict[str, object], seconds: float | None, days: float | None) -> None:
    found = forecast(FILES, "", Settings.of(exclude=["*.tmp"], **settings), NOW_NS)
    assert (found.seconds, found.days) == (seconds, days)
