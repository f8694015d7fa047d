"""The snapshot of a tree, as text: what a rebuild needs and the objects alone do not say. Pure.

A snapshot is gzip'd JSON lines, ASCII (`zcat | jq` reads it):

    {"tierfs-snapshot": 1, "by": ..., "taken_ns": ...}        the first line
    {"name": PATH, ...}       a directory, a symlink, an empty file, a fifo: what is in the hot directory only
    {"pin": PATH}
    {"gone": KEY, ...}        an object that the tree has given up and that may still be in the bucket
    {"file": PATH, ...}       an archived file: its attributes and its object
    {"end": COUNT, "sha256": DIGEST}                          the last line; the digest is that of all lines between

Paths are str with surrogateescape. Keys are without the prefix, so that a copy of a bucket elsewhere can be rebuilt.
Extended attributes are {name: base64}. Modes are octal with the type of the file, times nanoseconds since the epoch.
"""

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

from tierfs.core.errors import CatalogError, IntegrityError
from tierfs.core.keys import RESERVED, is_path
from tierfs.core.records import (
    Attributes,
    Identity,
    Ino,
    ObjectRef,
    Record,
    Tombstone,
    are_owners,
    are_xattrs,
    is_mode,
    is_number,
    is_possible,
)
from tierfs.core.residency import Residency

FORMAT = 1
_SUFFIX = ".jsonl.gz"
_DIGITS = 20  # of the time in a key: keys sort as their times do


@dataclass(frozen=True, slots=True)
class Header:
    """When a snapshot was taken, in nanoseconds since the epoch by the clock of the host, and by which tierfs."""

    taken_ns: int
    by: str


@dataclass(frozen=True, slots=True)
class Footer:
    """How many lines a snapshot has between its first and its last, and their SHA-256 in hex."""

    count: int
    sha256: str


@dataclass(frozen=True, slots=True)
class HotName:
    """A name whose file is always hot and has no bytes; `target` is a symlink's."""

    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    target: bytes = b""


@dataclass(frozen=True, slots=True)
class Pin:
    """A path that an operator pinned."""

    path: bytes


Entry = HotName | Pin | Tombstone | Record


def snapshots_of(prefix: str) -> str:
    """What the keys of all snapshots below a prefix begin with."""
    return f"{prefix}{RESERVED}/snapshots/"


def key_of_snapshot(prefix: str, taken_ns: int) -> str:
    """The key of the snapshot that was taken then."""
    return f"{snapshots_of(prefix)}{taken_ns:0{_DIGITS}d}{_SUFFIX}"


def taken_at(prefix: str, key: str) -> int | None:
    """When the snapshot with this key was taken; None for something else that lies there."""
    digits = key.removeprefix(snapshots_of(prefix)).removesuffix(_SUFFIX)
    is_ours = key == f"{snapshots_of(prefix)}{digits}{_SUFFIX}" and digits.isascii() and digits.isdigit()
    return int(digits) if is_ours else None


def header_line(header: Header) -> bytes:
    """The first line."""
    return _line({"tierfs-snapshot": FORMAT, "by": header.by, "taken_ns": header.taken_ns})


def footer_line(footer: Footer) -> bytes:
    """The last line."""
    return _line({"end": footer.count, "sha256": footer.sha256})


def line_of(entry: Entry, prefix: str) -> bytes:
    """A line between them."""
    if isinstance(entry, Record):
        return _line(_file_to_json(entry, prefix))
    if isinstance(entry, HotName):
        return _line(_name_to_json(entry))
    if isinstance(entry, Pin):
        return _line({"pin": _text(entry.path)})
    return _line({"gone": entry.key.removeprefix(prefix), "since_ns": entry.since_ns})


def parse_header(line: bytes) -> Header:
    """What header_line() wrote. IntegrityError; CatalogError for a format that this version does not read."""
    fields = _fields(line)
    if fields.get("tierfs-snapshot") != FORMAT:
        if "tierfs-snapshot" in fields:
            raise CatalogError(f"the snapshot has format {fields['tierfs-snapshot']}; this tierfs reads {FORMAT}")
        raise IntegrityError("it is not a snapshot")
    try:
        return Header(int(fields["taken_ns"]), str(fields["by"]))
    except (KeyError, ValueError, TypeError) as error:
        raise IntegrityError(f"its first line is damaged: {error!r}") from None


def parse_line(line: bytes, prefix: str) -> Entry | Footer:
    """What line_of() or footer_line() wrote. IntegrityError: also for a path that leads out of the tree."""
    fields = _fields(line)
    try:
        if "file" in fields:
            return _file_from_json(fields, prefix)
        if "name" in fields:
            return _name_from_json(fields)
        if "pin" in fields:
            return Pin(_path(fields["pin"]))
        if "gone" in fields:
            return Tombstone(_key(prefix, fields["gone"]), _number(fields["since_ns"]))
        return Footer(int(fields["end"]), str(fields["sha256"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"a line of the snapshot is damaged: {error!r}") from None


def _file_to_json(record: Record, prefix: str) -> dict[str, Any]:
    a, o, i = record.attributes, record.object, record.identity
    fields: dict[str, Any] = {
        "file": _text(record.path),
        "residency": record.residency.value,
        **_attributes_to_json(a.mode, a.uid, a.gid, a.mtime_ns, a.xattrs),
        "size": a.size,
        "atime_ns": a.atime_ns,
        "ctime_ns": a.ctime_ns,
    }
    if o:
        fields["object"] = {
            "key": o.key.removeprefix(prefix),
            "etag": o.etag,
            "size": o.size,
            "version": o.version_id,
            "sha256": o.sha256.hex(),
            "chunk_size": o.chunk_size,
            "crcs": b64encode(o.crcs).decode(),
        }
    if i:
        fields["identity"] = [i.ino, i.size, i.mtime_ns, i.ctime_ns]
    if record.misplaced:
        fields["misplaced"] = True
    if record.restored_ns:
        fields["restored_ns"] = record.restored_ns
    return fields


def _file_from_json(fields: dict[str, Any], prefix: str) -> Record:
    o, i = fields.get("object"), fields.get("identity")
    mode, uid, gid, mtime_ns, xattrs = _attributes_from_json(fields)
    size, atime_ns, ctime_ns = (int(fields[name]) for name in ("size", "atime_ns", "ctime_ns"))
    attributes = Attributes(mode, uid, gid, size, atime_ns, mtime_ns, ctime_ns, xattrs)
    if not is_possible(attributes):
        raise ValueError("no file can have these attributes")
    return Record(
        path=_path(fields["file"]),
        ino=Ino(0),
        residency=Residency(fields["residency"]),
        attributes=attributes,
        object=_object_from_json(o, prefix) if o else None,
        identity=Identity(*map(_number, i)) if i else None,  # type: ignore[arg-type]
        misplaced=bool(fields.get("misplaced")),
        restored_ns=_number(fields.get("restored_ns", 0)),
    )


def _object_from_json(o: dict[str, Any], prefix: str) -> ObjectRef:
    return ObjectRef(
        _key(prefix, o["key"]),
        str(o["etag"]),
        _number(o["size"]),
        None if o["version"] is None else str(o["version"]),
        _number(o["chunk_size"]),
        bytes.fromhex(o["sha256"]),
        b64decode(o["crcs"]),
    )


def _name_to_json(name: HotName) -> dict[str, Any]:
    fields = {
        "name": _text(name.path),
        **_attributes_to_json(name.mode, name.uid, name.gid, name.mtime_ns, name.xattrs),
    }
    if name.target:
        fields["target"] = _text(name.target)
    return fields


def _name_from_json(fields: dict[str, Any]) -> HotName:
    path = _path(fields["name"]) if fields["name"] else b""  # the root has an entry too
    mode, uid, gid, mtime_ns, xattrs = _attributes_from_json(fields)
    target = _bytes(fields.get("target", ""))
    if not (is_mode(mode) and are_owners(uid, gid) and are_xattrs(xattrs)) or b"\0" in target:
        raise ValueError("nothing can have these attributes")
    return HotName(path, mode, uid, gid, mtime_ns, xattrs, target)


def _attributes_to_json(
    mode: int, uid: int, gid: int, mtime_ns: int, xattrs: tuple[tuple[bytes, bytes], ...]
) -> dict[str, Any]:
    fields: dict[str, Any] = {"mode": f"{mode:o}", "uid": uid, "gid": gid, "mtime_ns": mtime_ns}
    if xattrs:
        fields["xattrs"] = {_text(name): b64encode(value).decode() for name, value in xattrs}
    return fields


def _attributes_from_json(fields: dict[str, Any]) -> tuple[int, int, int, int, tuple[tuple[bytes, bytes], ...]]:
    xattrs = sorted((_bytes(name), b64decode(value)) for name, value in fields.get("xattrs", {}).items())
    mode, uid, gid = int(fields["mode"], 8), int(fields["uid"]), int(fields["gid"])
    return mode, uid, gid, _number(fields["mtime_ns"]), tuple(xattrs)


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise IntegrityError(f"a line of the snapshot is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise IntegrityError("a line of the snapshot is not an object")
    return fields


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _number(value: Any) -> int:
    number = int(value)
    if not is_number(number):
        raise ValueError(f"{number} has more than 64 bits")
    return number


def _key(prefix: str, text: str) -> str:
    key = prefix + text
    key.encode()  # ValueError for what is no Unicode text
    return key


def _path(text: str) -> bytes:
    path = _bytes(text)
    if not is_path(path):
        raise ValueError(f"{text!r} is not a path inside the tree")
    return path
