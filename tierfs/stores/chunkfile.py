"""The files of the chunk cache: how they are named, and what is in one.

A chunk is one file on one of sixteen shelves, `0` to `f` (few directories: each costs a block on the disk). The file
is a header that says whose bytes these are, then the bytes. The header is: magic, CRC-32 and length of the bytes,
length of the chunk's key, the key, zero padding (128 bytes so far), then the CRC-32 of the bytes up to the end of each
piece: what one piece adds to it shows whether that piece is whole.
"""

import hashlib
import os
import struct
from contextlib import suppress

from isal import isal_zlib

from tierfs.core.extents import count_chunks
from tierfs.core.records import ObjectRef

#: What is checked by itself, in bytes: a small read need not load a chunk. Smaller ones make fetching slower: each is a
#: call that gives up Python's lock and has to get it again.
PIECE = 128 << 10

SHELVES = "0123456789abcdef"
_SUFFIX = ".val"
_READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_HEADER = struct.Struct("<8sIQH106s")
_CRC = struct.Struct("<I")
_MAGIC = b"tierfs\x00\x02"


def object_digest(ref: ObjectRef) -> str:
    """What tells one version of an object from every other, in 32 hexadecimal digits."""
    return _digest(ref.key, ref.etag, ref.version_id or "")


def chunk_key(ref: ObjectRef, chunk_size: int, index: int) -> str:
    """The cache's name of one chunk: a new version of an object, or another chunk size, never meets old chunks."""
    return f"{key_prefix(ref, chunk_size)}{index}"


def key_prefix(ref: ObjectRef, chunk_size: int) -> str:
    """What the keys of all chunks of an object begin with; the chunk's index follows."""
    return _digest(ref.key, ref.etag, ref.version_id or "", str(chunk_size)) + ":"


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


def running_crcs(data: memoryview) -> list[int]:
    """The CRC-32 of `data` up to the end of each of its pieces: that of all of it comes last."""
    crcs: list[int] = []
    crc = 0
    for start in range(0, len(data), PIECE):
        crc = isal_zlib.crc32(data[start : start + PIECE], crc)
        crcs.append(crc)
    return crcs


def write_chunk(path: str, key: str, data: memoryview, crcs: list[int]) -> None:
    """Make the file of a chunk (0600), with its running_crcs(); OSError, and no file, when it is not written whole."""
    named = key.encode()
    header = _HEADER.pack(_MAGIC, crcs[-1], len(data), len(named), named) + struct.pack(f"<{len(crcs)}I", *crcs)
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


def has_size(path: str, size: int) -> bool:
    """Whether the file of a chunk of `size` bytes is as long as it should be. OSError."""
    return os.stat(path).st_size == _header_size(size) + size


def read_chunk(path: str, key: str, crc: int | None, target: memoryview) -> bool:
    """Read a chunk into `target`; False unless it is whole, `key` names it, and its CRC-32 (also `crc`, if given) fits.

    OSError when the file cannot be read.
    """
    header = bytearray(_header_size(len(target)))
    fd = os.open(path, _READING)
    try:
        if os.preadv(fd, (header, target), 0) != len(header) + len(target):
            return False
        if os.fstat(fd).st_size != len(header) + len(target) or not _names(header, key, crc, len(target)):
            return False
    finally:
        os.close(fd)
    return bool(isal_zlib.crc32(target) == _CRC.unpack_from(header, len(_MAGIC))[0])


def read_pieces(path: str, key: str, crc: int | None, place: tuple[int, int], target: memoryview, flags: int) -> bool:
    """As read_chunk, for the pieces from `start` on of a chunk of `size` bytes, which are `place`.

    `target` ends where a piece ends; `flags` are those of preadv2(2).
    """
    start, size = place
    header = bytearray(_header_size(size))
    fd = os.open(path, _READING)
    try:
        if os.preadv(fd, (header,), 0, flags) != len(header) or not _names(header, key, crc, size):
            return False
        if os.preadv(fd, (target,), len(header) + start, flags) != len(target):
            return False
    finally:
        os.close(fd)
    first, stop = start // PIECE, count_chunks(start + len(target), PIECE)
    before = _CRC.unpack_from(header, _HEADER.size + (first - 1) * _CRC.size)[0] if first else 0
    return bool(isal_zlib.crc32(target, before) == _CRC.unpack_from(header, _HEADER.size + (stop - 1) * _CRC.size)[0])


def _header_size(size: int) -> int:
    return _HEADER.size + count_chunks(size, PIECE) * _CRC.size


def _names(header: bytearray, key: str, crc: int | None, size: int) -> bool:
    """Whether a header says that the file is this chunk."""
    magic, stored_crc, length, key_length, named = _HEADER.unpack_from(header)
    return bool(magic == _MAGIC and length == size and named[:key_length] == key.encode() and crc in (None, stored_crc))
