"""What is measured of cold reads: whether they are in the way of anything else."""

import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.cold_rows import ColdRow, Line, at_least, at_most, p99
from bench.cold_stage import LATENCY, MANY, MANY_NAMES, Mounted, Stage, wait_until
from bench.processes import repeating
from bench.readers import read_range, reading
from bench.rows import MIB, PAGE, claim_memory
from tests.faults import Fault, Kind

_SAMPLE_S = 0.05
_STALLED = 200
_STALLED_TIMEOUT_S = 15
_CALLS = ("stat", "open", "read 4 KiB", "write 4 KiB")
_IDLE_S = 4.0
_THREADS = 16
_PATIENCE_S = 120.0
_PEERS = ("rclone", "s3fs")

# -- a hot file while cold ones are read ---------------------------------------------------------------------------


def _open_and_read(path: Path) -> float:
    """Seconds of open, read 4 KiB; close is not in it."""
    buffer = [bytearray(PAGE)]
    began = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    os.readv(fd, buffer)
    seconds = time.perf_counter() - began
    os.close(fd)
    return seconds


def _beside_readers(stage: Stage, mounted: Mounted) -> dict[str, float]:
    """The hot file and a file of the plain directory in turns, as long as four cold files are being read."""
    plain = stage.base / "plain-hot"
    plain.write_bytes(b"p" * PAGE)
    mine: list[float] = []
    others: list[float] = []
    _open_and_read(mounted.hot)  # the peers fetch it now
    paths = [mounted.directory / name for name in stage.names[:4]]
    claim_memory(2 * len(paths) * stage.sizes.part)
    with reading(paths, stage.sizes.part) as readers:
        wait_until(lambda: stage.proxy.counts().down > 0 or readers.poll() is not None, 0.01)
        while readers.poll() is None:
            mine.append(_open_and_read(mounted.hot))
            others.append(_open_and_read(plain))
        errors = json.loads(readers.communicate()[0])["errors"]
    if errors or not mine:
        raise OSError(f"the cold files were not read meanwhile: {errors}")
    return {_BESIDE.name: p99(mine) * 1e6, _PLAIN_BESIDE.name: p99(others) * 1e6}


_BESIDE = Line("open + read of a hot file while 4 cold ones are read: p99", "µs", "under 200", at_most(200))
_PLAIN_BESIDE = Line("the same of a plain file in the same run: p99", "µs")

# -- names ---------------------------------------------------------------------------------------------------------


def _listing(stage: Stage, mounted: Mounted) -> dict[str, float]:
    """`ls -l` of cold names that the kernel does not know; tierfs has found them before."""
    if mounted.client:
        stage.proxy.heal()  # the first scan asks for each object; its time is not measured here
        wait_until(lambda: _files_of(mounted) >= MANY_NAMES)
        stage.proxy.order(LATENCY)
    stage.settle()
    stage.proxy.reset_counts()
    began = time.perf_counter()
    with os.scandir(mounted.directory) as entries:
        found = sum(entry.stat(follow_symlinks=False).st_size > 0 for entry in entries)
    milliseconds = (time.perf_counter() - began) * 1e3
    if found < MANY_NAMES:
        raise OSError(f"only {found} names were listed")
    return {_LISTING.name: milliseconds, _ASKED.name: sum(stage.proxy.counts().requests.values())}


def _files_of(mounted: Mounted) -> int:
    assert mounted.client
    return int(mounted.client.status()["cold"]["files"])


_LISTING = Line("ls -l of 10,000 cold names, first", "ms", "under 150", at_most(150))
_ASKED = Line("requests to the bucket meanwhile", "", "none", at_most(0))

# -- a bucket that does not answer ---------------------------------------------------------------------------------


def _sample(path: Path, into: dict[str, list[float]], seconds: float) -> None:
    """stat, open, read and write of a hot file, each timed, again and again for so long."""
    buffer, block, clock = [bytearray(PAGE)], b"w" * PAGE, time.perf_counter
    end = clock() + seconds
    while clock() < end:
        times = [clock()]
        os.stat(path)
        times.append(clock())
        fd = os.open(path, os.O_RDWR)
        times.append(clock())
        os.preadv(fd, buffer, 0)
        times.append(clock())
        os.pwrite(fd, block, 0)
        times.append(clock())
        os.close(fd)
        for call, (begin, done) in zip(_CALLS, itertools.pairwise(times), strict=True):
            into.setdefault(call, []).append(done - begin)


def _beside_stalled(stage: Stage, mounted: Mounted) -> dict[str, float]:
    """The hot file while nothing is asked of the bucket, while 200 readers wait for it, and nothing again.

    Each reader waits for a place of its own: of several who want the same page, the kernel lets one ask, and after its
    error the next, each for the whole deadline.
    """
    idle: dict[str, list[float]] = {}
    stalled: dict[str, list[float]] = {}
    path, step = mounted.directory / stage.names[0], stage.sizes.file // _STALLED // PAGE * PAGE
    _sample(mounted.hot, {}, _IDLE_S / 4)
    _sample(mounted.hot, idle, _IDLE_S)
    asked = _reads_of(mounted)
    stage.proxy.order(Fault(Kind.BLACK_HOLE))
    with reading([path] * _STALLED, PAGE, step) as readers:
        wait_until(lambda: _reads_of(mounted) >= asked + _STALLED or readers.poll() is not None)
        time.sleep(1)  # what their coming stirred up is over
        _sample(mounted.hot, stalled, 2 * _IDLE_S)
        was_over = readers.poll() is not None
        mounted.look_at_memory()
        said = json.loads(readers.communicate(timeout=_PATIENCE_S)[0])
    if was_over:
        raise OSError("the readers were through before the measurement was")
    stage.proxy.heal()
    wait_until(lambda: _is_readable(path))
    _sample(mounted.hot, idle, _IDLE_S)
    values: dict[str, float] = {}
    for call in _CALLS:
        before, during = p99(idle[call]) * 1e6, p99(stalled[call]) * 1e6
        values |= dict(zip(_names_of(call), (before, during, during / before), strict=True))
    return values | {_EIO.name: float(said["errors"].get("EIO", 0)), _LAST.name: float(said["slowest_s"])}


def _reads_of(mounted: Mounted) -> int:
    """READ requests that the kernel sent."""
    assert mounted.client
    return int(mounted.client.status()["fuse"]["requests"].get("read", 0))


def _is_readable(path: Path) -> bool:
    try:
        read_range(path, 0, PAGE)
    except OSError:
        return False
    return True


def _names_of(call: str) -> tuple[str, str, str]:
    return f"hot {call}, idle: p99", f"hot {call}, 200 readers stalled: p99", f"hot {call}, stalled beside idle"


def _stalled_lines() -> Iterator[Line]:
    for call in _CALLS:
        idle, stalled, ratio = _names_of(call)
        yield Line(idle, "µs")
        yield Line(stalled, "µs")
        yield Line(ratio, "", "at most 1.1", at_most(1.1))


_EIO = Line("of 200 readers that a black hole stalls, EIO for", "", "200", at_least(_STALLED))
_LAST = Line("after (deadline 15 s)", "s", "at most 16", at_most(_STALLED_TIMEOUT_S + 1))

# -- the cache's limit ---------------------------------------------------------------------------------------------


def _disk_usage(directory: Path) -> int:
    """What du(1) counts, bytes; files may come and go meanwhile."""
    used = 0
    for where, _, names in os.walk(directory):
        for path in (where, *(os.path.join(where, name) for name in names)):
            try:
                used += os.lstat(path).st_blocks * 512
            except FileNotFoundError:
                continue
    return used


def _limit_flags(stage: Stage) -> tuple[str, ...]:
    return (f"--cache-size={stage.sizes.cache}",)


def _read_past_the_kernel(path: Path, first: int, size: int) -> None:
    """Read a range, and have the kernel forget it: the next reader asks the daemon again. OSError."""
    read_range(path, first, size)
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), first, size, os.POSIX_FADV_DONTNEED)


def _full_cache(stage: Stage, mounted: Mounted) -> dict[str, float]:
    """16 threads read ranges of all files in any order, many times what the cache may hold."""
    assert mounted.cache
    size = min(64 * MIB, stage.sizes.part)
    ranges = [(mounted.directory / name, first) for name in stage.names for first in range(0, stage.sizes.part, size)]
    drawn = random.Random(4).choices(ranges, k=stage.sizes.through_cache // size)
    used, cache = [0], mounted.cache
    claim_memory(len(ranges) * size + stage.sizes.cache)
    with ThreadPoolExecutor(_THREADS) as pool, repeating(lambda: used.append(_disk_usage(cache)), _SAMPLE_S):
        began = time.perf_counter()
        jobs = [pool.submit(_read_past_the_kernel, path, first, size) for path, first in drawn]
        errors = sum(job.exception() is not None for job in jobs)
        seconds = time.perf_counter() - began
    return {
        _MOST.name: max(used) / MIB,
        _OVER.name: (max(used) - stage.sizes.cache) / MIB,
        _ERRORS.name: errors,
        _THROUGH.name: len(drawn) * size / MIB / seconds,
    }


_MOST = Line("cache limit 256 MiB, 5 GiB read by 16 threads: most of du", "MiB")
_OVER = Line("above the limit", "MiB", "at most 0", at_most(0))
_ERRORS = Line("errors meanwhile", "", "none", at_most(0))
_THROUGH = Line("read meanwhile", "MiB/s")

BESIDE = (
    ColdRow("hot beside cold", (_BESIDE, _PLAIN_BESIDE), _beside_readers, faults=(LATENCY,), is_watched=False, files=4),
    ColdRow("ls -l", (_LISTING, _ASKED), _listing, faults=(LATENCY,), bucket=MANY, without=("s3fs",)),
    ColdRow(
        "stalled",
        (*_stalled_lines(), _EIO, _LAST),
        _beside_stalled,
        flags=lambda _stage: (f"--cold-timeout={_STALLED_TIMEOUT_S}s",),
        without=_PEERS,
        is_watched=False,
    ),
    ColdRow("cache limit", (_MOST, _OVER, _ERRORS, _THROUGH), _full_cache, flags=_limit_flags, without=_PEERS, files=8),
)
