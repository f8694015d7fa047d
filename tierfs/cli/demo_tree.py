"""A real tree for the demo, taken from what every machine has, and the comparison of two trees."""

import hashlib
import os
import shutil
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Compiled code is made anew on every machine; other people's packages come as a root of their own.
_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages"})
_LARGEST_FILE = 8 << 20
_BLOCK = 1 << 20
#: Nothing outside tierfs looks at it: it shows that extended attributes come back too.
_ORIGIN = "user.origin"


@dataclass(slots=True)
class Census:
    """What a tree holds; `bytes` counts regular files."""

    files: int = 0
    bytes: int = 0
    symlinks: int = 0
    directories: int = 0
    empty: int = 0

    def count(self, st: os.stat_result) -> None:
        """Take one entry into account."""
        if stat.S_ISREG(st.st_mode):
            self.files += 1
            self.bytes += st.st_size
            self.empty += st.st_size == 0
        self.symlinks += stat.S_ISLNK(st.st_mode)
        self.directories += stat.S_ISDIR(st.st_mode)


def real_roots() -> list[tuple[str, Path]]:
    """Trees that are on this machine, each under the name that it gets in the sample."""
    candidates = (
        ("library", Path(sysconfig.get_path("stdlib"))),
        ("doc", Path("/usr/share/doc")),
        ("zoneinfo", Path("/usr/share/zoneinfo")),
        ("packages", Path(sysconfig.get_path("purelib"))),
    )
    return [(name, path) for name, path in candidates if path.is_dir()]


def copy_sample(roots: list[tuple[str, Path]], target: Path, files: int, limit_bytes: int) -> Census:
    """Copy files, directories and symlinks into `target`, at most so many files and bytes, shared among the roots."""
    total = Census()
    for position, (name, root) in enumerate(roots):
        share = len(roots) - position
        room = Census(files=(files - total.files) // share, bytes=(limit_bytes - total.bytes) // share)
        taken = _copy_some(root, target / name, room)
        for one in taken:
            total.count(one)
    return total


def _copy_some(root: Path, target: Path, room: Census) -> list[os.stat_result]:
    taken: list[os.stat_result] = []
    for source, st in _walk(root):
        if stat.S_ISREG(st.st_mode):
            if room.files == 0:
                break
            if st.st_size > min(room.bytes, _LARGEST_FILE) or not os.access(source, os.R_OK):
                continue
            room.files -= 1
            room.bytes -= st.st_size
        copy = target / source.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy, follow_symlinks=False)
        if stat.S_ISREG(st.st_mode):
            _note_origin(source, copy)
        taken.append(st)
    return taken


def _walk(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files and symlinks, in order of their names; what cannot be listed is left out."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name in _LEFT_OUT:
            continue
        st = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            yield from _walk(Path(entry.path))
        elif stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode):
            yield Path(entry.path), st


def _note_origin(source: Path, copy: Path) -> None:
    try:
        os.setxattr(copy, _ORIGIN, os.fsencode(source))
    except OSError:
        pass  # this filesystem has no extended attributes: there is nothing to show then


@dataclass(slots=True)
class Comparison:
    """Two trees side by side: what was looked at, and one line for every difference."""

    census: Census = field(default_factory=Census)
    differences: list[str] = field(default_factory=list)


def compare(left: Path, right: Path) -> Comparison:
    """Compare two trees: names, kinds, bytes, mode, owner, times in nanoseconds, link targets, extended attributes."""
    result = Comparison()
    _compare_directories(left, right, result)
    return result


def _compare_directories(left: Path, right: Path, result: Comparison) -> None:
    names, others = set(os.listdir(left)), set(os.listdir(right))
    result.differences += [f"{left / name}: only here" for name in sorted(names - others)]
    result.differences += [f"{right / name}: only here" for name in sorted(others - names)]
    for name in sorted(names & others):
        one, other = left / name, right / name
        st = one.lstat()
        result.census.count(st)
        result.differences += [f"{other}: {what} differs" for what in _differing(one, other)]
        if stat.S_ISDIR(st.st_mode) and stat.S_ISDIR(other.lstat().st_mode):
            _compare_directories(one, other, result)


def _differing(one: Path, other: Path) -> list[str]:
    a, b = one.lstat(), other.lstat()
    names = ("st_mode", "st_uid", "st_gid", "st_mtime_ns")
    found = [name.removeprefix("st_") for name in names if getattr(a, name) != getattr(b, name)]
    if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
        return found
    if stat.S_ISLNK(a.st_mode):
        return found + (["link target"] if os.readlink(one) != os.readlink(other) else [])
    found += ["extended attributes"] if _xattrs(one) != _xattrs(other) else []
    if stat.S_ISREG(a.st_mode):
        found += ["size"] if a.st_size != b.st_size else []
        found += ["content"] if sha256_of(one) != sha256_of(other) else []
    return found


def _xattrs(path: Path) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}
    except OSError:
        return {}


def sha256_of(path: Path) -> str:
    """SHA-256 of a whole file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
