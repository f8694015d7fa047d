"""A broker whose mount loses its worker again and again: nats-server, JetStream's file store."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from tests.mounting import directory
from tests.storm.storm import wait_until_the_store_answers
from tests.storm.strikes import Striker, Target
from tests.t5_apps.conftest import MakeMount, need
from tests.t5_apps.jetstream import broker, ordered

_KILLS = 10
_STREAM = "events"
_MESSAGE_BYTES = 16 << 10
_AT_ONCE = 8
#: Between two messages, seconds: the broker is at work all the time, and the machine is not.
_PAUSE_S = 0.005
_PATIENCE_S = 300.0
#: Closed blocks go to the bucket while it runs.
_AGES = ("--auto-archive", "--warm-after", "1s", "--cold-after", "2s", "--policy-interval", "500ms")


def message(number: int) -> bytes:
    """The message of a number, the same one every time."""
    return number.to_bytes(8, "little") + random.Random(number).randbytes(_MESSAGE_BYTES)


@dataclass
class Story:
    """What a client of the broker saw go wrong; and how far publisher and consumer are."""

    errors: list[str] = field(default_factory=list)
    published: int = 0
    consumed: int = 0

    async def connect(self, url: str) -> Client:
        """A client that never connects again: a broker that lets it go is a failure."""

        async def failed(error: Exception) -> None:
            self.errors.append(repr(error))

        async def lost() -> None:
            if not client.is_closed:
                self.errors.append("the broker let a client go")

        client = await nats.connect(
            url, allow_reconnect=False, error_cb=failed, disconnected_cb=lost, connect_timeout=120
        )
        return client

    async def publish(self, jetstream: JetStreamContext, is_on: Callable[[], bool]) -> None:
        """Publish as long as that is so; each message is acknowledged with its number in the stream."""
        waiting: deque[tuple[int, asyncio.Task[int]]] = deque()

        async def one(data: bytes) -> int:
            return (await jetstream.publish("events.all", data, timeout=_PATIENCE_S)).seq

        while is_on() or waiting:
            if is_on() and len(waiting) < _AT_ONCE:
                waiting.append((self.published + 1, asyncio.create_task(one(message(self.published)))))
                self.published += 1
                await asyncio.sleep(_PAUSE_S)
            else:
                number, task = waiting.popleft()
                assert await task == number, "an acknowledgement of another message"

    async def consume(self, jetstream: JetStreamContext, is_on: Callable[[], bool]) -> None:
        """Read from the first message on, until there are no more to come; each must be the next one."""
        subscription = await ordered(jetstream)
        while is_on() or self.consumed < self.published:
            try:
                got = await subscription.next_msg(timeout=1.0)
            except nats.errors.TimeoutError:
                continue
            assert got.data == message(self.consumed), f"message {self.consumed} differs"
            self.consumed += 1


async def work(url: str, story: Story, is_on: Callable[[], bool]) -> None:
    """Publish and consume at the same time, until it is over and everything has come back."""
    client = await story.connect(url)
    jetstream = client.jetstream(timeout=_PATIENCE_S)
    await jetstream.add_stream(name=_STREAM, subjects=["events.>"])
    publishing = asyncio.create_task(story.publish(jetstream, is_on))
    consuming = asyncio.create_task(story.consume(jetstream, lambda: not publishing.done()))
    try:
        async with asyncio.timeout(2 * _PATIENCE_S):
            await asyncio.gather(publishing, consuming)
    finally:
        await client.close()


async def read_again(url: str, total: int) -> Story:
    """Another consumer reads everything."""
    story = Story(published=total)
    client = await story.connect(url)
    async with asyncio.timeout(_PATIENCE_S):
        await story.consume(client.jetstream(timeout=_PATIENCE_S), lambda: False)
    await client.close()
    return story


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "upgrade"])
def test_a_broker_outlives_workers(how: str, make_mount: MakeMount) -> None:
    """Publishers and consumers see no error, and every message comes back, in order, also after a restart."""
    need("nats-server")
    with directory() as home, make_mount(f"storm-{how}", *_AGES) as mount:
        story = Story()
        striker = Striker(Target.of(mount), _KILLS, how, "1", between_s=1.0)
        with broker(mount.path, home) as server, striker.at_work():
            asyncio.run(work(server.url, story, lambda: not striker.is_over))
        assert striker.done.total() >= _KILLS
        assert story.errors == []
        assert story.consumed == story.published > 0
        with broker(mount.path, home) as server:
            again = asyncio.run(read_again(server.url, story.published))
        assert again.errors == []
        assert again.consumed == story.published
        wait_until_the_store_answers(mount)
        print(f"{story.published} messages, {dict(striker.done)}\n{striker.stalls.table()}")
