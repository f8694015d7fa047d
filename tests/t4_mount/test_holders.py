"""Who keeps a mount busy."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import require
from tierfs.mount import kernel

pytestmark = pytest.mark.mount

_WAIT = "print(flush=True); input()"
_MAP = "import mmap, os; map = mmap.mmap(os.open('file', os.O_RDWR), 4); os.close(3); os.chdir('/');"


@pytest.fixture
def place() -> Iterator[Path]:
    """A mount over a directory, as a mount in place is one; /proc tells of any other kind what it tells of ours."""
    require(os.geteuid() == 0, "mount(8) needs root")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
        try:
            (path / "file").write_bytes(b"text")
            yield path
        finally:
            subprocess.run(["umount", path], check=True)


@contextmanager
def _process(directory: Path, code: str, *, descriptor: int | None = None) -> Iterator[int]:
    """A Python process that has come to its waiting."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[] if descriptor is None else [descriptor],
    )
    assert process.stdout is not None
    try:
        with process:
            process.stdout.readline()
            yield process.pid
            process.communicate(b"\n")
    finally:
        process.kill()


def test_nobody(place: Path) -> None:
    assert kernel.holders(str(place)) == []


def test_whoever_is_in_it(place: Path) -> None:
    with _process(place, _WAIT) as pid:
        assert kernel.holders(str(place)) == [f"{Path(f'/proc/{pid}/comm').read_text().strip()} ({pid})"]


def test_whoever_has_a_file_open_even_one_without_a_name(place: Path) -> None:
    descriptor = os.open(place / "file", os.O_RDONLY)
    with _process(Path("/"), _WAIT, descriptor=descriptor) as pid:
        os.close(descriptor)
        (place / "file").unlink()
        assert [holder.rpartition(" ")[2] for holder in kernel.holders(str(place))] == [f"({pid})"]


def test_whoever_has_a_file_mapped(place: Path) -> None:
    with _process(place, _MAP + _WAIT) as pid:
        assert [holder.rpartition(" ")[2] for holder in kernel.holders(str(place))] == [f"({pid})"]


def test_a_descriptor_of_what_is_below_the_mount_holds_nothing(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "mount(8) needs root")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with _process(Path("/"), _WAIT, descriptor=descriptor):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
        try:
            assert kernel.holders(str(tmp_path)) == []
        finally:
            subprocess.run(["umount", tmp_path], check=True)
            os.close(descriptor)
