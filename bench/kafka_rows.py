"""What is measured of a Kafka broker: how fast records come and go, beside history that is read, and its start."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from bench.cold_rows import Judge, Line, Values, p99
from bench.cold_stage import LATENCY
from bench.kafka_client import PARTITIONS, answer_of, ask, elsewhere, running
from bench.kafka_nodes import PLAIN, UNION, Node, settle
from bench.rows import MIB, drop_caches
from tests.t5_apps.kafka.records import create_topic

_TOPICS = itertools.count()
#: So small that thousands of them are made in seconds; nothing that is measured depends on it.
_SMALL_SEGMENT = 32 << 10
#: A roll takes milliseconds, and a client does not wait for ever.
_AT_ONCE = 250
_LARGE_SEGMENT = 64 * MIB
#: Alone and beside history, one after the other: what else the machine does is in both.
_TURNS = 4
#: Kafka makes the two indexes of each new segment as large as they may become, 10 MiB, which are holes; a rclone mount
#: writes them out, and fills the disk. This is enough for a large segment.
_INDEX = 256 << 10
#: Batches that fill a segment of 1 MiB well.
_BATCH = 250_000


@dataclass(frozen=True, slots=True)
class KafkaRow:
    """One measurement of each node: values by the name of the line. `without`: for whom it takes too long."""

    name: str
    lines: tuple[Line, ...]
    act: Callable[[Node], dict[str, float]]
    without: tuple[str, ...] = ()


def _beside_plain(share: float) -> Judge:
    """tierfs has at least this share of what the plain directory has."""

    def judge(values: Values) -> bool:
        return all(value >= share * values[PLAIN] for name, value in values.items() if name.startswith("tierfs"))

    return judge


def _under(limit: float) -> Judge:
    return lambda values: all(value <= limit for name, value in values.items() if name.startswith("tierfs"))


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _topic(node: Node, **config: str) -> str:
    name = f"topic{next(_TOPICS)}"
    create_topic(node.address, name, PARTITIONS, segment_index_bytes=str(_INDEX), **config)
    return name


# -- throughput ------------------------------------------------------------------------------------------------------


def _throughput(node: Node, segment: int, produce: Line, consume: Line) -> dict[str, float]:
    size = node.stage.sizes.produce_bytes
    topic = _topic(node, segment_bytes=str(segment))
    seconds = ask("produce", node.address, topic, size, _BATCH)["seconds"]
    read = ask("consume", node.address, topic)
    return {produce.name: size / MIB / seconds, consume.name: read["bytes"] / MIB / read["seconds"]}


_PRODUCE = Line("produce, segments of 1 MiB", "MiB/s", "at least 0.9 of plain", _beside_plain(0.9))
_CONSUME = Line("consume that, from the page cache", "MiB/s", "at least 0.9 of plain", _beside_plain(0.9))
_PRODUCE_LARGE = Line("produce, segments of 64 MiB", "MiB/s", "at least 0.9 of plain", _beside_plain(0.9))
_CONSUME_LARGE = Line("consume that, from the page cache, too", "MiB/s", "at least 0.9 of plain", _beside_plain(0.9))

# -- latency ---------------------------------------------------------------------------------------------------------


def _latency(node: Node) -> dict[str, float]:
    found = ask("latency", node.address, _topic(node), node.stage.sizes.latency_s)
    values: dict[str, float] = {}
    for what in ("produce", "consume"):
        half, most = _latency_lines(what)
        values |= {half.name: _median(found[what]) * 1e3, most.name: p99(found[what]) * 1e3}
    return values


def _latency_lines(what: str) -> tuple[Line, Line]:
    name = {"produce": "produce 1 kB, 200 a second, until it is acknowledged", "consume": "until its consumer has it"}
    return Line(f"{name[what]}: p50", "ms"), Line(f"{name[what]}: p99", "ms")


# -- beside history ----------------------------------------------------------------------------------------------------


def _beside_history(node: Node) -> dict[str, float]:
    """Produce alone, then while a consumer reads history that is nowhere but in the bucket; the store is 20 ms away."""
    if "history" not in node.made:
        create_topic(node.address, "history", PARTITIONS)
        create_topic(node.address, "present", PARTITIONS)
        ask("produce", node.address, "history", node.stage.sizes.history_bytes, _BATCH)
        node.kafka.stop()
        node.make_cold("history")
        node.kafka.start()
        node.made.add("history")
    ask("latency", node.address, "present", 1)
    node.stage.proxy.order(LATENCY)
    alone, beside, speeds, before = [], [], [], node.downloaded()
    try:
        for _ in range(_TURNS):
            alone += ask("latency", node.address, "present", node.stage.sizes.latency_s / _TURNS)["produce"]
            node.empty_cache()
            drop_caches(1)
            with running("latency", node.address, "present", node.stage.sizes.latency_s / _TURNS) as client:
                while client.poll() is None:  # its answer is small enough for a pipe
                    with elsewhere():
                        read = ask("consume", node.address, "history")
                    speeds.append(read["bytes"] / MIB / read["seconds"])
                    node.empty_cache()
                    drop_caches(1)
                beside += answer_of(client)["produce"]
    finally:
        settle(node.stage)
        node.stage.proxy.heal()
    return {
        _ALONE.name: p99(alone) * 1e3,
        _BESIDE.name: p99(beside) * 1e3,
        _RATIO.name: p99(beside) / p99(alone),
        _HISTORY.name: _median(speeds),
        _FETCHED.name: (node.downloaded() - before) / MIB,
    }


_ALONE = Line("produce alone: p99", "ms")
_BESIDE = Line("produce beside a consumer of history, 20 ms to the store: p99", "ms")
_RATIO = Line("beside history by alone", "", "at most 1.1", _under(1.1))
_HISTORY = Line("history is consumed", "MiB/s")
_FETCHED = Line("downloaded for that", "MiB")

# -- start -----------------------------------------------------------------------------------------------------------


def _start(node: Node) -> dict[str, float]:
    """Stop and start with many cold segments; nothing is cached."""
    if "segments" not in node.made:
        small = {"internal_segment_bytes": str(_SMALL_SEGMENT), "segment_index_bytes": "4096"}
        create_topic(node.address, "segments", PARTITIONS, **small)
        while (missing := node.stage.sizes.segments - len(node.logs("segments"))) > 0:
            size = max(MIB, min(missing, _AT_ONCE) * _SMALL_SEGMENT)
            ask("produce", node.address, "segments", size, _SMALL_SEGMENT // 2)
        node.kafka.stop()
        node.make_cold("segments")
        node.kafka.start()
        node.made.add("segments")
    stopping = node.kafka.stop()
    node.empty_cache()
    drop_caches(3)
    node.stage.proxy.order(LATENCY)
    before = node.downloaded()
    try:
        starting = node.kafka.start()
        settle(node.stage)
    finally:
        node.stage.proxy.heal()
    fetched = node.downloaded() - before
    return {
        _SEGMENTS.name: len(node.logs("segments")),
        _STOP.name: stopping,
        _START.name: starting,
        _DOWNLOADED.name: fetched / MIB,
    }


_SEGMENTS = Line("cold segments", "")
_STOP = Line("stop of the broker with them", "s")
_START = Line("start of the broker with them, caches empty, 20 ms to the store", "s")
_DOWNLOADED = Line("downloaded for that start", "MiB", "none", _under(0.01))

KAFKA_ROWS = (
    KafkaRow("produce", (_PRODUCE, _CONSUME), lambda node: _throughput(node, MIB, _PRODUCE, _CONSUME)),
    KafkaRow(
        "large segments",
        (_PRODUCE_LARGE, _CONSUME_LARGE),
        lambda node: _throughput(node, _LARGE_SEGMENT, _PRODUCE_LARGE, _CONSUME_LARGE),
    ),
    KafkaRow("latency", (*_latency_lines("produce"), *_latency_lines("consume")), _latency),
    KafkaRow("history", (_ALONE, _BESIDE, _RATIO, _HISTORY, _FETCHED), _beside_history, without=(UNION,)),
    KafkaRow("start", (_SEGMENTS, _STOP, _START, _DOWNLOADED), _start, without=(UNION,)),
)
