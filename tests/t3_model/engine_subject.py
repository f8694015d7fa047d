"""The filesystem object over a real directory as a Subject: trio runs in a thread of its own, crashes are real ends."""

import contextlib
import stat
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import trio

from tests.assembly import SETTINGS, Background, Died, Machine, Open, World
from tests.fakes import PATIENCE_S
from tests.invariants import check_invariants, check_inventory
from tests.model import Seen
from tests.t3_model.transparency import SEGMENTS
from tierfs.core.errors import AccessDenied, TierfsError

T = TypeVar("T")


async def seen_of(machine: Machine) -> dict[bytes, Seen]:
    """What can be seen of the whole tree."""
    return {path: await _seen(machine, path) for path in list(machine.walk())}


async def _seen(machine: Machine, path: bytes) -> Seen:
    st = machine.stat(path).st
    if stat.S_ISLNK(st.st_mode):
        return Seen("symlink", target=machine.readlink(path))
    if stat.S_ISDIR(st.st_mode):
        return Seen("directory", stat.S_IMODE(st.st_mode))
    data, xattrs = await machine.read(path), machine.xattrs(path)
    assert len(data) == st.st_size
    return Seen("file", stat.S_IMODE(st.st_mode), data, b"", st.st_nlink, st.st_mtime_ns, tuple(sorted(xattrs.items())))


class _Loop:
    """One life of the process: a trio loop in a thread, with a Machine in it."""

    def __init__(self, world: World) -> None:
        self._ready = threading.Event()
        self._stop = trio.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(world,), name="engine")
        self._thread.start()
        self._ready.wait()
        if self._error:
            raise self._error

    def _run(self, world: World) -> None:
        try:
            trio.run(self._serve, world)
        except* Died:
            pass
        except* BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self, world: World) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with world.running() as self.machine, trio.open_nursery() as self._nursery:
            self._ready.set()
            await self._stop.wait()
            self._nursery.cancel_scope.cancel()

    def spawn(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Background:
        """Run something in the loop beside what comes next."""
        background = Background()
        trio.from_thread.run_sync(self._nursery.start_soon, background.run, work, *arguments, trio_token=self._token)
        return background

    def call(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run something in the loop. Errors of tierfs become what an application gets; Died when the loop is over."""
        try:
            return trio.from_thread.run(work, *arguments, trio_token=self._token)
        except TierfsError as error:
            raise OSError(error.errno, str(error)) from error
        except (trio.RunFinishedError, trio.Cancelled):
            raise Died from None
        except BaseExceptionGroup as group:
            if group.split((Died, trio.Cancelled))[1] is None:
                raise Died from None
            raise

    def end(self) -> None:
        """End the loop; errors that nobody was told are raised."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._stop.set)
        self._thread.join()
        if self._error:
            raise self._error


class EngineSubject:
    """A World, and the Machine that is alive in it."""

    has_kernel = False
    can_die = True

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="tierfs-model-", ignore_cleanup_errors=True)
        self.world = World(Path(self._home.name) / "world", SETTINGS.model_copy(update={"segments": SEGMENTS}))
        self._loop = _Loop(self.world)
        self._background: Background | None = None

    @property
    def machine(self) -> Machine:
        """What is alive."""
        return self._loop.machine

    def finish(self) -> None:
        self._end_process()
        self._home.cleanup()

    def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run a method of the machine."""

        async def run() -> Any:
            with trio.fail_after(PATIENCE_S):
                result = work(*arguments)
                return await result if isinstance(result, Awaitable) else result

        return self._loop.call(run)

    # -- applications --------------------------------------------------------------------------------------------

    def open(self, path: bytes, flags: int, mode: int) -> Open:
        return self.call(self.machine.open, path, flags, mode)

    def close(self, handle: Open) -> None:
        self.call(handle.close)

    def pread(self, handle: Open, offset: int, size: int) -> bytes:
        return self.call(handle.read, offset, size)

    def pwrite(self, handle: Open, offset: int, data: bytes) -> None:
        self.call(handle.write, offset, data)

    def ftruncate(self, handle: Open, size: int) -> None:
        self.call(handle.truncate, size)

    def size(self, handle: Open) -> int:
        return self.call(handle.size)

    def mkdir(self, path: bytes, mode: int) -> None:
        self.call(self.machine.mkdir, path, mode)

    def symlink(self, target: bytes, path: bytes) -> None:
        self.call(self.machine.symlink, target, path)

    def link(self, source: bytes, path: bytes) -> None:
        self.call(self.machine.link, source, path)

    def unlink(self, path: bytes) -> None:
        self.call(self.machine.unlink, path)

    def rmdir(self, path: bytes) -> None:
        self.call(self.machine.rmdir, path)

    def rename(self, source: bytes, target: bytes, flags: int) -> None:
        self.call(self.machine.rename, source, target, flags)

    def truncate(self, path: bytes, size: int) -> None:
        self.call(self.machine.truncate, path, size)

    def chmod(self, path: bytes, mode: int) -> None:
        self.call(lambda: self.machine.change(path, mode=mode))

    def utime(self, path: bytes, mtime_ns: int) -> None:
        self.call(lambda: self.machine.change(path, mtime_ns=mtime_ns))

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        self.call(self.machine.setxattr, path, name, value)

    def removexattr(self, path: bytes, name: bytes) -> None:
        self.call(self.machine.removexattr, path, name)

    # -- comparing -----------------------------------------------------------------------------------------------

    def seen(self) -> dict[bytes, Seen]:
        return self._loop.call(seen_of, self.machine)

    def check(self) -> None:
        self.call(check_invariants, self.machine)

    # -- what tierfs does ----------------------------------------------------------------------------------------

    def move(self, verb: str, path: bytes) -> bool:
        try:
            self.call(getattr(self.machine, verb), path)
        except OSError as error:
            return error.errno == 0
        return True

    def evict(self) -> None:
        self.call(self.machine.hydrator.evict, None)

    def sweep(self) -> None:
        self.call(self.machine.sweep)

    def run_policy(self) -> None:
        self.call(self.machine.daemon.run_pass)
        self.call(check_inventory, self.machine)  # not after each step: a look notices what has changed

    def step_clock(self, hours: int) -> None:
        self.world.offset_ns += hours * 3600 * 10**9

    def fail_store(self, operation: str, after_effect: bool) -> None:
        self.world.store.fail(operation, AccessDenied("no"), times=1, after_effect=after_effect)

    def heal_store(self) -> None:
        self.world.store.heal()

    def begin(self, verb: str, path: bytes, operation: str) -> bool:
        self.world.held.hold(operation)
        work = self.machine.sweep if verb == "sweep" else getattr(self.machine, verb)
        self._background = self._loop.spawn(work, *([] if verb == "sweep" else [path]))
        while not self._background.done.is_set():
            if self.world.held.waiting:
                return True
            time.sleep(0.0005)
        self.let_go()
        return False

    def let_go(self) -> None:
        self.world.held.release()
        if self._background:
            self._loop.call(self._background.done.wait)
            if not isinstance(self._background.error, TierfsError | OSError | None):
                raise self._background.error
        self._background = None

    def _end_process(self) -> None:
        """End the loop; what the store has not answered yet is answered to nobody."""
        self.machine.life.is_over = True
        self.world.held.release()
        self._background = None
        self._loop.end()

    def restart(self) -> None:
        """Kill the process and start the next one."""
        self._end_process()
        self._loop = _Loop(self.world)

    def die_in(self, effects: int, is_power_cut: bool, call: Callable[[], object]) -> bool:
        """Run a call and let the process die before one of its effects. False if it had fewer of them."""
        if is_power_cut:
            self.call(self.machine.catalog.sync)
        self.machine.life.left = effects
        try:
            with contextlib.suppress(OSError):
                call()
        except Died:
            self._end_process()
            if is_power_cut:
                self.world.cut_power()
            self._loop = _Loop(self.world)
            return True
        self.machine.life.left = None
        if self.machine.life.is_over:
            self.restart()
            return True
        return False
