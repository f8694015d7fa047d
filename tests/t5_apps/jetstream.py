"""nats-server with JetStream's file store on a free loopback port, and clients that wait.

with directory() as home, broker(home / "data", home) as server:
    client = await connected(server.url)
"""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext

from tests.t5_apps.conftest import wait_until

#: How long, in seconds, anything may take on a busy machine.
PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    process: "subprocess.Popen[bytes]"
    url: str

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(PATIENCE_S)


@contextmanager
def broker(data: Path, home: Path) -> Iterator[Server]:
    """nats-server with its store in `data`; its log is home/nats.log. It is stopped at the end."""
    log = home / "nats.log"
    command = ["nats-server", "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", str(data), "--ports_file_dir", str(home)]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    ports = home / f"nats-server_{process.pid}.ports"

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        return ports.exists() and ports.stat().st_size > 0

    try:
        wait_until(is_up, log.read_text, PATIENCE_S)
        yield Server(process, json.loads(ports.read_text())["nats"][0])
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        ports.unlink(missing_ok=True)  # one that was killed leaves it


async def connected(url: str) -> Client:
    """A client that waits."""
    return await nats.connect(url, pending_size=64 << 20, connect_timeout=120)


@asynccontextmanager
async def context(server: Server) -> AsyncIterator[JetStreamContext]:
    """A client's JetStream, for as long as the block."""
    client = await connected(server.url)
    try:
        yield client.jetstream(timeout=PATIENCE_S)
    finally:
        await client.close()


async def ordered(jetstream: JetStreamContext) -> JetStreamContext.PushSubscription:
    """A consumer of all messages from the first one, in order."""
    return await jetstream.subscribe("events.>", ordered_consumer=True, pending_bytes_limit=1 << 30)
