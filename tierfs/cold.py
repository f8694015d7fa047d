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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierfs.core.config import Settings
from tierfs.core.errors import NoLease, StoreError, TierfsError
from tierfs.core.lease import Fence, Owner, unfenced
from tierfs.core.records import Fd
from tierfs.engine.arena import map_shared
from tierfs.engine.coldside import OF_THE_CACHE, ColdSide, Job
from tierfs.engine.frames import Unpacker, pack
from tierfs.stores.address import StoreAddress, parse_store
from tierfs.stores.breaker import BreakerRules, BreakerStore
from tierfs.stores.cache import ChunkCache
from tierfs.stores.cold import ColdStore
from tierfs.stores.directory import DirectoryStore
from tierfs.stores.directory_lease import DirectoryLeasePlace
from tierfs.stores.fenced import FencedStore
from tierfs.stores.late import LateStore
from tierfs.stores.lease import LeaseKeeper, LeasePlace, Terms
from tierfs.stores.slow import SlowStore, saying_slow

if TYPE_CHECKING:
    from tierfs.stores.s3 import S3Store
    from tierfs.stores.s3_wire import S3Settings

_CACHE_THREADS = 4  # each holds a connection to the cache's database
_THREADS = 256  # started as they are needed; the worker's own limits are lower
_GETS_IN_TIME = 3  # a GET that hangs must leave time for another one before the reader gives up
_RENEWALS_IN_TIME = 4  # a request about the lease that hangs must leave time for another one
_RECEIVED_AT_ONCE = 1 << 16
_DESCRIPTORS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the cold process needs to know of the mount. `is_known`: files of the tree have objects in the store.

    `owner` is who asks for the lease of the prefix; without one nobody asks, and who calls sees to it that no other
    process writes.
    """

    source: str
    state: str
    settings: Settings
    is_known: bool
    owner: Owner | None = None


class Fencing:
    """The Fence of a mount: open, shut for one that only reads, else the keeper's, which is there after the store."""

    def __init__(self, is_shut: bool) -> None:
        self._check: Fence = _refuse if is_shut else unfenced

    def follow(self, keeper: LeaseKeeper) -> None:
        """From now on the keeper decides."""
        self._check = keeper.check

    def check(self) -> None:
        """A Fence."""
        self._check()


def _refuse() -> None:
    raise NoLease("nothing is written by a mount that is read-only")


def open_store(address: StoreAddress, settings: Settings, fence: Fence = unfenced) -> ColdStore:
    """The cold store at an address; `fence` is asked before each request that writes. StoreError."""
    return (
        DirectoryStore(address.bucket_or_dir, fence) if address.kind == "file" else _open_s3(address, settings, fence)
    )


def _open_s3(address: StoreAddress, settings: Settings, fence: Fence, state: str | None = None) -> "S3Store":
    # boto3 costs a third of a second to import: only those who need it pay.
    from tierfs.stores.s3 import S3Store

    return S3Store(s3_settings(address, settings, state), fence)


def s3_settings(address: StoreAddress, settings: Settings, state: str | None = None) -> "S3Settings":
    """How to reach a bucket. `state` is the state directory, where there is one."""
    from tierfs.stores.s3_wire import S3Settings

    return S3Settings(
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
        pending=None if state is None else Path(state, "uploads"),
    )


def breaker_rules(settings: Settings) -> BreakerRules:
    """When the store is spared. Reads that wait for it meet several tries before their deadline."""
    longest_pause_ns = min(settings.breaker_pause, settings.cold_timeout // 4)
    return BreakerRules(settings.breaker_failures, longest_pause_ns)


def open_side(configuration: Configuration, memory: memoryview) -> ColdSide:
    """Store and cache of a mount. A directory that should hold objects, and is not there or does not, may come later.

    ConfigError, StoreError.
    """
    address, settings = parse_store(configuration.source), configuration.settings
    fencing = Fencing(settings.read_only)
    store, open_place = _open_with_place(address, configuration, fencing.check)
    spared = BreakerStore(SlowStore(store, settings.slow_operation), breaker_rules(settings))
    cache = ChunkCache(Path(configuration.state, "cache"), settings.cache_size)
    if configuration.owner is None or settings.read_only:
        return ColdSide(FencedStore(spared, fencing.check, _ignore), cache, memory, spared.health)
    keeper = LeaseKeeper(open_place(), Terms(configuration.owner, settings.lease, Path(configuration.state)))
    fencing.follow(keeper)
    return ColdSide(FencedStore(spared, fencing.check, keeper.end), cache, memory, spared.health, keeper)


def _open_with_place(
    address: StoreAddress, configuration: Configuration, fence: Fence
) -> tuple[ColdStore, Callable[[], LeasePlace]]:
    """The store, and what opens the place of its lease. StoreError."""
    settings = configuration.settings
    if address.kind == "s3":
        bucket = _open_s3(address, settings, fence, configuration.state)
        return bucket, partial(bucket.lease_place, settings.lease / _RENEWALS_IN_TIME / 1e9)

    def reopen() -> ColdStore:
        store = DirectoryStore(address.bucket_or_dir, fence)
        try:
            store.expect_objects()
        except StoreError:
            store.close()
            raise
        return store

    store = LateStore(reopen) if configuration.is_known else open_store(address, settings, fence)
    return store, partial(DirectoryLeasePlace, address.bucket_or_dir, configuration.is_known)


def _ignore(_is_idle: bool) -> None:
    """There is no lease to give back."""


class Line:
    """The socket to the worker. Any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._unpacker = Unpacker()
        self._messages: deque[tuple[Any, ...]] = deque()
        self._descriptors: deque[Fd] = deque()

    def send(self, *message: object) -> None:
        """Say something to the worker. When that is gone nobody hears it, and receive() tells who has to know."""
        try:
            data = pack(message)
        except (pickle.PicklingError, TypeError, AttributeError):
            data = pack(("raised", message[1], RuntimeError(repr(message[2]))))
        with self._lock, suppress(OSError):
            self._connection.sendall(data)

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
        self.setFormatter(logging.Formatter("%(message)s"))  # the worker says when, how bad and from where

    def emit(self, record: logging.LogRecord) -> None:
        extra = {"event": getattr(record, "event", None), "alike": str(record.msg)}
        self._line.send("log", record.levelno, record.name, self.format(record), extra)


class Server:
    """Runs what the worker asks for, each call in a thread."""

    def __init__(self, line: Line, side: ColdSide, cache_slow_ns: int = 0) -> None:
        self._line = line
        self._side = side
        self._cache_slow_ns = cache_slow_ns
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
                case ("keep_lease", is_kept):
                    self._side.keep_lease(is_kept)

    def _run(self, number: int, job: Job, name: str, arguments: tuple[Any, ...], fd: Fd | None) -> None:
        # Whoever hears the answer may count on the file to be closed here: a file that is open is not released.
        answer = self._answer(number, job, name, arguments if fd is None else (fd, *arguments))
        if fd is not None:
            os.close(fd)
        del self._jobs[number]
        self._line.send(*answer)

    def _answer(self, number: int, job: Job, name: str, arguments: tuple[Any, ...]) -> tuple[object, ...]:
        try:
            with saying_slow(name, self._cache_slow_ns if name in OF_THE_CACHE else 0):
                return "returned", number, getattr(self._side, name)(job, *arguments)
        except Exception as error:
            if not isinstance(error, TierfsError | OSError):
                logging.getLogger("tierfs").exception("a call of the cold process (%s) met a defect of tierfs", name)
            return "raised", number, error


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
    level = configuration.settings.log_level.upper()
    logging.basicConfig(level=logging.WARNING, handlers=[ToWorker(line)])
    # What is an event is told whatever is logged: the worker's log has a level of its own.
    logging.getLogger("tierfs").setLevel(min(logging.INFO, logging.getLevelNamesMapping()[level]))
    try:
        side = open_side(configuration, map_shared(int(sys.argv[2])))
    except TierfsError as error:
        line.send("refused", error)
        return
    line.send("ready")
    Server(line, side, configuration.settings.slow_operation).serve()
    side.close()
    os._exit(0)  # threads may still wait for a store that does not answer


if __name__ == "__main__":
    main()
