"""A mount whose bucket is a real S3 server behind a proxy that makes faults; readers that go past the page cache."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import require
from tests.faults import Fault, Kind
from tests.mounting import Mount, Plan, directory, mounted
from tests.proxy import Proxy, in_front_of
from tests.servers import S3Server, ServerMissing, rclone
from tests.t4_mount.modes import wait_until

BUCKET = "tierfs-faults"
CHUNK = 1 << 20
#: No retries below the ones that are tested, a silence that ends soon, and no renewals that would meet the faults.
FLAGS = ("--max-retries", "0", "--timeout", "3s", "--read-ahead", "0", "--lease", "1h")


@dataclass(frozen=True, slots=True)
class Stage:
    """The mount, the proxy and the server behind it."""

    mount: Mount
    proxy: Proxy
    server: S3Server

    def cold(self, name: str, content: bytes) -> Path:
        """A cold file, of which nothing is cached."""
        path = self.mount.path / name
        path.write_bytes(content)
        # Nothing is sent twice: on a busy machine an upload may time out.
        wait_until(lambda: all(one.result != "failed" for one in self.mount.outcomes("release", name)))
        assert self.mount.residency(name) == "cold"
        return path

    def spoil(self, name: str, *faults: Fault) -> None:
        """Let the GETs of this file meet these faults, and count them."""
        for_file: dict[str, object] = {"method": "GET", "key": f"{BUCKET}/*/{name}"}
        # A delay of nothing strikes each GET; those of the self-test, or of a list, are not among them.
        marks = [Fault.from_json(fault.to_json() | for_file) for fault in (Fault.latency(0.0), *faults)]
        self.proxy.order(*marks)
        self.proxy.reset_counts()

    def gets(self) -> int:
        """GETs of the file since `spoil`."""
        return self.proxy.counts().faults.get(Kind.LATENCY, 0)

    def log(self) -> str:
        """What the mount said until now."""
        return self.mount.log.read_text(errors="replace")

    def read_errors(self) -> int:
        """Errors that applications were told, as counted."""
        return int(self.mount.status()["errors"]["reads"])


@contextmanager
def staged(*flags: str, server: S3Server) -> Iterator[Stage]:
    """A mount of an empty prefix of the bucket, with these flags added."""
    with directory() as home, in_front_of(server) as proxy:
        where = ("--endpoint-url", proxy.url, *FLAGS, *flags)
        with mounted(Plan(home, store=f"s3://{BUCKET}/{home.name}", flags=where)) as mount:
            try:
                yield Stage(mount, proxy, server)
            finally:
                proxy.heal()


@contextmanager
def bucket_server() -> Iterator[S3Server]:
    """A server with the bucket."""
    try:
        server = rclone()
        with server as started:
            started.create_bucket(BUCKET)
            yield started
    except ServerMissing as missing:
        require(False, str(missing))


def read_directly(path: Path, offset: int, size: int) -> bytes:
    """Read from the mount, not from the kernel's page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


class Readers:
    """Threads that read one extent each, at the same time."""

    def __init__(self, path: Path, offsets: Sequence[int], size: int) -> None:
        self.results: list[bytes | int] = []  # bytes, or an errno
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._read, args=(path, offset, size), daemon=True) for offset in offsets
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, path: Path, offset: int, size: int) -> None:
        result: bytes | int
        try:
            result = read_directly(path, offset, size)
        except OSError as error:
            result = error.errno or 0
        with self._lock:
            self.results.append(result)

    def join(self) -> list[bytes | int]:
        """What they got."""
        for thread in self._threads:
            thread.join()
        return self.results
