"""RabbitMQ with its data directory on the mount: a quorum queue and a stream whose segments go cold.

A quorum queue and a stream close a segment when it is full and open it again only to read. A node that starts reads the
end of each segment of a stream, and every segment of a quorum queue from its beginning.
"""

import random

import pytest

from tests.servers import S3Server
from tests.t5_apps.brokers import QUICK, Data, KillsTheWorker
from tests.t5_apps.conftest import MakeMount
from tests.t5_apps.rabbitmq import Node, need_rabbitmq, node

_QUORUM, _STREAM = "orders", "events"
_MESSAGES = 3000
_SEGMENT = r"\.segment$"
_FLAGS = ("--profile", "rabbitmq", *QUICK, "--cache-size", "8MiB")


def message(number: int) -> bytes:
    """The message of a number, the same one every time: some hundred bytes to some thousand."""
    chooser = random.Random(number)
    return number.to_bytes(8, "little") + chooser.randbytes(chooser.choice((100, 2000, 5000)))


def messages(first: int, end: int) -> list[bytes]:
    """The messages of these numbers, without the last one."""
    return [message(number) for number in range(first, end)]


def _declare(rabbit: Node) -> None:
    with rabbit.connected() as channel:
        channel.queue_declare(_QUORUM, durable=True, arguments={"x-queue-type": "quorum"})
        stream = {"x-queue-type": "stream", "x-stream-max-segment-size-bytes": 1 << 20}
        channel.queue_declare(_STREAM, durable=True, arguments=stream)


@pytest.mark.slow
def test_queues_outlive_all_who_serve_them(make_mount: MakeMount, s3: S3Server) -> None:
    """With cold segments: a consumer from the beginning, a restart, kill -9 of broker and worker, deletion."""
    need_rabbitmq()
    with make_mount("rabbitmq", *_FLAGS) as mount:
        home = mount.plan.home
        data = Data(mount, s3, "rabbitmq", _SEGMENT)
        with node(mount.path, home) as rabbit:
            _declare(rabbit)
            for queue in (_QUORUM, _STREAM):
                rabbit.publish(queue, messages(0, _MESSAGES))
            data.wait_until_cold("/stream/", 3)
            data.wait_until_cold("/quorum/", 10)
            before = mount.downloaded()
            third, two_thirds = _MESSAGES // 3, 2 * _MESSAGES // 3
            assert rabbit.take(_QUORUM, messages(0, third)) == third
            assert mount.downloaded() > before, "the bytes did not come from the bucket"
            # The worker dies while history is read: here that of the one, after a restart that of the other.
            kill = KillsTheWorker(mount, _MESSAGES // 2)
            assert rabbit.read(_STREAM, messages(0, _MESSAGES), kill) == _MESSAGES
            kill.wait_taken_over()
        with node(mount.path, home) as rabbit:
            rabbit.wait_until_served(_STREAM)
            kill = KillsTheWorker(mount, third // 2)
            assert rabbit.take(_QUORUM, messages(third, two_thirds), kill) == two_thirds - third
            kill.wait_taken_over()
            rabbit.publish(_STREAM, messages(_MESSAGES, _MESSAGES + 100))
            rabbit.kill()
        with node(mount.path, home) as rabbit:
            rabbit.wait_until_served(_STREAM)
            assert rabbit.read(_STREAM, messages(0, _MESSAGES + 100)) == _MESSAGES + 100
            assert rabbit.take(_QUORUM, messages(two_thirds, _MESSAGES)) == _MESSAGES - two_thirds
            assert not {name for name in data.names() if "tierfs" in name}
            with rabbit.connected() as channel:
                channel.queue_delete(_QUORUM)
                channel.queue_delete(_STREAM)
            data.wait_until_gone("/(stream|quorum)/")
