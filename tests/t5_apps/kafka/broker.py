"""One Kafka node, broker and controller in one, over a data directory that somebody else provides.

    with broker(data, home) as kafka:
        kafka.start()
        ...                     clients connect to kafka.address
        kafka.stop(); kafka.start(); kafka.kill()

The data directory is formatted at the first start. Everything else that the node writes lies in `home`. Independent of
pytest; jars.JarsMissing when there is no broker to be had.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers import free_port
from tests.t5_apps.kafka.jars import jars

#: Longest time, seconds, that a start or a stop may take on a busy machine.
_START_S = 240.0
_STOP_S = 240.0
#: Ports may be taken by somebody else between the moment that they were free and the start.
_ATTEMPTS = 5
_TAKEN = "Address already in use"
_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"
_LOGGING = Path(__file__).with_name("log4j2.xml")
#: Quick to start, and small: it is here to use files.
_JAVA = ("-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData")

#: A single node with the smallest segments that Kafka allows, and with jobs that do not wait for minutes.
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "message.max.bytes": "1040000",
    "log.segment.bytes": "1048576",
    "log.initial.task.delay.ms": "500",
    "log.retention.check.interval.ms": "1000",
    "log.segment.delete.delay.ms": "1000",
    "log.cleaner.backoff.ms": "500",
    "log.cleaner.dedupe.buffer.size": "2097152",
    # A broker that was killed may come back when its last session has ended; nothing is that slow here.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
}


class Kafka:
    """The node; INVARIANT: at most one process runs over the data directory."""

    def __init__(self, data: Path, home: Path, settings: Mapping[str, str]) -> None:
        self.data = data
        self.log = home / "kafka.log"
        self._home = home
        self._settings = settings
        self._jars = jars()
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What clients call bootstrap.servers."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start, and wait until it serves clients: for how many seconds."""
        assert self._process is None
        began = time.monotonic()
        for _ in range(_ATTEMPTS):
            properties = self._write_properties()
            if not (self.data / "meta.properties").exists():
                self.run("kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(properties))
            mark = self.log.stat().st_size if self.log.exists() else 0
            with self.log.open("ab") as out:
                self._process = subprocess.Popen(
                    self._java("kafka.Kafka", str(properties)), stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )
            if self._is_up():
                return time.monotonic() - began
            self._process = None
            said = self.log.read_bytes()[mark:].decode(errors="replace")
            assert _TAKEN in said, f"the broker does not start: {said[-4000:]}"
        raise AssertionError(f"no port was free {_ATTEMPTS} times")

    def stop(self) -> float:
        """Stop in an orderly way: for how many seconds."""
        began = time.monotonic()
        status = self._end(signal.SIGTERM)
        assert status in (0, 128 + signal.SIGTERM), f"the broker ended with {status}: {self.last_words()}"
        return time.monotonic() - began

    def kill(self) -> None:
        """kill -9."""
        assert self._end(signal.SIGKILL) == -signal.SIGKILL

    def end(self) -> None:
        """However it is: afterwards nothing runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, tool: str, *arguments: str) -> str:
        """Run one of Kafka's tools by the name of its class; what it said. AssertionError when it fails."""
        done = subprocess.run(
            self._java(tool, *arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{tool} ended with {done.returncode}: {(done.stdout + done.stderr)[-4000:]}"
        return done.stdout

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def _java(self, name: str, *arguments: str) -> list[str]:
        own = [f"-Dlog4j2.configurationFile={_LOGGING}", f"-Djava.io.tmpdir={self._home}"]
        return ["java", *_JAVA, *own, "-cp", f"{self._jars}/*", name, *arguments]

    def _write_properties(self) -> Path:
        self._port, controller = free_port(), free_port()
        places = {
            "log.dirs": str(self.data),
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        }
        properties = self._home / "server.properties"
        lines = {**_SETTINGS, **self._settings, **places}.items()
        properties.write_text("".join(f"{name}={value}\n" for name, value in lines))
        return properties

    def _is_up(self) -> bool:
        """Whether it serves now; False when it has ended instead."""
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while not (self._listens() and self._serves()):
            if self._process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"the broker does not serve: {self.last_words()}"
            time.sleep(0.02)
        return True

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _serves(self) -> bool:
        with suppress(KafkaException):
            return bool(AdminClient({"bootstrap.servers": self.address, "log_level": 0}).list_topics(timeout=5).brokers)
        return False

    def _end(self, how: signal.Signals) -> int:
        assert self._process is not None
        process, self._process = self._process, None
        os.kill(process.pid, how)
        try:
            return process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the broker does not stop: {self.last_words()}") from None


@contextmanager
def broker(data: Path, home: Path, settings: Mapping[str, str] | None = None) -> Iterator[Kafka]:
    """A node that does not run yet, and that does not run any more afterwards. JarsMissing."""
    kafka = Kafka(data, home, settings or {})
    try:
        yield kafka
    finally:
        kafka.end()
