"""What goes on now, of a real mount: the view agrees with `status`, and over REST; a new worker begins anew."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.test_api import asked, plan_of

pytestmark = pytest.mark.mount

SIZE = 3 << 20
#: What must not go down, and must be between two looks of `status`: there, and here.
SHARED = {
    ("cold_reads", "bytes_asked"): ("bytes", "read_cold"),
    ("cold_reads", "waits", "count"): ("cold_waits", "count"),
    ("cold_reads", "waits", "sum_s"): ("cold_waits", "seconds"),
    ("cache", "hits"): ("cache", "hits"),
    ("cache", "misses"): ("cache", "misses"),
    ("store_io", "bytes_uploaded"): ("bytes", "uploaded"),
    ("store_io", "bytes_downloaded"): ("bytes", "downloaded"),
    ("store_io", "requests_by_operation", "PutObject"): ("store", "requests", "PutObject", "count"),
    ("fuse", "requests", "open"): ("operations", "open", "count"),
    ("fuse", "requests", "create"): ("operations", "create", "count"),
}


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    with directory() as home, mounted(plan_of(home, "--read-ahead", "0")) as mount:
        mount.make_cold(mount.path / "cold", os.urandom(SIZE))
        (mount.path / "hot").write_bytes(b"x" * 4096)
        yield mount


def figure(answer: Any, names: tuple[str, ...]) -> float:
    for name in names:
        answer = answer[name]
    return float(answer)


def activity(mount: Mount) -> dict[str, Any]:
    return mount.client.activity()


def work(mount: Mount, is_over: Event, number: int) -> None:
    """Use hot and cold files, and write some, until told."""
    while not is_over.is_set():
        (mount.path / "hot").read_bytes()
        (mount.path / "cold").read_bytes()
        (mount.path / f"made-{number}").write_bytes(b"y" * 5000)
        mount.evict()


def test_all_views_agree_under_load(mount: Mount) -> None:
    """Whatever is counted is in each of them between what `status` says before and afterwards."""
    is_over = Event()
    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(work, mount, is_over, number) for number in range(2)]
        try:
            for _ in range(5):
                before, here = mount.status(), activity(mount)
                there, after = asked(mount, "/api/v1/tiered/activity").json(), mount.status()
                for inside, seen in SHARED.items():
                    values = [figure(before, inside), figure(here, seen), figure(there, seen), figure(after, inside)]
                    assert values == sorted(values), (inside, values)
                assert here.keys() == there.keys()
        finally:
            is_over.set()
    for one in working:
        one.result()
    status, now = mount.status(), activity(mount)
    assert now["worker_pid"] == status["worker_pid"]
    assert now["io_mode"] == ("passthrough" if status["passthrough"] == "on" else "plain")
    assert now["cache"]["limit_bytes"] == status["cache"]["limit_bytes"]
    assert {one["path"]: one["tier"] for one in now["hottest"]}.items() >= {"hot": "hot", "cold": "cold"}.items()
    assert sum(one["bytes"] for one in now["hottest"] if one["path"] == "cold") > 0


def test_a_cold_process_that_hangs_hides_nothing(mount: Mount) -> None:
    before = activity(mount)
    pid = int(mount.status()["cold_pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        (mount.path / "meanwhile").write_bytes(b"x")
        after = activity(mount)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert after["operations"]["create"]["count"] > before["operations"]["create"]["count"]
    assert after["bytes"]["downloaded"] >= before["bytes"]["downloaded"]


def test_what_the_worker_moves_is_counted() -> None:
    """Where the kernel passes nothing through, each byte of a hot file is seen."""
    with directory() as home, mounted(Plan(home, flags=("--passthrough", "off"))) as mount:
        content = os.urandom(1_000_003)
        (mount.path / "file").write_bytes(content)
        before = activity(mount)
        assert before["unseen"] == ""
        assert before["bytes"]["written_hot"] == len(content)
        fd = os.open(mount.path / "file", os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, len(content), 0) == content
        finally:
            os.close(fd)
        assert activity(mount)["bytes"]["read_hot"] - before["bytes"]["read_hot"] == len(content)


def test_the_next_worker_begins_anew() -> None:
    with directory() as home, mounted(Plan(home)) as mount:
        (mount.path / "file").write_bytes(b"x")
        before = activity(mount)
        pid = mount.kill_worker()
        mount.wait_taken_over(pid)
        after = activity(mount)
        assert after["since_ns"] > before["since_ns"]
        assert after["worker_pid"] != before["worker_pid"]
        assert "create" not in after["operations"]
