"""The engine and the filesystem, wired as in the worker, over real directories and a store in memory; no FUSE.

A World is what survives a crash: the hot directory, the state directory, the bucket. A Machine is what runs over it:

    world = World(tmp_path)
    async with world.running() as machine:
        machine.write(b"file", b"text")
        await machine.archive(b"file")

Every effect on the outside is counted by the world's Life, which can end before any of them: from then on nothing has
an effect any more, as after kill -9. What comes next is another Machine over the same World, which recovers first.
"""

import errno
import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.fakes import PATIENCE_S, FaultyStore, HeldStore, MemoryStore
from tierfs.core.config import Settings
from tierfs.core.records import Fd, Handle, Ino
from tierfs.core.reports import CheckOrder, Finding
from tierfs.core.residency import Residency
from tierfs.engine.archive import Archiver
from tierfs.engine.arena import Arena
from tierfs.engine.calls import InThreads
from tierfs.engine.check import Checker, findings_of
from tierfs.engine.coldside import ColdSide
from tierfs.engine.coldtier import ColdTier
from tierfs.engine.daemon import Daemon
from tierfs.engine.entries import Entries
from tierfs.engine.hydrate import HydrateSettings, Hydrator
from tierfs.engine.numbers import ROOT
from tierfs.engine.recover import recover
from tierfs.engine.restore import Restorer
from tierfs.engine.scan import Scanner
from tierfs.engine.segments import to_bring_along
from tierfs.engine.snapshotter import Snapshotter
from tierfs.engine.sweep import Sweeper
from tierfs.engine.tier import Tier
from tierfs.engine.tree import Found, Tree
from tierfs.mount.changes import Changes
from tierfs.mount.filesystem import Filesystem
from tierfs.mount.session import Session
from tierfs.stores.cache import ChunkCache
from tierfs.stores.catalog import Catalog
from tierfs.stores.cold import ColdStore, Deleted, ObjectInfo, Progress, Source, delete_each
from tierfs.stores.hot import HotTier

CHUNK = 4
PREFIX = "p/"
_PLAIN = CheckOrder()
STORE = "s3://bucket/p"

SETTINGS = Settings.of(
    chunk_size=CHUNK, read_ahead=64, min_size=1, cache_size="64MiB", warm_after="1h", cold_after="2h", settle="0s"
)


class Died(BaseException):
    """The process is dead: nothing that it does has an effect any more."""


class Life:
    """Counts effects; ends before the one that `left` says, and then for good."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.is_over = False
        self.effects: list[str] = []

    def effect(self, name: str) -> None:
        """Called before anything changes outside of this process."""
        if self.left == 0:
            self.is_over = True
        if self.is_over:
            raise Died(name)
        if self.left is not None:
            self.left -= 1
            self.effects.append(name)


def _mortal(methods: str, base: type) -> dict[str, Any]:
    def make(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.life.effect(f"{base.__name__}.{name}")
            return getattr(base, name)(self, *args, **kwargs)

        return method

    return {name: make(name) for name in methods.split()}


class MortalCatalog(Catalog):
    """The catalog, for as long as the process lives; keeps a copy of what a power cut would leave of it."""

    def __init__(self, path: Path, store: str, life: Life) -> None:
        self.life = life
        self._copying = threading.Lock()
        super().__init__(path, store)

    def sync(self) -> None:
        self.life.effect("Catalog.sync")
        super().sync()
        self.keep_durable()

    def keep_durable(self) -> None:
        """What is committed now is what a power cut leaves."""
        fresh = self.path.with_suffix(".fresh")
        with self._copying:
            with closing(sqlite3.connect(fresh)) as copy:
                self._db.backup(copy)
            fresh.replace(self.path.with_suffix(".durable"))


for _name, _method in _mortal(
    "put put_and_bury remove drop intend withdraw follow move_cold spare bury exhume change_pins state_fact", Catalog
).items():
    setattr(MortalCatalog, _name, _method)


class MortalHot(HotTier):
    """The hot directory, for as long as the process lives."""

    def __init__(self, root: Fd, life: Life) -> None:
        super().__init__(root)
        self.life = life

    def for_thread(self) -> "MortalHot":
        return MortalHot(self.root, self.life)


for _name, _method in _mortal(
    "mkdir rmdir unlink rename link symlink mknod link_temporary sync_directory touch_directory"
    " chmod chown utime setxattr removexattr truncate",
    HotTier,
).items():
    setattr(MortalHot, _name, _method)


class MortalStore:
    """A store that is not reached any more when the process is dead."""

    def __init__(self, inner: ColdStore, life: Life) -> None:
        self.inner = inner
        self.life = life
        self.counters = inner.counters

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        self.life.effect("Store.put")
        return self.inner.put(key, source, metadata, progress)

    def get(self, key: str, start: int, stop: int, etag: str, version_id: str | None = None) -> Iterator[bytes]:
        return self.inner.get(key, start, stop, etag, version_id)

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        self.life.effect("Store.copy")
        return self.inner.copy(source, key)

    def delete(self, key: str) -> None:
        self.life.effect("Store.delete")
        self.inner.delete(key)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        return delete_each(self.delete, keys)

    def tidy(self) -> None:
        self.inner.tidy()

    def probe(self) -> tuple[str, ...]:
        return self.inner.probe()

    def close(self) -> None:
        """The bucket outlives the process."""


class World:
    """What survives: the hot directory, the state directory, the bucket, and the time."""

    def __init__(self, home: Path, settings: Settings = SETTINGS) -> None:
        self.home = home
        self.hot = home / "hot"
        self.state = home / "state"
        self.settings = settings
        self.memory = MemoryStore(block_size=4)
        self.held = HeldStore(self.memory)
        self.store = FaultyStore(self.held)
        self.offset_ns = 0
        self.hot.mkdir(parents=True)
        self.state.mkdir()

    def now(self) -> int:
        """The time that the policy is told."""
        return time.time_ns() + self.offset_ns

    @property
    def catalog_path(self) -> Path:
        """Where the catalog is."""
        return self.state / "catalog.sqlite"

    def cut_power(self) -> None:
        """Take back what the catalog did not sync; call it while no Machine runs."""
        for leftover in self.state.glob("catalog.sqlite*"):
            leftover.unlink()
        shutil.copy(self.state / "catalog.durable", self.catalog_path)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Machine"]:
        """A process over this world, from its recovery to its orderly end, or until it dies in the block."""
        machine = Machine(self)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(machine.hydrator.run)
                await nursery.start(machine.restorer.run)
                yield machine
                nursery.cancel_scope.cancel()
        finally:
            machine.drop()


@dataclass(slots=True)
class Caller:
    """Who calls: this process's own user."""

    uid: int
    gid: int
    pid: int = 0


CALLER = Caller(os.getuid(), os.getgid())


class Open:
    """An open file of an application. The kernel holds its node, and those above it, until it is closed."""

    def __init__(self, machine: "Machine", ino: Ino, handle: Handle, flags: int, held: ExitStack) -> None:
        self.machine = machine
        self.ino = ino
        self.handle = handle
        self.flags = flags
        self._held = held

    async def read(self, offset: int, size: int) -> bytes:
        """pread(2)."""
        return b"".join(await self.machine.filesystem.files.read(self.handle, offset, size))

    async def write(self, offset: int, data: bytes) -> None:
        """pwrite(2); with O_APPEND the kernel gives the offset."""
        if self.flags & os.O_APPEND:
            offset = self.machine.filesystem.getattr(self.ino).st.st_size
        assert await self.machine.filesystem.files.write(self.handle, offset, data) == len(data)

    async def truncate(self, size: int) -> None:
        """ftruncate(2)."""
        await self.machine.filesystem.setattr(self.ino, Changes(size=size), self.handle, CALLER)

    def size(self) -> int:
        """fstat(2)."""
        return self.machine.filesystem.getattr(self.ino).st.st_size

    def close(self) -> None:
        """close(2) of the last descriptor."""
        self.machine.filesystem.files.release(self.handle)
        self._held.close()


class Machine:
    """The parts of a worker, and what applications and operators do with them, by path."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.life = Life()
        settings = world.settings
        self._root = Fd(os.open(world.hot, os.O_RDONLY | os.O_DIRECTORY))
        self.catalog = MortalCatalog(world.catalog_path, STORE, self.life)
        self.hot = MortalHot(self._root, self.life)
        self.store = MortalStore(world.store, self.life)
        self.cache = ChunkCache(world.state / "cache", settings.cache_size)
        self.tier = Tier(self.hot, self.catalog, settings, PREFIX, world.now)
        reading = HydrateSettings(CHUNK, settings.read_ahead, deadline_ns=int(PATIENCE_S) * 10**9, memory_bytes=1024)
        arena = Arena(reading.memory_bytes)
        self.cold = ColdTier(InThreads(ColdSide(self.store, self.cache, arena.view)))
        self.hydrator = Hydrator(self.cold, arena, reading)
        self.restorer = Restorer(self.tier, self.hydrator, lambda _ino: None)
        self.session = Session.fresh()
        self.filesystem = Filesystem(Tree(self.tier), self.hydrator, self.restorer, self.session)
        self.sweeper = Sweeper(self.tier, self.cold)
        self.archiver = Archiver(self.tier, self.cold, self.sweeper, CHUNK, concurrency=4)
        self.daemon = Daemon(self.tier, self.archiver, self.sweeper, settings)
        self.filesystem.labels.entries = Entries(self.filesystem.tree, self.hydrator, self.daemon)
        self.snapshotter = Snapshotter(self.tier, self.cold)
        self.restorer.along = partial(to_bring_along, self.tier)
        self.scanner = Scanner(self.tier, self.cold, lambda _path: None)
        self.tree = self.filesystem.tree
        recover(self.tier)
        self.catalog.keep_durable()

    def drop(self) -> None:
        """Free what the end of a process frees; nothing is written."""
        self.life.is_over = True
        for file in self.filesystem.files.handles:
            if file.fd is not None:
                os.close(file.fd)
        self.filesystem.control.close()
        self.filesystem.nodes.close()
        self.session.close()
        os.close(self.session.fd)
        self.cache.close()
        self.catalog.close()
        self.hot.close()
        os.close(self._root)

    # -- what applications do ------------------------------------------------------------------------------------

    @contextmanager
    def node(self, path: bytes) -> Iterator[Ino]:
        """The node of a path, looked up name by name as the kernel does; given back afterwards."""
        held = [ROOT]
        try:
            for name in filter(None, path.split(b"/")):
                held.append(self.filesystem.lookup(held[-1], name).ino)
            yield held[-1]
        finally:
            for ino in held[1:] if not self.life.is_over else ():  # a generator that outlived the process
                self.filesystem.forget(ino, 1)

    @contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[Ino, bytes]]:
        """The directory and the name of a path."""
        directory, _, name = path.rpartition(b"/")
        with self.node(directory) as ino:
            yield ino, name

    async def open(self, path: bytes, flags: int, mode: int = 0o644) -> Open:
        """open(2)."""
        fs = self.filesystem
        with ExitStack() as held:
            directory, name = held.enter_context(self.parent(path))
            try:
                found, handle = fs.lookup(directory, name), None
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
                found, handle = fs.create(directory, name, mode, flags, CALLER)
            held.callback(fs.forget, found.ino, 1)
            if handle is None and flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if stat.S_ISDIR(found.st.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if handle is None:
                handle = await fs.open(found.ino, flags & ~os.O_CREAT, CALLER)
            return Open(self, found.ino, handle, flags, held.pop_all())

    def stat(self, path: bytes) -> Found:
        """stat(2)."""
        with self.node(path) as ino:
            return self.filesystem.getattr(ino)

    async def write(self, path: bytes, data: bytes) -> None:
        """Make or overwrite a file, as a shell's > does."""
        file = await self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            await file.write(0, data)
        finally:
            file.close()

    async def read(self, path: bytes) -> bytes:
        """The whole content of a file."""
        file = await self.open(path, os.O_RDONLY)
        try:
            return await file.read(0, 1 << 20)
        finally:
            file.close()

    async def truncate(self, path: bytes, size: int) -> None:
        """truncate(2)."""
        with self.node(path) as ino:
            await self.filesystem.setattr(ino, Changes(size=size), None, CALLER)

    async def change(self, path: bytes, **changes: int) -> None:
        """chmod(2), chown(2), utimensat(2)."""
        with self.node(path) as ino:
            await self.filesystem.setattr(ino, Changes(**changes), None, CALLER)

    async def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        """setxattr(2)."""
        with self.node(path) as ino:
            await self.filesystem.xattrs.set(ino, name, value)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """All extended attributes."""
        with self.node(path) as ino:
            return {name: self.filesystem.xattrs.get(ino, name) for name in self.filesystem.xattrs.list(ino)}

    async def removexattr(self, path: bytes, name: bytes) -> None:
        """removexattr(2)."""
        with self.node(path) as ino:
            await self.filesystem.xattrs.remove(ino, name)

    def readlink(self, path: bytes) -> bytes:
        """readlink(2)."""
        with self.node(path) as ino:
            return self.filesystem.readlink(ino)

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        """mkdir(2)."""
        with self.parent(path) as (directory, name):
            found = self.filesystem.mkdir(directory, name, mode, CALLER)
            self.filesystem.forget(found.ino, 1)

    def rmdir(self, path: bytes) -> None:
        """rmdir(2)."""
        with self.node(path), self.parent(path) as (directory, name):
            self.filesystem.rmdir(directory, name)

    def unlink(self, path: bytes) -> None:
        """unlink(2)."""
        with self.node(path), self.parent(path) as (directory, name):
            self.filesystem.unlink(directory, name)

    def symlink(self, destination: bytes, path: bytes) -> None:
        """symlink(2)."""
        with self.parent(path) as (directory, name):
            found = self.filesystem.symlink(directory, name, destination, CALLER)
            self.filesystem.forget(found.ino, 1)

    async def link(self, source: bytes, target: bytes) -> None:
        """link(2)."""
        with self.node(source) as ino, self.parent(target) as (directory, name):
            found = await self.filesystem.link(ino, directory, name)
            self.filesystem.forget(found.ino, 1)

    async def rename(self, source: bytes, target: bytes, flags: int = 0) -> None:
        """renameat2(2)."""
        with self.node(source), self.parent(source) as here, self.parent(target) as there:
            try:
                held: Ino | None = self.filesystem.lookup(*there).ino
            except FileNotFoundError:
                held = None
            try:
                await self.filesystem.rename(*here, *there, flags)
            finally:
                if held is not None:
                    self.filesystem.forget(held, 1)

    def list(self, path: bytes) -> list[bytes]:
        """The names in a directory."""
        with self.node(path) as ino:
            handle = self.filesystem.listings.open(ino)
            entries = [entry.name for entry in self.filesystem.listings.read(handle, 0)]
            self.filesystem.listings.close(handle)
        assert len(set(entries)) == len(entries), entries
        return sorted(set(entries) - {b".", b".."})

    def walk(self, path: bytes = b"") -> Iterator[bytes]:
        """Every path below a directory."""
        for name in self.list(path):
            inside = path + b"/" + name if path else name
            yield inside
            if stat.S_ISDIR(self.stat(inside).st.st_mode):
                yield from self.walk(inside)

    async def contents(self) -> dict[bytes, bytes]:
        """Every regular file and its content."""
        files = [path for path in self.walk() if stat.S_ISREG(self.stat(path).st.st_mode)]
        return {path: await self.read(path) for path in files}

    # -- what operators do ---------------------------------------------------------------------------------------

    async def archive(self, *paths: bytes) -> None:
        """HOT to MIRRORED."""
        for path in paths:
            await self.archiver.archive(path)

    async def release(self, *paths: bytes) -> None:
        """To COLD, whatever it was."""
        for path in paths:
            if self.residency(path) is Residency.HOT:
                await self.archiver.archive(path)
            if self.tier.cold_record(path) is None:
                await self.archiver.release(path)

    async def restore(self, path: bytes) -> None:
        """COLD to MIRRORED."""
        await self.restorer.restore(path)

    async def sweep(self) -> None:
        """Deletions and renames go to the bucket."""
        await self.sweeper.sweep()

    async def check(self, order: CheckOrder = _PLAIN) -> Sequence[Finding]:
        """What `tierfs check` finds while nothing is mounted."""
        return await findings_of(Checker(self.tier, self.cold, False, lambda _path: None).run(order))

    def residency(self, path: bytes) -> Residency:
        """Where the bytes of a file are believed to be."""
        record = self.tier.cold_record(path)
        return record.residency if record else self.tier.look(path, self.hot.lstat(path)).residency


async def until_waiting(world: World, count: int = 1) -> None:
    """Wait until so many calls to the store are held, and everything else has come to rest."""
    await trio.to_thread.run_sync(world.held.wait_until_waiting, count)


@asynccontextmanager
async def meanwhile(
    world: World, operation: str, work: Callable[..., Awaitable[Any]], *args: Any
) -> AsyncIterator["Background"]:
    """Run `work` until it waits in this operation of the store; it goes on, and must end, after the block."""
    background = Background()
    world.held.hold(operation)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background.run, work, *args)
            await until_waiting(world)
            yield background
            world.held.release(operation)
            with trio.fail_after(PATIENCE_S):
                await background.done.wait()
    finally:
        world.held.release(operation)


class Background:
    """What became of work in the background."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None
        self.result: Any = None

    async def run(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run the work and keep its outcome."""
        try:
            self.result = await work(*args)
        except Exception as error:
            self.error = error
        finally:
            self.done.set()
