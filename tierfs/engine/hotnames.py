"""Names without bytes: directories, symlinks, empty files, fifos. They are always hot, and no object knows them.

A snapshot has them all; a rebuild makes those again that are not there. What is there is never touched.
"""

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial

from tierfs.core.snapshot import HotName
from tierfs.stores.hot import HotTier, join, split

#: No sockets, which are made by those who listen; no device files: who may write to a bucket must not make any here.
_KINDS = frozenset({stat.S_IFDIR, stat.S_IFLNK, stat.S_IFREG, stat.S_IFIFO})


def names(hot: HotTier) -> Iterator[HotName]:
    """What is in the hot directory and has no bytes: directories, symlinks, empty files, fifos."""
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        yield from _look(hot, directory)
        try:
            for entry in hot.scan(directory):
                path = join(directory, os.fsencode(entry.name))
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                else:
                    yield from _look(hot, path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # it went away, or is closed to us


def _look(hot: HotTier, path: bytes) -> Iterator[HotName]:
    try:
        st = hot.lstat(path)
        if stat.S_IFMT(st.st_mode) not in _KINDS or (stat.S_ISREG(st.st_mode) and st.st_size):
            return
        attributes = hot.attributes(path, st)
        target = hot.readlink(path) if stat.S_ISLNK(st.st_mode) else b""
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    yield HotName(path, st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, attributes.xattrs, target)


class Planter:
    """Makes names again in a hot directory. `failed` is told each path that could not be made, and why.

    INVARIANT: a name that is there already is left as it is.
    """

    def __init__(self, hot: HotTier, failed: Callable[[bytes, str], None]) -> None:
        self._hot = hot
        self._failed = failed
        with os.scandir(hot.root) as entries:
            self._is_new_root = next(entries, None) is None
        self._directories: set[bytes] = set()
        self.made = 0
        self.refused = 0  # attributes that this user may not give

    def plant(self, name: HotName) -> None:
        """Make a name; directories get their attributes by finish(), when nothing is made in them any more."""
        if not name.path or stat.S_IFMT(name.mode) not in _KINDS or self._hot.lstat_or_none(name.path) is not None:
            return
        try:
            self._make(name)
            self.made += 1
            if stat.S_ISDIR(name.mode):
                self._directories.add(name.path)
            else:
                self._apply(name)
        except OSError as error:
            self._failed(name.path, str(error.strerror))

    def finish(self, name: HotName) -> None:
        """Give a directory that was made here its attributes; also the root, if it was empty."""
        is_ours = name.path in self._directories if name.path else self._is_new_root
        if is_ours and stat.S_ISDIR(name.mode):
            try:
                self._apply(name)
            except OSError as error:
                self._failed(name.path, str(error.strerror))

    def _make(self, name: HotName) -> None:
        self._hot.make_directories(split(name.path)[0])
        if stat.S_ISDIR(name.mode):
            self._hot.mkdir(name.path, 0o700)
        elif stat.S_ISLNK(name.mode):
            self._hot.symlink(name.target, name.path)
        elif stat.S_ISREG(name.mode):
            os.close(self._hot.open(name.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        else:
            self._hot.mknod(name.path, stat.S_IFIFO | 0o600, 0)

    def _apply(self, name: HotName) -> None:
        hot, path = self._hot, name.path
        st = hot.lstat(path)
        if (st.st_uid, st.st_gid) != (name.uid, name.gid):
            self._as_allowed(partial(hot.chown, path, name.uid, name.gid))
        for attribute, value in name.xattrs:
            self._as_allowed(partial(hot.setxattr, path, attribute, value))
        if not stat.S_ISLNK(name.mode):
            hot.chmod(path, stat.S_IMODE(name.mode))
        hot.utime(path, name.mtime_ns, name.mtime_ns)

    def _as_allowed(self, change: Callable[[], None]) -> None:
        """Another user than root cannot give everything back."""
        try:
            change()
        except PermissionError:
            self.refused += 1
