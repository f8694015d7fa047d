"""open(2) returns, and does to the file, what it does in a plain directory: every set of flags, every kind of file."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import pytest

from tests.t4_mount.comparison import CaseLike, Told, differences, run_natively

pytestmark = pytest.mark.mount

CONTENT = b"0123456789"
ACCESS = ("O_RDONLY", "O_WRONLY", "O_RDWR")
EXTRA = ("O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_DIRECTORY", "O_NOFOLLOW")
ALONE = ("O_SYNC", "O_DSYNC", "O_NOATIME", "O_NONBLOCK", "O_NOCTTY", "O_ASYNC")
KINDS = ("missing", "file", "directory", "link to a file", "dangling link", "link to a directory")


@dataclass(frozen=True, slots=True)
class Open:
    """One open(2), then a write and a read through what it gave."""

    flags: tuple[str, ...]
    kind: str

    def __str__(self) -> str:
        return f"{'|'.join(self.flags)} of {self.kind}"

    def make(self, directory: Path, owner: int) -> None:
        """A directory that holds `a`."""
        directory.mkdir()
        path = directory / "a"
        if self.kind == "file":
            path.write_bytes(CONTENT)
        elif self.kind == "directory":
            path.mkdir()
        elif self.kind == "dangling link":
            path.symlink_to("nowhere")
        elif self.kind == "link to a file":
            path.with_name("b").write_bytes(CONTENT)
            path.symlink_to("b")
        elif self.kind == "link to a directory":
            path.with_name("b").mkdir()
            path.symlink_to("b")

    def run(self, directory: Path) -> Any:
        """What open, write and read return, or their errnos."""
        flags = 0
        for name in self.flags:
            flags |= getattr(os, name)
        try:
            fd = os.open(directory / "a", flags, 0o640)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        try:
            return [_tried(os.write, fd, b"xy"), _tried(os.pread, fd, 20, 0), _tried(os.lseek, fd, 0, os.SEEK_CUR)]
        finally:
            os.close(fd)


def _tried(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def opens() -> Iterator[Open]:
    """Every access mode with every set of the flags that change each other, and with each of the others."""
    sets = chain.from_iterable(combinations(EXTRA, size) for size in range(len(EXTRA) + 1))
    for access, extra, kind in product(ACCESS, [*sets, *((flag,) for flag in ALONE)], KINDS):
        yield Open((access, *extra), kind)
    for extra, kind in product([(), ("O_DIRECTORY",), ("O_NOFOLLOW",), ("O_DIRECTORY", "O_NOFOLLOW")], KINDS):
        yield Open(("O_PATH", *extra), kind)


@pytest.fixture(scope="module")
def expected() -> dict[CaseLike, Told]:
    """What the host does."""
    return run_natively(list(opens()), os.geteuid())


@pytest.mark.parametrize(("state", "passthrough"), [("hot", "auto"), ("hot", "off"), ("cold", "auto")])
def test_open_does_what_a_plain_directory_does(expected: dict[CaseLike, Told], state: str, passthrough: str) -> None:
    """Errnos, what can be read and written, and names, contents and times afterwards."""
    cold = [case for case in expected if isinstance(case, Open) and case.kind in ("file", "link to a file")]
    expected = expected if state == "hot" else {case: expected[case] for case in cold}
    found = differences(state, expected, os.geteuid(), "--passthrough", passthrough)
    assert not found, f"{len(found)} differences in {len(expected)} cases:\n" + "\n".join(found)


def test_a_nameless_file_is_refused_as_filesystems_without_it_do(place: Path) -> None:
    """O_TMPFILE is not in pyfuse3: EOPNOTSUPP, upon which programs make a named temporary file."""
    with pytest.raises(OSError, match="not supported"):
        os.open(place, os.O_TMPFILE | os.O_RDWR)
