"""A directory of its own for each crash: what is put into it, what is done to it, what should be in it."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.crashes.arming import Order
from tests.crashes.stage import CHUNK_SIZE, Stage
from tests.crashes.trees import Seen, Tree
from tierfs.core.reports import Verb

#: More than two chunks, and not a whole number of them.
CONTENT = bytes(range(256)) * (2 * CHUNK_SIZE // 256) + b"the end"
OTHER = b"other bytes of another length"
XATTR = "user.own.test"
MTIME_NS = 1_500_000_000_123_456_789


class Scene:
    """Part of a stage: one directory in it. `tree` is what should be in the directory, by path below it."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.tree: Tree = {}
        self.path.mkdir(mode=0o750)
        self._notice("", (stat.S_IFDIR, 0o750))

    @property
    def path(self) -> Path:
        """Where it is in the mount."""
        return self.stage.path / self.name

    @property
    def hot(self) -> Path:
        """Where its hot files are."""
        return self.stage.plan.hot / self.name

    @property
    def bucket(self) -> Path:
        """Where its objects are, if the store is a directory."""
        return self.stage.plan.bucket / self.name

    def at(self, name: str) -> Path:
        """A path in the mount."""
        return self.path / name

    # -- what is put into it -------------------------------------------------------------------------------------

    def directory(self, name: str) -> None:
        """A directory."""
        self.at(name).mkdir(mode=0o751)
        self._notice(name, (stat.S_IFDIR, 0o751))

    def file(self, name: str, residency: str = "hot", content: bytes = CONTENT) -> None:
        """A file with everything that a file has: hot without a record, mirrored, or cold."""
        path = self.at(name)
        path.write_bytes(content)
        path.chmod(0o640)
        os.chown(path, 7, 8)
        os.setxattr(path, XATTR, name.encode())
        os.utime(path, ns=(MTIME_NS, MTIME_NS))
        wanted = Seen(stat.S_IFREG, 0o640, 7, 8, ((XATTR, name.encode()),), content, 1, MTIME_NS)
        self.tree[name] = wanted  # a hot file without a record may have another number after the next mount
        if residency != "hot":
            self.tree[name] = replace(wanted, ino=path.stat().st_ino)
            self.must_move("release" if residency == "cold" else "archive", name)

    def rewrite(self, name: str, content: bytes = OTHER) -> None:
        """Other bytes for a file that is hot or mirrored."""
        self.at(name).write_bytes(content)
        self.tree[name] = replace(self.tree[name], content=content, mtime_ns=None)

    def _notice(self, name: str, kind_and_mode: tuple[int, int]) -> None:
        st = self.at(name).stat()
        self.tree[name or "."] = Seen(*kind_and_mode, st.st_uid, st.st_gid)  # the number of a directory may change

    # -- what is done to it --------------------------------------------------------------------------------------

    def must_move(self, verb: Verb, name: str) -> None:
        """Archive, release or restore a file."""
        getattr(self.stage.mount, verb)(self._inside(name))

    def move(self, verb: Verb, name: str) -> None:
        """The same, where the mount may die over it."""
        self.stage.mount.outcomes(verb, self._inside(name))

    def evict(self, name: str) -> None:
        """Drop what the cache has of a file."""
        list(self.stage.mount.client.evict([os.fsencode(self._inside(name))]))

    def pin(self, name: str) -> None:
        """Never release a file."""
        list(self.stage.mount.client.pin([os.fsencode(self._inside(name))]))

    def residency(self, name: str) -> str:
        """Where the bytes of a file are."""
        return self.stage.mount.residency(self._inside(name))

    def give(self, order: Order) -> None:
        """Have something else done at a step."""
        self.stage.orders.give(order)

    def sync(self) -> None:
        """What an application does that wants to be sure: fsync of the files, and of the directories."""
        for path in [self.path, *self.path.rglob("*")]:
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _inside(self, name: str) -> str:
        return f"{self.name}/{name}"


Change = Callable[[Tree], None]


def nothing(_tree: Tree) -> None:
    """What archive, release, restore and evict do to a tree."""


def removed(name: str) -> Change:
    """What unlink does."""
    return lambda tree: tree.__delitem__(name)


def renamed(source: str, target: str) -> Change:
    """What rename does, to a file or to a directory."""

    def change(tree: Tree) -> None:
        for path in [path for path in tree if path == source or path.startswith(f"{source}/")]:
            tree[target + path[len(source) :]] = tree.pop(path)

    return change


def exchanged(one: str, other: str) -> Change:
    """What rename with RENAME_EXCHANGE does."""

    def change(tree: Tree) -> None:
        tree[one], tree[other] = tree[other], tree[one]

    return change


def has_both(source: str, target: str) -> Change:
    """A rename that a power cut has undone in one tier alone: no byte is lost, there are two names."""

    def change(tree: Tree) -> None:
        tree[target] = replace(tree[source], ino=None)
        tree[source] = replace(tree[source], ino=None)

    return change


def changed(name: str, **fields: object) -> Change:
    """A file with other attributes or bytes."""
    return lambda tree: tree.update({name: replace(tree[name], **fields)})  # type: ignore[arg-type]


def linked(source: str, target: str) -> Change:
    """What link does."""

    def change(tree: Tree) -> None:
        tree[source] = tree[target] = replace(tree[source], nlink=2)

    return change
