"""The filesystem: node ids and names in, files of the tree out. It knows nothing of FUSE and works without a mount.

Methods raise OSError or TierfsError. The synchronous ones never wait; the asynchronous ones may wait for the disk, and
those that need the bytes of a cold file (read, write, truncate, link) for the bucket.
"""

import errno
import os
import stat
from contextlib import suppress

import trio

from tierfs.core.errors import NotEligible
from tierfs.core.records import Handle, Ino
from tierfs.engine.durable import sync_directory
from tierfs.engine.numbers import FIRST_MADE
from tierfs.engine.restore import Restorer
from tierfs.engine.stats import without_privileges
from tierfs.engine.tree import Found, Tree
from tierfs.engine.waits import waiting_for
from tierfs.mount import again
from tierfs.mount.access import GONE
from tierfs.mount.changes import Changes
from tierfs.mount.control_directory import NAME, ControlDirectory
from tierfs.mount.files import Files
from tierfs.mount.labels import Labels
from tierfs.mount.listings import Listings
from tierfs.mount.nodes import Nodes
from tierfs.mount.openfile import Pieces, Readers
from tierfs.mount.owners import Caller, give_to_caller, group_of_new
from tierfs.mount.parked import Parked
from tierfs.mount.removed import RemovedFiles
from tierfs.mount.session import Session
from tierfs.mount.takeover import Known, Name, Numbering, TakenOver
from tierfs.mount.xattrs import Xattrs
from tierfs.stores.hot import RENAME_EXCHANGE, by_fd, join


class Filesystem:
    """One mounted tree.

    INVARIANT: a node id that the kernel holds look-ups of is in `nodes`, and means the same file until it is forgotten;
    but for those of the control directory, which mean the same for ever.
    """

    def __init__(self, tree: Tree, readers: Readers, restorer: Restorer, session: Session) -> None:
        self.tree = tree
        self.nodes = Nodes(session)
        self.files = Files(tree.tier, readers, restorer, self.nodes, session)
        self._removed_files = RemovedFiles(self.files, self.nodes, tree.hot)
        self._restorer = restorer
        self._hot = tree.hot
        self.control = ControlDirectory(tree, session)
        self.listings = Listings(tree, self.nodes, session, self.getattr, self.control)
        self.xattrs = Xattrs(tree, self.nodes, self._removed_files, session, self._bring_back)
        self.labels = Labels(tree, self.nodes)
        tree.tier.is_claimed = self.nodes.is_orphan
        tree.catalog.on_first_record = self.files.drop_kept_directories
        tree.removing = self._removed_files.park
        self._session = session
        known = Known(self.nodes, self.files, self.listings, self.control, tree.tier.numbers)
        self._before = TakenOver(known, session)

    def close(self) -> None:
        """Close every handle, as the end of the process would."""
        self.files.close()
        self.control.close()
        self.nodes.close()

    # -- taking over ---------------------------------------------------------------------------------------------

    def begin(self, parked: Parked) -> None:
        """Write down what the kernel will know; what loses its name while it is open is parked."""
        self._park_with(parked)
        Numbering(self._session, self.tree.tier.numbers)

    def take_over(self, parked: Parked) -> None:
        """Go on where another worker ended, with its session and what it parked; before the first request."""
        self._park_with(parked)
        self._before.load()
        parked.close()

    def comes_again(self, operation: str) -> None:
        """The request that is answered next may have been carried out by the worker before."""
        self._before.comes_again(operation)

    # -- looking -------------------------------------------------------------------------------------------------

    def lookup(self, parent: Ino, name: bytes) -> Found:
        """Find a name; the kernel holds one more look-up of it afterwards. ENOENT."""
        if (name == NAME or parent >= FIRST_MADE) and (made := self.control.lookup(parent, name)):
            return made
        try:
            found = self.tree.find(self._path(parent, name))
        except FileNotFoundError:
            self._keep_natively(parent)
            raise
        self.nodes.looked_up(found.ino, parent, name)
        return found

    def forget(self, ino: Ino, count: int) -> None:
        """The kernel gives look-ups back."""
        self.nodes.forget(ino, count)
        if self.files.attachments and not self.nodes.get(ino):
            self.files.attachments.drop_directory(ino)

    def getattr(self, ino: Ino) -> Found:
        """stat(2) of a node, also of one that was removed and is still open."""
        if ino >= FIRST_MADE:
            return self.control.stat(ino)
        node = self.nodes.removed_one(ino)
        if node:
            return self._removed_files.stat(node)
        found = self.tree.find(self.nodes.path(ino))
        if stat.S_ISDIR(found.st.st_mode):
            self._keep_natively(ino)
        return found._replace(ino=ino)

    def readlink(self, ino: Ino) -> bytes:
        """readlink(2)."""
        return self._hot.readlink(self.nodes.path(ino))

    # -- making and removing names -------------------------------------------------------------------------------

    def create(self, parent: Ino, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Found, Handle]:
        """open(2) with O_CREAT."""
        path = self._path(parent, name)
        try:
            self.tree.claim_name(path)
            fd = self._hot.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | (flags & os.O_NOATIME), stat.S_IMODE(mode))
        except FileExistsError:
            if again.is_again():
                fd = self._hot.open(path, os.O_RDWR | (flags & os.O_NOATIME))
            elif flags & os.O_EXCL:
                raise
            else:
                return self._open_existing(parent, name, flags, caller)
        st = give_to_caller(self._hot, path, fd, mode, caller)
        found = Found(self.tree.tier.numbers.of(st), st)
        self.nodes.looked_up(found.ino, parent, name)
        return found, self.files.adopt(found.ino, fd, flags | self.files.gate.marks(caller), path, st)

    def _open_existing(self, parent: Ino, name: bytes, flags: int, caller: Caller) -> tuple[Found, Handle]:
        """What open(2) with O_CREAT does to a file that the kernel did not know to be there."""
        found, marked = self.lookup(parent, name), flags | self.files.gate.marks(caller)
        handle = self.files.open(found.ino, self._path(parent, name), marked, found.record)
        if flags & os.O_TRUNC:
            self._drop_privileges(found.ino, caller)
        return self.getattr(found.ino), handle

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Found:
        """mkdir(2)."""
        path = self._new(parent, name)
        with again.made_already():
            self._hot.mkdir(path, stat.S_IMODE(mode))
        return self._made(path, parent, name, mode, caller)

    def mknod(self, parent: Ino, name: bytes, mode: int, device: int, caller: Caller) -> Found:
        """mknod(2)."""
        path = self._new(parent, name)
        with again.made_already():
            self._hot.mknod(path, mode, device)
        return self._made(path, parent, name, mode, caller)

    def symlink(self, parent: Ino, name: bytes, destination: bytes, caller: Caller) -> Found:
        """symlink(2)."""
        path = self._new(parent, name)
        with again.made_already():
            self._hot.symlink(destination, path)
        st = self._hot.lstat(path)
        if (caller.uid, caller.gid) != (st.st_uid, st.st_gid):
            self._hot.chown(path, caller.uid, group_of_new(self._hot, path, caller))
        return self.lookup(parent, name)

    async def link(self, ino: Ino, parent: Ino, name: bytes) -> Found:
        """link(2). A cold file is restored first: files with several names are always hot."""
        self.tree.claim_name(self._path(parent, name))
        await self._bring_back(ino)
        with again.made_already():
            self.tree.link(self.nodes.path(ino), self._path(parent, name))
        return self.lookup(parent, name)

    def unlink(self, parent: Ino, name: bytes) -> None:
        """unlink(2). The file lives on in its open handles."""
        path = self._path(parent, name)
        try:
            found = self.tree.unlink(path)
        except FileNotFoundError:
            if not self._before.was_removed(parent, name):
                raise
        else:
            self._removed(found, parent, name)

    def rmdir(self, parent: Ino, name: bytes) -> None:
        """rmdir(2)."""
        path = self._path(parent, name)
        found = self.tree.find_or_none(path)
        if found is None and self._before.was_removed(parent, name):
            return
        found = found or self.tree.find(path)
        with self._removed_files.keeping_directory(found, path):
            self.tree.rmdir(path)
        self._removed(found, parent, name)

    async def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> None:
        """renameat2(2)."""
        source, target = self._path(parent, name), self._path(new_parent, new_name)
        if again.is_again() and self._was_renamed((parent, name), (new_parent, new_name), flags):
            for record in filter(None, map(self.tree.catalog.get, (source, target))):
                self.tree.tier.recover(record)
            return
        moved, replaced = ends = self.tree.ends(source, target)
        with self._removed_files.keeping_directory(None if flags & RENAME_EXCHANGE else replaced, target):
            replaced = await self.tree.rename(source, target, flags, ends) or replaced
        if replaced and replaced.ino == moved.ino:
            return
        if replaced and not flags & RENAME_EXCHANGE:
            self._removed(replaced, new_parent, new_name)
        self.nodes.renamed(moved.ino, (parent, name), (new_parent, new_name))
        if replaced and flags & RENAME_EXCHANGE:
            self.nodes.renamed(replaced.ino, (new_parent, new_name), (parent, name))

    # -- attributes ----------------------------------------------------------------------------------------------

    async def setattr(self, ino: Ino, changes: Changes, handle: Handle | None, caller: Caller) -> Found:
        """truncate(2), chown(2), chmod(2), utimensat(2), in this order: the size first, the times last."""
        if changes.size is not None:
            await self._truncate(ino, changes.size, handle)
            self._drop_privileges(ino, caller)
        if changes.mode is not None and self.xattrs.has_cold_acl(ino):
            await self._bring_back(ino)
        self._set(ino, changes)
        return self.getattr(ino)

    # -- files and directories -----------------------------------------------------------------------------------

    async def open(self, ino: Ino, flags: int, caller: Caller) -> Handle:
        """open(2) of a node; never waits for the bucket, unless the file was removed."""
        if ino >= FIRST_MADE:
            return await self.control.open(ino, flags)
        node = self.nodes.removed_one(ino)
        if node:
            return await self._removed_files.open(node, flags)
        path, marked = self.nodes.path(ino), flags | self.files.gate.marks(caller)
        try:
            handle = self.files.open(ino, path, marked, None)
        except FileNotFoundError:
            record = self.tree.find(path).record
            if record and self.files.gate.is_denied(marked):
                await self.files.expect_at_hand(marked, record)
                path = self.nodes.path(ino)
                record = self.tree.find(path).record
            handle = self.files.open(ino, path, marked, record)
        if flags & os.O_TRUNC:
            self._drop_privileges(ino, caller)
        return handle

    async def read(self, handle: Handle, offset: int, size: int) -> Pieces:
        """pread(2); the bytes in one or more pieces, none at the end of the file."""
        if handle in self.control:
            return [memoryview(self.control.read(handle, offset, size))]
        return await self.files.read(handle, offset, size)

    def release(self, handle: Handle) -> None:
        """The last close of a handle."""
        if handle in self.control:
            self.control.release(handle)
        else:
            self.files.release(handle)

    async def sync_directory(self, handle: Handle) -> None:
        """fsync(2) of a directory: its names are durable in both tiers."""
        ino = self.listings.directory(handle)
        with waiting_for("the disk of the hot tier, or of the state directory"):
            if not self.nodes.removed_one(ino):
                await sync_directory(self._hot, self.nodes.path(ino))
            await trio.to_thread.run_sync(self.tree.catalog.sync)

    # -- inside --------------------------------------------------------------------------------------------------

    def _park_with(self, parked: Parked) -> None:
        self.files.parked = self.control.parked = parked
        self.nodes.on_forgotten = parked.forgotten

    def _path(self, parent: Ino, name: bytes) -> bytes:
        if len(name) > 255:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if name == NAME or parent >= FIRST_MADE:
            self.control.refuse(parent, name)
        return join(self.nodes.path(parent), name)

    def _keep_natively(self, directory: Ino) -> None:
        """What is asked of a directory without records the hot directory can say: no need to ask Python again."""
        path = self.nodes.path(directory)
        if self.files.attachments and not self.tree.catalog.has_records(path):
            with suppress(OSError):  # too many descriptors: Python goes on answering
                self.files.attachments.keep_directory(directory, self._hot.open(path, os.O_PATH | os.O_DIRECTORY))

    def _was_renamed(self, source: Name, target: Name, flags: int) -> bool:
        now = (self.tree.find_or_none(self._path(*source)), self.tree.find_or_none(self._path(*target)))
        return self._before.was_renamed(source, target, now, flags)

    def _new(self, parent: Ino, name: bytes) -> bytes:
        path = self._path(parent, name)
        self.tree.claim_name(path)
        return path

    def _made(self, path: bytes, parent: Ino, name: bytes, mode: int, caller: Caller) -> Found:
        fd = self._hot.open(path, os.O_PATH)
        try:
            give_to_caller(self._hot, path, fd, mode, caller)
        finally:
            os.close(fd)
        return self.lookup(parent, name)

    def _removed(self, found: Found, parent: Ino, name: bytes) -> None:
        node = self.nodes.removed(found.ino, parent, name)
        if node:
            node.record = found.record

    async def _truncate(self, ino: Ino, size: int, handle: Handle | None) -> None:
        node = self.nodes.removed_one(ino)
        if handle is not None and (fd := self.files.handles.get(handle).fd) is not None:
            os.ftruncate(fd, size)
            return
        if node:
            os.truncate(by_fd(await self._removed_files.bytes_of(node, keeps_bytes=size > 0)), size)
            return
        path = self.nodes.path(ino)
        record = self.tree.find(path).record
        if record and size == 0:
            os.close(self.files.replace(path, record))
        elif record:
            await self._bring_back(ino)
            await self._truncate(ino, size, handle)
        else:
            self.tree.tier.write_expected(path)
            self._hot.truncate(path, size)
            self.tree.tier.noticed(self.tree.catalog.get(path))

    async def _bring_back(self, ino: Ino) -> None:
        """Wait until a file that has a name has hot bytes. It may be elsewhere then, or be removed: look again."""
        while not self.nodes.removed_one(ino):
            path = self.nodes.path(ino)
            if self.tree.find(path).record is None:
                return
            try:
                await self._restorer.restore_to_write(path, GONE)
            except NotEligible:
                if not self.nodes.removed_one(ino):
                    raise

    def _set(self, ino: Ino, changes: Changes) -> None:
        node = self.nodes.removed_one(ino)
        if node:
            self._removed_files.change(node, changes)
            return
        path = self.nodes.path(ino)
        # chown(2) that leaves both as they are arrives as no change at all; it sets the ctime.
        if changes.uid is not None or changes.gid is not None or changes == Changes():
            uid = -1 if changes.uid is None else changes.uid
            self.tree.chown(path, uid, -1 if changes.gid is None else changes.gid)
        if changes.mode is not None:
            self.tree.chmod(path, changes.mode)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            self.tree.utime(path, changes.atime_ns, changes.mtime_ns)

    def _drop_privileges(self, ino: Ino, caller: Caller) -> None:
        """A file that somebody else than root truncates loses setuid, setgid and capabilities (inode(7))."""
        if caller.uid == 0:
            return
        mode = self.getattr(ino).st.st_mode
        if without_privileges(mode) != mode:
            self._set(ino, Changes(mode=without_privileges(mode)))
        if self.nodes.removed_one(ino) is None:
            with suppress(OSError):
                self.tree.removexattr(self.nodes.path(ino), b"security.capability")
