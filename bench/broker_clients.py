"""Brokers as the benchmark sees them: started over a directory, published to, consumed from."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.t5_apps import jetstream, rabbitmq

_MESSAGE_BYTES = 10_000
_BODY = bytes(range(250)) * (_MESSAGE_BYTES // 250)
_AT_ONCE = 64
_SEGMENT_BYTES = 8_000_000


class Session(Protocol):
    """A broker that runs over one directory, and its one queue."""

    def publish(self, size: int) -> None:
        """Publish so many bytes; all are confirmed at the end."""

    def consume(self, size: int) -> None:
        """Receive so many bytes from the beginning of the queue; nothing is removed."""

    def wait_until_served(self) -> None:
        """Until the queue answers after a start."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker and a kind of queue; `running` starts it over a directory, with a second one for everything else."""

    name: str
    directory: str
    running: Callable[[Path, Path], AbstractContextManager[Session]]


@dataclass(frozen=True, slots=True)
class _JetStream:
    server: jetstream.Server

    def publish(self, size: int) -> None:
        async def act() -> None:
            async with jetstream.context(self.server) as context:
                await context.add_stream(name="EVENTS", subjects=["events.>"])
                for _ in range(0, size // _MESSAGE_BYTES, _AT_ONCE):
                    await asyncio.gather(*(context.publish("events.a", _BODY) for _ in range(_AT_ONCE)))

        asyncio.run(act())

    def consume(self, size: int) -> None:
        async def act() -> None:
            async with jetstream.context(self.server) as context:
                subscription = await jetstream.ordered(context)
                for _ in range(size // _MESSAGE_BYTES):
                    await subscription.next_msg(timeout=jetstream.PATIENCE_S)

        asyncio.run(act())

    def wait_until_served(self) -> None:
        async def act() -> None:
            async with jetstream.context(self.server) as context:
                await context.get_msg("EVENTS", 1)

        asyncio.run(act())


@dataclass(frozen=True, slots=True)
class _RabbitMQ:
    node: rabbitmq.Node
    kind: str

    def publish(self, size: int) -> None:
        limits = {"x-stream-max-segment-size-bytes": _SEGMENT_BYTES} if self.kind == "stream" else {}
        with self.node.connected() as channel:
            channel.queue_declare("events", durable=True, arguments={"x-queue-type": self.kind, **limits})
        self.node.publish("events", itertools.repeat(_BODY, size // _MESSAGE_BYTES))

    def consume(self, size: int) -> None:
        count = size // _MESSAGE_BYTES
        if self.kind == "stream":
            self.node.read("events", [_BODY] * count)
        else:
            self.node.look_at("events", [_BODY] * count)

    def wait_until_served(self) -> None:
        self.node.wait_until_served("events")


@contextmanager
def _nats(data: Path, home: Path) -> Iterator[Session]:
    with jetstream.broker(data, home) as server:
        yield _JetStream(server)


def _rabbit(kind: str) -> Callable[[Path, Path], AbstractContextManager[Session]]:
    @contextmanager
    def running(data: Path, home: Path) -> Iterator[Session]:
        settings = {"raft.wal_max_size_bytes": "16000000", "raft.segment_max_entries": "1024"}
        with rabbitmq.node(data, home, settings) as node:
            yield _RabbitMQ(node, kind)

    return running


BROKERS = (
    Broker("NATS JetStream", "nats", _nats),
    Broker("RabbitMQ, stream", "stream", _rabbit("stream")),
    Broker("RabbitMQ, quorum queue", "quorum", _rabbit("quorum")),
)
