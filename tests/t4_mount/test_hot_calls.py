"""System calls on open files, in both I/O modes, on hot, sparse and cold files: they do what a plain directory does."""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import pytest

from tests.conftest import require
from tests.mappings import READ, READ_WRITE, Mapping
from tests.mounting import Mount
from tests.t4_mount.children import STRANGER, run_as
from tests.t4_mount.modes import MODES, is_passed_through, mounted_in_mode, relative, wait_until_all_is_closed

pytestmark = pytest.mark.mount

KIB = 1 << 10
KINDS = ("hot", "sparse", "cold")
#: Modes of fallocate(2) (linux/falloc.h).
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16

#: struct vfs_cap_data (linux/capability.h): revision 2, CAP_CHOWN is permitted and effective.
_CAPABILITY = struct.pack("<5I", 0x02000001, 1, 0, 0, 0)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


@pytest.fixture(scope="module", params=MODES)
def mount(request: pytest.FixtureRequest) -> Iterator[Mount]:
    """A mount in each mode."""
    with mounted_in_mode(request.param) as made:
        yield made


@pytest.fixture
def native(mount: Mount, place: Path) -> Path:
    """A plain directory on the filesystem of the hot directory."""
    path = mount.plan.home / "native" / place.name
    path.mkdir(parents=True)
    return path


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, mount: Mount, place: Path, native: Path) -> tuple[Path, Path]:
    """The same file in the mount and in a plain directory: 1 MiB, of which a sparse one has 64 KiB in the middle."""
    for path in (place / "file", native / "file"):
        with open(path, "wb") as file:
            file.truncate(1024 * KIB)
            if request.param == "sparse":
                file.seek(512 * KIB)
                file.write(b"d" * 64 * KIB)
            else:
                file.write(bytes(range(256)) * 4 * KIB)
    make_cold(mount, place / "file", request.param)
    return place / "file", native / "file"


def make_cold(mount: Mount, path: Path, kind: str) -> None:
    if kind == "cold":
        wait_until_all_is_closed(mount)
        mount.release(relative(mount, path))


def allocate(fd: int, mode: int, offset: int, length: int) -> str:
    """fallocate(2) itself, without the C library's emulation; the name of its errno."""
    return errno.errorcode[ctypes.get_errno()] if _libc.fallocate(fd, mode, offset, length) else "done"


def outcome(call: Callable[[], object]) -> object:
    """What a call returns, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


# -- space -------------------------------------------------------------------------------------------------------------


ALLOCATIONS = {
    "longer": (0, 1000 * KIB, 100 * KIB),
    "keep size": (KEEP_SIZE, 1000 * KIB, 100 * KIB),
    "punch a hole": (KEEP_SIZE | PUNCH_HOLE, 520 * KIB, 32 * KIB),
    "zero": (ZERO_RANGE, 520 * KIB, 32 * KIB),
    "punch without keeping the size": (PUNCH_HOLE, 0, 4 * KIB),
    "nothing": (0, 0, 0),
}


def refuse_to_allocate(path: Path, arguments: tuple[int, int, int]) -> None:
    """EOPNOTSUPP (EINVAL for what makes no sense anyway), and the file is as it was."""
    before = sha256(path.read_bytes()).digest()
    with open(path, "r+b", buffering=0) as file:
        assert allocate(file.fileno(), *arguments) in ("ENOTSUP", "EOPNOTSUPP", "EINVAL")
    assert sha256(path.read_bytes()).digest() == before


@pytest.mark.parametrize("arguments", ALLOCATIONS.values(), ids=ALLOCATIONS.keys())
def test_fallocate(pair: tuple[Path, Path], arguments: tuple[int, int, int], request: pytest.FixtureRequest) -> None:
    if "cold" in request.node.name:
        refuse_to_allocate(pair[0], arguments)
        return
    told = []
    for path in pair:
        with open(path, "r+b", buffering=0) as file:
            result = allocate(file.fileno(), *arguments)
            # Sums, because pytest explains a difference between megabytes for minutes.
            told.append((result, path.stat().st_size, sha256(file.read()).digest(), sha256(path.read_bytes()).digest()))
    assert told[0] == told[1]


def test_a_range_is_not_collapsed(pair: tuple[Path, Path]) -> None:
    """The kernel's FUSE passes neither COLLAPSE_RANGE nor INSERT_RANGE on: EOPNOTSUPP, and the file is as it was."""
    refuse_to_allocate(pair[0], (COLLAPSE_RANGE, 512 * KIB, 64 * KIB))


def test_fallocate_needs_a_writer(pair: tuple[Path, Path]) -> None:
    for path in pair:
        with open(path, "rb") as file:
            assert allocate(file.fileno(), 0, 0, 2048 * KIB) == "EBADF"


def test_holes_and_data_are_found(mount: Mount, pair: tuple[Path, Path], request: pytest.FixtureRequest) -> None:
    """As in a plain directory; a cold file says that it is all data, which is always true enough (lseek(2))."""
    is_cold = "cold" in request.node.name
    told = []
    for path in pair:
        with open(path, "rb", buffering=0) as file:
            told.append(
                [
                    outcome(lambda: os.lseek(file.fileno(), offset, whence))  # noqa: B023 - called at once
                    for whence in (os.SEEK_DATA, os.SEEK_HOLE, os.SEEK_END)
                    for offset in (0, 500 * KIB, 600 * KIB, 1024 * KIB - 1, 1024 * KIB, 2048 * KIB)
                ]
            )
    assert told[0] == told[1]
    if is_cold:
        assert mount.residency(relative(mount, pair[0])) == "cold"


def test_copies_between_files(mount: Mount, place: Path, pair: tuple[Path, Path]) -> None:
    """copy_file_range(2) from and to hot, sparse and cold files, and within one."""
    targets = place / "target", pair[1].with_name("target")
    told = []
    for path, target in zip(pair, targets, strict=True):
        target.write_bytes(b"t" * 100 * KIB)
        with open(path, "r+b", buffering=0) as source, open(target, "r+b", buffering=0) as out:
            counts = [
                copy_all(source.fileno(), out.fileno(), 500 * KIB, 10, 90 * KIB),
                copy_all(out.fileno(), source.fileno(), 0, 1020 * KIB, 8 * KIB),
                copy_all(source.fileno(), source.fileno(), 0, 200 * KIB, 100 * KIB),
                outcome(lambda: os.copy_file_range(source.fileno(), source.fileno(), 10, 0, 5)),
                copy_all(source.fileno(), out.fileno(), 4096 * KIB, 0, 10),
            ]
        told.append((counts, path.read_bytes(), target.read_bytes()))
    assert told[0] == told[1]


def copy_all(source: int, target: int, from_offset: int, to_offset: int, length: int) -> object:
    """Copy until it is done or nothing more comes: a single call may copy less (copy_file_range(2))."""
    done = 0
    while done < length:
        count = outcome(
            lambda: os.copy_file_range(source, target, length - done, from_offset + done, to_offset + done)  # noqa: B023
        )
        if not isinstance(count, int):
            return count
        if not count:
            break
        done += count
    return done


# -- privileges --------------------------------------------------------------------------------------------------------


def write(path: Path) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.write(b"x")


def write_at_length(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x" * 1000 * KIB)


def preallocate(path: Path) -> None:
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 2048 * KIB)


def copy_within(path: Path) -> None:
    with open(path, "r+b") as file:
        copy_all(file.fileno(), file.fileno(), 0, 512 * KIB, KIB)


@pytest.mark.parametrize("change", [write, write_at_length, preallocate, copy_within])
@pytest.mark.parametrize("mode", [0o4777, 0o2777, 0o6777, 0o2767, 0o4666, 0o777], ids=oct)
@pytest.mark.parametrize("uid", [0, STRANGER], ids=["root", "a stranger"])
def test_set_user_id_goes_when_somebody_else_than_root_writes(
    pair: tuple[Path, Path], mode: int, change: Callable[[Path], None], uid: int, mount: Mount
) -> None:
    """The kernel leaves it to the daemon (FUSE_HANDLE_KILLPRIV_V2)."""
    require(os.geteuid() == 0, "becoming another user needs root")
    is_cold = mount.residency(relative(mount, pair[0])) == "cold"
    modes = []
    for path in pair:
        os.chown(path, STRANGER, STRANGER)
        path.chmod(mode)
    make_cold(mount, pair[0], "cold" if is_cold else "hot")
    for path in pair:
        run_as(uid, lambda: change(path))  # noqa: B023 - called at once
        modes.append(oct(stat.S_IMODE(path.stat().st_mode)))
    hot = mount.plan.hot / relative(mount, pair[0])
    assert modes[0] == modes[1] == oct(stat.S_IMODE(hot.stat().st_mode))


# -- open flags and locks ----------------------------------------------------------------------------------------------


def test_a_write_takes_the_capabilities_of_a_program_away(mount: Mount, pair: tuple[Path, Path]) -> None:
    """Those of a file that is open too, however often its attributes were asked for meanwhile."""
    names: dict[Path, list[list[str]]] = {path: [] for path in pair}
    for path in pair:
        with path.open("r+b", buffering=0) as file:
            for _ in range(3):
                os.setxattr(path, "security.capability", _CAPABILITY)
                file.write(b"x")
                names[path].append(sorted(os.listxattr(path)))
                os.fstat(file.fileno())
                file.write(b"y")
    assert names[pair[0]] == names[pair[1]] == [[]] * 3


def test_o_direct(pair: tuple[Path, Path]) -> None:
    """Aligned reads and writes, beside a handle that is cached."""
    told = []
    for path in pair:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        with open(path, "r+b", buffering=0) as beside, mmap.mmap(-1, 64 * KIB) as aligned:
            count = os.preadv(fd, [aligned], 512 * KIB)
            first = aligned[:]
            aligned[:] = b"D" * 64 * KIB
            written = os.pwritev(fd, [aligned], 128 * KIB)
            seen = os.pread(beside.fileno(), 10, 128 * KIB)
            os.pwrite(beside.fileno(), b"beside", 0)
            os.preadv(fd, [aligned], 0)
            told.append((count, first, written, seen, aligned[:6], path.read_bytes()))
        os.close(fd)
    assert told[0] == told[1]


def test_o_append_of_several_handles(pair: tuple[Path, Path]) -> None:
    """Each write goes to the end that the others have made, wherever the handle stands; pwrite(2) as well (Linux)."""
    for path in pair:
        fds = [os.open(path, os.O_RDWR | os.O_APPEND) for _ in range(3)]
        for number in range(30):
            os.lseek(fds[number % 3], 5, os.SEEK_SET)
            os.write(fds[number % 3], b"%02d" % number)
        os.pwrite(fds[0], b"end", 0)
        for fd in fds:
            os.close(fd)
    assert pair[0].read_bytes() == pair[1].read_bytes()
    assert pair[0].read_bytes().endswith(b"2829end")


@pytest.mark.parametrize("flag", ["O_SYNC", "O_DSYNC"])
def test_synchronous_handles_are_synchronous_below(mount: Mount, pair: tuple[Path, Path], flag: str) -> None:
    """The worker's descriptor has the flag: what plain FUSE writes is on the disk before the write returns."""
    path, wanted = pair[0], getattr(os, flag)
    fd = os.open(path, os.O_WRONLY | wanted)
    try:
        assert os.write(fd, b"synced") == 6
        assert any(flags & wanted == wanted for flags in descriptor_flags(mount, path))
    finally:
        os.close(fd)
    assert path.read_bytes()[:6] == b"synced"


def descriptor_flags(mount: Mount, path: Path) -> Iterator[int]:
    worker = Path(f"/proc/{mount.status()['worker_pid']}")
    for link in (worker / "fd").iterdir():
        with suppress(FileNotFoundError):  # the worker opens and closes others meanwhile
            if os.readlink(link) == str(mount.plan.hot / relative(mount, path)):
                yield int((worker / "fdinfo" / link.name).read_text().split("flags:")[1].split()[0], 8)


def can_lock(path: Path, lock: Callable[[int, int], object], kind: int) -> bool:
    """Whether a process of its own gets a lock at once."""

    def attempt() -> bool:
        with open(path, "r+b") as file:
            try:
                lock(file.fileno(), kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    return run_as(os.geteuid(), attempt)


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_locks_between_processes(pair: tuple[Path, Path], lock: Callable[[int, int], object]) -> None:
    """Advisory locks of both families: exclusive ones exclude, shared ones share, closing unlocks."""
    for path in pair:
        with open(path, "r+b") as file:
            lock(file.fileno(), fcntl.LOCK_EX)
            assert not can_lock(path, lock, fcntl.LOCK_SH)
            lock(file.fileno(), fcntl.LOCK_SH)
            assert can_lock(path, lock, fcntl.LOCK_SH)
            assert not can_lock(path, lock, fcntl.LOCK_EX)
        assert can_lock(path, lock, fcntl.LOCK_EX)


# -- programs and mappings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hot", "cold"])
def test_a_program_runs_from_the_mount(mount: Mount, place: Path, kind: str) -> None:
    """And cannot be written to while it runs (ETXTBSY)."""
    cat = shutil.which("cat")
    require(cat is not None, "cat is not installed")
    program = place / "cat"
    shutil.copy(str(cat), program)
    make_cold(mount, program, kind)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"it runs\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"it runs\n"
        assert outcome(lambda: os.open(program, os.O_WRONLY)) == "ETXTBSY"
        process.stdin.close()
    assert process.returncode == 0


def test_shared_mappings_are_one_with_the_file(mount: Mount, pair: tuple[Path, Path]) -> None:
    """What one handle maps and stores, others read, map and find in the hot directory; private mappings keep it."""
    path = pair[0]
    with (
        open(path, "r+b", buffering=0) as file,
        open(path, "rb", buffering=0) as other,
        mmap.mmap(file.fileno(), 0) as shared,
        mmap.mmap(other.fileno(), 0, access=mmap.ACCESS_READ) as seen,
        mmap.mmap(other.fileno(), 0, access=mmap.ACCESS_COPY) as private,
    ):
        shared[8190:8196] = b"stored"
        private[:6] = b"hidden"
        os.pwrite(file.fileno(), b"written", 512 * KIB)
        assert (seen[8190:8196], shared[512 * KIB : 512 * KIB + 7]) == (b"stored", b"written")
        assert os.pread(other.fileno(), 6, 8190) == b"stored"
        assert seen[:6] != b"hidden"
    hot = (mount.plan.hot / relative(mount, path)).read_bytes()
    assert hot == path.read_bytes()
    assert hot[8190:8196] == b"stored"


@contextmanager
def mapped_without_descriptor(path: Path, length: int, protection: int) -> Iterator[Mapping]:
    """A shared mapping of a file that nobody has open any more."""
    fd = os.open(path, os.O_RDWR if protection & mmap.PROT_WRITE else os.O_RDONLY)
    mapping = Mapping(fd, length, protection)
    os.close(fd)
    try:
        yield mapping
    finally:
        mapping.close()


@pytest.mark.parametrize("protection", [READ, READ_WRITE], ids=["reading", "writing"])
def test_a_file_that_is_mapped_is_not_released(mount: Mount, place: Path, protection: int) -> None:
    """In passthrough the daemon does not see a mapping: its stores would be lost, its loads would be of old bytes."""
    path = place / "file"
    path.write_bytes(b"first")
    with mapped_without_descriptor(path, 4096, protection) as mapping:
        if is_passed_through(mount):
            wait_until_all_is_closed(mount)
        outcomes = mount.outcomes("release", relative(mount, path))
        with open(path, "r+b") as file:
            file.write(b"later")
        assert mapping.load(0, 5) == b"later"
        if mapping.can_store:
            mapping.store(0, b"again")
        assert [one.result for one in outcomes] == ["failed"], outcomes
        assert "open" in outcomes[0].reason
        content = path.read_bytes()
        assert content == (b"again" if mapping.can_store else b"later")
    wait_until_all_is_closed(mount)
    mount.release(relative(mount, path))
    assert path.read_bytes() == content
