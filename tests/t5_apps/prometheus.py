"""A Prometheus of one's own, from Debian's package: on a free port of loopback, its data in a directory of the test.

with prometheus(home, rules, mount.status()["api"], token) as server:
    server.wait_for("tiered_storage_lost_files == 1")
"""

import json
import os
import shutil
import subprocess
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

#: The least that Prometheus takes without complaint; a story is over in seconds.
_INTERVAL = "1s"
_STOP_S = 60.0


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
def prometheus(home: Path, rules: Path, target: str, token: Path) -> Iterator[Prometheus]:
    """A server that scrapes the API of a mount every second, as the job "tierfs", and evaluates the rules."""
    program = shutil.which("prometheus")
    assert program
    configuration, port = home / "prometheus.yml", free_port()
    configuration.write_text(
        f"global: {{scrape_interval: {_INTERVAL}, evaluation_interval: {_INTERVAL}}}\n"
        f"rule_files: [{json.dumps(str(rules))}]\n"
        "scrape_configs:\n"
        "  - job_name: tierfs\n"
        f"    authorization: {{credentials_file: {json.dumps(str(token))}}}\n"
        f"    static_configs: [{{targets: [{json.dumps(target)}]}}]\n"
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
