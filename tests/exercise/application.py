"""An application that does random things in its own directory, and compares all that it sees with a model."""

import errno
import mmap
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from tests.exercise.habits import CHUNK, Habits
from tests.exercise.witness import Witness
from tests.mappings import READ, READ_WRITE, Mapping
from tests.model import Handle, Node
from tests.t4_mount.operations import EXCHANGE, NOREPLACE, rename2

_T = TypeVar("_T")

_SIZES = (1, 7, 100, 512, 1000, 4096, 4096, 5000, CHUNK, 20_000, 40_000)
_PAGE = 4096
_FLAGS = (
    *(os.O_RDONLY, os.O_RDONLY, os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR, os.O_WRONLY),
    *(os.O_RDWR | os.O_APPEND, os.O_WRONLY | os.O_APPEND),
)
_TRUNCATING = os.O_RDWR | os.O_TRUNC


@dataclass(eq=False, slots=True)
class Open:
    """A descriptor, the model's handle, and where sequential reads and writes go on."""

    fd: int
    handle: Handle
    position: int = 0


class Application(Witness):
    """Random operations below `root`, which it makes. What it does follows from `seed` alone.

    INVARIANT: between two operations the directory is as the model says, wherever its bytes are.
    """

    def __init__(self, root: Path, seed: str, habits: Habits) -> None:
        super().__init__(root, habits.is_patient)
        self._habits = habits
        self._random = random.Random(seed)
        self._pool = self._random.randbytes(1 << 20)
        self._directories = [name.encode() for name in habits.directory_names()]
        self._names = [name.encode() for name in habits.names()]
        self._at_hand = self._random.sample(self._names, habits.at_hand)
        self._opened: list[Open] = []
        self._mapped: list[tuple[Mapping, Node]] = []
        self._direct_buffer = mmap.mmap(-1, CHUNK)
        self._acts: list[Callable[[], None]] = [getattr(self, f"_{name}") for name in habits.weights]
        self._weights = list(accumulate(habits.weights.values()))

    def make_directories(self) -> None:
        """Before anything else."""
        os.mkdir(self._root)
        for name in self._directories:
            os.mkdir(self._at(name))
            self._model.mkdir(name, 0o755)

    def step(self) -> None:
        """One operation. Mismatch; OSError that a plain directory does not give."""
        self.operations += 1
        (act,) = self._random.choices(self._acts, cum_weights=self._weights)
        try:
            act()
        except OSError as error:
            if not self._is_patient or error.errno != errno.EIO:
                raise
            self.counts["errors"] += 1
            self._note("failed with EIO", None)

    def settle(self) -> None:
        """Close everything."""
        for one in self._opened:
            os.close(one.fd)
        for mapping, _ in self._mapped:
            mapping.close()
        self._opened.clear()
        self._mapped.clear()

    def verify(self) -> None:
        """Compare every name, size, number of names and byte."""
        for directory in self._directories:
            self._compare_names(directory)
        for path in self._model.paths("file"):
            self._compare_stat(path)
            self._compare_whole(path)

    # -- choosing ------------------------------------------------------------------------------------------------

    def _below(self, limit: int) -> int:
        return int(self._random.random() * limit)

    def _one_of(self, some: "list[_T] | tuple[_T, ...]") -> _T:
        return some[int(self._random.random() * len(some))]

    def _offset(self, limit: int) -> int:
        """Anywhere up to `limit`; every fourth time beside the boundary of a page or chunk."""
        offset = self._below(limit + 1)
        if self._random.random() < 0.25:
            unit = self._one_of((_PAGE, CHUNK))
            offset = min(limit, max(0, offset // unit * unit + self._below(5) - 2))
        return offset

    def _data(self, size: int) -> bytes:
        """Bytes that are nowhere the same; they begin with the number of the operation."""
        start = self._below(len(self._pool) - size)
        return (self.operations.to_bytes(8, "little") + self._pool[start + 8 : start + size])[:size]

    def _handle(self, is_fit: Callable[[Handle], bool]) -> Open | None:
        """An open file that is fit; None where none is, and then there is one more of them."""
        if fit := [one for one in self._opened if is_fit(one.handle)]:
            return self._one_of(fit)
        self._open()
        return None

    def _present(self) -> bytes | None:
        """A name at hand that is there."""
        name = self._one_of(self._at_hand)
        return name if name in self._model.nodes else None

    # -- descriptors ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if len(self._opened) >= self._habits.most_open:
            self._close()
        name = self._one_of(self._at_hand)
        flags = _TRUNCATING if self._random.random() < 0.03 else self._one_of(_FLAGS)
        if name not in self._model.nodes:
            flags |= os.O_CREAT | (os.O_EXCL if self._random.random() < 0.5 else 0)
        opened: list[Handle] = []
        fd = self._both(
            lambda: os.open(self._at(name), flags, 0o644), lambda: opened.append(self._model.open(name, flags, 0o644))
        )
        assert fd is not None, "what the model has can be opened"
        self._opened.append(Open(fd, opened[0]))
        self._note("open", opened[0].node, name, oct(flags))

    def _close(self) -> None:
        if self._opened:
            one = self._opened.pop(self._below(len(self._opened)))
            os.close(one.fd)
            self._note("close", one.handle.node, oct(one.handle.flags))

    def _move_on(self) -> None:
        self._at_hand[self._below(len(self._at_hand))] = self._one_of(self._names)

    # -- reading -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if one := self._handle(_can_read):
            data = one.handle.node.data
            offset, size = self._offset(len(data)), self._one_of(_SIZES)
            self._note("read", one.handle.node, offset, size)
            got = os.pread(one.fd, size, offset)
            self._compare("read", one.handle.node, offset, got, data[offset : offset + size])

    def _read_on(self) -> None:
        if one := self._handle(_can_read):
            offset, size = one.position, self._one_of(_SIZES)
            self._note("read on", one.handle.node, offset, size)
            got = os.read(one.fd, size)
            one.position += len(got)
            self._compare("read on", one.handle.node, offset, got, one.handle.node.data[offset : offset + size])
            if not got:
                one.position = os.lseek(one.fd, 0, os.SEEK_SET)

    def _direct(self) -> None:
        if name := self._present():
            node = self._model.nodes[name]
            offset = self._below(len(node.data) + 1) // _PAGE * _PAGE
            size = self._one_of((_PAGE, CHUNK))
            self._note("direct read", node, offset, size)
            fd = os.open(self._at(name), os.O_RDONLY | os.O_DIRECT)
            try:
                with memoryview(self._direct_buffer)[:size] as view:
                    got = os.preadv(fd, [view], offset)
            finally:
                os.close(fd)
            self._compare("direct read", node, offset, self._direct_buffer[:got], node.data[offset : offset + size])

    def _whole(self) -> None:
        if name := self._present():
            self._note("read all", self._model.nodes[name])
            self._compare_whole(name)

    def _stat(self) -> None:
        if name := self._present():
            self._compare_stat(name)

    def _list(self) -> None:
        self._compare_names(self._one_of(self._directories))

    # -- writing -------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        if one := self._handle(_can_write):
            offset = self._offset(min(len(one.handle.node.data) + CHUNK, self._habits.largest_bytes))
            data = self._data(self._one_of(_SIZES))
            self._note("write", one.handle.node, offset, len(data))
            self._written(one, os.pwrite(one.fd, data, offset), data, offset)

    def _write_on(self) -> None:
        if one := self._handle(_can_write):
            if one.position > self._habits.largest_bytes:
                one.position = os.lseek(one.fd, 0, os.SEEK_SET)
            data = self._data(self._one_of(_SIZES))
            self._note("write on", one.handle.node, one.position, len(data))
            self._written(one, os.write(one.fd, data), data, one.position)
            is_append = bool(one.handle.flags & os.O_APPEND)
            one.position = os.lseek(one.fd, 0, os.SEEK_CUR) if is_append else one.position + len(data)

    def _written(self, one: Open, count: int, data: bytes, offset: int) -> None:
        node = one.handle.node
        if count != len(data):
            self._differs(node, f"{count} of {len(data)} bytes were written")
        one.handle.write(offset, data)
        if len(node.data) > 2 * self._habits.largest_bytes:
            self._cut(one, self._below(CHUNK))

    def _truncate(self) -> None:
        if name := self._present():
            size = self._offset(self._habits.largest_bytes if self._random.random() < 0.5 else 3 * CHUNK)
            self._note("truncate", self._model.nodes[name], size)
            os.truncate(self._at(name), size)
            self._model.truncate(name, size)
        elif one := self._handle(_can_write):
            self._cut(one, self._offset(min(len(one.handle.node.data) + CHUNK, self._habits.largest_bytes)))

    def _cut(self, one: Open, size: int) -> None:
        self._note("ftruncate", one.handle.node, size)
        os.ftruncate(one.fd, size)
        one.handle.truncate(size)

    def _copy(self) -> None:
        source, target = self._handle(_can_read), self._handle(_can_place)
        if source and target and source.handle.node is not target.handle.node:
            data, size = source.handle.node.data, self._one_of(_SIZES)
            from_, to = self._offset(len(data)), self._offset(min(len(target.handle.node.data) + CHUNK, CHUNK))
            copied = os.copy_file_range(source.fd, target.fd, size, from_, to)
            self._note("copied to", target.handle.node, to, copied)
            if bool(copied) != bool(data[from_ : from_ + size]):
                self._differs(source.handle.node, f"{copied} bytes of {size} at {from_} were copied")
            if copied:
                target.handle.write(to, bytes(data[from_ : from_ + copied]))

    def _sync(self) -> None:
        if one := self._handle(_any):
            self._note("sync", one.handle.node)
            self._one_of((os.fsync, os.fdatasync))(one.fd)

    # -- mappings ------------------------------------------------------------------------------------------------

    def _map(self) -> None:
        one = self._handle(_can_map)
        if len(self._mapped) >= self._habits.most_mapped:
            self._unmap()
        if one:
            is_writable = one.handle.can_write and self._random.random() < 0.7
            node = one.handle.node
            mapping = Mapping(one.fd, len(node.data), READ_WRITE if is_writable else READ)
            self._mapped.append((mapping, node))
            self._note("map", node, len(node.data), "writable" if is_writable else "")

    def _unmap(self) -> None:
        if self._mapped:
            mapping, node = self._mapped.pop(self._below(len(self._mapped)))
            mapping.close()
            self._note("unmap", node)

    def _load(self) -> None:
        if self._mapped:
            mapping, node = self._one_of(self._mapped)
            if limit := min(mapping.length, len(node.data)):
                offset = self._below(limit)
                size = min(self._one_of(_SIZES), limit - offset)
                self._note("load", node, offset, size)
                self._compare("load", node, offset, mapping.load(offset, size), node.data[offset : offset + size])

    def _store(self) -> None:
        if self._mapped:
            mapping, node = self._one_of(self._mapped)
            limit = min(mapping.length, len(node.data))
            if limit and mapping.can_store:
                offset = self._below(limit)
                data = self._data(min(self._one_of(_SIZES), limit - offset))
                self._note("store", node, offset, len(data))
                mapping.store(offset, data)
                node.data[offset : offset + len(data)] = data
                if self._random.random() < 0.1:
                    mapping.sync()

    # -- names ---------------------------------------------------------------------------------------------------

    def _rename(self) -> None:
        source, target = self._one_of(self._at_hand), self._one_of(self._names)
        self._rename_to(source, target, self._one_of((0, 0, 0, NOREPLACE)))

    def _swap(self) -> None:
        self._rename_to(self._one_of(self._at_hand), self._one_of(self._names), EXCHANGE)

    def _rename_to(self, source: bytes, target: bytes, flags: int) -> None:
        for path in (source, target):
            self._note("rename", self._model.nodes.get(path), source, target, flags)
        old, new = os.fsdecode(self._at(source)), os.fsdecode(self._at(target))
        self._both(lambda: rename2(old, new, flags), lambda: self._model.rename(source, target, flags))

    def _swap_directories(self) -> None:
        source, target = self._random.sample(self._directories, 2)
        self._rename_to(source, target, EXCHANGE)

    def _move_directory(self) -> None:
        """Away, and back again."""
        name = self._one_of(self._directories)
        self._rename_to(name, b"away", 0)
        self._compare_names(b"away")
        self._rename_to(b"away", name, 0)

    def _unlink(self) -> None:
        name = self._one_of(self._at_hand)
        self._note("unlink", self._model.nodes.get(name), name)
        self._both(lambda: os.unlink(self._at(name)), lambda: self._model.unlink(name))

    def _link(self) -> None:
        source, target = self._one_of(self._at_hand), self._one_of(self._at_hand)
        self._note("link", self._model.nodes.get(source), source, target)
        self._both(lambda: os.link(self._at(source), self._at(target)), lambda: self._model.link(source, target))


def _any(handle: Handle) -> bool:
    return True


def _can_read(handle: Handle) -> bool:
    return handle.can_read


def _can_write(handle: Handle) -> bool:
    return handle.can_write


def _can_place(handle: Handle) -> bool:
    return handle.can_write and not handle.flags & os.O_APPEND


def _can_map(handle: Handle) -> bool:
    return handle.can_read and len(handle.node.data) > 0
