"""A RabbitMQ node of one's own, from Debian's rabbitmq-server: own name, own ports on loopback, own cookie, own epmd.

    with directory() as home, node(home / "data", home) as rabbit:
        with rabbit.connected() as channel:
            channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})

The node's database lies in the first directory (RABBITMQ_MNESIA_BASE), everything else in the second. What ends it are
the ids of the processes that were started here: the Erlang machine, and the epmd that knows its name.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pika
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import require
from tests.servers import free_port
from tests.t5_apps.conftest import wait_until

#: Where Debian keeps the scripts that start nodes as whoever calls them; those in PATH switch to a user of their own.
_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_NODE = "rabbit@localhost"
#: How long a node may take to start, to stop, to answer, on a busy machine, seconds.
_PATIENCE_S = 300.0

_DURABLE = pika.BasicProperties(delivery_mode=2)
#: Messages that a reader of a stream is given ahead.
_AT_ONCE = 200

#: Small files, so that a small story has many: the defaults are 512 MiB of WAL and 4,096 entries a segment.
SMALL = {"raft.wal_max_size_bytes": str(1 << 20), "raft.segment_max_entries": "128"}


def need_rabbitmq() -> None:
    """Skip where it is not installed; a failure under CI=true."""
    require(_PROGRAM.exists(), "rabbitmq-server is not installed")
    require(shutil.which("epmd"), "epmd is not installed")


@dataclass(frozen=True, slots=True)
class Node:
    """A node that runs: its process (the Erlang machine), its port for AMQP 0.9.1, its log."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    data: Path

    @property
    def database(self) -> Path:
        """Where this node keeps queues, streams and Mnesia."""
        return self.data / _NODE

    @contextmanager
    def connected(self) -> Iterator[BlockingChannel]:
        """A channel of a connection of its own; publishing on it waits until the broker confirms."""
        connection = pika.BlockingConnection(_parameters(self.port))
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            if connection.is_open:  # a broker that closed it has said why
                connection.close()

    def publish(self, queue: str, bodies: Iterable[bytes]) -> None:
        """Publish in order, and wait until the broker has the last one: it takes them in the order of a channel."""
        with closing(pika.BlockingConnection(_parameters(self.port))) as connection:
            channel = connection.channel()
            last: bytes | None = None
            for body in bodies:
                if last is not None:
                    channel.basic_publish("", queue, last, _DURABLE)
                last = body
            if last is not None:
                channel.confirm_delivery()
                channel.basic_publish("", queue, last, _DURABLE)

    def wait_until_served(self, stream: str) -> None:
        """Until somebody serves the stream: a node that starts lets clients in a moment before.

        It closes the channel of who asks then; after a kill, while it chooses who serves, the connection (with 541).
        """

        def is_served() -> bool:
            try:
                with self.connected() as channel:
                    channel.basic_qos(prefetch_count=1)
                    channel.basic_consume(stream, lambda *_: None)
                    return True
            except (pika.exceptions.ChannelClosedByBroker, pika.exceptions.ConnectionClosedByBroker):
                return False

        wait_until(is_served, lambda: f"nobody serves {stream}", _PATIENCE_S)

    def take(self, queue: str, expected: Sequence[bytes], told: Callable[[int], None] | None = None) -> int:
        """Take so many messages out of a quorum queue, each must be the expected one; how many that were.

        `told` is called with the number of each message before the next one is read. All are acknowledged when nobody
        consumes any more: the broker would give out others, which go back behind all the rest.
        """
        with self.connected() as channel:
            count, tag = _read(channel, queue, expected, told)
            channel.cancel()
            channel.basic_ack(tag, multiple=True)
        return count

    def look_at(self, queue: str, expected: Sequence[bytes]) -> int:
        """Receive so many messages of a quorum queue, each must be the expected one; they go back into it."""
        with self.connected() as channel:
            count, _ = _read(channel, queue, expected, None)
        return count

    def read(self, stream: str, expected: Sequence[bytes], told: Callable[[int], None] | None = None) -> int:
        """Read a stream from its beginning, each message must be the expected one; how many that were."""
        with self.connected() as channel:

            def acknowledged(number: int) -> None:
                if number % (_AT_ONCE // 4) == 0:
                    channel.basic_ack(number, multiple=True)
                if told is not None:
                    told(number)

            count, _ = _read(channel, stream, expected, acknowledged, {"x-stream-offset": "first"}, _AT_ONCE)
            channel.cancel()
        return count

    def kill(self) -> None:
        """kill -9 of the Erlang machine."""
        self.process.kill()
        self.process.wait(_PATIENCE_S)


def _read(
    channel: BlockingChannel,
    queue: str,
    expected: Sequence[bytes],
    told: Callable[[int], None] | None,
    arguments: dict[str, str] | None = None,
    at_once: int = 0,
) -> tuple[int, int]:
    """Compare messages as they come; how many that were, and the tag of the last one.

    `at_once`: how many may be on their way and not acknowledged; 0: as many as are expected.
    """
    count = tag = 0
    channel.basic_qos(prefetch_count=at_once or len(expected))
    for wanted, (method, _, body) in zip(
        expected, channel.consume(queue, arguments=arguments, inactivity_timeout=_PATIENCE_S), strict=False
    ):
        assert method is not None, f"message {count + 1} of {queue} does not come"
        assert body == wanted, f"message {count + 1} of {queue} differs"
        count, tag = count + 1, method.delivery_tag
        if told is not None:
            told(count)
    return count, tag


def _parameters(port: int) -> pika.ConnectionParameters:
    return pika.ConnectionParameters(
        "127.0.0.1", port, heartbeat=0, socket_timeout=_PATIENCE_S, stack_timeout=_PATIENCE_S, connection_attempts=1
    )


@contextmanager
def node(data: Path, home: Path, settings: Mapping[str, str] | None = None) -> Iterator[Node]:
    """A node with its database in `data`; configuration, cookie and logs are in `home`. It is stopped at the end."""
    ports = [free_port() for _ in range(4)]
    amqp, streams, distribution, names = ports
    lines = {"listeners.tcp.default": f"127.0.0.1:{amqp}", "stream.listeners.tcp.default": f"127.0.0.1:{streams}"}
    # No refusal for want of disk: how much there is depends on the machine.
    lines |= {"disk_free_limit.absolute": "1MB", "log.console": "false", "log.file.level": "info"}
    text = "".join(f"{name} = {value}\n" for name, value in (lines | dict(settings or SMALL)).items())
    (home / "rabbitmq.conf").write_text(text)
    (home / "enabled_plugins").write_text("[rabbitmq_stream].\n")
    log = home / "rabbitmq.log"
    with _epmd(names, log), log.open("ab") as out:
        process = subprocess.Popen(
            [_PROGRAM],
            cwd=home,
            env=_environment(data, home, distribution, names),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
        try:
            rabbit = Node(process, amqp, log, data)
            wait_until(lambda: _is_up(rabbit), lambda: _said(home), _PATIENCE_S)
            yield rabbit
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)


def _environment(data: Path, home: Path, distribution: int, names: int) -> dict[str, str]:
    return os.environ | {
        "HOME": str(home),  # the cookie is made there
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_NODENAME": _NODE,
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(data),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "none.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
        # The script becomes the Erlang machine, as it does under systemd: signals reach it, and its id is the child's.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


@contextmanager
def _epmd(port: int, log: Path) -> Iterator[None]:
    """The program that knows which node listens where, for one node: an Erlang machine would leave one behind."""
    with log.open("ab") as out:
        command = ["epmd", "-port", str(port), "-address", "127.0.0.1"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait_until(lambda: _is_listening(port), log.read_text, _PATIENCE_S)
        yield
    finally:
        process.kill()
        process.wait(_PATIENCE_S)


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_up(rabbit: Node) -> bool:
    assert rabbit.process.poll() is None, rabbit.log.read_text(errors="replace")[-4000:]
    if not _is_listening(rabbit.port):
        return False
    try:
        with rabbit.connected():
            return True
    except (pika.exceptions.AMQPError, OSError):  # it listens a moment before it lets anybody in
        return False


def _said(home: Path) -> str:
    logs = [home / "rabbitmq.log", *(home / "log").glob("*.log")]
    return "\n".join(log.read_text(errors="replace")[-3000:] for log in logs if log.exists())
