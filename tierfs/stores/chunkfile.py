"""The files of the chunk cache: how they are named, and what is in one.

A chunk is one file on one of sixteen shelves, `0` to `f` (few directories: each costs a block on the disk). The file
is a header that says whose bytes these are, then the bytes. The header (128 bytes) is: magic, CRC-32 and length of
the bytes, length of the chunk's key, the key, zero padding.
"""

import hashlib
import os
import struct
from contextlib import suppress

from isal import isal_zlib

from tierfs.core.records import ObjectRef

SHELVES = "0123456789abcdef"
_SUFFIX = ".val"
_HEADER = struct.Struct("<8sIQH106s")
_MAGIC = b"tierfs\x00\x01"


def object_digest(ref: ObjectRef) -> str:
    """What tells one version of an object from every other, in 32 hexadecimal digits."""
    return _digest(ref.key, ref.etag, ref.version_id or "")


def chunk_key(ref: ObjectRef, chunk_size: int, index: int) -> str:
    """The cache's name of one chunk: a new version of an object, or another chunk size, never meets old chunks."""
    return f"{_digest(ref.key, ref.etag, ref.version_id or '', str(chunk_size))}:{index}"


def _digest(*fields: str) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for value in fields:
        encoded = value.encode("utf-8", "surrogateescape")
        hashed.update(len(encoded).to_bytes(8, "little") + encoded)
    return hashed.hexdigest()


def new_name() -> str:
    """A name, relative to the cache's directory, that no file has yet."""
    name = os.urandom(16).hex()
    return os.path.join(name[0], name[1:] + _SUFFIX)


def is_value_name(filename: str) -> bool:
    """Whether a name is one that new_name() gives: nothing else in the directory is ever opened or removed."""
    shelf, _, name = filename.partition("/")
    return len(shelf) == 1 and shelf in SHELVES and "/" not in name and name.endswith(_SUFFIX)


def value_names(directory: str) -> set[str]:
    """The names of all files on the shelves."""
    found: set[str] = set()
    for shelf in SHELVES:
        with suppress(FileNotFoundError):
            names = (os.path.join(shelf, name) for name in os.listdir(os.path.join(directory, shelf)))
            found.update(filter(is_value_name, names))
    return found


def taken_bytes(path: str) -> int:
    """What a file or a directory itself takes from its disk; 0 when it is not there."""
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def write_chunk(path: str, key: str, data: bytes | memoryview, crc: int) -> None:
    """Make the file of a chunk (0600) whose CRC-32 is `crc`; OSError, and no file, when it cannot be written whole."""
    named = key.encode()
    header = _HEADER.pack(_MAGIC, crc, len(data), len(named), named)
    with suppress(FileExistsError):
        os.mkdir(os.path.dirname(path), 0o700)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.writev(fd, (header, data)) != len(header) + len(data):
            raise OSError("the disk took only a part of a chunk")
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def read_chunk(path: str, key: str, crc: int | None, target: memoryview) -> bool:
    """Read a chunk into `target`; False unless it is whole, `key` names it, and its CRC-32 (also `crc`, if given) fits.

    OSError when the file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    header = bytearray(_HEADER.size)
    try:
        if os.preadv(fd, (header, target), 0) != len(header) + len(target):
            return False
        is_longer = os.fstat(fd).st_size != len(header) + len(target)
    finally:
        os.close(fd)
    magic, stored_crc, length, key_length, named = _HEADER.unpack(header)
    if is_longer or magic != _MAGIC or named[:key_length] != key.encode() or crc not in (None, stored_crc):
        return False
    return bool(length == len(target) and isal_zlib.crc32(target) == stored_crc)
