"""The session: what the kernel knows of a mount and the next worker has to know too, in memory that outlives a worker.

A file without a name on tmpfs (memfd_create(2)), mapped and written in place while requests are answered; the
supervisor holds it. A kill between two stores leaves something that can be read: a cell counts from the moment when its
first word, written last, is not 0.

    0        header: what this is, how much is used, the facts of the connection as JSON
    64 KiB   requests that were read and not answered (mount/native/inflight.c), where the kernel does not know them
    1 MiB    cells of 64 bytes, a few in a row where a name is long
"""

import json
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from tierfs.core.errors import MountError
from tierfs.core.records import Handle, HotIno, Ino
from tierfs.mount import again

#: Raised when what is written here changes its meaning; a worker reads its own version and those before it.
VERSION = 1
#: Room, bytes: memory is taken for what is used of it. Two names in a hundred bytes: seven million of them.
SIZE = 1 << 30

_MAGIC = int.from_bytes(b"tierfs-s", "little")
_VERSION_WORD, _USED_WORD, _FACTS_LENGTH_WORD, _BACKING_WORD, _IN_HAND_WORD, _LIVES_WORD = 1, 2, 3, 4, 5, 6
_BEGUN_WORD = 7
_FACTS = 64
_INFLIGHT, _INFLIGHT_END = 64 << 10, (64 + 512) << 10
_FIRST = 1 << 20
_UNIT = 64
_CELL = struct.Struct("@QQQBBHI")  # behind the first word
_WHOLE = struct.Struct("@QQQQBBHI")
_NAME = 40
#: How many units a cell may have, and the longest name in it.
_SIZES = tuple((units, units * _UNIT - _NAME) for units in (1, 2, 5))


#: Words of a cell: node id, a value, the request that wrote it, the node above; then kind, units, length, order.
_VALUE, _REQUEST = 1, 2
#: The byte of a cell that says how many units it has.
_UNITS = 33


class Kind(IntEnum):
    """What a cell is about."""

    NODE = 1  # its first name; value: look-ups
    NAME = 2  # a further one
    ORPHAN = 3  # a node without a name
    HANDLE = 4  # value: flags of open(2), parent: backing id and index
    LISTING = 5  # parent: its handle
    NUMBER = 6  # value: inode, parent: device
    PAGE = 7  # an open file of the control directory; parent: its handle


class Cell(NamedTuple):
    """One cell as it is read: `place` is where, `order` tells which of two was written later."""

    place: int
    kind: int
    ino: Ino
    value: int
    request: int
    parent: int
    order: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """What belongs to the connection: the INIT request of the kernel, what was agreed upon, whose mount it is."""

    init_request: bytes
    granted: int
    lease_session: str
    mount: dict[str, str]


def mount_of(request: dict[str, Any]) -> dict[str, str]:
    """Whose mount it is: what a worker must have in common with the one before."""
    return {name: request[name] for name in ("mountpoint", "hot", "state", "source")}


class Session:
    """The session of one mount. INVARIANT: one process writes to it at a time."""

    def __init__(self, fd: int) -> None:
        """Map an open session, or an empty file. MountError for one that a later version wrote."""
        self.fd = fd
        is_fresh = os.fstat(fd).st_size == 0
        if is_fresh:
            os.ftruncate(fd, SIZE)
        self._memory = mmap.mmap(fd, SIZE)
        self._bytes = memoryview(self._memory)
        self._words = self._bytes.cast("Q")
        self._free: dict[int, list[int]] = {units: [] for units, _ in _SIZES}
        self._order = 0
        if is_fresh:
            self._words[_VERSION_WORD], self._words[_USED_WORD] = VERSION, _FIRST
            self._words[0] = _MAGIC
        version = self._words[_VERSION_WORD]
        if self._words[0] != _MAGIC or not 1 <= version <= VERSION:
            self.close()
            raise MountError(
                f"the session has version {version}, this tierfs reads up to {VERSION}: unmount, and mount again"
            )

    @classmethod
    def fresh(cls) -> "Session":
        """An empty session in a file of its own. Whoever makes it closes `fd`."""
        return cls(os.memfd_create("tierfs-session", os.MFD_CLOEXEC))

    def close(self) -> None:
        """Give the mapping back; what is written stays as long as somebody has the file open."""
        self._words.release()
        self._bytes.release()
        self._memory.close()

    # -- the connection ------------------------------------------------------------------------------------------

    @property
    def facts(self) -> Facts | None:
        """None before the first worker has answered INIT."""
        length = self._words[_FACTS_LENGTH_WORD]
        if not length:
            return None
        content: dict[str, Any] = json.loads(bytes(self._bytes[_FACTS : _FACTS + length]))
        content["init_request"] = bytes.fromhex(content["init_request"])
        return Facts(**content)

    def remember(self, facts: Facts) -> None:
        """Write the facts down, once."""
        data = json.dumps({**asdict(facts), "init_request": facts.init_request.hex()}).encode()
        if _FACTS + len(data) > _INFLIGHT:
            raise MountError("the paths of this mount are too long for its session")
        self._bytes[_FACTS : _FACTS + len(data)] = data
        self._words[_FACTS_LENGTH_WORD] = len(data)

    @property
    def unanswered(self) -> memoryview:
        """Room for the numbers of requests that are not answered yet; 64-bit words."""
        return self._words[_INFLIGHT // 8 : _INFLIGHT_END // 8]

    @property
    def last_backing_id(self) -> int:
        """The backing id that was registered last."""
        return self._words[_BACKING_WORD]

    @last_backing_id.setter
    def last_backing_id(self, backing_id: int) -> None:
        self._words[_BACKING_WORD] = backing_id

    @property
    def in_hand(self) -> Ino | None:
        """The file whose hot bytes are just being dropped, or replaced."""
        return Ino(self._words[_IN_HAND_WORD]) or None

    @in_hand.setter
    def in_hand(self, ino: Ino | None) -> None:
        self._words[_IN_HAND_WORD] = ino or 0

    @property
    def begun(self) -> int:
        """The request that was last about to take something away which was there."""
        return self._words[_BEGUN_WORD]

    @begun.setter
    def begun(self, request: int) -> None:
        self._words[_BEGUN_WORD] = request

    @property
    def take_overs(self) -> int:
        """How many workers went on where another one ended."""
        return self._words[_LIVES_WORD]

    def taken_over(self) -> None:
        """Another worker goes on."""
        self._words[_LIVES_WORD] += 1

    # -- cells ---------------------------------------------------------------------------------------------------

    def add(self, kind: Kind, ino: Ino, value: int, parent: int, name: bytes = b"") -> int:
        """Write a cell; its place, 0 where there is no room: the next worker will not know of it."""
        length = len(name)
        units = 1 if length <= _UNIT - _NAME else next(units for units, longest in _SIZES if length <= longest)
        place = self._place(units)
        if not place:
            return 0
        self._order += 1
        _CELL.pack_into(
            self._memory, place + 8, value, again.number(), parent, kind, units, length, self._order & 0xFFFFFFFF
        )
        if length:
            self._bytes[place + _NAME : place + _NAME + length] = name
        self._words[place >> 3] = ino
        return place

    def count(self, place: int, count: int) -> None:
        """The look-ups of a node by the request that is being answered."""
        if place:
            word = place >> 3
            self._words[word + _VALUE] = count
            self._words[word + _REQUEST] = again.number()

    def recount(self, place: int, count: int) -> None:
        """The look-ups of a node, which were given back."""
        if place:
            self._words[(place >> 3) + _VALUE] = count

    def drop(self, place: int) -> None:
        """Forget a cell."""
        if place:
            self._words[place >> 3] = 0
            self._free[self._bytes[place + _UNITS]].append(place)

    def handle(self, handle: Handle, ino: Ino, flags: int) -> int:
        """An open file; its place."""
        return self.add(Kind.HANDLE, ino, flags, handle)

    def number(self, device: int, hot_ino: HotIno, ino: Ino) -> int:
        """The node id of an inode that has another one than its own; its place."""
        return self.add(Kind.NUMBER, ino, hot_ino, device)

    def cells(self) -> Iterator[Cell]:
        """All cells, in no order. Nothing may be written meanwhile. MountError for memory that makes no sense."""
        for free in self._free.values():
            free.clear()
        place, used, unpack, memory = _FIRST, self._words[_USED_WORD], _WHOLE.unpack_from, self._memory
        while place < used:
            ino, value, request, parent, kind, units, length, order = unpack(memory, place)
            if not units:
                raise MountError("the session is damaged: unmount, and mount again")
            if ino:
                name = memory[place + _NAME : place + _NAME + length]
                yield Cell(place, kind, Ino(ino), value, request, parent, order, name)
                self._order = max(self._order, order)
            else:
                self._free[units].append(place)
            place += units * _UNIT

    # -- inside --------------------------------------------------------------------------------------------------

    def _place(self, units: int) -> int:
        free = self._free[units]
        if free:
            return free.pop()
        place = self._words[_USED_WORD]
        if place + units * _UNIT > SIZE:
            return 0
        self._bytes[place + _UNITS] = units  # the way to the next cell, before there is one behind it
        self._words[_USED_WORD] = place + units * _UNIT
        return place
