"""A storm of names and attributes; each result is what the model of the directory says."""

import os
import stat
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from tests.storm.player import Player
from tests.t4_mount.operations import EXCHANGE, NOREPLACE, rename2
from tierfs.stores.hot import join

_T = TypeVar("_T")

# A name is one of files (and symlinks) or one of directories: some stores cannot hold both p and p/q at any time.
_TOP = [b"d%d" % number for number in range(5)]
_DIRECTORIES = (*_TOP, *(top + b"/e%d" % number for top in _TOP for number in range(3)))
_FILES = tuple(join(parent, b"f%d" % number) for parent in (b"", *_DIRECTORIES) for number in range(4))
_XATTRS = (b"user.one", b"user.two", b"user.three")
_MODES = (0o600, 0o640, 0o644, 0o755)
_LARGEST = 6000
_CHANGES = {"create": 30, "write": 8, "rename": 14, "link": 8, "unlink": 14, "mkdir": 6, "rmdir": 10, "symlink": 8}
_ATTRIBUTES = {"chmod": 6, "truncate": 4, "setxattr": 6, "getxattr": 4, "removexattr": 4}
_WEIGHTS = _CHANGES | _ATTRIBUTES | {"readlink": 2, "list": 8, "stat": 12, "read": 6}
#: What waits for the bytes of a file that is cold.
_RESTORING = ("link", "truncate")
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


class Namer(Player):
    """Creates, renames, links, removes and changes; a call that fails must fail with the model's errno."""

    def __init__(self, root: Path, seed: str) -> None:
        super().__init__(root, seed)
        self._acts: list[Callable[[], None]] = [getattr(self, f"_{name}") for name in _WEIGHTS]
        self._weights = list(accumulate(_WEIGHTS.values()))

    @classmethod
    def names(cls) -> list[str]:
        return [os.fsdecode(path) for path in _FILES]

    def _act(self) -> None:
        (act,) = self._random.choices(self._acts, cum_weights=self._weights)
        act()

    def verify(self) -> None:
        for path in [b"", *self._model.paths("directory")]:
            self._compare_children(path)
        for path in self._model.paths():
            self._compare_node(path)
        for path in self._model.paths("file"):
            self._compare_whole(path)

    def settle(self) -> None:
        """Nothing is open between two steps."""

    # -- names ---------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        path, data, model = self._new(_FILES), self._data(self._random.randrange(_LARGEST)), self._model
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        at = self._at(path)
        fd = self._call("create", lambda: os.open(at, flags, 0o644), lambda: model.open(path, flags, 0o644), path)
        if fd is None:
            return
        try:
            self._append(fd, path, data)
            st = self._timed("metadata", lambda: os.fstat(fd))
            self._expect((st.st_size, st.st_nlink) == (len(data), 1), None, f"fstat of new {path!r}: {st}")
        finally:
            self._timed("metadata", lambda: os.close(fd))

    def _write(self) -> None:
        path, data, model = self._path("file"), self._data(self._random.randrange(1, _LARGEST)), self._model
        flags = os.O_WRONLY | os.O_APPEND
        fd = self._call("open", lambda: os.open(self._at(path), flags), lambda: model.open(path, flags, 0), path)
        if fd is None:
            return
        try:
            self._append(fd, path, data)
        finally:
            self._timed("metadata", lambda: os.close(fd))
        if len(self._model.nodes[path].data) > 3 * _LARGEST:
            self._cut(path, 0)

    def _append(self, fd: int, path: bytes, data: bytes) -> None:
        count = self._timed("may restore", lambda: os.write(fd, data))
        self._expect(count == len(data), None, f"{count} of {len(data)} bytes were written to {path!r}")
        self._model.nodes[path].data.extend(data)

    def _rename(self) -> None:
        source, model = self._path("any"), self._model
        target = self._new(_FILES if _is_of_file(source) else _DIRECTORIES)
        flags = self._random.choice((0, 0, 0, NOREPLACE, EXCHANGE))
        if flags == EXCHANGE and _is_of_file(source) != _is_of_file(target):
            flags = NOREPLACE
        old, new = os.fsdecode(self._at(source)), os.fsdecode(self._at(target))
        done = (lambda: rename2(old, new, flags), lambda: model.rename(source, target, flags))
        self._call("rename", *done, source, target, flags)

    def _link(self) -> None:
        source, target, model = self._path("file"), self._new(_FILES), self._model
        if not self._is(source, "directory"):
            old, new = self._at(source), self._at(target)
            self._call("link", lambda: os.link(old, new), lambda: model.link(source, target), source, target)

    def _unlink(self) -> None:
        path = self._path(self._random.choice(("file", "file", "symlink", "any")))
        self._call("unlink", lambda: os.unlink(self._at(path)), lambda: self._model.unlink(path), path)

    def _mkdir(self) -> None:
        path = self._new(_DIRECTORIES)
        self._call("mkdir", lambda: os.mkdir(self._at(path), 0o755), lambda: self._model.mkdir(path, 0o755), path)

    def _rmdir(self) -> None:
        path = self._path("directory")
        self._call("rmdir", lambda: os.rmdir(self._at(path)), lambda: self._model.rmdir(path), path)

    def _symlink(self) -> None:
        target, path, model = b"nowhere-%d" % self.operations, self._new(_FILES), self._model
        self._call("symlink", lambda: os.symlink(target, self._at(path)), lambda: model.symlink(target, path), path)

    # -- looking -------------------------------------------------------------------------------------------------

    def _readlink(self) -> None:
        path = self._path("symlink")
        if self._is(path, "symlink"):
            target = self._timed("metadata", lambda: os.readlink(self._at(path)))
            self._expect(target == self._model.nodes[path].target, None, f"readlink of {path!r}: {target!r}")

    def _list(self) -> None:
        path = self._path("directory")
        if self._is(path, "directory"):
            self._compare_children(path)

    def _stat(self) -> None:
        path = self._path("any")
        if path in self._model.nodes:
            self._compare_node(path)
        else:
            self._call("lookup", lambda: os.lstat(self._at(path)), lambda: self._model.lookup(path), path)

    def _read(self) -> None:
        path = self._path("file")
        if self._is(path, "file"):
            self._compare_whole(path)

    def _compare_children(self, path: bytes) -> None:
        got = sorted(self._timed("metadata", lambda: os.listdir(self._at(path))))
        start = path + b"/" if path else b""
        inside = [other[len(start) :] for other in self._model.nodes if other and other.startswith(start)]
        wanted = sorted(name for name in inside if b"/" not in name)
        self._expect(got == wanted, None, f"names in {path!r}: got {got}, wanted {wanted}")

    def _compare_node(self, path: bytes) -> None:
        node = self._model.nodes[path]
        st = self._timed("metadata", lambda: os.lstat(self._at(path)))
        got: list[object] = [_KINDS.get(stat.S_IFMT(st.st_mode))]
        wanted: list[object] = [node.kind]
        if node.kind != "symlink":
            got.append(oct(stat.S_IMODE(st.st_mode)))
            wanted.append(oct(node.mode))
        if node.kind == "file":
            links = sum(other is node for other in self._model.nodes.values())
            got += [st.st_size, st.st_nlink, sorted(os.listxattr(self._at(path)))]
            wanted += [len(node.data), links, sorted(map(os.fsdecode, node.xattrs))]
        if got != wanted:
            self._differs(node, f"{path!r}: got {got}, wanted {wanted}")

    # -- attributes ----------------------------------------------------------------------------------------------

    def _chmod(self) -> None:
        path, mode = self._path("any"), self._random.choice(_MODES)
        mode = 0o755 if self._is(path, "directory") else mode
        done = (lambda: os.chmod(self._at(path), mode), lambda: self._model.chmod(path, mode))
        self._call("chmod", *done, path, oct(mode))

    def _truncate(self) -> None:
        self._cut(self._path("any"), self._random.choice((0, 0, self._random.randrange(_LARGEST))))

    def _cut(self, path: bytes, size: int) -> None:
        done = (lambda: os.truncate(self._at(path), size), lambda: self._model.truncate(path, size))
        self._call("truncate", *done, path, size)

    def _setxattr(self) -> None:
        path, name, value = self._path("file"), self._random.choice(_XATTRS), self._data(self._random.randrange(1, 200))
        if not self._is(path, "directory"):
            at = self._at(path)
            done = (lambda: os.setxattr(at, name, value), lambda: self._model.setxattr(path, name, value))
            self._call("setxattr", *done, path, name)

    def _removexattr(self) -> None:
        path, name = self._path("file"), self._random.choice(_XATTRS)
        if not self._is(path, "directory"):
            done = (lambda: os.removexattr(self._at(path), name), lambda: self._model.removexattr(path, name))
            self._call("removexattr", *done, path, name)

    def _getxattr(self) -> None:
        path, name = self._path("file"), self._random.choice(_XATTRS)
        if self._is(path, "file") and name in self._model.nodes[path].xattrs:
            got = self._timed("metadata", lambda: os.getxattr(self._at(path), name))
            wanted = self._model.nodes[path].xattrs[name]
            self._expect(got == wanted, None, f"{name!r} of {path!r}: got {got!r}, wanted {wanted!r}")

    # -- choosing ------------------------------------------------------------------------------------------------

    def _path(self, kind: str) -> bytes:
        """Most times a path that is there and is of that kind, else any path."""
        if self._random.random() < 0.75:
            there = [path for path, node in self._model.nodes.items() if path and kind in ("any", node.kind)]
            if there:
                return self._random.choice(there)
        return self._random.choice(self._random.choice((_FILES, _DIRECTORIES)))

    def _new(self, names: Sequence[bytes]) -> bytes:
        """Most times a path that could be made, else any of these, or one that is there."""
        nodes, chance = self._model.nodes, self._random.random()
        fit = list(names)
        if chance < 0.6:
            fit = [path for path in names if path not in nodes and self._is(path.rpartition(b"/")[0], "directory")]
        elif chance < 0.7:
            fit = [path for path in nodes if path]
        return self._random.choice(fit or names)

    def _is(self, path: bytes, kind: str) -> bool:
        node = self._model.nodes.get(path)
        return node is not None and node.kind == kind

    def _call(
        self, what: str, real: Callable[[], _T], modelled: Callable[[], object], path: bytes, *rest: object
    ) -> _T | None:
        """Do it to the mount, and the same to the model. None where both refuse."""
        self._note(what, self._model.nodes.get(path), path, *rest)
        kind = "may restore" if what in _RESTORING else "metadata"
        return self._both(lambda: self._timed(kind, real), modelled)


def _is_of_file(path: bytes) -> bool:
    return path.rpartition(b"/")[2].startswith(b"f")
