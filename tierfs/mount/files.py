"""Open files: handles, and the bytes that go through them.

A handle is on hot bytes (it has a descriptor), or on an object (it has a reader), and it may go over from the one to
the other: a file that was restored is read from the hot tier from then on, a write to a cold file restores it first.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import trio

from tierfs.core.errors import FileLost, NotEligible, ObjectChanged, ObjectMissing
from tierfs.core.policy import matches
from tierfs.core.records import Fd, Handle, HotIno, Ino, ObjectRef, Record, why_lost
from tierfs.core.residency import Residency
from tierfs.engine.restore import Restorer, naming
from tierfs.engine.tier import Tier
from tierfs.engine.waits import waiting_for
from tierfs.mount.access import Gate
from tierfs.mount.handles import Handles, parts_of
from tierfs.mount.nodes import Node, Nodes
from tierfs.mount.openfile import Attachments, OpenFile, Pieces, Reader, Readers
from tierfs.mount.parked import Parked
from tierfs.mount.passthrough import IoModes, drop_privileges
from tierfs.mount.session import Cell, Session
from tierfs.stores.hot import apply_attributes, by_fd, split

#: open(2) flags that mean something to the backing file. O_APPEND does not: the kernel gives the offsets.
_KEPT_FLAGS = os.O_ACCMODE | os.O_SYNC | os.O_DSYNC | os.O_NOATIME
#: A file that was brought back may have been released again before its writer got there; not for ever.
_TRIES = 5
_DISK = "the disk of the hot tier"
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class Files:
    """All open files of a mount.

    A handle that the kernel does not pass through is virtual where `idle_files` has it so: it does not keep hot bytes
    where they are, but goes over to the object when they go. The policy sees by the file's times that it rests.
    """

    def __init__(self, tier: Tier, readers: Readers, restorer: Restorer, nodes: Nodes, session: Session) -> None:
        self.modes = IoModes()
        self.parked = Parked()
        self.gate = Gate()
        self.attachments: Attachments | None = None
        self.successor: Callable[[bytes], ObjectRef | None] | None = None  # of a segment at a path, if it is cold
        self._tier = tier
        self._readers = readers
        self._restorer = restorer
        self._nodes = nodes
        self._session = session
        restorer.came_back = self._came_back
        self._reviving: dict[Ino, trio.Event] = {}
        tier.open_files.let_go = self._let_go
        tier.open_files.come_back = self._came_back
        self._idle_files = tier.settings.idle_files if tier.settings.open_files == "idle" else ()
        self.handles = Handles()

    def __len__(self) -> int:
        return len(self.handles)

    def now(self) -> int:
        """The time, in nanoseconds since the epoch."""
        return self._tier.now()

    def drop_kept_directories(self) -> None:
        """Some directory has a name now that is not on disk."""
        if self.attachments:
            self.attachments.drop_directories()

    def close(self) -> None:
        """Close every handle."""
        for handle in self.handles.handles():
            self.release(handle)

    # -- opening and closing -------------------------------------------------------------------------------------

    def adopt(self, ino: Ino, fd: Fd, flags: int, path: bytes | None, st: os.stat_result | None = None) -> Handle:
        """A handle on a descriptor that was just opened, which belongs to the handle from now on."""
        file = self._opened(ino, flags, path)
        st = st or os.fstat(fd)
        self._attach(file, fd, st)
        return self._add(file, st)

    def open(self, ino: Ino, path: bytes, flags: int, record: Record | None) -> Handle:
        """open(2) of a file that exists. Never waits; to read a cold file, asks for its first chunk. EIO when lost."""
        if record is None:
            if flags & os.O_ACCMODE != os.O_RDONLY and (flags & os.O_TRUNC or not self._is_virtual(ino, path)):
                self._tier.write_expected(path)
            return self.adopt(ino, self._open_hot(path, flags, flags & os.O_TRUNC), flags, path)
        if flags & os.O_TRUNC:
            return self.adopt(ino, self.replace(path, record, flags), flags, path)
        if record.residency is Residency.LOST or record.object is None:
            raise FileLost(f"{os.fsdecode(path)} is lost: {why_lost(record)}")
        file = self._opened(ino, flags, path)
        self._attach_object(file, record.object)
        # Who opens to read only reads soon. A broker opens each of its segments for both at its start, and reads none.
        if flags & os.O_ACCMODE == os.O_RDONLY and record.attributes.size and file.reader:
            file.reader.start()
        return self._add(file)

    async def expect_at_hand(self, flags: int, record: Record) -> None:
        """Who is denied may open a cold file for reading as long as nothing has to be fetched. ReadDenied."""
        if record.object and not flags & os.O_TRUNC and flags & os.O_ACCMODE != os.O_WRONLY:
            await self._readers.expect_at_hand(record.object, self.gate.opener(flags))

    def release(self, handle: Handle) -> None:
        """The last close of a handle."""
        file = self.handles.pop(handle)
        if file is None:
            return
        self.modes.closed(file.ino)
        if self.attachments:
            self.attachments.detach(file.index)
        self._session.drop(file.cell)
        if not self.modes.is_open(file.ino):
            self.parked.closed(file.ino)
        if file.fd is not None:
            self._detach_hot(file)
            if file.is_writer:
                self._tier.noticed(self._tier.catalog.get_by_ino(file.ino))
        if file.stored is not None:
            self._tier.open_files.closed_object(file.stored.key)

    def replace(self, path: bytes, record: Record, flags: int = os.O_RDWR) -> Fd:
        """Truncate a cold file to nothing without downloading it: a new empty file takes its place."""
        fd = self._tier.hot.temporary(split(path)[0])
        try:
            now_ns = self._tier.now()
            apply_attributes(fd, record.attributes)
            os.utime(fd, ns=(record.attributes.atime_ns, now_ns))
            self._tier.in_hand(record.ino)
            with naming(self._tier, record.ino, fd):
                self._tier.replaced(path, fd)
            self._tier.in_hand(None)
            self._came_back(record.ino)
            return self._open_hot(path, flags)
        finally:
            os.close(fd)

    # -- taking over ---------------------------------------------------------------------------------------------

    def take_over(self, cells: list[Cell]) -> None:
        """Have the handles of another worker, by its cells; the nodes are known already. OSError: too many files."""
        for cell in cells:
            backing_id, index = parts_of(cell.parent)
            file = OpenFile(cell.ino, index, cell.value, cell=cell.place)
            self.handles.add(backing_id, file)
            self.modes.taken_over(cell.ino, backing_id)
            self._find_again(file)
        self.handles.took_over()
        last = self._session.last_backing_id
        self.modes.drop_unknown((last, last + 1))  # registered, and the worker died before a handle had it

    def _find_again(self, file: OpenFile) -> None:
        """Open what a handle was on: by its name, by what was parked when that went, or the object."""
        parked = self.parked.inherited_fd("hot", file.ino)
        with suppress(OSError):  # it has no name any more
            file.is_virtual = self._is_virtual(file.ino, self._nodes.path(file.ino))
        if self._hot_descriptor(file, is_known=False) is not None:
            return
        if parked is not None:
            fd = Fd(os.open(by_fd(parked), self._backing_flags(file.flags) | os.O_CLOEXEC))
            self._attach(file, fd, os.fstat(fd), is_known=False)
            return
        record = self.parked.inherited_record(file.ino) or self._tier.catalog.get_by_ino(file.ino)
        if record and record.object:  # else it is gone behind the mount: ESTALE
            self._attach_object(file, record.object)

    # -- bytes ---------------------------------------------------------------------------------------------------

    async def read(self, handle: Handle, offset: int, size: int) -> Pieces:
        """pread(2); the bytes in one or more pieces, none at the end of the file."""
        file = self.handles.get(handle)
        fd = self._hot_descriptor(file)
        if fd is None:
            return await self._read_object(file, offset, size)
        is_in_memory = self._tier.hot.is_in_memory  # where nothing waits, and RWF_NOWAIT is not understood
        if _NOWAIT or is_in_memory:
            buffer = bytearray(size)
            try:
                count = os.preadv(fd, [buffer], offset, 0 if is_in_memory else _NOWAIT)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
            else:
                if count == size or offset + count >= os.fstat(fd).st_size:  # the kernel asks for whole pages
                    self.modes.uses.hot_read += count
                    return [memoryview(buffer)[:count]]
        with file.in_use(), waiting_for(_DISK):
            data = await trio.to_thread.run_sync(os.pread, fd, size, offset)
            self.modes.uses.hot_read += len(data)
            return [memoryview(data)]

    async def write(self, handle: Handle, offset: int, data: bytes) -> int:
        """pwrite(2); a cold file is restored first."""
        kills_privileges = self.attachments is not None and self.attachments.kills_privileges()
        fd = await self.writable(handle)
        if kills_privileges:
            drop_privileges(fd)
        written = os.pwrite(fd, data, offset)
        self.modes.uses.hot_written += written
        return written

    async def writable(self, handle: Handle) -> Fd:
        """The hot descriptor of a handle that is about to change the file."""
        file = self.handles.get(handle)
        fd = self._hot_descriptor(file)
        for _ in range(_TRIES):
            if fd is not None:
                return fd
            await self._bring_back(file)
            fd = self._hot_descriptor(file)
        if fd is None:
            # Neither tier has a file of this number under its name: it went away behind the mount.
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fd

    async def _bring_back(self, file: OpenFile) -> None:
        """Give a file hot bytes again; one that was removed while it was cold gets them in a nameless file."""
        node = self._nodes.get(file.ino)
        if node and node.name is None:
            await self.revive(node)
            return
        path = self._nodes.path(file.ino)
        if self._tier.cold_record(path) is None:
            raise OSError(errno.ESTALE, "another file has its name", os.fsdecode(path))
        try:
            await self._restorer.restore_to_write(path, self.gate.opener(file.flags))
        except NotEligible:
            if node is None or node.name is not None:
                raise

    async def revive(self, node: Node, keeps_bytes: bool = True) -> None:
        """Bytes for the handles on a cold file that was removed: in a nameless file, which they share. ESTALE."""
        under_way = self._reviving.get(node.ino)
        if under_way is not None:
            await under_way.wait()
            return
        file, record = self.handles.any_of(node.ino), node.record
        if file is None or file.stored is None or record is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self._reviving[node.ino] = trio.Event()
        try:
            opener, hot = self.gate.opener(file.flags), self._tier.hot
            fd = await self._restorer.nameless(file.stored, opener) if keeps_bytes else hot.temporary(b"")
            try:
                apply_attributes(fd, (node.record or record).attributes)
                self.parked.file(node.ino, fd)
                for one in [one for one in self.handles.of(node.ino) if one.fd is None]:
                    self._detach_object(one)
                    self._attach(one, Fd(os.dup(fd)), os.fstat(fd))
            finally:
                os.close(fd)
        finally:
            self._reviving.pop(node.ino).set()

    async def sync(self, handle: Handle, data_only: bool) -> None:
        """fsync(2), fdatasync(2). A file without hot bytes has nothing to write but its record."""
        file = self.handles.get(handle)
        fd = self._hot_descriptor(file)
        if fd is None:
            with waiting_for("the disk of the state directory"):
                await trio.to_thread.run_sync(self._tier.catalog.sync)
        else:
            with file.in_use(), waiting_for(_DISK):
                await trio.to_thread.run_sync(os.fdatasync if data_only else os.fsync, fd)

    async def _read_object(self, file: OpenFile, offset: int, size: int) -> Pieces:
        reader, stored = file.reader, file.stored
        if reader is None or stored is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        size = min(size, stored.size - offset)
        if size <= 0:
            return []
        self.modes.uses.cold_bytes[file.ino] += size
        try:
            return await reader.read(offset, size)
        except (ObjectMissing, ObjectChanged) as error:
            if file.fd is not None:  # it came back meanwhile
                with file.in_use(), waiting_for(_DISK):
                    return [memoryview(await trio.to_thread.run_sync(os.pread, file.fd, size, offset))]
            if isinstance(error, ObjectMissing):
                self._tier.missing(stored)
                raise
            if not self._follow(file):
                raise
        return await self._read_object(file, offset, size)

    def _reader(self, file: OpenFile, stored: ObjectRef) -> Reader:
        successor = partial(self._successor, file.ino) if self.successor else None
        return self._readers.reader(stored, successor, partial(self.gate.opener, file.flags))

    def _successor(self, ino: Ino) -> ObjectRef | None:
        with suppress(OSError):  # it has no name any more, or its directory is gone
            return self.successor(self._nodes.path(ino)) if self.successor else None
        return None

    def _follow(self, file: OpenFile) -> bool:
        """The object moved to another key, or is another version with the same bytes: go on with that one."""
        record = self._tier.catalog.get_by_ino(file.ino)
        stored = record.object if record and record.residency is not Residency.HOT else None
        if stored is None or file.stored is None or stored == file.stored or stored.sha256 != file.stored.sha256:
            return False
        self._tier.open_files.closed_object(file.stored.key)
        self._tier.open_files.opened_object(stored.key)
        file.stored, file.reader = stored, self._reader(file, stored)
        return True

    # -- descriptors ---------------------------------------------------------------------------------------------

    def _came_back(self, ino: Ino) -> None:
        """A file has hot bytes again: its handles go over to them now, because its name may go before they are used."""
        for file in self.handles.of(ino):
            if file.fd is None:
                with suppress(OSError):  # too many descriptors: at its next use
                    self._hot_descriptor(file)

    def _let_go(self, record: Record) -> None:
        """The hot bytes of a file are about to go: virtual handles go over to the object. NotEligible: one is busy."""
        files = [file for file in self.handles.of(record.ino) if file.fd is not None]
        if record.object is None or any(file.users or not file.is_virtual for file in files):
            raise NotEligible("open")
        for file in files:
            self._detach_hot(file)
            self._attach_object(file, record.object)

    def _is_virtual(self, ino: Ino, path: bytes) -> bool:
        """Whether a handle on a file lets go of hot bytes."""
        return bool(self._idle_files) and not self.modes.backing_id(ino) and matches(path, self._idle_files)

    def _hot_descriptor(self, file: OpenFile, is_known: bool = True) -> Fd | None:
        """The descriptor of a handle; opened now when the file has come back to the hot tier since."""
        if file.fd is None:
            try:
                path = self._nodes.path(file.ino)
                fd = self._open_hot(path, file.flags)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ESTALE):
                    return None
                raise
            st = os.fstat(fd)
            if self._tier.numbers.of(st) != file.ino:
                os.close(fd)
                return None
            if file.is_writer and not file.is_virtual:
                self._tier.write_expected(path)
            self._detach_object(file)
            self._attach(file, fd, st, is_known)
        return file.fd

    def _open_hot(self, path: bytes, flags: int, extra: int = 0) -> Fd:
        """Open the backing file. Never write-only: the kernel reads pages that it fills in part, and maps them."""
        return self._tier.hot.open(path, self._backing_flags(flags) | extra)

    @staticmethod
    def _backing_flags(flags: int) -> int:
        kept = flags & _KEPT_FLAGS
        return kept & ~os.O_ACCMODE | os.O_RDWR if kept & os.O_ACCMODE == os.O_WRONLY else kept

    def _attach(self, file: OpenFile, fd: Fd, st: os.stat_result, is_known: bool = True) -> None:
        file.fd = fd
        file.hot_ino = HotIno(st.st_ino)
        self._tier.open_files.opened(file.hot_ino, file.is_writer, file.is_virtual)
        if self.attachments:
            self.attachments.attach(file.index, file.ino, fd, 0, is_known)

    def _detach_hot(self, file: OpenFile) -> None:
        if file.fd is not None and file.hot_ino is not None:
            self._tier.open_files.closed(file.hot_ino, file.is_writer, file.is_virtual)
            os.close(file.fd)
            file.fd = file.hot_ino = None

    def _attach_object(self, file: OpenFile, stored: ObjectRef) -> None:
        file.stored, file.reader = stored, self._reader(file, stored)
        self._tier.open_files.opened_object(stored.key)
        if self.attachments:
            self.attachments.attach(file.index, file.ino, None, stored.size)

    def _detach_object(self, file: OpenFile) -> None:
        if file.stored is not None:
            self._tier.open_files.closed_object(file.stored.key)
            file.stored = file.reader = None

    def _opened(self, ino: Ino, flags: int, path: bytes | None) -> OpenFile:
        is_virtual = path is not None and self._is_virtual(ino, path)
        return OpenFile(ino, self.handles.new_index(), flags, is_virtual=is_virtual)

    def _add(self, file: OpenFile, st: os.stat_result | None = None) -> Handle:
        backing_id = self.modes.opened(file.ino, None if file.is_virtual else file.fd, st)
        if backing_id > self._session.last_backing_id:
            self._session.last_backing_id = backing_id
        handle = self.handles.add(backing_id, file)
        file.cell = self._session.handle(handle, file.ino, file.flags)
        return handle
