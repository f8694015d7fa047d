"""Whose a directory is: what others can put into it cannot be trusted, and would be followed with our rights."""

import os
import stat
from collections.abc import Collection
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def own_users() -> frozenset[int]:
    """The users who may do with our files what they like anyway: ourselves, and root."""
    return frozenset({0, os.geteuid()})


def why_foreign(path: Path, users: Collection[int]) -> str | None:
    """Why a directory is not one that only `users` can change, in words; None when it is. OSError.

    A symbolic link to it has to be theirs too: whoever planted one chooses the directory.
    """
    link, found = path.lstat(), path.stat()
    for st in (link, found):
        if st.st_uid not in users:
            return f"belongs to user {st.st_uid}"
    if not stat.S_ISDIR(found.st_mode):
        return "is not a directory"
    return "can be written to by other users" if found.st_mode & _OTHERS_WRITE else None


def why_foreign_inside(path: Path, users: Collection[int]) -> str | None:
    """Why a directory has something in it that others put there, in words; None when it has not. OSError."""
    with os.scandir(path) as entries:
        for entry in entries:
            owner = entry.stat(follow_symlinks=False).st_uid
            if owner not in users:
                return f"has {entry.name!r} in it, which belongs to user {owner}"
    return None


def read_owned(path: Path, users: Collection[int]) -> bytes:
    """The bytes of a regular file that only `users` can change. OSError: PermissionError for any other."""
    # O_NONBLOCK: it may be a fifo.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_uid not in users or st.st_mode & _OTHERS_WRITE:
            raise PermissionError(f"{path} is not a file that only its owner can change")
        return file.read()


def make_directories(path: Path, mode: int) -> None:
    """Make a directory and what is missing above it, all with this mode, whatever the umask leaves of it. OSError."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=mode, exist_ok=True)
