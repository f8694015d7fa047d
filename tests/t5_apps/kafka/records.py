"""What is written to a broker, and how it is known again: every record follows from its topic, partition and number."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined] # exported, but not by the letter
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

#: Longest time, seconds, that a client waits for the broker.
PATIENCE_S = 300.0
#: 100 B to 1 MB; a batch with the largest one is still smaller than the smallest segment, 1 MiB.
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
_WEIGHTS = (8, 4, 4, 2, 1)
#: So few keys that compaction leaves hardly anything.
_KEYS = 16
_NUMBER_BYTES = 8
_IN_TRANSACTION = 12
#: One transaction of so many is aborted.
_ABORTED = 5


class Place(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


def record(place: Place, number: int) -> tuple[bytes, bytes]:
    """Key and value of one record, the same ones every time."""
    chooser = random.Random(f"{place.topic}/{place.partition}/{number}")
    (size,) = chooser.choices(SIZES, _WEIGHTS)
    return b"key %d" % (number % _KEYS), number.to_bytes(_NUMBER_BYTES) + chooser.randbytes(size - _NUMBER_BYTES)


def number_of(value: bytes) -> int:
    """The number of a record."""
    return int.from_bytes(value[:_NUMBER_BYTES])


@dataclass(slots=True)
class Ledger:
    """What the broker has promised to keep: the numbers of the records of each partition, in their order."""

    kept: dict[Place, list[int]] = field(default_factory=lambda: defaultdict(list))
    begun: dict[Place, int] = field(default_factory=lambda: defaultdict(int))

    def next_number(self, place: Place) -> int:
        """The number of the next record; none is used twice."""
        self.begun[place] += 1
        return self.begun[place] - 1


def places(topic: str, partitions: int) -> list[Place]:
    """All partitions of a topic."""
    return [Place(topic, number) for number in range(partitions)]


def client(address: str, **settings: object) -> dict[str, Any]:
    """Settings of any client of librdkafka; underscores stand for dots."""
    return {"bootstrap.servers": address, "log_level": 0} | {
        name.replace("_", "."): value for name, value in settings.items()
    }


# -- topics --------------------------------------------------------------------------------------------------------


def create_topic(address: str, name: str, partitions: int, **config: str) -> None:
    """Make a topic, and wait until it has its leaders."""
    admin = AdminClient(client(address))
    settings = {name.replace("_", "."): value for name, value in config.items()}
    admin.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result(PATIENCE_S)
    _wait(lambda: len(_partitions_with_leader(admin, name)) == partitions, f"topic {name} has no leaders")


def configure_topic(address: str, name: str, **config: str) -> None:
    """Change settings of a topic."""
    entries = [
        ConfigEntry(setting.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for setting, value in config.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
    admin = AdminClient(client(address))  # which must live until there is a result
    (done,) = admin.incremental_alter_configs([resource]).values()
    done.result(PATIENCE_S)


def delete_topic(address: str, name: str) -> None:
    """Delete a topic; its files go a moment later."""
    admin = AdminClient(client(address))
    admin.delete_topics([name])[name].result(PATIENCE_S)


def _partitions_with_leader(admin: AdminClient, name: str) -> list[int]:
    topic = admin.list_topics(name, timeout=PATIENCE_S).topics[name]
    return [number for number, partition in topic.partitions.items() if partition.leader >= 0]


# -- writing -------------------------------------------------------------------------------------------------------


class Publisher:
    """Writes records to the partitions of a topic in turns; each acknowledged one is in the ledger."""

    def __init__(self, address: str, ledger: Ledger, where: list[Place], transactional_id: str = "") -> None:
        own: dict[str, object] = {"transactional_id": transactional_id} if transactional_id else {}
        settings = client(address, message_max_bytes=1_030_000, enable_idempotence=True, linger_ms=2, **own)
        self._producer = Producer(settings)
        self._is_transactional = bool(transactional_id)
        self._ledger = ledger
        self._where = where
        self._turn = 0
        self._failures: list[KafkaError] = []
        if transactional_id:
            self._producer.init_transactions(PATIENCE_S)

    def publish(self, size: int) -> None:
        """Write about so many bytes, and wait until the broker has them."""
        if self._is_transactional:
            while size > 0:
                size -= self._transaction()
        else:
            while size > 0:
                size -= self._send(self._ledger.kept)
        self._wait_acknowledged()

    def _transaction(self) -> int:
        """Some records, together; the bytes of those that are kept."""
        self._producer.begin_transaction()
        inside: dict[Place, list[int]] = defaultdict(list)
        size = sum(self._send(inside) for _ in range(_IN_TRANSACTION))
        self._wait_acknowledged()
        self._turn += 1
        if self._turn % _ABORTED == 0:
            self._producer.abort_transaction(PATIENCE_S)
            return 0
        self._producer.commit_transaction(PATIENCE_S)
        for place, numbers in inside.items():
            self._ledger.kept[place] += numbers
        return size

    def _send(self, into: dict[Place, list[int]]) -> int:
        place = self._where[sum(self._ledger.begun[one] for one in self._where) % len(self._where)]
        number = self._ledger.next_number(place)
        key, value = record(place, number)
        note = partial(self._acknowledged, into, place, number)
        while True:
            try:
                self._producer.produce(place.topic, value, key, place.partition, on_delivery=note)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)
        return len(value)

    def _acknowledged(
        self, into: dict[Place, list[int]], place: Place, number: int, error: KafkaError | None, _message: Message
    ) -> None:
        if error is not None:
            self._failures.append(error)
        else:
            into[place].append(number)

    def _wait_acknowledged(self) -> None:
        left = self._producer.flush(PATIENCE_S)
        assert left == 0, f"{left} records were not acknowledged"
        assert not self._failures, f"the broker refused records: {self._failures[:3]}"


# -- reading -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reader:
    """Reads partitions from their beginning on, and compares each record with the one that must come next.

    `is_whole`: the first record of each partition must be the first of the ledger; retention has deleted nothing.
    """

    address: str
    ledger: Ledger
    where: list[Place]
    is_whole: bool = True
    records: int = 0
    bytes: int = 0
    _at: dict[Place, int] = field(default_factory=dict)

    def read(self, is_over: Callable[[], bool] = lambda: True) -> None:
        """Until it is over, and the broker has no more; then everything must have come."""
        consumer = _consumer(self.address, self.where)
        ended: set[Place] = set()
        deadline = time.monotonic() + PATIENCE_S
        try:
            while len(ended) < len(self.where) or not is_over():
                message = consumer.poll(0.5)
                assert time.monotonic() < deadline, f"nothing comes any more, {self.records} records were read"
                if message is None:
                    continue
                place = Place(str(message.topic()), int(message.partition() or 0))
                if _is_end(message):
                    ended.add(place)
                    continue
                ended.discard(place)
                self._compare(place, message)
                deadline = time.monotonic() + PATIENCE_S
        finally:
            consumer.close()

    def check_complete(self) -> None:
        """Everything that the ledger has was read. AssertionError."""
        for place in self.where:
            at, wanted = self._at.get(place, 0), len(self.ledger.kept[place])
            assert at == wanted, f"{place}: {at} records of {wanted} were read"

    def _compare(self, place: Place, message: Message) -> None:
        kept, got = self.ledger.kept[place], (message.key(), message.value())
        if place not in self._at:
            self._at[place] = 0 if self.is_whole else kept.index(number_of(bytes(message.value() or b"")))
        at = self._at[place]
        # A record may be here before its acknowledgement is there.
        _wait(lambda: at < len(kept), f"{place}: a record comes behind the last of {len(kept)}")
        assert got == record(place, kept[at]), f"{place}: record {kept[at]} differs, {got[0]!r} came instead"
        self._at[place] = at + 1
        self.records += 1
        self.bytes += len(message.value() or b"")


def read_back(address: str, ledger: Ledger, where: list[Place], *, is_whole: bool = True) -> Reader:
    """Read everything that there is; each record is the expected one, and none is missing."""
    reader = Reader(address, ledger, where, is_whole)
    reader.read()
    reader.check_complete()
    return reader


def read_values(address: str, where: Iterable[Place]) -> list[tuple[bytes, bytes]]:
    """Keys and values of partitions, in the order in which they come."""
    places_left, found = set(where), []
    consumer = _consumer(address, list(places_left))
    deadline = time.monotonic() + PATIENCE_S
    try:
        while places_left:
            message = consumer.poll(0.5)
            assert time.monotonic() < deadline, f"{places_left} did not end"
            if message is None:
                continue
            if _is_end(message):
                places_left.discard(Place(str(message.topic()), int(message.partition() or 0)))
            else:
                found.append((bytes(message.key() or b""), bytes(message.value() or b"")))
    finally:
        consumer.close()
    return found


def _consumer(address: str, where: list[Place]) -> Consumer:
    """A consumer that is at the beginning of each of these partitions, and sees what was committed."""
    settings = client(
        address,
        group_id="reader",
        enable_auto_commit=False,
        enable_partition_eof=True,
        auto_offset_reset="error",
        isolation_level="read_committed",
        queued_max_messages_kbytes=16_384,
        check_crcs=True,
    )
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(place.topic, place.partition, OFFSET_BEGINNING) for place in where])
    return consumer


def _is_end(message: Message) -> bool:
    """Whether this says that the partition has no more. KafkaException for an error that is not tried again."""
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    raise KafkaException(error)


def _wait(is_so: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        pause.wait(0.05)
