"""What is measured of cold reads: bytes. Each row says what the issue of tierfs that asked for it wants to see."""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from bench.cold_stage import BUCKET, LATENCY, PER_CONNECTION, Mounted, Stage
from bench.readers import rate, read_range
from bench.rows import MIB, PAGE, claim_memory, drop_caches
from tests.faults import Fault

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PLAIN, RAW, TIERFS = "plain directory", "raw S3", "tierfs"
_RANGE = 8 * MIB
#: As many connections as tierfs' window of 64 MiB has for one reader, and its pool for several.
_ONE, _SEVERAL = 8, 32

#: What a contender has in a line; the judge of a target sees those of all contenders.
Values = Mapping[str, float]
Judge = Callable[[Values], bool]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table, and what it must show."""

    name: str
    unit: str
    target: str = ""
    is_met: Judge = lambda _values: True


@dataclass(frozen=True, slots=True)
class ColdRow:
    """One measurement of each contender, after `mount` of it: values by the name of the line. `name` has no comma.

    `raw` and `plain` are the same by boto3 and in the plain directory, where that means something; `without` are those
    for whom the row means nothing, or takes too long; `files` is how many cold files it needs.
    """

    name: str
    lines: tuple[Line, ...]
    act: Callable[[Stage, Mounted], dict[str, float]]
    raw: Callable[[Stage], dict[str, float]] | None = None
    plain: Callable[[Stage], dict[str, float]] | None = None
    faults: tuple[Fault, ...] = ()
    flags: Callable[[Stage], tuple[str, ...]] = field(default=lambda _stage: ())
    bucket: str = BUCKET
    without: tuple[str, ...] = ()
    is_watched: bool = True
    files: int = 1


# -- judges --------------------------------------------------------------------------------------------------------


def at_most(limit: float) -> Judge:
    """tierfs, in each of its modes that was measured, has no more."""
    return lambda values: all(value <= limit for name, value in values.items() if name.startswith(TIERFS))


def at_least(limit: float) -> Judge:
    """tierfs has no less."""
    return lambda values: all(value >= limit for name, value in values.items() if name.startswith(TIERFS))


def above(limit: float, other: str, share: float = 1.0) -> Judge:
    """tierfs has at least this, and at least a share of what another has."""
    return lambda values: at_least(max(limit, share * values[other]))(values)


def within(margin: float, other: str) -> Judge:
    """tierfs has at most what another has, and a margin."""
    return lambda values: at_most(values[other] + margin)(values)


def fastest(share_of_raw: float) -> Judge:
    """tierfs has a share of raw S3, and more than any peer."""
    peers = ("rclone", "s3fs")
    return lambda values: above(max(values[peer] for peer in peers), RAW, share_of_raw)(values)


def before(*peers: str) -> Judge:
    """tierfs needs less than these peers."""
    return lambda values: at_most(min(values[peer] for peer in peers))(values)


# -- raw S3 --------------------------------------------------------------------------------------------------------


@contextmanager
def client_of(stage: Stage) -> Iterator["S3Client"]:
    """boto3 through the proxy, with a connection for everybody."""
    config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=_SEVERAL,
    )
    session = boto3.Session(stage.server.access_key, stage.server.secret_key, region_name="us-east-1")
    client = session.client("s3", endpoint_url=stage.proxy.url, config=config)
    try:
        yield client
    finally:
        client.close()


def _get(client: "S3Client", key: str, first: int, size: int) -> None:
    answer = client.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={first}-{first + size - 1}")
    with answer["Body"] as body:
        while body.read(MIB):
            pass


def _raw_download(stage: Stage, names: list[str], size: int, at_once: int) -> float:
    """Parallel ranged GETs of the first `size` bytes of objects; MiB/s."""
    ranges = [(name, first) for first in range(0, size, _RANGE) for name in names]
    claim_memory(2 * len(names) * size)  # as everybody's, see readers.rate()
    with client_of(stage) as client, ThreadPoolExecutor(at_once) as pool:
        began = time.perf_counter()
        for done in [pool.submit(_get, client, name, first, _RANGE) for name, first in ranges]:
            done.result()
        return len(names) * size / MIB / (time.perf_counter() - began)


def _raw_latency(stage: Stage, count: int, size: int = PAGE) -> list[float]:
    """Seconds of single GETs at random places, over a connection that is open."""
    with client_of(stage) as client:
        _get(client, stage.names[0], 0, size)
        seconds = []
        for first in _random_pages(stage, count):
            began = time.perf_counter()
            _get(client, stage.names[0], first, size)
            seconds.append(time.perf_counter() - began)
        return seconds


def _random_pages(stage: Stage, count: int) -> list[int]:
    return [page * PAGE for page in random.Random(3).choices(range(stage.sizes.file // PAGE), k=count)]


def _looked_up(stage: Stage, mounted: Mounted) -> Path:
    """A cold file whose name is known, which is not a read, and nothing counted yet."""
    path = mounted.directory / stage.names[0]
    os.stat(path)
    stage.settle()
    stage.proxy.reset_counts()
    return path


def p99(values: list[float]) -> float:
    """What 99 of 100 values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * 99 // 100) - 1)]


# -- first bytes ---------------------------------------------------------------------------------------------------


def _first_bytes(stage: Stage, mounted: Mounted) -> dict[str, float]:
    milliseconds = []
    for name, first in zip(stage.names, (0, stage.sizes.far), strict=False):
        os.stat(mounted.directory / name)  # a look-up is not a read
        began = time.perf_counter()
        read_range(mounted.directory / name, first, PAGE)
        milliseconds.append((time.perf_counter() - began) * 1e3)
    return dict(zip((_AT_START.name, _FAR.name), milliseconds, strict=True))


def _raw_first_bytes(stage: Stage) -> dict[str, float]:
    value = statistics.median(_raw_latency(stage, 5)) * 1e3
    return {_AT_START.name: value, _FAR.name: value}


def _two_pages(stage: Stage, mounted: Mounted) -> dict[str, float]:
    path = _looked_up(stage, mounted)
    for first in (0, stage.sizes.far):
        read_range(path, first, PAGE)
    stage.settle()
    return {_DOWNLOADED.name: stage.proxy.counts().down / MIB}


def _raw_two_pages(stage: Stage) -> dict[str, float]:
    stage.proxy.reset_counts()
    with client_of(stage) as client:
        for first in (0, stage.sizes.far):
            _get(client, stage.names[0], first, PAGE)
    return {_DOWNLOADED.name: stage.proxy.counts().down / MIB}


_AT_START = Line("first byte at 0, 20 ms latency", "ms", "one GET + 4 ms", within(4, RAW))
_FAR = Line("first byte at 300 MiB, 20 ms latency", "ms", "one GET + 4 ms", within(4, RAW))
_DOWNLOADED = Line("downloaded for two reads of 4 KiB", "MiB", "at most 2", at_most(2))

# -- whole files ---------------------------------------------------------------------------------------------------


def _reading(name: str, line: Line, count: int, *faults: Fault) -> ColdRow:
    """One file from begin to end, or a part of several at the same time."""

    def size(stage: Stage) -> int:
        return stage.sizes.file if count == 1 else stage.sizes.part

    def act(stage: Stage, mounted: Mounted) -> dict[str, float]:
        return {line.name: rate([mounted.directory / name for name in stage.names[:count]], size(stage))}

    def raw(stage: Stage) -> dict[str, float]:
        return {line.name: _raw_download(stage, stage.names[:count], size(stage), _ONE if count == 1 else _SEVERAL)}

    return ColdRow(name, (line,), act, raw=raw, faults=faults, files=count)


def _eight_beside_one(stage: Stage, mounted: Mounted) -> dict[str, float]:
    """The first file alone, from begin to end, then the others at the same time: none was read before."""
    alone, *others = [mounted.directory / name for name in stage.names[: _READERS + 1]]
    return _gained(rate([alone], stage.sizes.file), rate(others, stage.sizes.part))


def _raw_eight_beside_one(stage: Stage) -> dict[str, float]:
    alone, *others = stage.names[: _READERS + 1]
    one = _raw_download(stage, [alone], stage.sizes.file, _ONE)
    return _gained(one, _raw_download(stage, others, stage.sizes.part, _SEVERAL))


def _gained(one: float, several: float) -> dict[str, float]:
    return {_ONE_READER.name: one, _ALL_READERS.name: several, _GAIN.name: several / one}


_READERS = 8
_ONE_READER = Line("one reader, 20 ms latency", "MiB/s")
_ALL_READERS = Line("8 readers of 8 other files, 20 ms latency", "MiB/s")
_GAIN = Line("8 readers beside one", "ratio", "at least 1", at_least(1.0))

# -- random places -------------------------------------------------------------------------------------------------


def _random_reads(stage: Stage, mounted: Mounted) -> dict[str, float]:
    path = _looked_up(stage, mounted)
    seconds, buffer = [], [bytearray(PAGE)]
    fd = os.open(path, os.O_RDONLY)
    try:
        for first in _random_pages(stage, stage.sizes.random_reads):
            began = time.perf_counter()
            os.preadv(fd, buffer, first)
            seconds.append(time.perf_counter() - began)
    finally:
        os.close(fd)
    stage.settle()
    return {_RANDOM_P99.name: p99(seconds) * 1e3, _RANDOM_MIB.name: stage.proxy.counts().down / MIB}


def _raw_random_reads(stage: Stage) -> dict[str, float]:
    stage.proxy.reset_counts()
    value = p99(_raw_latency(stage, stage.sizes.random_reads)) * 1e3
    return {_RANDOM_P99.name: value, _RANDOM_MIB.name: stage.proxy.counts().down / MIB}


_RANDOM_P99 = Line("200 random reads of 4 KiB, 20 ms latency: p99", "ms", "one GET + 5 ms", within(5, RAW))
_RANDOM_MIB = Line("downloaded for them", "MiB", "at most 200", at_most(200))

# -- what was read before ------------------------------------------------------------------------------------------


def _again(stage: Stage, mounted: Mounted) -> dict[str, float]:
    path, size = mounted.directory / stage.names[0], stage.sizes.file
    read_range(path, 0, size)
    stage.settle()
    pages = rate([path], size)
    drop_caches(1)
    return {_PAGES.name: pages, _CHUNKS.name: rate([path], size), _CACHED_4K.name: _cached(stage, path)}


def _plain_again(stage: Stage) -> dict[str, float]:
    path = stage.base / "plain"
    with open(path, "wb", buffering=0) as file:
        for _ in range(stage.sizes.file // MIB):
            file.write(b"p" * MIB)
    try:
        read_range(path, 0, stage.sizes.file)
        return {_PAGES.name: rate([path], stage.sizes.file)}
    finally:
        path.unlink()


def _cached(stage: Stage, path: Path) -> float:
    """Microseconds of a read of 4 KiB whose chunk is in the cache and whose page the kernel does not have."""
    drop_caches(1)
    buffer, places = [bytearray(PAGE)], _random_pages(stage, 10 * stage.sizes.random_reads)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        began = time.perf_counter()
        for first in places:
            os.preadv(fd, buffer, first)
        return (time.perf_counter() - began) / len(places) * 1e6
    finally:
        os.close(fd)


_PAGES = Line("second read (page cache)", "MiB/s", "0.9 of the plain directory", above(0, PLAIN, 0.9))
_CHUNKS = Line("read after drop_caches (chunk cache)", "MiB/s", "at least 2 GB/s", at_least(2e9 / MIB))
_CACHED_4K = Line("random 4 KiB of a cached file", "µs", "ahead of rclone", before("rclone"))

_BARE = Line("sequential read", "MiB/s", "0.9 of raw, ahead of peers", fastest(0.9))
_LATE = Line("sequential read, 20 ms latency", "MiB/s", "0.9 of raw, ahead of peers", fastest(0.9))
_LIMITED = Line("sequential read, 20 ms, 80 MiB/s per connection", "MiB/s", "at least 500", at_least(500))
_EIGHT = Line("8 readers of 8 files, 20 ms, 80 MiB/s per connection", "MiB/s", "0.95 of raw", above(0, RAW, 0.95))

BYTES = (
    ColdRow("first byte", (_AT_START, _FAR), _first_bytes, raw=_raw_first_bytes, faults=(LATENCY,), files=2),
    ColdRow("two pages", (_DOWNLOADED,), _two_pages, raw=_raw_two_pages, faults=(LATENCY,)),
    _reading("sequential bare", _BARE, 1),
    _reading("sequential late", _LATE, 1, LATENCY),
    _reading("sequential limited", _LIMITED, 1, LATENCY, PER_CONNECTION),
    _reading("8 readers limited", _EIGHT, _READERS, LATENCY, PER_CONNECTION),
    ColdRow(
        "8 readers beside one",
        (_ONE_READER, _ALL_READERS, _GAIN),
        _eight_beside_one,
        raw=_raw_eight_beside_one,
        faults=(LATENCY,),
        files=_READERS + 1,
    ),
    ColdRow("random", (_RANDOM_P99, _RANDOM_MIB), _random_reads, raw=_raw_random_reads, faults=(LATENCY,)),
    ColdRow("read again", (_PAGES, _CHUNKS, _CACHED_4K), _again, plain=_plain_again),
)
