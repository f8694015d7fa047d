"""The cold stores that the contract is held against: real servers, started once, each with a bucket of its own."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.conftest import require
from tests.fakes import FaultyStore, HeldStore, MemoryStore
from tests.servers import Quirk, S3Server, ServerMissing, moto, radosgw, rclone
from tierfs.stores.breaker import BreakerRules, BreakerStore
from tierfs.stores.cold import ColdStore
from tierfs.stores.directory import DirectoryStore
from tierfs.stores.s3 import S3Store
from tierfs.stores.s3_answers import MIB, TransferSizes
from tierfs.stores.s3_wire import S3Settings

BUCKET = "tierfs-contract"

#: The smallest that S3 takes, so that a few MiB have many boundaries.
SIZES = TransferSizes(part=5 * MIB, copy=6 * MIB, page=3, deleted=3)


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of the port: `open` gives another store on the same objects, `missing` one on nothing."""

    name: str
    open: Callable[[], ColdStore]
    missing: Callable[[], ColdStore] | None
    quirks: frozenset[Quirk] = frozenset()
    server: S3Server | None = None
    settings: S3Settings | None = None
    directory: Path | None = None


_SERVERS: dict[str, Callable[[], AbstractContextManager[S3Server]]] = {
    "moto": moto,
    "rclone": rclone,
    "radosgw": radosgw,
}


@pytest.fixture(scope="session", params=["memory", "wrapped", "directory", "moto", "rclone", "radosgw"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Each implementation in turn."""
    name = str(request.param)
    if name == "memory":
        memory = MemoryStore()
        yield Backend(name, lambda: memory, None)
    elif name == "wrapped":
        wrapped = BreakerStore(HeldStore(FaultyStore(MemoryStore(block_size=61_441))), BreakerRules())
        yield Backend(name, lambda: wrapped, None)
    elif name == "directory":
        path = tmp_path_factory.mktemp("cold")
        missing = str(path / "missing")
        quirks = frozenset({Quirk.FILES_AS_KEYS})
        yield Backend(
            name, lambda: DirectoryStore(str(path)), lambda: DirectoryStore(missing), quirks=quirks, directory=path
        )
    else:
        with s3_backend(name) as found:
            yield found


@contextmanager
def s3_backend(name: str) -> Iterator[Backend]:
    """A server with an empty bucket."""
    try:
        started = _SERVERS[name]()
        server = started.__enter__()
    except ServerMissing as error:
        require(False, str(error))
        raise
    try:
        server.create_bucket(BUCKET)
        settings = S3Settings(
            BUCKET, endpoint_url=server.endpoint_url, timeout_s=60.0, max_retries=1, pool_size=8, sizes=SIZES
        )
        nowhere = replace(settings, bucket="tierfs-no-such-bucket")
        yield Backend(
            name, lambda: S3Store(settings), lambda: S3Store(nowhere), server.quirks, server=server, settings=settings
        )
    finally:
        started.__exit__(None, None, None)


@pytest.fixture(scope="session")
def store(backend: Backend) -> Iterator[ColdStore]:
    """A store of this backend that was never probed: it must be right from the first request on."""
    opened = backend.open()
    yield opened
    opened.close()


_numbers = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    """Where this test has its keys."""
    return f"test-{next(_numbers)}/"
