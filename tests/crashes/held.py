"""What applications hold open while a worker is killed and the next one takes over: all of it goes on."""

import mmap
import os

from tests.crashes.scene import CONTENT, OTHER, Scene
from tests.crashes.stage import Stage

_FILES = ("hot", "cold", "removed, hot", "removed, cold")


class Held:
    """Open files, a mapping and an open directory in a scene of their own. Opened and closed for each point."""

    def __init__(self, stage: Stage) -> None:
        self.scene = Scene(stage, "held")
        self.scene.file("hot")
        self.scene.rewrite("hot", CONTENT)
        self.scene.file("cold", "cold")
        self._fds: dict[str, int] = {}
        self._written = 0

    def open(self) -> None:
        """Open all of it."""
        for name, residency in (("removed, hot", "hot"), ("removed, cold", "cold")):
            self.scene.file(name, residency)
        for name in _FILES:
            flags = os.O_RDWR if name.endswith("hot") else os.O_RDONLY
            self._fds[name] = os.open(self.scene.at(name), flags)
        for name in ("removed, hot", "removed, cold"):
            self.scene.at(name).unlink()
            del self.scene.tree[name]
        self._fds["listing"] = os.open(self.scene.path, os.O_RDONLY | os.O_DIRECTORY)
        self._mapping = mmap.mmap(self._fds["hot"], len(CONTENT))

    def look(self) -> None:
        """Use all of it."""
        fds, at = self._fds, self._written % (len(CONTENT) - len(OTHER))
        self._written += 1
        for name in ("hot", "removed, hot"):
            assert os.pwrite(fds[name], OTHER, at) == len(OTHER)
            assert os.pread(fds[name], len(OTHER), at) == OTHER, name
        assert self._mapping[at : at + len(OTHER)] == OTHER
        self._mapping[at] = CONTENT[at]
        wanted = self.scene.at("hot").read_bytes()
        assert wanted[at : at + 2] == CONTENT[at : at + 1] + OTHER[1:2]
        self.scene.rewrite("hot", wanted)
        for name in ("cold", "removed, cold"):
            os.posix_fadvise(fds[name], 0, 0, os.POSIX_FADV_DONTNEED)  # what the kernel has proves nothing
            assert os.pread(fds[name], 2 * len(CONTENT), 0) == CONTENT, name
        for name in _FILES:
            st = os.fstat(fds[name])
            assert (st.st_nlink, st.st_size) == (0 if "removed" in name else 1, len(CONTENT)), (name, st)
        self.scene.directory("new")  # so that the listing is asked for
        assert sorted(os.listdir(fds["listing"])) == ["cold", "hot", "new"]
        self.scene.at("new").rmdir()
        del self.scene.tree["new"]

    def close(self) -> None:
        """Close all of it."""
        if self._fds:
            self._mapping.close()
        while self._fds:
            os.close(self._fds.popitem()[1])
