"""A directory in a real mount as a Subject: system calls in, the control API for what operators do."""

import contextlib
import ctypes
import os
import shutil
import stat
import time
from collections.abc import Callable

from tests.model import Seen
from tests.mounting import Mount
from tests.t3_model.lives import Lives
from tierfs.core.reports import Verb
from tierfs.stores.hot import _renameat2, join

_AT_FDCWD = -100
#: How long, in seconds, deletions and renames may take to reach the bucket.
_PATIENCE_S = 120.0

#: In one example: each costs a second; and the next worker takes as long until the bucket answers.
_DEATHS, _TAKE_OVERS = 1, 3

_VERBS: dict[str, Verb] = {"archive": "archive", "release": "release", "restore": "restore"}


class MountSubject:
    """An example's own directory in a mount that serves many of them, and dies now and then."""

    has_kernel = True
    can_die = True
    _made = 0

    def __init__(self, lives: Lives) -> None:
        self._lives = lives
        self._deaths_left, self._take_overs_left = _DEATHS, _TAKE_OVERS
        MountSubject._made += 1
        self._inside = b"example-%d" % MountSubject._made
        self._root = os.path.join(os.fsencode(self._mount.path), self._inside)
        self._open: list[int] = []
        os.mkdir(self._root)

    @property
    def _mount(self) -> Mount:
        """The one that is alive."""
        return self._lives.mount

    def finish(self) -> None:
        self.restart()
        shutil.rmtree(self._root)
        deadline = time.monotonic() + _PATIENCE_S
        while findings := self._lives.answered(lambda: self._mount.check()):
            assert time.monotonic() < deadline, findings
            time.sleep(0.1)

    def _at(self, path: bytes) -> bytes:
        return join(self._root, path)

    # -- applications --------------------------------------------------------------------------------------------

    def open(self, path: bytes, flags: int, mode: int) -> int:
        fd = os.open(self._at(path), flags, mode)
        self._open.append(fd)
        return fd

    def close(self, handle: int) -> None:
        self._open.remove(handle)
        os.close(handle)

    def pread(self, handle: int, offset: int, size: int) -> bytes:
        return os.pread(handle, size, offset)

    def pwrite(self, handle: int, offset: int, data: bytes) -> None:
        assert os.pwrite(handle, data, offset) == len(data)

    def ftruncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def mkdir(self, path: bytes, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, self._at(path))

    def link(self, source: bytes, path: bytes) -> None:
        os.link(self._at(source), self._at(path), follow_symlinks=False)

    def unlink(self, path: bytes) -> None:
        os.unlink(self._at(path))

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self._at(path))

    def rename(self, source: bytes, target: bytes, flags: int) -> None:
        if _renameat2(_AT_FDCWD, self._at(source), _AT_FDCWD, self._at(target), flags):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(self._at(path), size)

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def utime(self, path: bytes, mtime_ns: int) -> None:
        os.utime(self._at(path), ns=(mtime_ns, mtime_ns))

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        os.setxattr(self._at(path), name, value)

    def removexattr(self, path: bytes, name: bytes) -> None:
        os.removexattr(self._at(path), name)

    # -- comparing -----------------------------------------------------------------------------------------------

    def seen(self) -> dict[bytes, Seen]:
        found: dict[bytes, Seen] = {}
        for directory, below, files in os.walk(self._root):
            inside = os.path.relpath(directory, self._root)
            for name in below + files:
                found[join(b"" if inside == b"." else inside, name)] = self._seen(os.path.join(directory, name))
        return found

    def _seen(self, path: bytes) -> Seen:
        st = os.lstat(path)
        if stat.S_ISLNK(st.st_mode):
            return Seen("symlink", target=os.readlink(path))
        if stat.S_ISDIR(st.st_mode):
            return Seen("directory", stat.S_IMODE(st.st_mode))
        with open(path, "rb") as file:
            data = file.read()
        assert len(data) == st.st_size
        names = [os.fsencode(name) for name in os.listxattr(path)]
        xattrs = tuple(sorted((name, os.getxattr(path, name)) for name in names if name.startswith(b"user.")))
        return Seen("file", stat.S_IMODE(st.st_mode), data, b"", st.st_nlink, st.st_mtime_ns, xattrs)

    def check(self) -> None:
        """`tierfs check` lists the whole bucket: at the end."""

    # -- what tierfs does ----------------------------------------------------------------------------------------

    def move(self, verb: str, path: bytes) -> bool:
        (outcome,) = self._lives.answered(lambda: self._mount.outcomes(_VERBS[verb], join(self._inside, path)))
        return outcome.result != "failed"

    def evict(self) -> None:
        self._lives.answered(lambda: self._mount.evict())

    def sweep(self) -> None:
        """The policy daemon of the mount does it all the time."""

    def run_policy(self) -> None:
        """The policy daemon of the mount does it all the time."""

    def step_clock(self, hours: int) -> None:
        """The time of a mount is everybody's."""

    def fail_store(self, operation: str, after_effect: bool) -> None:
        self._lives.fail(operation, after_effect)

    def heal_store(self) -> None:
        self._lives.heal()

    def begin(self, verb: str, path: bytes, operation: str) -> bool:
        return False

    def let_go(self) -> None:
        """Nothing is held."""

    def restart(self) -> None:
        """Applications close their files; the mount goes on."""
        for fd in self._open:
            with contextlib.suppress(OSError):  # of a mount that is gone
                os.close(fd)
        self._open.clear()

    def kill_worker_in(self, patience: int) -> None:
        """Have the worker killed in some milliseconds, as often as an example can afford; all goes on."""
        if self._take_overs_left:
            self._take_overs_left -= 1
            self._lives.kill_worker_in(patience)

    def die_in(self, effects: int, is_power_cut: bool, call: Callable[[], object]) -> bool:
        """Let the whole mount be killed some milliseconds after a call began, as often as an example can afford."""
        if not self._deaths_left:
            with contextlib.suppress(OSError):
                call()
            return False
        self._deaths_left -= 1
        self._lives.kill_during(call, effects)
        self.restart()
        return True
