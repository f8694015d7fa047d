"""The story of a broker that outgrows its disk: what happens to it, and that nobody who uses it can tell.

Each chapter leaves the broker as the next one wants it: running, with what it was promised in the ledger.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.mounting import Mount
from tests.servers import S3Server
from tests.t5_apps.conftest import wait_until
from tests.t5_apps.kafka.broker import Kafka
from tests.t5_apps.kafka.records import (
    Ledger,
    Place,
    Publisher,
    Reader,
    configure_topic,
    create_topic,
    delete_topic,
    places,
    read_back,
    read_values,
)
from tierfs.core.reports import Entry

MIB = 1 << 20
#: Written one record at a time, in transactions, compacted at the end, and deleted at the end.
PLAIN, PAYMENTS, TABLE, GONE = "orders", "payments", "table", "gone"
#: The settings that operators get; but small partitions have something to show only when all that is done may go.
PROFILE = ("--profile=kafka", "--keep-newest=1")
AGES = ("--auto-archive", "--warm-after", "1s", "--cold-after", "2s", "--policy-interval", "500ms")
WATERMARK = 48 * MIB
LIMITS = ("--cache-size=16MiB", f"--high-watermark={WATERMARK}", f"--low-watermark={32 * MIB}")
#: Kafka makes the indexes of the segment that it writes as large as they may become.
SETTINGS = {"log.index.size.max.bytes": "65536"}
_PATIENCE_S = 1200.0  # the long form, on a machine that has other work
_TRIPS = 3


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is written to each of the three large topics at first, bytes, and to how many partitions."""

    topic_bytes: int
    partitions: int = 4


SHORT = Scale(10 * MIB)
LONG = Scale(1024 * MIB // 3)


@dataclass
class Story:
    """The broker, the mount below it, and what was written."""

    mount: Mount
    kafka: Kafka
    s3: S3Server
    bucket: str
    scale: Scale
    ledger: Ledger = field(default_factory=Ledger)
    _began: float = field(default_factory=time.monotonic)

    def tell(self) -> None:
        """From the first record to the last check."""
        chapters: tuple[Callable[[], None], ...] = (
            self._segments_go_cold_while_they_are_open,
            self._history_is_read,
            self._cold_segments_are_dumped,
            self._a_clean_restart_downloads_nothing,
            self._the_broker_is_killed,
            self._workers_are_killed,
            self._retention_deletes,
            self._a_topic_is_deleted,
            self._a_topic_is_compacted,
            self._the_end,
        )
        for chapter in chapters:
            self._say(f"-- {chapter.__name__.strip('_').replace('_', ' ')}")
            chapter()

    @property
    def _large(self) -> list[Place]:
        return [place for topic in (PLAIN, PAYMENTS, GONE) for place in places(topic, self.scale.partitions)]

    def _segments_go_cold_while_they_are_open(self) -> None:
        self.kafka.start()
        self._say("started")
        for topic in (PLAIN, PAYMENTS, GONE):
            create_topic(self.kafka.address, topic, self.scale.partitions)
        create_topic(self.kafka.address, TABLE, 1)
        for topic in (PLAIN, GONE):
            self._publisher(topic).publish(self.scale.topic_bytes)
        self._publisher(PAYMENTS, "cashier").publish(self.scale.topic_bytes)
        self._publisher_of_table().publish(8 * MIB)
        self._say("published")
        self._wait_cold()
        self._check_open()

    def _history_is_read(self) -> None:
        self._forget()
        before = self.mount.downloaded()
        reader = read_back(self.kafka.address, self.ledger, self._large)
        downloaded = self.mount.downloaded() - before
        self._say(f"{reader.records} records, {reader.bytes // MIB} MiB, downloaded {downloaded // MIB} MiB")
        assert downloaded > reader.bytes // 2, "the bytes did not come from the bucket"
        assert self._cold_bytes() > reader.bytes // 2, "what is read is brought back"

    def _cold_segments_are_dumped(self) -> None:
        files = [one for one in self._segments() if one.tier == "cold"][:: max(1, self.scale.topic_bytes // (20 * MIB))]
        names = ",".join(str(self.mount.path / os.fsdecode(one.path)) for one in files)
        said = self.kafka.run("org.apache.kafka.tools.DumpLogSegments", "--deep-iteration", "--files", names)
        assert said.count("Dumping ") == len(files)
        assert "isvalid: false" not in said
        records = said.count("| offset: ")
        self._say(f"{len(files)} segments, {records} records")
        assert records >= len(files)

    def _a_clean_restart_downloads_nothing(self) -> None:
        self._wait_cold()
        cold = self._names("cold")
        self.kafka.stop()
        self.mount.evict()
        before = self.mount.downloaded()
        self.kafka.start()
        downloaded = self.mount.downloaded() - before
        self._say(f"{len(cold)} cold segments, downloaded {downloaded} bytes")
        assert downloaded < self._cold_bytes() // 8  # what was on its way before, at most
        assert cold <= self._names("cold"), "a restart brought segments back"
        self._publisher(PLAIN).publish(2 * MIB)
        self._check_open()

    def _the_broker_is_killed(self) -> None:
        self._publisher(PLAIN).publish(2 * MIB)
        self._wait_cold()
        self.kafka.kill()
        self.kafka.start()
        self._publisher(PLAIN).publish(MIB)
        self._publisher(PAYMENTS, "cashier").publish(MIB)
        read_back(self.kafka.address, self.ledger, self._large)

    def _workers_are_killed(self) -> None:
        over = threading.Event()
        reader = Reader(self.kafka.address, self.ledger, places(PLAIN, self.scale.partitions))

        def publish() -> None:
            publisher = self._publisher(PLAIN)
            while not over.is_set():
                publisher.publish(MIB // 2)

        with ThreadPoolExecutor(2) as pool, _setting(over):
            jobs = [pool.submit(publish), pool.submit(reader.read, over.is_set)]
            for _ in range(_TRIPS):
                self.mount.wait_taken_over(self.mount.kill_worker())
                assert not any(job.done() for job in jobs), [job.exception() for job in jobs if job.done()]
            over.set()
            for job in jobs:
                job.result()
        read_back(self.kafka.address, self.ledger, self._large)

    def _retention_deletes(self) -> None:
        self._wait_cold()
        cold = self._names("cold")
        configure_topic(self.kafka.address, PLAIN, retention_bytes=str(MIB))
        # What is left of a partition: what it writes to, and one segment or two before that.
        partitions = [f"{PLAIN}-{number}" for number in range(self.scale.partitions)]
        wait_until(lambda: all(len(self._logs(one)) <= 3 for one in partitions), lambda: self._logs("*"), _PATIENCE_S)
        assert len(cold - self._names("cold", "hot", "warm")) > self.scale.partitions, "no cold segment was deleted"
        read_back(self.kafka.address, self.ledger, places(PLAIN, self.scale.partitions), is_whole=False)

    def _a_topic_is_deleted(self) -> None:
        delete_topic(self.kafka.address, GONE)
        wait_until(
            lambda: not list(self.mount.path.glob(f"{GONE}-*")), lambda: os.listdir(self.mount.path), _PATIENCE_S
        )
        for place in places(GONE, self.scale.partitions):
            del self.ledger.kept[place]

    def _a_topic_is_compacted(self) -> None:
        place, logs = Place(TABLE, 0), self._logs(f"{TABLE}-0")
        before = read_values(self.kafka.address, [place])
        configure_topic(self.kafka.address, TABLE, cleanup_policy="compact", min_cleanable_dirty_ratio="0.01")
        values: list[tuple[bytes, bytes]] = []

        def is_compacted() -> bool:
            values[:] = read_values(self.kafka.address, [place])
            return len(values) < len(before) * 2 // 3

        wait_until(is_compacted, lambda: f"{len(values)} of {len(before)} records are left", _PATIENCE_S)
        assert dict(values) == dict(before), "compaction lost a key, or its newest value"
        self._say(f"{len(logs)} segments, {len(before)} records, {len(values)} left")
        self._wait_cold()
        self._check_open()

    def _the_end(self) -> None:
        self._wait_cold()
        read_back(self.kafka.address, self.ledger, places(PAYMENTS, self.scale.partitions))
        self.kafka.stop()
        tiers = self.mount.status()
        local = tiers["hot"]["bytes"] + tiers["warm"]["bytes"]
        self._say(f"{local / MIB:.1f} MiB on the hot tier, {self._cold_bytes() / MIB:.1f} MiB cold")
        assert local < WATERMARK
        wait_until(lambda: not self._strangers(), self._strangers, _PATIENCE_S)

    # -- who writes ----------------------------------------------------------------------------------------------

    def _publisher(self, topic: str, transactional_id: str = "") -> Publisher:
        where = places(topic, self.scale.partitions)
        return Publisher(self.kafka.address, self.ledger, where, transactional_id)

    def _publisher_of_table(self) -> Publisher:
        return Publisher(self.kafka.address, self.ledger, [Place(TABLE, 0)])

    # -- what is where -------------------------------------------------------------------------------------------

    def _segments(self) -> list[Entry]:
        """The segments of the topics, but for the last of each partition: that is the one that is written to."""
        entries = self.mount.client.list_entries([b""], recursive=True)
        logs = sorted(
            (one for one in entries if isinstance(one, Entry) and one.path.endswith(b".log") and one.path[:1] != b"_"),
            key=lambda one: one.path,
        )
        last = {one.path.rpartition(b"/")[0]: one.path for one in logs}
        return [one for one in logs if one.path not in last.values() and one.size > 16 << 10]

    def _names(self, *tiers: str) -> set[bytes]:
        return {one.path for one in self._segments() if one.tier in tiers}

    def _logs(self, partition: str) -> list[Path]:
        return sorted(self.mount.path.glob(f"{partition}/*.log"))

    def _forget(self) -> None:
        """Neither the chunk cache nor the kernel has anything of what is cold."""
        self.mount.evict()
        for name in self._names("cold"):
            fd = os.open(self.mount.path / os.fsdecode(name), os.O_RDWR)  # to read only would fetch the first chunk
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    def _cold_bytes(self) -> int:
        return sum(one.size for one in self._segments() if one.tier == "cold")

    def _wait_cold(self) -> None:
        """Until every segment that the broker is done with is in the bucket alone."""

        def explain() -> list[tuple[str, int, str, str]]:
            rest = [one for one in self._segments() if one.tier != "cold"]
            return [(os.fsdecode(one.path), one.size, one.residency, one.reason) for one in rest]

        wait_until(lambda: bool(self._names("cold")) and not explain(), explain, _PATIENCE_S)
        self._say(f"{len(self._segments())} segments are cold")

    def _check_open(self) -> None:
        """The broker has every cold segment open: nothing of this was done behind its back."""
        inside = Path(f"/proc/{self.kafka.pid}/fd")
        opened = set()
        for fd in inside.iterdir():
            try:
                opened.add(os.readlink(fd))
            except FileNotFoundError:  # a connection that ended meanwhile
                continue
        cold = {str(self.mount.path / os.fsdecode(name)) for name in self._names("cold")}
        assert cold, "nothing is cold"
        assert cold <= opened, f"not open: {cold - opened}"

    def _strangers(self) -> list[str]:
        """Objects of the bucket that are no file of the tree; what tierfs keeps for itself begins with a dot."""
        with self.s3.client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
            keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return [key for key in keys if not key.startswith(".") and not (self.mount.path / key).is_file()]

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)


@contextmanager
def _setting(event: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        event.set()
