"""What a tree looks like from outside, and how that is compared with what it should be."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

Value = int | None


@dataclass(frozen=True)
class Seen:
    """All that an application can see of one name. In a tree that is wanted, None stands for anything."""

    kind: int
    mode: int
    uid: int
    gid: int
    xattrs: tuple[tuple[str, bytes], ...] = ()
    content: bytes | str | None = None
    nlink: Value = None
    mtime_ns: Value = None
    ino: Value = None

    def agrees(self, wanted: "Seen") -> bool:
        """Whether this is what was wanted."""
        return all(
            value is None or getattr(self, name) == value
            for name, value in ((name, getattr(wanted, name)) for name in self.__dataclass_fields__)
        )


Tree = dict[str, Seen]


def look(root: Path) -> Tree:
    """Everything below a directory, by path. OSError when something cannot be read."""
    found: Tree = {}
    for directory, below, files in os.walk(root, onerror=_fail):
        for name in below + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = look_at(path)
    return found


def look_at(path: str | Path) -> Seen:
    """One name."""
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    common = (kind, stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid)
    if kind == stat.S_IFLNK:
        return Seen(*common, content=os.readlink(path), ino=st.st_ino)
    xattrs = tuple(sorted((name, os.getxattr(path, name)) for name in os.listxattr(path)))
    if kind == stat.S_IFDIR:  # its times and its size belong to the local filesystem
        return Seen(*common, xattrs, ino=st.st_ino)
    with open(path, "rb") as file:
        content = file.read()
    assert len(content) == st.st_size, f"{path} has {st.st_size} bytes and gives {len(content)}"
    return Seen(*common, xattrs, content, st.st_nlink, st.st_mtime_ns, st.st_ino)


def differences(seen: Tree, wanted: Tree) -> list[str]:
    """Where a tree is not what was wanted, in words."""
    said = [f"{path} is missing" for path in sorted(wanted.keys() - seen.keys())]
    said += [f"{path} is too much" for path in sorted(seen.keys() - wanted.keys())]
    for path in sorted(seen.keys() & wanted.keys()):
        if not seen[path].agrees(wanted[path]):
            names = [
                f"{name} {_short(getattr(seen[path], name))} instead of {_short(value)}"
                for name in Seen.__dataclass_fields__
                if (value := getattr(wanted[path], name)) is not None and getattr(seen[path], name) != value
            ]
            said.append(f"{path}: {', '.join(names)}")
    return said


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes {value[:12]!r}"
    return repr(value)


def _fail(error: OSError) -> None:
    raise error
