"""What is measured. A row makes its files in a directory and returns the action to be timed.

Nothing here knows whose directory it is. Every action does the same system calls for everybody; what Python itself
costs (about half a microsecond a call) is in all figures alike.
"""

import itertools
import mmap
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
PAGE = 4096

Action = Callable[[], None]


class Impossible(Exception):
    """This row cannot be measured here, and why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `count` is how many bytes or operations one action is.

    `least` is the count below which the row would mean something else; contenders that are far slower do fewer.
    `stays`: the files are those of all rounds, and of all rows with the same. `syncs`: the action syncs, so that the
    calls that reach the backing file are worth counting.
    """

    name: str
    unit: str
    count: int
    make: Callable[[Path, int], Action]
    least: int = 1
    stays: str = ""
    syncs: bool = False

    def count_for(self, share: int, is_remote: bool) -> int:
        """The count for a contender that is asked for a part only; of bytes only an object store is asked for less."""
        if self.unit == "MiB/s":
            return max(self.count // share // MIB * MIB, self.least) if is_remote else self.count
        return max(self.count // share, self.least)

    def value(self, count: int, seconds: float) -> float:
        """What one action says, in the row's unit."""
        match self.unit:
            case "MiB/s":
                return count / MIB / seconds
            case "ms":
                return seconds * 1e3
            case _:
                return seconds / count * 1e6

    def speed(self, value: float, reference: float) -> float:
        """How fast a value is beside another: 1 is as fast, 0.5 half as fast."""
        return value / reference if self.unit == "MiB/s" else reference / value


def drop_caches(what: int) -> None:
    """Have the kernel forget pages (1), or names and nodes with their pages (2). Impossible without root."""
    os.sync()  # what is dirty cannot be forgotten
    try:
        Path("/proc/sys/vm/drop_caches").write_text(str(what))
    except OSError as error:
        raise Impossible(f"the kernel's caches cannot be emptied: {error.strerror}") from None


def claim_memory(size: int) -> None:
    """Touch this much free memory and free it again, so that the first use of it is not in what is timed next.

    The host of a virtual machine takes back what was free for a while; to get a GiB again takes up to 3 s.
    """
    size = min(size, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with mmap.mmap(-1, max(size, PAGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for first in range(0, size, PAGE):
            memory[first] = 1


def _file(directory: Path, size: int) -> str:
    path = directory / "file"
    block = random.Random(1).randbytes(MIB)
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(block)
        os.fsync(file.fileno())
    return str(path)


def _read_through(path: str) -> None:
    buffer = [bytearray(MIB)]
    fd = os.open(path, os.O_RDONLY)
    while os.readv(fd, buffer):
        pass
    os.close(fd)


def _names(directory: Path, count: int) -> list[str]:
    return [str(directory / f"name{number:06d}") for number in range(count)]


def _files(directory: Path, count: int, content: bytes = b"") -> list[str]:
    names = _names(directory, count)
    for name in names:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
        if content:
            os.write(fd, content)
        os.close(fd)
    return names


# -- bytes -------------------------------------------------------------------------------------------------------------


def sequential_write(directory: Path, size: int) -> Action:
    """A new file in writes of 1 MiB, then fsync(2)."""
    path, block = str(directory / "file"), random.Random(1).randbytes(MIB)

    def act() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for _ in range(size // MIB):
            os.write(fd, block)
        os.fsync(fd)
        os.close(fd)

    return act


def sequential_read_cold(directory: Path, size: int) -> Action:
    """A whole file in reads of 1 MiB; its pages are on the disk only."""
    path = _file(directory, size)
    drop_caches(1)
    return lambda: _read_through(path)


def sequential_read_warm(directory: Path, size: int) -> Action:
    """A whole file in reads of 1 MiB; its pages are in the kernel's cache."""
    path = _file(directory, size)
    _read_through(path)
    return lambda: _read_through(path)


def _random_offsets(size: int, count: int) -> list[int]:
    return [offset * PAGE for offset in random.Random(2).choices(range(size // PAGE), k=count)]


def random_read(directory: Path, count: int) -> Action:
    """4 KiB at random places of a file of 32 MiB that is in the kernel's cache."""
    path, offsets, buffer = _file(directory, 32 * MIB), _random_offsets(32 * MIB, count), [bytearray(PAGE)]
    _read_through(path)
    fd = os.open(path, os.O_RDONLY)

    def act() -> None:
        for offset in offsets:
            os.preadv(fd, buffer, offset)
        os.close(fd)

    return act


def random_write(directory: Path, count: int) -> Action:
    """4 KiB over random places of a file of 32 MiB."""
    path, offsets, block = _file(directory, 32 * MIB), _random_offsets(32 * MIB, count), b"w" * PAGE
    fd = os.open(path, os.O_RDWR)

    def act() -> None:
        for offset in offsets:
            os.pwrite(fd, block, offset)
        os.close(fd)

    return act


def mmap_read(directory: Path, size: int) -> Action:
    """Map a file that is in the kernel's cache and copy all of it."""
    path = _file(directory, size)
    _read_through(path)

    def act() -> None:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
            for offset in range(0, size, MIB):
                mapping[offset : offset + MIB]

    return act


def mmap_write(directory: Path, size: int) -> Action:
    """Map a file and store into all of it; writing it back is not waited for."""
    path, block = _file(directory, size), b"m" * MIB

    def act() -> None:
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            for offset in range(0, size, MIB):
                mapping[offset : offset + MIB] = block

    return act


def append(directory: Path, count: int) -> Action:
    """Appends of 4 KiB to an open file."""
    return _appending(directory, count, lambda _fd: None)


def append_and_sync(directory: Path, count: int) -> Action:
    """Appends of 4 KiB, each with fdatasync(2)."""
    return _appending(directory, count, os.fdatasync)


def _appending(directory: Path, count: int, after: Callable[[int], None]) -> Action:
    fd, block = os.open(directory / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), b"a" * PAGE

    def act() -> None:
        for _ in range(count):
            os.write(fd, block)
            after(fd)
        os.close(fd)

    return act


# -- names -------------------------------------------------------------------------------------------------------------


def create(directory: Path, count: int) -> Action:
    """open(2) of a new name, and close(2)."""
    names = _names(directory, count)

    def act() -> None:
        for name in names:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))

    return act


def first_stat(directory: Path, count: int) -> Action:
    """stat(2) of names that the kernel has forgotten."""
    names = _files(directory, count)
    drop_caches(2)
    return lambda: _stat_all(names)


def warm_stat(directory: Path, count: int) -> Action:
    """stat(2) of a hundred names again and again."""
    names = _files(directory, min(100, count))
    _stat_all(names)
    every = list(itertools.islice(itertools.cycle(names), count))
    return lambda: _stat_all(every)


def _stat_all(names: list[str]) -> None:
    for name in names:
        os.stat(name)


def first_read(directory: Path, count: int) -> Action:
    """open, read 4 KiB, close, of files that the kernel has forgotten."""
    names = _files(directory, count, b"r" * PAGE)
    drop_caches(2)
    return lambda: _read_all(names)


def next_read(directory: Path, count: int) -> Action:
    """open, read 4 KiB, close, of files that were just read."""
    names = _files(directory, count, b"r" * PAGE)
    _read_all(names)
    return lambda: _read_all(names)


def _read_all(names: list[str]) -> None:
    buffer = [bytearray(PAGE)]
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        os.readv(fd, buffer)
        os.close(fd)


def rename(directory: Path, count: int) -> Action:
    """rename(2) within a directory, to a name that is free."""
    pairs = [(name, f"{name}.renamed") for name in _files(directory, count)]

    def act() -> None:
        for old, new in pairs:
            os.rename(old, new)

    return act


def unlink(directory: Path, count: int) -> Action:
    """unlink(2) of files of 4 KiB that nobody has open."""
    names = _files(directory, count, b"u" * PAGE)

    def act() -> None:
        for name in names:
            os.unlink(name)

    return act


def missing_name(directory: Path, count: int) -> Action:
    """access(2) of names that do not exist, each once."""
    names = _names(directory, count)

    def act() -> None:
        for name in names:
            os.access(name, os.F_OK)

    return act


def first_listing(directory: Path, count: int) -> Action:
    """`ls -l`: all names and their attributes, forgotten by the kernel."""
    _many(directory, count)
    drop_caches(2)
    return lambda: _list(directory)


def next_listing(directory: Path, count: int) -> Action:
    """`ls -l` again."""
    _many(directory, count)
    _list(directory)
    return lambda: _list(directory)


def _many(directory: Path, count: int) -> None:
    if not os.access(directory / f"name{count - 1:06d}", os.F_OK):
        _files(directory, count)


def _list(directory: Path) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)


ROWS = (
    Row("sequential write + fsync", "MiB/s", 128 * MIB, sequential_write, 8 * MIB, syncs=True),
    Row("sequential read, cold page cache", "MiB/s", 128 * MIB, sequential_read_cold, 8 * MIB),
    Row("sequential read, warm page cache", "MiB/s", 128 * MIB, sequential_read_warm, 8 * MIB),
    Row("random read 4 KiB", "µs", 20_000, random_read),
    Row("random write 4 KiB", "µs", 10_000, random_write),
    Row("mmap read", "MiB/s", 64 * MIB, mmap_read, 8 * MIB),
    Row("mmap write", "MiB/s", 64 * MIB, mmap_write, 8 * MIB),
    Row("append 4 KiB", "µs", 10_000, append),
    Row("append 4 KiB + fdatasync", "µs", 200, append_and_sync, syncs=True),
    Row("create + close", "µs", 1000, create),
    Row("first stat", "µs", 1000, first_stat),
    Row("warm stat", "µs", 20_000, warm_stat),
    Row("open + read 4 KiB + close, first", "µs", 500, first_read),
    Row("open + read 4 KiB + close, again", "µs", 2000, next_read),
    Row("rename", "µs", 1000, rename),
    Row("unlink", "µs", 1000, unlink),
    Row("missing name", "µs", 1000, missing_name),
    Row("ls -l of 10,000, first", "ms", 10_000, first_listing, 10_000, stays="many"),
    Row("ls -l of 10,000, again", "ms", 10_000, next_listing, 10_000, stays="many"),
)
