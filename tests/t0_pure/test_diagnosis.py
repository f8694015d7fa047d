"""Verdicts that follow from figures."""

import pytest

from tierfs.core.diagnosis import (
    Diagnosis,
    Right,
    Room,
    Verdict,
    judge_clock,
    judge_descriptors,
    judge_hot_room,
    judge_kernel,
    judge_lease,
    judge_memory,
    judge_right,
    judge_speed,
    judge_state_room,
    worst,
)
from tierfs.core.lease import Found, Lease, Owner
from tierfs.core.quantities import parse_watermark

GIB = 1 << 30
HIGH = parse_watermark("90%")
LEASE = Lease(2, Owner("ours", "machine", "session", "host a"), "mark", 0, 0, ttl_ns=60 * 10**9)


@pytest.mark.parametrize(
    ("judged", "verdict"),
    [
        (judge_kernel("6.18.44-cloud"), Verdict.OK),
        (judge_kernel("6.9.0"), Verdict.OK),
        (judge_kernel("6.8.12"), Verdict.WARNING),
        (judge_kernel("5.15.0-91-generic"), Verdict.WARNING),
        (judge_kernel("unknown"), Verdict.SKIPPED),
        (judge_clock(-59), Verdict.OK),
        (judge_clock(61), Verdict.WARNING),
        (judge_clock(-899), Verdict.WARNING),
        (judge_clock(900), Verdict.PROBLEM),
        (judge_descriptors(1 << 20), Verdict.OK),
        (judge_descriptors(1024), Verdict.WARNING),
        (judge_descriptors(64), Verdict.PROBLEM),
        (judge_memory(4 * GIB, None), Verdict.OK),
        (judge_memory(4 * GIB, 300 << 20), Verdict.WARNING),
        (judge_memory(100 << 20, GIB), Verdict.PROBLEM),
        (judge_hot_room(Room(50 * GIB, 100 * GIB), HIGH), Verdict.OK),
        (judge_hot_room(Room(5 * GIB, 100 * GIB), HIGH), Verdict.WARNING),
        (judge_hot_room(Room(5 * GIB, 100 * GIB, reserved=10 * GIB), HIGH), Verdict.OK),
        (judge_hot_room(Room(1 << 20, 100 * GIB), HIGH), Verdict.PROBLEM),
        (judge_hot_room(Room(50 * GIB, 100 * GIB, 5, 1000), HIGH), Verdict.PROBLEM),
        (judge_hot_room(Room(50 * GIB, 100 * GIB), parse_watermark("1TiB")), Verdict.WARNING),
        (judge_state_room(Room(50 * GIB, 100 * GIB), 10 * GIB, 0), Verdict.OK),
        (judge_state_room(Room(5 * GIB, 100 * GIB), 10 * GIB, 0), Verdict.WARNING),
        (judge_state_room(Room(5 * GIB, 100 * GIB), 10 * GIB, 6 * GIB), Verdict.OK),
        (judge_state_room(Room(5 * GIB, 8 * GIB), 10 * GIB, 0), Verdict.PROBLEM),
        (judge_state_room(Room(1, 100 * GIB), 0, 0), Verdict.PROBLEM),
        (judge_right(Right("s3:PutObject", "archive files")), Verdict.OK),
        (judge_right(Right("s3:PutObject", "archive files", "AccessDenied")), Verdict.PROBLEM),
        (judge_speed(0.02, 5e7, 5e7), Verdict.OK),
        (judge_speed(0.9, 5e7, 5e7), Verdict.WARNING),
        (judge_speed(0.02, 5e7, 5e5), Verdict.WARNING),
        (judge_lease(None, "ours", 0), Verdict.OK),
        (judge_lease(Found(LEASE, "tag", 0), "ours", 0), Verdict.OK),
        (judge_lease(Found(LEASE, "tag", 0), "", 0), Verdict.PROBLEM),
        (judge_lease(Found(LEASE, "tag", LEASE.patience_ns), "", 0), Verdict.OK),
        (judge_lease(Found(None, "tag", 0), "ours", 0), Verdict.PROBLEM),
    ],
)
def test_a_verdict_and_what_to_do(judged: Diagnosis, verdict: Verdict) -> None:
    assert judged.verdict is verdict
    assert judged.found
    if verdict in (Verdict.WARNING, Verdict.PROBLEM):
        assert judged.meaning
        assert judged.remedy


def test_the_worst_verdict_counts() -> None:
    fine, slow = judge_clock(0), judge_clock(100)
    assert worst([]) is Verdict.OK
    assert worst([fine, slow, fine]) is Verdict.WARNING
    assert worst([slow, judge_clock(1e6)]) is Verdict.PROBLEM
