"""Object keys and paths: a reversible translation.

A key is the prefix and the path. Bytes that S3 keys or their XML listings cannot carry (control characters, what is not
UTF-8, U+FFFE and U+FFFF) and the percent sign itself are written %XX. Below RESERVED lie the objects that tierfs keeps
for itself; a path that begins with that name is escaped, so the two never meet.
"""

import re
from dataclasses import dataclass

RESERVED = ".tierfs"
LONGEST_KEY = 1024  # bytes of UTF-8, Amazon S3 user guide, "Naming Amazon S3 objects"
LONGEST_NAME = 255  # bytes, NAME_MAX

_UNSAFE = re.compile("[%\x00-\x1f\x7f\udc80-\udcff\ufffe\uffff]")
_ESCAPED = re.compile("%([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class Named:
    """What a key stands for: a file, or a directory where the key ends in a slash."""

    path: bytes
    is_directory: bool = False


@dataclass(frozen=True, slots=True)
class Unnameable:
    """A key that no file of the tree can have; `reason` is for a person."""

    key: str
    reason: str


def key_of(prefix: str, path: bytes) -> str:
    """The key under which the file at `path` is archived."""
    text = path.decode("utf-8", "surrogateescape")
    escaped = _UNSAFE.sub(_escape, text)
    if escaped == RESERVED or escaped.startswith(RESERVED + "/"):
        escaped = "%2E" + escaped[1:]
    return prefix + escaped


def is_storable(key: str) -> bool:
    """Whether S3 takes a key of this length."""
    return len(key.encode()) <= LONGEST_KEY


def is_reserved(prefix: str, key: str) -> bool:
    """Whether the object belongs to tierfs itself, not to the tree."""
    return key.startswith(f"{prefix}{RESERVED}/")


def is_path(path: bytes) -> bool:
    """Whether a file of the tree can have this path: it leads nowhere else."""
    return _why_not(path) is None


def path_of(prefix: str, key: str) -> Named | Unnameable:
    """The path that the object `key` has in the tree.

    A key that key_of() would not have written (somebody else's object) stands for itself, letter by letter.
    """
    text = key.removeprefix(prefix)
    is_directory = text.endswith("/")
    text = text[:-1] if is_directory else text
    path = _unescape(text)
    if key_of(prefix, path) != prefix + text:
        path = text.encode("utf-8", "surrogateescape")
    reason = _why_not(path)
    return Unnameable(key, reason) if reason else Named(path, is_directory)


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogateescape"))


def _unescape(text: str) -> bytes:
    pieces = _ESCAPED.split(text)
    plain = [piece.encode("utf-8", "surrogateescape") for piece in pieces[::2]]
    escaped = [bytes((int(digits, 16),)) for digits in pieces[1::2]] + [b""]
    return b"".join(a + b for a, b in zip(plain, escaped, strict=True))


def _why_not(path: bytes) -> str | None:
    names = path.split(b"/")
    if not path or b"" in names:
        return "has an empty name between two slashes"
    if b"." in names or b".." in names:
        return 'has the name "." or ".."'
    if b"\0" in path:
        return "has a NUL byte"
    if max(map(len, names)) > LONGEST_NAME:
        return f"has a name of more than {LONGEST_NAME} bytes"
    return None
