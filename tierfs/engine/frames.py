"""What two processes of one mount say to each other: pickled tuples with their length in front.

Only for a socket pair whose ends two processes of the same version, started by each other, have: never for a stranger.
"""

import pickle
import struct

_LENGTH = struct.Struct("<I")


def pack(message: tuple[object, ...]) -> bytes:
    """The bytes of one message."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Gives messages as their last byte comes."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> list[tuple[object, ...]]:
        """The messages that are complete with these bytes."""
        kept = self._kept
        kept += data
        messages: list[tuple[object, ...]] = []
        start = 0
        while len(kept) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(kept, start)
            stop = start + _LENGTH.size + length
            if len(kept) < stop:
                break
            messages.append(pickle.loads(memoryview(kept)[start + _LENGTH.size : stop]))
            start = stop
        del kept[:start]
        return messages
