"""Clients of a Kafka broker in a process of their own, so that their interpreter is not in the way of who measures.

python -m bench.kafka_client produce ADDRESS TOPIC BYTES      as fast as it goes: {"seconds": s}
python -m bench.kafka_client consume ADDRESS TOPIC            all that is there, from the first record to
                                                                      the last: {"seconds": s, "bytes": n}
python -m bench.kafka_client latency ADDRESS TOPIC SECONDS    small records at a steady rate, each of them consumed
                                                              at once: {"produce": [s, ...], "consume": [s, ...]}
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as Place

PARTITIONS = 4
_RECORD = 10_000
_SMALL = 1_000
_PER_SECOND = 200
_PATIENCE_S = 120.0
#: The first records of a client wait for what it does not know of the broker yet.
_WARM_UP = 100
_SETTINGS: dict[str, Any] = {"log_level": 0, "acks": "all"}


@contextmanager
def elsewhere() -> Iterator[None]:
    """What is started in the block runs while no one else wants the processors: as if it had its own, elsewhere."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def ask(*words: object) -> dict[str, Any]:
    """Run one of the clients to its end; what it measured. OSError."""
    with running(*words) as client:
        return answer_of(client)


def answer_of(client: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a client measured, when it has. OSError."""
    said, _ = client.communicate(timeout=2 * _PATIENCE_S)
    if client.returncode:
        raise OSError(f"a client of the broker failed ({client.returncode})")
    found: dict[str, Any] = json.loads(said)
    return found


@contextmanager
def running(*words: object) -> Iterator["subprocess.Popen[str]"]:
    """One of the clients, that runs while the block does or until it has measured."""
    command = [sys.executable, "-m", "bench.kafka_client", *map(str, words)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


# -- the clients themselves ------------------------------------------------------------------------------------------


def _produce(address: str, topic: str, size: int, batch: int) -> dict[str, Any]:
    producer = Producer(_SETTINGS | {"bootstrap.servers": address, "linger.ms": 5, "batch.size": batch})
    producer.list_topics(topic, timeout=_PATIENCE_S)
    value = bytes(range(250)) * (_RECORD // 250)
    began = time.perf_counter()
    for number in range(size // _RECORD):
        while True:
            try:
                producer.produce(topic, value, partition=number % PARTITIONS, on_delivery=_must_arrive)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if producer.flush(_PATIENCE_S):
        raise TimeoutError("records were not acknowledged")
    return {"seconds": time.perf_counter() - began}


def _must_arrive(error: KafkaError | None, _message: Message) -> None:
    if error is not None:
        raise KafkaException(error)


def _consumer(address: str, topic: str, offset: int) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "log_level": 0,
            "group.id": "bench",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
    )
    consumer.assign([Place(topic, number, offset) for number in range(PARTITIONS)])
    return consumer


def _consume(address: str, topic: str) -> dict[str, Any]:
    consumer = _consumer(address, topic, OFFSET_BEGINNING)
    began = last = 0.0
    size, ended = 0, 0
    while ended < PARTITIONS:
        message = consumer.poll(_PATIENCE_S)
        if message is None:
            raise TimeoutError("nothing comes any more")
        error = message.error()
        if error is None:
            last = time.perf_counter()
            began = began or last
            size += len(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            ended += 1
        else:
            raise KafkaException(error)
    consumer.close()
    return {"seconds": last - began, "bytes": size}


def _latency(address: str, topic: str, seconds: float) -> dict[str, Any]:
    """Each record is sent when its time has come, however long the others take."""
    sent: dict[int, float] = {}
    acknowledged: dict[int, float] = {}
    arrived: dict[int, float] = {}
    count = _WARM_UP + int(seconds * _PER_SECOND)
    producer = Producer(_SETTINGS | {"bootstrap.servers": address, "linger.ms": 0})
    consumer = _consumer(address, topic, OFFSET_END)
    ended = 0
    while ended < PARTITIONS:  # it is at the end of each partition now
        message = consumer.poll(_PATIENCE_S)
        ended += message is not None and message.error() is not None
    is_over = threading.Event()

    def note(number: int) -> Any:
        def noted(error: KafkaError | None, message: Message) -> None:
            _must_arrive(error, message)
            acknowledged[number] = time.perf_counter()

        return noted

    def serve() -> None:
        while not is_over.is_set():
            producer.poll(0.1)

    def tail() -> None:
        while len(arrived) < count and not is_over.is_set():
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                arrived[int.from_bytes((message.value() or b"")[:8])] = time.perf_counter()

    threads = [threading.Thread(target=one) for one in (serve, tail)]
    for thread in threads:
        thread.start()
    try:
        began = time.perf_counter()
        for number in range(count):
            time.sleep(max(0.0, began + number / _PER_SECOND - time.perf_counter()))
            value = number.to_bytes(8) + bytes(_SMALL - 8)
            sent[number] = time.perf_counter()
            producer.produce(topic, value, partition=number % PARTITIONS, on_delivery=note(number))
        if producer.flush(_PATIENCE_S):
            raise TimeoutError("records were not acknowledged")
        threads[1].join(_PATIENCE_S)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    consumer.close()
    if len(arrived) < count:
        raise TimeoutError(f"{count - len(arrived)} records did not arrive")
    measured = range(_WARM_UP, count)
    return {
        "produce": [acknowledged[number] - sent[number] for number in measured],
        "consume": [arrived[number] - sent[number] for number in measured],
    }


def main() -> int:
    """The command."""
    what, address, topic, *rest = sys.argv[1:]
    if what == "produce":
        found = _produce(address, topic, int(rest[0]), int(rest[1]))
    elif what == "consume":
        found = _consume(address, topic)
    else:
        found = _latency(address, topic, float(rest[0]))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
