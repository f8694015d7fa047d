"""Metrics of a running mount: what real cold reads meet is counted, and nothing that was counted goes down."""

import errno
import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.faults import Fault, Kind
from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.faulty_bucket import CHUNK, Stage, bucket_server, read_directly, staged
from tests.t4_mount.modes import wait_until

pytestmark = pytest.mark.mount

CONTENT = random.Random(8).randbytes(3 * CHUNK + 5)
READS = "tiered_storage_cold_reads_total"
WAITS = "tiered_storage_cold_wait_seconds"
FIRST_BYTES = "tiered_storage_s3_first_byte_seconds"
OF_PROCESSES = "tiered_storage_process_"
OPENED = "tiered_storage_breaker_opened_total", "reads"

Key = tuple[str, ...]


def scraped(mount: Mount) -> dict[Key, float]:
    """The samples by name and the values of their labels, without the mountpoint."""
    found = {}
    for family in text_string_to_metric_families(mount.client.metrics()):
        for sample in family.samples:
            assert sample.labels.pop("mountpoint") == str(mount.path)
            found[sample.name, *(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def grown(before: dict[Key, float], after: dict[Key, float]) -> dict[Key, float]:
    """By how much counters rose; none may go down or away."""
    is_counter = {key: key[0].endswith(("_total", "_count", "_sum", "_bucket", "loaded")) for key in before}
    is_counter |= {key: False for key in before if key[0].startswith(OF_PROCESSES)}  # each process has its own
    lower = {
        key: (value, after.get(key)) for key, value in before.items() if is_counter[key] and not after[key] >= value
    }
    assert lower == {}
    return {key: value - before.get(key, 0) for key, value in after.items()}


def test_cold_reads_are_counted() -> None:
    """From the store, from the cache, and what the kernel has already."""
    with directory() as home, mounted(Plan(home, flags=("--read-ahead", "0"))) as mount:
        path = mount.path / "file"
        mount.make_cold(path, CONTENT)
        mount.downloaded()  # the self-test is over
        before = scraped(mount)
        assert read_directly(path, 0, len(CONTENT)) == CONTENT
        wait_until(lambda: mount.entry("file").cached_bytes == len(CONTENT))
        after = scraped(mount)
        more = grown(before, after)
        assert more[READS,] >= 1
        assert more["tiered_storage_cold_read_bytes_total",] == len(CONTENT)
        assert more["tiered_storage_cold_fetched_bytes_total",] == len(CONTENT)
        assert more["tiered_storage_s3_bytes_downloaded",] == len(CONTENT)
        assert more["tiered_storage_cold_gets_total",] == more[FIRST_BYTES + "_count",] >= 1
        assert more["tiered_storage_s3_requests_total", "GetObject"] == more[FIRST_BYTES + "_count",]
        assert more["tiered_storage_cache_misses_total",] == 4
        assert 1 <= more[WAITS + "_count",] <= more[READS,]
        assert more[WAITS + "_sum",] > 0
        assert after["tiered_storage_cache_bytes",] > len(CONTENT)
        assert after["tiered_storage_breaker_state", "reads", "closed"] == 1
        status = mount.status()
        assert status["cold_reads"]["reads"] == after[READS,]
        assert status["cold_reads"]["waits"]["count"] == after[WAITS + "_count",]
        assert status["cache"]["misses"] == after["tiered_storage_cache_misses_total",]
        assert status["store_io"]["first_byte"]["count"] == after[FIRST_BYTES + "_count",]


def test_tiers_movements_and_requests_are_counted() -> None:
    """Archive, release, restore, a file that stays: the figures are those of `status`, at once."""
    with directory() as home, mounted(Plan(home)) as mount:
        for name in ("hot", "warm", "cold", "back"):
            (mount.path / name).write_bytes(CONTENT)
        before = scraped(mount)
        mount.archive("warm")
        mount.release("cold", "back")
        mount.restore("back")
        after = scraped(mount)
        more = grown(before, after)
        done = {
            verb: more[f"tiered_storage_{verb}_operations_total", "done"] for verb in ("archive", "release", "restore")
        }
        assert done == {"archive": 3, "release": 2, "restore": 1}
        assert more["tiered_storage_restored_bytes_total",] == len(CONTENT)
        assert after["tiered_storage_segments_total", "default"] == 4
        assert after["tiered_storage_archived_segments_total",] == 3
        status = mount.status()
        for tier, files in (("hot", 1), ("warm", 2), ("cold", 1)):
            assert status[tier] == {"files": files, "bytes": files * len(CONTENT)}
            assert after["tiered_storage_tier_files", tier] == files
            assert after["tiered_storage_tier_bytes", tier] == files * len(CONTENT)
        assert 0 < after["tiered_storage_hot_disk_free_bytes",] <= after["tiered_storage_hot_disk_size_bytes",]
        assert after["tiered_storage_hot_held_bytes",] >= 3 * len(CONTENT)
        assert after["tiered_storage_lease_state", "held"] == 1
        assert after["tiered_storage_fuse_requests_total", "create"] == 4
        assert after["tiered_storage_fuse_answer_seconds_count", "create"] == 4
        assert after["tiered_storage_fuse_answer_seconds_bucket", "+Inf", "create"] == 4
        assert after["tiered_storage_process_open_fds", "worker"] > 0
        assert after["tiered_storage_process_resident_memory_bytes", "cold"] > 0


def is_served_by_another(mount: Mount, pid: int) -> bool:
    return bool(mount.status()["cold_pid"] != pid)


def test_counters_outlive_the_cold_process() -> None:
    """kill -9: nothing goes down, neither while it is away nor afterwards, and what comes then is added."""
    with directory() as home, mounted(Plan(home, flags=("--read-ahead", "0"))) as mount:
        path = mount.path / "file"
        mount.make_cold(path, CONTENT)
        mount.downloaded()
        first = last = scraped(mount)
        for restarts in (1, 2):
            mount.evict()
            assert read_directly(path, 0, CHUNK) == CONTENT[:CHUNK]
            before = scraped(mount)
            grown(last, before)
            pid = mount.status()["cold_pid"]
            os.kill(pid, signal.SIGKILL)
            grown(before, scraped(mount))
            wait_until(lambda pid=pid: is_served_by_another(mount, pid))
            last = scraped(mount)
            grown(before, last)
            assert last["tiered_storage_cold_process_restarts_total",] == restarts
        more = grown(first, last)
        assert more["tiered_storage_cold_fetched_bytes_total",] == more["tiered_storage_s3_bytes_downloaded",] > 0


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A mount of an S3 server with faults, whose readers wait for two seconds."""
    with bucket_server() as server, staged("--cold-timeout", "2s", server=server) as stage:
        yield stage


@pytest.mark.slow
def test_the_store_s_latency_is_seen(stage: Stage) -> None:
    """Each GET is answered after 60 ms at the earliest: no first byte comes before."""
    path = stage.cold("slow", CONTENT)
    stage.spoil("slow", Fault.latency(0.06))
    before = scraped(stage.mount)
    for offset in range(0, len(CONTENT), CHUNK):
        with suppress(OSError):  # two seconds may be too short on a busy machine
            assert read_directly(path, offset, CHUNK) == CONTENT[offset : offset + CHUNK]
    stage.proxy.heal()
    more = grown(before, scraped(stage.mount))
    assert more[FIRST_BYTES + "_count",] >= 1
    assert more[FIRST_BYTES + "_bucket", "0.05"] == 0
    assert more[FIRST_BYTES + "_sum",] >= 0.06 * more[FIRST_BYTES + "_count",]
    for histogram in (WAITS, FIRST_BYTES):
        assert more[histogram + "_bucket", "+Inf"] == more[histogram + "_count",] >= 1


@pytest.mark.slow
def test_what_goes_wrong_is_counted(stage: Stage) -> None:
    """Damaged bytes, refusals, a deadline, a breaker that opens and heals."""
    path = stage.cold("faulty", CONTENT)
    before = scraped(stage.mount)
    stage.spoil("faulty", Fault(Kind.CORRUPT, count=1))
    with suppress(OSError):
        assert read_directly(path, 0, CHUNK) == CONTENT[:CHUNK]
    wait_until(lambda: grown(before, scraped(stage.mount))["tiered_storage_cold_corrupt_chunks_total",] == 1)
    stage.proxy.order(Fault.refusal(500, "InternalError"))
    with pytest.raises(OSError, match="Input/output") as failed:
        read_directly(path, CHUNK, CHUNK)
    assert failed.value.errno == errno.EIO
    more = grown(before, scraped(stage.mount))
    assert more["tiered_storage_cold_deadline_misses_total",] >= 1
    assert sum(value for key, value in more.items() if key[0] == "tiered_storage_operation_errors_total") >= 1
    assert more["tiered_storage_s3_failures_total", "GetObject", "StoreUnavailable"] >= 1
    assert more[WAITS + "_sum",] > 1.9
    assert scraped(stage.mount)["tiered_storage_breaker_failures", "reads"] >= 1

    def has_opened() -> bool:
        with suppress(OSError):
            read_directly(path, CHUNK, CHUNK)
        return grown(before, scraped(stage.mount))[OPENED] >= 1

    wait_until(has_opened)
    assert grown(before, scraped(stage.mount))["tiered_storage_cold_retries_total",] >= 1
    stage.proxy.heal()

    def is_read() -> bool:
        with suppress(OSError):
            return read_directly(path, CHUNK, CHUNK) == CONTENT[CHUNK : 2 * CHUNK]
        return False

    wait_until(is_read)
    assert scraped(stage.mount)["tiered_storage_breaker_state", "reads", "closed"] == 1
