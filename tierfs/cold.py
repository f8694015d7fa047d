"""The cold process: everything that talks to the store, and the chunk cache. Its store and cache are wired here.

Started by the worker (engine.coldprocess) with its end of a socket pair and the memory for chunks; it goes when the
worker does. Keeps nothing that a kill -9 could take.
"""

import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tierfs.core.config import Settings
from tierfs.core.errors import StoreError, TierfsError
from tierfs.core.records import Fd
from tierfs.engine.arena import map_shared
from tierfs.engine.coldside import OF_THE_CACHE, ColdSide, Job
from tierfs.engine.frames import Unpacker, pack
from tierfs.stores.address import StoreAddress, parse_store
from tierfs.stores.breaker import BreakerRules, BreakerStore
from tierfs.stores.cache import ChunkCache
from tierfs.stores.cold import ColdStore
from tierfs.stores.directory import DirectoryStore
from tierfs.stores.late import LateStore

_CACHE_THREADS = 4  # each holds a connection to the cache's database
_THREADS = 256  # started as they are needed; the worker's own limits are lower
_GETS_IN_TIME = 3  # a GET that hangs must leave time for another one before the reader gives up
_RECEIVED_AT_ONCE = 1 << 16
_DESCRIPTORS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the cold process needs to know of the mount. `is_known`: files of the tree have objects in the store."""

    source: str
    state: str
    settings: Settings
    is_known: bool


def open_store(address: StoreAddress, settings: Settings) -> ColdStore:
    """The cold store at an address. StoreError."""
    if address.kind == "file":
        return DirectoryStore(address.bucket_or_dir)
    # boto3 costs a third of a second to import: only those who need it pay.
    from tierfs.stores.s3 import S3Settings, S3Store

    return S3Store(
        S3Settings(
            bucket=address.bucket_or_dir,
            region=settings.region,
            endpoint_url=settings.endpoint_url,
            path_style=settings.path_style,
            pool_size=settings.pool_size,
            timeout_s=settings.timeout.seconds,
            read_timeout_s=settings.cold_timeout / _GETS_IN_TIME / 1e9,
            max_retries=settings.max_retries,
            checksum=settings.checksum,
            storage_class=settings.storage_class,
            prefix=address.prefix,
            read_only=settings.read_only,
        )
    )


def breaker_rules(settings: Settings) -> BreakerRules:
    """When the store is spared. Reads that wait for it meet several tries before their deadline."""
    longest_pause_ns = min(settings.breaker_pause, settings.cold_timeout // 4)
    return BreakerRules(settings.breaker_failures, longest_pause_ns)


def open_side(configuration: Configuration, memory: memoryview) -> ColdSide:
    """Store and cache of a mount. A directory that should hold objects, and is not there or does not, may come later.

    ConfigError, StoreError.
    """
    address = parse_store(configuration.source)

    def reopen() -> ColdStore:
        store = DirectoryStore(address.bucket_or_dir)
        try:
            store.expect_objects()
        except StoreError:
            store.close()
            raise
        return store

    is_late = address.kind == "file" and configuration.is_known
    store = LateStore(reopen) if is_late else open_store(address, configuration.settings)
    spared = BreakerStore(store, breaker_rules(configuration.settings))
    cache = ChunkCache(Path(configuration.state, "cache"), configuration.settings.cache_size)
    return ColdSide(spared, cache, memory, spared.health)


class Line:
    """The socket to the worker. Any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._unpacker = Unpacker()
        self._messages: deque[tuple[Any, ...]] = deque()
        self._descriptors: deque[Fd] = deque()

    def send(self, *message: object) -> None:
        """Say something to the worker; nobody hears it when that is gone."""
        try:
            data = pack(message)
        except (pickle.PicklingError, TypeError, AttributeError):
            data = pack(("raised", message[1], RuntimeError(repr(message[2]))))
        with self._lock:
            try:
                self._connection.sendall(data)
            except OSError:
                os._exit(1)

    def receive(self) -> tuple[Any, ...] | None:
        """The next message; None when the worker is gone."""
        while not self._messages:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._connection, _RECEIVED_AT_ONCE, _DESCRIPTORS_AT_ONCE)
            except ConnectionResetError:  # it went without having read what it was told
                return None
            if not data:
                return None
            self._descriptors.extend(map(Fd, descriptors))
            self._messages.extend(self._unpacker.feed(data))
        return self._messages.popleft()

    def descriptor(self) -> Fd:
        """The descriptor that came with the message that was received last; the caller closes it."""
        return self._descriptors.popleft()


class ToWorker(logging.Handler):
    """Log records go to the worker, which knows where they belong."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        self._line.send("log", record.levelno, record.name, self.format(record))


class Server:
    """Runs what the worker asks for, each call in a thread."""

    def __init__(self, line: Line, side: ColdSide) -> None:
        self._line = line
        self._side = side
        self._of_the_cache = ThreadPoolExecutor(_CACHE_THREADS, thread_name_prefix="tierfs-cache")
        self._others = ThreadPoolExecutor(_THREADS, thread_name_prefix="tierfs-cold")
        self._jobs: dict[int, Job] = {}

    def serve(self) -> None:
        """Until the worker is gone."""
        while message := self._line.receive():
            match message:
                case ("call", number, name, arguments, has_descriptor):
                    job = self._jobs[number] = Job(partial(self._line.send, "event", number))
                    fd = self._line.descriptor() if has_descriptor else None
                    pool = self._of_the_cache if name in OF_THE_CACHE else self._others
                    pool.submit(self._run, number, job, name, arguments, fd)
                case ("end", number):
                    if number in self._jobs:
                        self._jobs[number].stop.set()

    def _run(self, number: int, job: Job, name: str, arguments: tuple[Any, ...], fd: Fd | None) -> None:
        try:
            given = arguments if fd is None else (fd, *arguments)
            self._line.send("returned", number, getattr(self._side, name)(job, *given))
        except Exception as error:
            if not isinstance(error, TierfsError | OSError):
                logging.getLogger("tierfs").exception("a call of the cold process (%s) met a defect of tierfs", name)
            self._line.send("raised", number, error)
        finally:
            del self._jobs[number]
            if fd is not None:
                os.close(fd)


def main() -> None:
    """Serve one worker, and end when it does."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of the mount: the worker decides
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    line = Line(socket.socket(fileno=int(sys.argv[1])))
    message = line.receive()
    if message is None:
        return
    configuration: Configuration = message[1]
    logging.basicConfig(level=logging.WARNING, handlers=[ToWorker(line)])
    logging.getLogger("tierfs").setLevel(configuration.settings.log_level.upper())
    try:
        side = open_side(configuration, map_shared(int(sys.argv[2])))
    except TierfsError as error:
        line.send("refused", error)
        return
    line.send("ready")
    Server(line, side).serve()
    side.close()
    os._exit(0)  # threads may still wait for a store that does not answer


if __name__ == "__main__":
    main()
