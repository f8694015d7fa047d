"""What the mount sees of the use of its files, for the engine's view of what goes on now."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from tierfs.core.records import Ino
from tierfs.engine.observed import Told
from tierfs.mount import tap
from tierfs.mount.filesystem import Filesystem


class MountSight:
    """The engine.observed.Sight of a mount that serves; `told` goes on to be what applications were told last."""

    def __init__(self, told: Sequence[Told], filesystem: Filesystem) -> None:
        self._told = told
        self._nodes = filesystem.nodes
        self._uses = filesystem.files.modes.uses

    def take_uses(self) -> tuple[Mapping[Ino, int], Mapping[Ino, int]]:
        """Opens by file, and bytes read of objects by file, since the last time."""
        return self._uses.take()

    def hot_bytes(self) -> tuple[int, int]:
        """Bytes of hot files that the worker has read and written for applications."""
        read, written = tap.bytes_moved()
        return read + self._uses.hot_read, written + self._uses.hot_written

    def path_of(self, ino: Ino) -> bytes | None:
        """Where a file is, None when the kernel has forgotten it, or it was removed."""
        with suppress(OSError):
            return self._nodes.path(ino)
        return None

    def told(self) -> Sequence[Told]:
        """The last errors that applications were told as an errno alone, the newest last."""
        return self._told
