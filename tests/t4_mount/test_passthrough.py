"""Kernel passthrough: what reaches the daemon, the I/O mode of a file, where it falls back, and what is left over."""

import mmap
import os
import resource
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import is_ci, require
from tests.mounting import Mount, Plan, directory, mounted, run
from tests.t4_mount.modes import (
    MODES,
    cold_file,
    is_passed_through,
    mounted_in_mode,
    relative,
    wait_until,
    wait_until_all_is_closed,
)

pytestmark = pytest.mark.mount

MIB = 1 << 20

passed_through = pytest.mark.parametrize("mount", ["required"], indirect=True)


@pytest.fixture(scope="module", params=MODES)
def mount(request: pytest.FixtureRequest) -> Iterator[Mount]:
    """A mount in each mode."""
    with mounted_in_mode(request.param) as made:
        yield made


@contextmanager
def requests(mount: Mount) -> Iterator[Counter[str]]:
    """The requests that reach the daemon in the block, by name; complete after it, with every file closed."""
    seen: Counter[str] = Counter()
    wait_until_all_is_closed(mount)
    before = Counter(mount.status()["fuse"]["requests"])
    yield seen
    wait_until_all_is_closed(mount)
    seen.update(Counter(mount.status()["fuse"]["requests"]) - before)


# -- what reaches the daemon -------------------------------------------------------------------------------------------


def read_and_write_in_every_way(path: Path) -> bytes:
    """Use a file as applications do; what is in it afterwards."""
    with open(path, "wb") as file:
        for _ in range(4):
            file.write(b"s" * MIB)
    with open(path, "r+b", buffering=0) as file:
        for number in range(64):
            os.pwrite(file.fileno(), bytes([number]) * 4096, number * 65536)
            assert os.pread(file.fileno(), 4096, number * 65536) == bytes([number]) * 4096
        with mmap.mmap(file.fileno(), 0) as mapping:
            mapping[10:14] = b"mmap"
            assert mapping[2 * MIB + 1] == 32
            mapping.flush()
    with open(path, "ab", buffering=0) as file:
        for _ in range(64):
            file.write(b"a" * 4096)
    with open(path, "rb") as source, open(path.with_suffix(".copy"), "wb") as target:
        os.sendfile(target.fileno(), source.fileno(), 0, 1000)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what was written is in the kernel's cache
        return file.read()


def test_reads_writes_and_maps_of_hot_files_reach_the_daemon_in_plain_fuse_only(
    mount: Mount, place: Path, tmp_path: Path
) -> None:
    """Counted where requests are read from /dev/fuse; the bytes are those of a plain directory."""
    with requests(mount) as seen:
        content = read_and_write_in_every_way(place / "file")
    assert content == read_and_write_in_every_way(tmp_path / "file")
    if is_passed_through(mount):
        assert (seen["read"], seen["write"]) == (0, 0), seen
    else:
        assert seen["read"] > 0
        assert seen["write"] > 0


@passed_through
def test_a_write_costs_no_request_at_all(mount: Mount, place: Path) -> None:
    """Not even a look for file capabilities, which the kernel asks for before each write unless it is told not to."""
    with requests(mount) as seen, open(place / "file", "ab", buffering=0) as file:
        for _ in range(1000):
            file.write(b"x" * 100)
    assert sum(seen.values()) < 20, seen


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_sync_reaches_the_backing_file(mount: Mount, place: Path, call: str) -> None:
    """As many times as the application asked for it, and of the same kind, seen by strace on the worker."""
    with open(place / "file", "wb") as file, traced(mount, place.parent, "fsync,fdatasync") as calls:
        for _ in range(3):
            file.write(b"x")
            file.flush()
            getattr(os, call)(file.fileno())
    hot = mount.plan.hot / relative(mount, place) / "file"
    of_file = [line for line in calls if str(hot) in line]  # the worker syncs its catalog when it likes
    assert [line for line in of_file if f"{call}(" in line and line.endswith("= 0")] == of_file
    assert len(of_file) == 3


def test_sync_of_a_directory_reaches_the_backing_directory(mount: Mount, place: Path) -> None:
    fd = os.open(place, os.O_RDONLY)
    with traced(mount, place.parent, "fsync") as calls:
        os.fsync(fd)
    os.close(fd)
    assert any(f"{mount.plan.hot / relative(mount, place)}>" in line for line in calls), calls


@contextmanager
def traced(mount: Mount, near: Path, calls: str) -> Iterator[list[str]]:
    """System calls of the worker in the block, with the paths of their descriptors; complete after it."""
    require(shutil.which("strace") is not None, "strace is not installed")
    worker, output = mount.status()["worker_pid"], mount.plan.home / "strace"
    output.mkdir()
    # A file for each thread (-ff), so that calls at the same time do not interrupt each other's lines.
    command = ["strace", "-ff", "-qq", "-y", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(output / "thread")]
    tracer = subprocess.Popen([*command, "-p", str(worker)], stderr=subprocess.DEVNULL)
    lines: list[str] = []
    try:
        wait_until(lambda: tracer.poll() is not None or _is_traced(worker, tracer.pid))
        require(tracer.poll() is None, "strace may not attach to another process here")
        yield lines
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
    text = "".join(path.read_text(errors="replace") for path in output.iterdir())
    shutil.rmtree(output)
    lines += [line for line in text.splitlines() if "(" in line]


def _is_traced(pid: int, tracer: int) -> bool:
    states = []
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):  # threads end when they have been idle for a while
            states.append(path.read_text())
    return all(f"TracerPid:\t{tracer}\n" in state for state in states)


# -- which mode a mount has --------------------------------------------------------------------------------------------


def test_status_says_whether_files_are_passed_through(mount: Mount, place: Path) -> None:
    """On or off, and what was opened how."""
    wanted = "off" if "--passthrough=off" in mount.plan.flags else "on"
    before = mount.status()
    (place / "file").write_bytes(b"text")
    after = mount.status()
    assert before["passthrough"] == wanted
    assert not [warning for warning in before["warnings"] if "plain FUSE" in warning]
    opened = Counter(after["fuse"]["opens"]) - Counter(before["fuse"]["opens"])
    assert opened == Counter({"passthrough" if wanted == "on" else "cached": 1})


@contextmanager
def overlay(at: Path) -> Iterator[None]:
    """An overlayfs: a stacked filesystem, whose files the kernel does not pass through."""
    require(os.geteuid() == 0, "mounting an overlayfs needs root")
    layers = [at.with_name(name) for name in ("lower", "upper", "work")]
    for path in (*layers, at):
        path.mkdir()
    options = "lowerdir={},upperdir={},workdir={}".format(*layers)
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"no overlayfs here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_required_fails_where_the_kernel_refuses() -> None:
    """In one sentence that says why."""
    with directory() as home:
        plan = Plan(home, flags=("--passthrough=required",))
        with overlay(plan.hot):
            failure = run(plan)
    said = [line for line in failure.output.splitlines() if line.startswith("tierfs: ")]
    assert failure.status not in (0, None)
    assert len(said) == 1, failure.output
    assert said[0].endswith("the hot directory is on a stacked filesystem, such as overlayfs")
    assert "Traceback" not in failure.output


def test_auto_falls_back_with_a_warning(tmp_path: Path) -> None:
    """The same semantics, said once in the log and in the status."""
    with directory() as home:
        plan = Plan(home)
        with overlay(plan.hot), mounted(plan) as fallen:
            status = fallen.status()
            file = fallen.path / "file"
            content = read_and_write_in_every_way(file)
            wait_until_all_is_closed(fallen)
            fallen.release("file")
            assert file.read_bytes() == content
            with open(file, "r+b") as out:
                out.write(b"again")
            assert file.read_bytes() == b"again" + content[5:]
            said = fallen.log.read_text()
    assert content == read_and_write_in_every_way(tmp_path / "file")
    assert status["passthrough"] == "off"
    assert [warning for warning in status["warnings"] if warning.startswith("plain FUSE, because the hot directory")]
    assert said.count("plain FUSE") == 1, said


# -- one mode for an inode ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_for", [True, False], ids=["restored by an operator", "restored by a write"])
def test_a_file_that_was_opened_cold_stays_in_cached_mode_until_its_last_close(
    mount: Mount, place: Path, asked_for: bool
) -> None:
    """Mixed modes would be EIO. Every handle sees the bytes that the others write; the next open passes through."""
    path = place / "file"
    content = bytearray(os.urandom(3 * MIB))
    cold_file(mount, path, bytes(content))
    with open(path, "rb", buffering=0) as early, ExitStack() as exits:
        assert os.pread(early.fileno(), 100, MIB) == content[MIB : MIB + 100]
        if asked_for:
            mount.restore(relative(mount, path))
        writer = exits.enter_context(open(path, "r+b", buffering=0))
        os.pwrite(writer.fileno(), b"written" * 1000, MIB - 10)
        content[MIB - 10 : MIB + 6990] = b"written" * 1000
        late = exits.enter_context(open(path, "rb", buffering=0))
        with mmap.mmap(writer.fileno(), 0) as mapping:
            mapping[5:11] = b"mapped"
            content[5:11] = b"mapped"
            assert mapping[:] == content
        appender = exits.enter_context(open(path, "ab", buffering=0))
        appender.write(b"the end")
        content += b"the end"
        for file in (early, writer, late):
            assert os.pread(file.fileno(), len(content) + 1, 0) == content
        assert mount.status()["fuse"]["backing_ids"] == 0
        assert mount.residency(relative(mount, path)) == "hot"
    wait_until_all_is_closed(mount)
    with open(path, "rb") as again:
        assert again.read() == content
        assert mount.status()["fuse"]["backing_ids"] == int(is_passed_through(mount))
    assert (mount.plan.hot / relative(mount, path)).read_bytes() == content


def test_handles_of_all_ages_agree_while_the_file_comes_and_goes(mount: Mount, place: Path) -> None:
    """Readers and writers that open and close at any moment of release and restore never get an error or old bytes."""
    path, errors, written = place / "file", [], threading.Event()
    path.write_bytes(b"0" * MIB)

    def read() -> None:
        try:
            while not written.is_set():
                with open(path, "rb") as file:
                    data = file.read()
                assert len(data) == MIB
                assert len({*data[:8]}) == 1, data[:8]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            with open(path, "r+b", buffering=0) as file:
                file.write(bytes([number]) * 8)  # as many as are copied at once
            mount.outcomes("release", relative(mount, path))  # refused while one of them has it open
            assert path.read_bytes()[:8] == bytes([number]) * 8
    finally:
        written.set()
        for thread in threads:
            thread.join()
    assert not errors


def test_a_file_that_gets_set_user_id_is_not_passed_through(mount: Mount, place: Path) -> None:
    """Its writes must be seen, to take the bit away."""
    path = place / "file"
    path.write_bytes(b"text")
    path.chmod(0o4755)
    wait_until_all_is_closed(mount)
    with open(path, "r+b"):
        assert mount.status()["fuse"]["backing_ids"] == 0


# -- open files and the tiers ------------------------------------------------------------------------------------------


def test_a_file_is_archived_and_released_right_after_its_last_close(mount: Mount, place: Path) -> None:
    for number in range(25):
        path = place / str(number)
        path.write_bytes(os.urandom(5000))
        mount.archive(relative(mount, path))
        with open(path, "rb") as file:
            content = file.read()
        mount.release(relative(mount, path))
        assert path.read_bytes() == content


def test_a_second_opener_during_archive_sees_no_error(mount: Mount, place: Path) -> None:
    """Readers and a writer; the writer's bytes win over the archive."""
    path, name = place / "file", relative(mount, place / "file")
    with open(path, "wb") as file:
        file.truncate(256 * MIB)
    outcomes = []
    archiving = threading.Thread(target=lambda: outcomes.extend(mount.outcomes("archive", name)))
    with open(path, "rb", buffering=0) as first:
        archiving.start()
        wait_until(lambda: not archiving.is_alive() or mount.residency(name) == "archiving")
        with open(path, "rb", buffering=0) as second:
            assert os.pread(first.fileno(), 10, 0) == os.pread(second.fileno(), 10, 255 * MIB) == bytes(10)
        with open(path, "r+b", buffering=0) as writer:
            writer.write(b"written")
        archiving.join()
        assert os.pread(first.fileno(), 8, 0) == b"written\0"
    assert mount.residency(name) == "hot"
    assert len(outcomes) == 1


def test_a_thousand_files_are_open_at_once(mount: Mount, place: Path) -> None:
    count = 1000
    wait_until_all_is_closed(mount)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    require(limits[1] == resource.RLIM_INFINITY or limits[1] > 2 * count, "too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2 * count), limits[1]))
    try:
        with ExitStack() as exits:
            files = [exits.enter_context(open(place / str(n), "w+b", buffering=0)) for n in range(count)]
            for number, file in enumerate(files):
                file.write(str(number).encode())
            fuse = mount.status()["fuse"]
            assert fuse["open_files"] == count
            assert fuse["backing_ids"] == (count if is_passed_through(mount) else 0)
            assert [int(os.pread(file.fileno(), 10, 0)) for file in files] == list(range(count))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    wait_until_all_is_closed(mount)
    assert mount.status()["fuse"]["backing_ids"] == 0


def test_nothing_leaks_in_a_hundred_thousand_opens(mount: Mount, place: Path) -> None:
    """Neither descriptors of the worker nor backing ids nor handles; hot, cold and refused opens (fewer on CI)."""
    count = 20_000 if is_ci() else 100_000
    hot, cold, missing = place / "hot", place / "cold", place / "missing"
    cold_file(mount, cold, b"cold")
    hot.write_bytes(b"hot")
    cold.read_bytes()
    wait_until_all_is_closed(mount)
    descriptors = Path(f"/proc/{mount.status()['worker_pid']}/fd")
    before = len(list(descriptors.iterdir()))
    for number in range(count):
        os.close(os.open(hot, os.O_RDWR if number % 2 else os.O_RDONLY))
        if number % 20 == 0:
            os.close(os.open(cold, os.O_RDONLY))
            with pytest.raises(FileNotFoundError):
                os.open(missing, os.O_RDONLY)
    wait_until_all_is_closed(mount)
    wait_until(lambda: len(list(descriptors.iterdir())) <= before)
    assert mount.status()["fuse"]["backing_ids"] == 0
    assert hot.read_bytes() == b"hot"


def test_a_mapping_changes_the_times_of_a_file(mount: Mount, place: Path) -> None:
    """The kernel does not see stores through a mapping of a passthrough file; it asks again when the file is closed."""
    path = place / "file"
    path.write_bytes(b"x" * 4096)
    os.utime(path, ns=(1, 1))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert path.stat().st_mtime_ns == 1
        mapping[:4] = b"text"
        mapping.flush()
    wait_until_all_is_closed(mount)
    assert path.stat().st_mtime_ns == (mount.plan.hot / relative(mount, path)).stat().st_mtime_ns > 1


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_that_is_cut_off_while_files_are_open_ends_like_any_other(mode: str) -> None:
    """Backing ids go with the connection, whose descriptor is closed by then: nothing is given back through it."""
    require(os.geteuid() == 0, "only root may cut a mount off")
    with mounted_in_mode(mode) as mount, ExitStack() as exits:
        for number in range(3):
            file = exits.enter_context(open(mount.path / f"file-{number}", "wb", buffering=0))
            file.write(b"some")
        subprocess.run(["umount", "--force", "--lazy", str(mount.path)], check=True)
        assert mount.process.wait() == 0, mount.log.read_text()
        assert "ERROR" not in mount.log.read_text()
