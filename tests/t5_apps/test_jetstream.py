"""JetStream with its store on the mount: what a stream with cold blocks goes through in its life.

A block is closed when it is full, and is read as a whole from then on. A server that starts reads the last eight bytes
of every block.
"""

import asyncio
import random

import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from tests.servers import S3Server
from tests.t5_apps.brokers import QUICK, Data
from tests.t5_apps.conftest import MakeMount, need
from tests.t5_apps.jetstream import PATIENCE_S, Server, broker, context, ordered

_STREAM = "EVENTS"
_MESSAGES = 1200
_AT_ONCE = 50
#: A stream with less than 32 MiB to fill has blocks of 4 MiB instead of 8. It is not reached.
_LIMIT_BYTES = 31 << 20
_BLOCK = r"/msgs/[0-9]+\.blk$"
_FLAGS = ("--profile", "nats", *QUICK, "--cache-size", "8MiB")


def message(number: int) -> bytes:
    """The message of a number, the same one every time: some hundred bytes to some ten thousand."""
    chooser = random.Random(number)
    return number.to_bytes(8, "little") + chooser.randbytes(chooser.choice((100, 10_000, 50_000)))


async def _publish(server: Server, first: int, end: int) -> None:
    async with context(server) as jetstream:
        await jetstream.add_stream(name=_STREAM, subjects=["events.>"], max_bytes=_LIMIT_BYTES)
        for start in range(first, end, _AT_ONCE):
            some = range(start, min(end, start + _AT_ONCE))
            sent = await asyncio.gather(*(jetstream.publish("events.a", message(number)) for number in some))
            assert [one.seq for one in sent] == [number + 1 for number in some]


async def _consume(jetstream: JetStreamContext, numbers: list[int]) -> None:
    """Read the stream from its beginning: these messages and no others."""
    subscription = await ordered(jetstream)
    for number in numbers:
        got = await subscription.next_msg(timeout=PATIENCE_S)
        assert got.data == message(number), f"message {number} differs"
    assert subscription.pending_msgs == 0
    await subscription.unsubscribe()


async def _read(server: Server, numbers: list[int]) -> None:
    async with context(server) as jetstream:
        await _consume(jetstream, numbers)


@pytest.mark.slow
def test_a_stream_outlives_all_who_serve_it(make_mount: MakeMount, s3: S3Server) -> None:
    """With cold blocks: a consumer from the beginning, a restart, kill -9 of broker and worker, deletion."""
    need("nats-server")
    everything = list(range(_MESSAGES))
    with make_mount("jetstream", *_FLAGS) as mount:
        home = mount.plan.home
        data = Data(mount, s3, "jetstream", _BLOCK)
        with broker(mount.path, home) as server:
            asyncio.run(_publish(server, 0, _MESSAGES))
            data.wait_until_cold("/msgs/", 4)
            before = mount.downloaded()
            asyncio.run(_read(server, everything))
            assert mount.downloaded() > before, "the bytes did not come from the bucket"
        with broker(mount.path, home) as server:
            pid = mount.kill_worker()
            asyncio.run(_read(server, everything))
            mount.wait_taken_over(pid)
            asyncio.run(_publish(server, _MESSAGES, _MESSAGES + 100))
            everything += range(_MESSAGES, _MESSAGES + 100)
            server.kill()
        with broker(mount.path, home) as server:
            asyncio.run(_read(server, everything))
            asyncio.run(_erase_and_delete(server, data, everything))
            data.wait_until_gone("/msgs/")
            assert not {name for name in data.names() if "tierfs" in name}


async def _erase_and_delete(server: Server, data: Data, numbers: list[int]) -> None:
    """Erase a message in the oldest block, which is cold, and read the rest; then everything of a subject, and all."""
    async with context(server) as jetstream:
        oldest = data.segments()[0]
        assert oldest.tier == "cold"
        await jetstream.delete_msg(_STREAM, 3)
        await _consume(jetstream, [number for number in numbers if number != 2])
        with pytest.raises(NotFoundError):
            await jetstream.get_msg(_STREAM, 3)
        await asyncio.to_thread(data.wait_until_cold, "/msgs/", 4)
        await jetstream.purge_stream(_STREAM)
        await asyncio.to_thread(data.wait_until_the_bucket_has_nothing_else)
        await jetstream.delete_stream(_STREAM)
