"""What `tierfs top` makes of two looks: rates that are never negative, and lines that fit."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.admin.registry import Mount
from tierfs.cli.top_rates import Rates, allotted
from tierfs.cli.top_view import Paper, plain, screen
from tierfs.cli.top_watch import Seen

SECOND_NS = 10**9
SINCE_NS = 1_700_000_000 * SECOND_NS
MOUNT = Mount("/srv/data", "s3://my-bucket", "/srv/data", "/var/lib/tierfs/x", 1, 2, "1.0")

ACTIVITY: dict[str, Any] = {
    "as_of_ns": SINCE_NS + 100 * SECOND_NS,
    "since_ns": SINCE_NS,
    "worker_pid": 1234,
    "io_mode": "plain",
    "operations": {
        "open": {"count": 1000, "timed": 1000, "seconds": 0.1},
        "ioctl": {"count": 10, "timed": 0, "seconds": 0.0},
    },
    "bytes": {
        "read_hot": 100 << 20,
        "written_hot": 0,
        "grown_hot": -5000,
        "read_cold": 10 << 20,
        "read_cached": 5 << 20,
        "downloaded": 7 << 20,
        "uploaded": 3 << 20,
    },
    "unseen": "",
    "latencies_over_s": 90.0,
    "cold_waits": {"count": 50, "seconds": 5.0, "p50_s": 0.012, "p99_s": 0.24},
    "cache": {"hits": 30, "misses": 10, "bytes": 1 << 30, "limit_bytes": 10 << 30},
    "store": {
        "state": "closed",
        "reason": "",
        "requests": {
            "GetObject": {"count": 100, "failed": 2, "p50_s": 0.02, "p99_s": 0.1},
            "PutObject": {"count": 1, "failed": 0, "p50_s": None, "p99_s": None},
        },
    },
    "transfers": [
        {
            "path": "logs/" + "very-" * 40 + "long.log",
            "verb": "archive",
            "bytes": 100 << 20,
            "done_bytes": 25 << 20,
            "begun_ns": SINCE_NS + 90 * SECOND_NS,
        },
        {"path": "new", "verb": "restore", "bytes": 5, "done_bytes": 0, "begun_ns": SINCE_NS + 100 * SECOND_NS},
    ],
    "hottest": [
        {
            "path": f"file-{number}",
            "tier": "cold" if number % 2 else "hot",
            "opens": 50.0 - number,
            "bytes": number << 20,
        }
        for number in range(20)
    ],
    "fill": [],
    "errors": [
        {"at_ns": SINCE_NS, "operation": "read", "path": "a\x1b[2Jb\udcff", "error": "the store\x07 is\nnot there"},
    ],
    "candidates": [],
    "candidates_as_of_ns": 0,
}
STATUS: dict[str, Any] = {
    "hot": {"files": 1_234_567, "bytes": 3 << 40},
    "warm": {"files": 5, "bytes": 6},
    "cold": {"files": 12_345_678, "bytes": 30 << 40},
    "lost": {"files": 0, "bytes": 0},
    "hot_disk": {"size": 1000, "free": 100, "level": 900, "high": 800, "low": 700},
    "runway": {"is_down": False, "up": {"state": "filling", "seconds": 7200.0, "bytes_per_second": 1000.0}, "down": {}},
    "lease": {"state": "held"},
    "queue": {"archiving": 1, "restoring": 0},
    "fuse": {"open_files": 7},
    "warnings": [],
}


def look(**changed: Any) -> dict[str, Any]:
    return {**copy.deepcopy(ACTIVITY), **changed}


def later(seconds: float, **changed: Any) -> dict[str, Any]:
    return look(as_of_ns=ACTIVITY["as_of_ns"] + int(seconds * SECOND_NS), **changed)


def shown(seen: Seen, width: int = 80, height: int | None = 24) -> str:
    return plain(screen(seen, Paper(width, height)))


def test_rates_are_differences_over_the_time_between() -> None:
    more = {**ACTIVITY["bytes"], "downloaded": ACTIVITY["bytes"]["downloaded"] + 4 * 1024}
    rates = Rates.between(ACTIVITY, later(2, bytes=more))
    assert rates.seconds == 2
    assert rates.per_second("bytes", "downloaded") == 2048
    assert rates.per_second("bytes", "uploaded") == 0
    assert rates.operations() == []
    assert rates.hit_share() is None


def test_the_first_look_has_the_rates_of_the_worker_s_life() -> None:
    rates = Rates.between(None, ACTIVITY)
    assert rates.seconds == 100
    assert rates.per_second("bytes", "uploaded") == (3 << 20) / 100
    assert rates.operations() == [("open", 10.0, pytest.approx(0.0001)), ("ioctl", 0.1, None)]
    assert rates.hit_share() == 0.75


def test_a_new_worker_s_totals_begin_anew_and_no_rate_is_negative() -> None:
    less = dict.fromkeys(ACTIVITY["bytes"], 8)
    rates = Rates.between(ACTIVITY, later(5, since_ns=ACTIVITY["as_of_ns"] + SECOND_NS, bytes=less))
    assert rates.seconds == 4
    assert rates.per_second("bytes", "downloaded") == 2


def test_a_clock_that_is_set_back_gives_no_rate_of_its_own() -> None:
    rates = Rates.between(later(5), ACTIVITY)
    assert rates.seconds == 100


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(-100, 100))
def test_no_rate_is_negative(before: int, now: int, seconds: int) -> None:
    old, new = look(), later(seconds)
    old["bytes"]["uploaded"], new["bytes"]["uploaded"] = before, now
    assert Rates.between(old, new).per_second("bytes", "uploaded") >= 0


def test_what_is_left_is_said_at_the_rate_so_far() -> None:
    rates = Rates.between(None, ACTIVITY)
    half, begun = ACTIVITY["transfers"]
    assert rates.time_left_s(half) == 30
    assert rates.time_left_s(begun) is None


@given(st.lists(st.integers(0, 30), max_size=4), st.integers(-5, 60))
def test_rows_are_shared_fairly(wanted: list[int], rows: int) -> None:
    given_ = allotted(wanted, rows)
    assert sum(given_) == max(0, min(sum(wanted), rows))
    for has, wants in zip(given_, wanted, strict=True):
        assert has <= wants
        assert has == wants or has >= max(given_) - 1


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 5), (132, 43), (160, 50), (300, 100)])
def test_every_screen_fits(width: int, height: int) -> None:
    lines = screen(Seen(MOUNT, ACTIVITY, None, STATUS), Paper(width, height))
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width


def test_a_screen_of_80_columns_and_24_rows_has_all_sections() -> None:
    text = shown(Seen(MOUNT, ACTIVITY, None, STATUS))
    for part in ("TRANSFERS", "HOTTEST FILES (20)", "LAST ERRORS", "full in 2.0 hours", "25% of  100M", "30s left"):
        assert part in text
    assert text.count("\n") == 23
    assert "…" in text
    assert "long.log" in text  # its end tells files apart


def test_more_height_and_width_show_more() -> None:
    assert "file-19" in shown(Seen(MOUNT, ACTIVITY, None, STATUS), height=50)
    wide = shown(Seen(MOUNT, ACTIVITY, None, STATUS), width=160)
    assert any("TRANSFERS" in line and "HOTTEST FILES" in line for line in wide.splitlines())


def test_names_cannot_change_the_terminal() -> None:
    text = shown(Seen(MOUNT, ACTIVITY, None, STATUS), height=None)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "the store? is?not there" in text
    text.encode()


def test_what_the_kernel_passes_through_is_not_made_up() -> None:
    quiet = {**ACTIVITY["bytes"], "read_hot": 0, "grown_hot": 100 * (5 << 20)}
    text = shown(Seen(MOUNT, look(unseen="not seen", io_mode="passthrough", bytes=quiet), None, STATUS))
    assert "by the kernel" in text
    assert "disk +5.0M" in text


def test_trouble_is_said_with_the_last_figures_below_it() -> None:
    text = shown(Seen(MOUNT, ACTIVITY, None, STATUS, trouble="the mount has not answered for 3 s"))
    assert "the mount has not answered for 3 s" in text
    assert "1,234,567 files" in text


def test_a_spared_store_says_why() -> None:
    store = {**ACTIVITY["store"], "state": "open", "reason": "it hangs"}
    text = shown(Seen(MOUNT, look(store=store), None, STATUS))
    assert "store spared" in text
    assert "store: it hangs" in text


def test_bars_without_unicode() -> None:
    seen = Seen(MOUNT, ACTIVITY, None, STATUS)
    bars = plain(screen(seen, Paper(80, 24, "", "#", "."))).splitlines()[3]
    assert bars.startswith("disk  ##################..  90%")
