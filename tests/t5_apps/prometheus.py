"""A Prometheus of one's own, from Debian's package: on a free port of loopback, its data in a directory of the test.

with forwarded(mount.control_socket) as port, prometheus(home, rules, port) as server:
    server.wait_for("tiered_storage_lost_files == 1")
"""

import json
import os
import shutil
import socket
import socketserver
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import free_port
from tests.t5_apps.conftest import wait_until
from tierfs.admin import registry

#: The least that Prometheus takes without complaint; a story is over in seconds.
_INTERVAL = "1s"
_STOP_S = 60.0
_BLOCK = 1 << 16


def _pump(source: socket.socket, target: socket.socket) -> None:
    """All that one side says, to the other one."""
    with suppress(OSError):
        while block := source.recv(_BLOCK):
            target.sendall(block)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class _Forwarder(socketserver.ThreadingTCPServer):
    """Connections on a port of loopback, each handed on to a Unix socket."""

    daemon_threads = False
    allow_reuse_address = True

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(("127.0.0.1", 0), _Connection)


class _Connection(socketserver.BaseRequestHandler):
    server: _Forwarder

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as there:
            with registry.short_path(self.server.path) as name:
                if there.connect_ex(name):
                    return  # nobody serves the mount
            back = threading.Thread(target=_pump, args=(there, self.request))
            back.start()
            _pump(self.request, there)
            back.join()


@contextmanager
def forwarded(path: Path) -> Iterator[int]:
    """A port of loopback that leads to a Unix socket: Prometheus does not speak to those."""
    with _Forwarder(path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that runs."""

    port: int
    log: Path

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API; AssertionError with what it says where it refuses."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def wait_for(self, expression: str) -> None:
        """Until an expression gives something."""
        wait_until(lambda: bool(self.query(expression)), lambda: expression)

    def rules(self) -> list[dict[str, Any]]:
        """All rules with how they were evaluated."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]


@contextmanager
def prometheus(home: Path, rules: Path, target: int) -> Iterator[Prometheus]:
    """A server that scrapes a port of loopback every second, as the job "tierfs", and evaluates the rules."""
    program = shutil.which("prometheus")
    assert program
    configuration, port = home / "prometheus.yml", free_port()
    configuration.write_text(
        f"global: {{scrape_interval: {_INTERVAL}, evaluation_interval: {_INTERVAL}}}\n"
        f"rule_files: [{json.dumps(str(rules))}]\n"
        "scrape_configs:\n"
        f'  - {{job_name: tierfs, static_configs: [{{targets: ["127.0.0.1:{target}"]}}]}}\n'
    )
    log = home / "prometheus.log"
    command = [
        program,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={home / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=home, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environment()
        )
    server = Prometheus(port, log)
    try:
        wait_until(lambda: _is_ready(server, process), lambda: log.read_text(errors="replace")[-2000:])
        yield server
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(server: Prometheus, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, server.log.read_text(errors="replace")[-2000:]
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{server.port}/-/ready", timeout=60):
        return True
    return False


def _environment() -> dict[str, str]:
    """Without a proxy, which would be asked for loopback as well."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
