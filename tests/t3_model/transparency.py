"""The state machine of residency transparency: one set of rules, over anything that is a Subject.

Applications make, change, read and remove files; the model does the same on a dict. Archive, release, restore, evict,
a policy pass, a step of the clock, a sweep, a store that fails, a crash: for the model these are nothing. After every
step the whole tree is compared.
"""

import contextlib
import copy
import errno
import os
from collections.abc import Callable
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.model import Handle, Model, Seen
from tierfs.stores.hot import RENAME_EXCHANGE, RENAME_NOREPLACE

NOWHERE = b"/nowhere/at/all"

#: What the kernel decides before it asks the filesystem: without a kernel nobody does.
_DECIDED_BY_KERNEL = (errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EPERM)

#: 1.a and 1.b of one directory are a segment.
PATHS = [b"1.a", b"1.b", b"d", b"e", b"d/1.a", b"d/1.b", b"d/e", b"e/1.a", b"d/e/1.a"]
SEGMENTS = ("*.a", "*.b")

FIRST_FILES = [b"1.a", b"1.b", b"d/1.a", b"d/e/1.a"]

#: Any path, but rather one where something is.
paths = st.runner().flatmap(lambda machine: st.sampled_from([*machine.model.paths() * 3, *PATHS]))
#: A file that has bytes to move, if there is one.
files = st.runner().flatmap(lambda machine: st.sampled_from(machine.model.paths("file") or PATHS))
sizes = st.integers(0, 18)
content = st.binary(min_size=1, max_size=14)
modes = st.sampled_from([0o700, 0o744, 0o750, 0o755])  # the owner may do everything, also in directories
names = st.sampled_from([b"user.one", b"user.two"])
open_flags = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR,
        os.O_RDWR | os.O_CREAT,
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
        os.O_WRONLY | os.O_APPEND,
        os.O_RDWR | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
    ]
)
rename_flags = st.sampled_from([0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])
verbs = st.sampled_from(["archive", "release", "restore"])
held = st.sampled_from(
    [
        ("archive", "put"),
        ("archive", "put"),
        ("release", "put"),
        ("release", "head"),
        ("sweep", "copy"),
        ("sweep", "delete"),
    ]
)
operations = st.sampled_from(["put", "get", "head", "copy", "delete"])


class Subject(Protocol):
    """What the model is compared with. What applications call raises OSError."""

    has_kernel: bool
    can_die: bool

    def open(self, path: bytes, flags: int, mode: int) -> Any: ...
    def close(self, handle: Any) -> None: ...
    def pread(self, handle: Any, offset: int, size: int) -> bytes: ...
    def pwrite(self, handle: Any, offset: int, data: bytes) -> None: ...
    def ftruncate(self, handle: Any, size: int) -> None: ...
    def size(self, handle: Any) -> int: ...
    def mkdir(self, path: bytes, mode: int) -> None: ...
    def symlink(self, target: bytes, path: bytes) -> None: ...
    def link(self, source: bytes, path: bytes) -> None: ...
    def unlink(self, path: bytes) -> None: ...
    def rmdir(self, path: bytes) -> None: ...
    def rename(self, source: bytes, target: bytes, flags: int) -> None: ...
    def truncate(self, path: bytes, size: int) -> None: ...
    def chmod(self, path: bytes, mode: int) -> None: ...
    def utime(self, path: bytes, mtime_ns: int) -> None: ...
    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None: ...
    def removexattr(self, path: bytes, name: bytes) -> None: ...

    def seen(self) -> dict[bytes, Seen]: ...
    def check(self) -> None: ...
    def finish(self) -> None: ...

    def move(self, verb: str, path: bytes) -> bool: ...
    def evict(self) -> None: ...
    def sweep(self) -> None: ...
    def run_policy(self) -> None: ...
    def step_clock(self, hours: int) -> None: ...
    def fail_store(self, operation: str, after_effect: bool) -> None: ...
    def heal_store(self) -> None: ...
    def begin(self, verb: str, path: bytes, operation: str) -> bool: ...
    def let_go(self) -> None: ...
    def restart(self) -> None: ...
    def die_in(self, effects: int, is_power_cut: bool, call: Callable[[], object]) -> bool: ...


class Transparency(RuleBasedStateMachine):
    """The rules. A subclass says what the subject is."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.handles: list[tuple[Handle, Any]] = []
        self.is_held = False
        self.subject = self.make_subject()

    @initialize(
        states=st.fixed_dictionaries({path: st.sampled_from(["none", "hot", "warm", "cold"]) for path in FIRST_FILES})
    )
    def begin_with_files(self, states: dict[bytes, str]) -> None:
        """Some directories, and files that have been where they may be."""
        for directory in (b"d", b"d/e"):
            self.both("mkdir", directory, 0o755)
        for path, state in states.items():
            if state != "none":
                self.write_file(path, b"content of " + path)
            if state in ("warm", "cold"):
                self.subject.move("archive" if state == "warm" else "release", path)

    def make_subject(self) -> Subject:
        """A new, empty subject."""
        raise NotImplementedError

    def teardown(self) -> None:
        self.subject.finish()

    # -- applications: names -------------------------------------------------------------------------------------

    def both(self, name: str, *arguments: Any) -> None:
        """The same system call on both: the same effect or the same errno."""
        through_symlink = any(isinstance(path, bytes) and self.model.crosses_symlink(path) for path in arguments)
        expected = number_of(getattr(self.model, name), *arguments)
        if not self.subject.has_kernel and (through_symlink or expected in _DECIDED_BY_KERNEL):
            return
        assert number_of(getattr(self.subject, name), *arguments) == expected

    @rule(path=paths, data=content)
    def write_file(self, path: bytes, data: bytes) -> None:
        """What a shell's > does, often enough that there are files."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        if self.open_both(path, flags, 0o644):
            self.write_both(len(self.handles) - 1, 0, data)
            self.close_both(len(self.handles) - 1)

    @rule(path=paths, mode=modes)
    def mkdir(self, path: bytes, mode: int) -> None:
        self.both("mkdir", path, mode)

    @rule(path=paths)
    def rmdir(self, path: bytes) -> None:
        self.both("rmdir", path)

    @rule(path=paths)
    def unlink(self, path: bytes) -> None:
        self.both("unlink", path)

    @rule(path=paths)
    def symlink(self, path: bytes) -> None:
        self.both("symlink", NOWHERE, path)

    @rule(source=paths, path=paths)
    def link(self, source: bytes, path: bytes) -> None:
        self.both("link", source, path)

    @rule(source=paths, to=paths, flags=rename_flags)
    def rename(self, source: bytes, to: bytes, flags: int) -> None:
        if self.subject.has_kernel or not source.startswith(to + b"/"):  # the kernel sees that, and says ENOTEMPTY
            self.both("rename", source, to, flags)

    # -- applications: bytes and attributes ----------------------------------------------------------------------

    def open_both(self, path: bytes, flags: int, mode: int) -> bool:
        """Open a file on both sides, and keep the handles if that worked."""
        node = self.model.nodes.get(path)
        if node and node.kind == "directory" and not flags & (os.O_CREAT | os.O_ACCMODE):
            return False
        opened: list[Any] = []
        expected = number_of(lambda: opened.append(self.model.open(path, flags, mode)))
        if expected in _DECIDED_BY_KERNEL and not self.subject.has_kernel:
            return False
        if not self.subject.has_kernel and (self.model.crosses_symlink(path) or (node and node.kind == "symlink")):
            return False
        assert number_of(lambda: opened.append(self.subject.open(path, flags, mode))) == expected
        if expected:
            return False
        self.handles.append((opened[0], opened[1]))
        return True

    def write_both(self, index: int, offset: int, data: bytes) -> None:
        """Write through a pair of handles."""
        model, real = self.handles[index]
        model.write(offset, data)
        self.subject.pwrite(real, offset, data)

    def close_both(self, index: int) -> None:
        """Close a pair of handles."""
        _, real = self.handles.pop(index)
        self.subject.close(real)

    @precondition(lambda self: len(self.handles) < 4)
    @rule(path=paths, flags=open_flags, mode=modes)
    def open(self, path: bytes, flags: int, mode: int) -> None:
        self.open_both(path, flags, mode)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), offset=sizes, size=sizes)
    def read(self, data: st.DataObject, offset: int, size: int) -> None:
        model, real = self.handles[data.draw(st.integers(0, len(self.handles) - 1))]
        if model.can_read:
            assert self.subject.pread(real, offset, size) == bytes(model.node.data[offset : offset + size])

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), offset=sizes, written=content)
    def write(self, data: st.DataObject, offset: int, written: bytes) -> None:
        index = data.draw(st.integers(0, len(self.handles) - 1))
        if self.handles[index][0].can_write:
            self.write_both(index, offset, written)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), size=sizes)
    def ftruncate(self, data: st.DataObject, size: int) -> None:
        model, real = self.handles[data.draw(st.integers(0, len(self.handles) - 1))]
        if model.can_write:
            model.truncate(size)
            self.subject.ftruncate(real, size)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.close_both(data.draw(st.integers(0, len(self.handles) - 1)))

    def on_file(self, name: str, path: bytes, *arguments: Any) -> None:
        """A call that follows symlinks, of which there are only dangling ones, or that is for files."""
        node = self.model.nodes.get(path)
        if node is None or node.kind == "file":
            self.both(name, path, *arguments)

    @rule(path=paths, size=sizes)
    def truncate(self, path: bytes, size: int) -> None:
        self.on_file("truncate", path, size)

    @rule(path=paths, mode=modes)
    def chmod(self, path: bytes, mode: int) -> None:
        self.on_file("chmod", path, mode)

    @rule(path=paths, mtime_s=st.integers(0, 2_000_000_000), fraction=st.sampled_from([0, 1, 999_999_999]))
    def utime(self, path: bytes, mtime_s: int, fraction: int) -> None:
        self.on_file("utime", path, mtime_s * 1_000_000_000 + fraction)

    @rule(path=paths, name=names, value=st.binary(max_size=5))
    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        self.on_file("setxattr", path, name, value)

    @rule(path=paths, name=names)
    def removexattr(self, path: bytes, name: bytes) -> None:
        self.on_file("removexattr", path, name)

    # -- what tierfs does: the identity --------------------------------------------------------------------------

    @precondition(lambda self: not self.is_held)
    @rule(verb=verbs, path=files)
    def move(self, verb: str, path: bytes) -> None:
        self.subject.move(verb, path)

    @precondition(lambda self: not self.is_held)
    @rule()
    def release_everything(self) -> None:
        for path in filter(None, list(self.model.nodes)):
            self.subject.move("release", path)

    @rule()
    def evict(self) -> None:
        self.subject.evict()

    @precondition(lambda self: not self.is_held)
    @rule()
    def sweep(self) -> None:
        self.subject.sweep()

    @precondition(lambda self: not self.is_held)
    @rule(hours=st.sampled_from([0, 1, 2, 3]))
    def policy(self, hours: int) -> None:
        self.subject.step_clock(hours)
        self.subject.run_policy()

    @precondition(lambda self: not self.is_held)
    @rule(operation=operations, after_effect=st.booleans(), verb=verbs, path=files)
    def move_and_fail(self, operation: str, after_effect: bool, verb: str, path: bytes) -> None:
        self.subject.fail_store(operation, after_effect)
        self.subject.move(verb, path)
        self.subject.heal_store()

    @precondition(lambda self: not self.is_held)
    @rule(operation=operations, after_effect=st.booleans())
    def sweep_and_fail(self, operation: str, after_effect: bool) -> None:
        self.subject.fail_store(operation, after_effect)
        with contextlib.suppress(OSError):
            self.subject.sweep()
        self.subject.heal_store()

    # -- what tierfs is in the middle of, while applications go on ---------------------------------------------------

    @precondition(lambda self: not self.is_held)
    @rule(what=held, path=files)
    def begin(self, what: tuple[str, str], path: bytes) -> None:
        """From now on something is under way, and the store does not answer."""
        self.is_held = self.subject.begin(what[0], path, what[1])

    @precondition(lambda self: self.is_held)
    @rule()
    def let_go(self) -> None:
        self.subject.let_go()
        self.is_held = False

    # -- crashes -------------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        """Applications lose their handles, the tree loses nothing."""
        self.end_everything()
        self.subject.restart()

    def end_everything(self) -> None:
        """What ends with the process."""
        self.handles.clear()
        self.is_held = False

    @precondition(lambda self: not self.is_held)
    @rule(effects=st.integers(0, 8), is_power_cut=st.booleans(), verb=verbs, path=files)
    def move_and_die(self, effects: int, is_power_cut: bool, verb: str, path: bytes) -> None:
        if self.subject.die_in(effects, is_power_cut, lambda: self.subject.move(verb, path)):
            self.end_everything()

    @precondition(lambda self: not self.is_held)
    @rule(effects=st.integers(0, 8), is_power_cut=st.booleans())
    def sweep_and_die(self, effects: int, is_power_cut: bool) -> None:
        if self.subject.die_in(effects, is_power_cut, self.subject.sweep):
            self.end_everything()

    def either(self, effects: int, name: str, *arguments: Any) -> None:
        """A system call that a crash interrupts has happened or has not; nothing in between."""
        if not self.subject.can_die:
            self.both(name, *arguments)
            return
        before = copy.deepcopy(self.model)
        if number_of(getattr(self.model, name), *arguments):
            return
        self.end_everything()
        self.subject.die_in(effects, False, lambda: getattr(self.subject, name)(*arguments))
        self.subject.restart()
        if differences(self.model.seen(), self.subject.seen()):
            self.model = before

    @rule(effects=st.integers(0, 6), source=paths, to=paths, flags=rename_flags)
    def rename_and_die(self, effects: int, source: bytes, to: bytes, flags: int) -> None:
        self.either(effects, "rename", source, to, flags)

    @rule(effects=st.integers(0, 4), path=paths)
    def unlink_and_die(self, effects: int, path: bytes) -> None:
        self.either(effects, "unlink", path)

    @rule(effects=st.integers(0, 4), path=files)
    def empty_and_die(self, effects: int, path: bytes) -> None:
        node = self.model.nodes.get(path)
        if node and node.kind == "file":
            self.either(effects, "truncate", path, 0)

    # -- comparing -----------------------------------------------------------------------------------------------

    @invariant()
    def looks_the_same(self) -> None:
        assert not differences(self.model.seen(), self.subject.seen())
        for model, real in self.handles:
            assert self.subject.size(real) == len(model.node.data)
        self.subject.check()


def number_of(call: Callable[..., object], *arguments: Any) -> int:
    """The errno of a call, 0 for success."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def differences(expected: dict[bytes, Seen], found: dict[bytes, Seen]) -> dict[bytes, tuple[Seen | None, Seen | None]]:
    """Where two trees differ. Times that nobody has set are not looked at."""
    different: dict[bytes, tuple[Seen | None, Seen | None]] = {}
    for path in expected.keys() | found.keys():
        one, other = expected.get(path), found.get(path)
        if one and other and one.mtime_ns is None:
            other = Seen(other.kind, other.mode, other.data, other.target, other.nlink, None, other.xattrs)
        if one != other:
            different[path] = one, other
    return different
