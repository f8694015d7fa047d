"""A proxy that makes faults, in front of a real S3 server: a process of its own that takes orders while it runs.

    with moto() as server, in_front_of(server) as proxy:
        proxy.server                                    the same server by way of the proxy
        proxy.order(Fault.latency(0.02), Fault.slow_down(method="GET", count=3))
        proxy.counts().faults["status"]
        proxy.heal()

By hand: `python -m tests.proxy --upstream http://127.0.0.1:N --latency 20ms --bandwidth 80MiB` prints its URL and runs
until its standard input ends (`< <(sleep 1d)`). A line of JSON there is an order and is answered with the counts:
`{"faults": [{"kind": "black-hole", "method": "GET"}]}`, `{"counts": true}`, `{"reset": true}`.
"""

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tests.faults import Fault, Faults
from tests.proxy_connection import Connection, Counts, Regime
from tests.servers import S3Server
from tierfs.core.quantities import parse_age, parse_size

__all__ = ["Counts", "Fault", "Proxy", "in_front_of"]

_STOP_S = 10.0


# -- for tests ---------------------------------------------------------------------------------------------------


class Proxy:
    """A proxy that runs, and how to order it. Orders hold for requests that come after `order` returned."""

    def __init__(self, server: S3Server, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._lock = threading.Lock()
        self.url: str = self._read()["url"]
        self.server = replace(server, endpoint_url=self.url)

    def order(self, *faults: Fault) -> None:
        """Let these faults be the only ones; what the ones before still hold back is let go, by closing it."""
        self._ask({"faults": [fault.to_json() for fault in faults]})

    def heal(self) -> None:
        """No faults any more."""
        self.order()

    def counts(self) -> Counts:
        """What passed since the start, or since they were reset."""
        return Counts(**self._ask({"counts": True}))

    def reset_counts(self) -> None:
        """Begin to count anew; what is open stays open."""
        self._ask({"reset": True})

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the proxy ended with status {self._process.wait(_STOP_S)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def in_front_of(server: S3Server, *faults: Fault, seed: int = 0) -> Iterator[Proxy]:
    """A proxy before a server, which must speak plain HTTP; it ends with the block."""
    command = [sys.executable, "-m", "tests.proxy", "--upstream", server.endpoint_url, "--seed", str(seed)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        start_new_session=True,  # Ctrl-C is for who started it
    )
    with process:
        try:
            proxy = Proxy(server, process)
            proxy.order(*faults)
            yield proxy
        finally:
            assert process.stdin
            process.stdin.close()  # which ends it
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


# -- the process -------------------------------------------------------------------------------------------------


class Serving:
    """The listening side: accepts, counts, and takes orders."""

    def __init__(self, upstream: tuple[str, int], port: int, faults: Faults) -> None:
        self.upstream = upstream
        self.regime = Regime(faults, os.eventfd(0, os.EFD_CLOEXEC))
        self._listener = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._counts = Counts()
        self._connections: set[Connection] = set()
        self._may_accept = threading.Event()
        self._may_accept.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def order(self, faults: Faults) -> None:
        """Let other faults hold."""
        before, self.regime = self.regime, Regime(faults, os.eventfd(0, os.EFD_CLOEXEC))
        os.eventfd_write(before.ended, 1)  # never closed: a few orders, a few descriptors
        was_refusing = before.faults.is_refusing
        if faults.is_refusing and not was_refusing:
            self._may_accept.clear()
            # The port stays bound, so nobody else gets it, and connections are refused.
            self._listener.shutdown(socket.SHUT_RD)
            for connection in self._alive():
                connection.cut()
        elif was_refusing and not faults.is_refusing:
            self._listener.listen(1024)
            self._may_accept.set()

    def counts(self) -> dict[str, Any]:
        """The counts, as JSON."""
        with self._lock:
            return asdict(deepcopy(self._counts))

    def reset_counts(self) -> None:
        """Begin to count anew."""
        with self._lock:
            self._counts = Counts(open=self._counts.open)

    def count(self, change: Callable[[Counts], None]) -> None:
        with self._lock:
            change(self._counts)

    def _accept(self) -> None:
        while True:
            self._may_accept.wait()
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue  # it refuses now
            self.count(_arrived)
            connection = Connection(self, client)
            connection.start()
            self._connections = {*self._alive(), connection}
            if self.regime.faults.is_refusing:
                connection.cut()

    def _alive(self) -> set[Connection]:
        return {connection for connection in self._connections if connection.is_alive()}


def _listen(port: int) -> socket.socket:
    """A listening socket that keeps its port while it does not listen: the kernel lets one go that it chose itself."""
    with socket.create_server(("127.0.0.1", port), reuse_port=True) as chosen:
        return socket.create_server(chosen.getsockname(), backlog=1024, reuse_port=True)


def _arrived(counts: Counts) -> None:
    counts.connections += 1
    counts.open += 1


def take_orders(serving: Serving, orders: IO[str], seed: int) -> None:
    """Until there are no more."""
    for line in orders:
        order = json.loads(line)
        if "faults" in order:
            serving.order(Faults(map(Fault.from_json, order["faults"]), seed))
        if order.get("reset"):
            serving.reset_counts()
        print(json.dumps(serving.counts()), flush=True)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.proxy", description="A faulty way to an S3 server.")
    parser.add_argument("--upstream", required=True, metavar="URL", help="the server, http://HOST:PORT")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: a free one")
    parser.add_argument("--seed", type=int, default=0, help="of the dice")
    parser.add_argument("--latency", type=parse_age, default=0, metavar="AGE", help="added before each request: 20ms")
    parser.add_argument("--bandwidth", type=parse_size, default=0, metavar="SIZE", help="per connection and second")
    given = parser.parse_args()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))  # a connection has four descriptors
    faults = [Fault.latency(given.latency / 1e9)] if given.latency else []
    faults += [Fault.bandwidth(given.bandwidth)] if given.bandwidth else []
    at = urlsplit(given.upstream)
    serving = Serving((at.hostname or "127.0.0.1", at.port or 80), given.port, Faults(faults, given.seed))
    print(json.dumps({"url": f"http://127.0.0.1:{serving.port}"}), flush=True)
    with suppress(KeyboardInterrupt):
        take_orders(serving, sys.stdin, given.seed)


if __name__ == "__main__":
    main()
