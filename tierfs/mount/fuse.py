"""The FUSE adapter: translate the arguments, one call, translate the result. The only module that knows pyfuse3."""

import errno
import functools
import logging
import os
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic_ns as _now_ns
from typing import Any, TypeVar, cast

from tierfs.mount import tap  # first of all: it must be loaded before pyfuse3 brings libfuse in
import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext, SetattrFields, StatvfsData

from tierfs.core.errors import MountError, ReadDenied, TierfsError
from tierfs.core.histogram import Doublings
from tierfs.core.records import OWN_XATTRS, Handle, Ino
from tierfs.engine.numbers import FIRST_MADE
from tierfs.engine.observed import Told
from tierfs.engine.tree import Found
from tierfs.mount import again
from tierfs.mount.changes import Changes
from tierfs.mount.filesystem import Filesystem
from tierfs.mount.requests import Requests
from tierfs.mount.slow import HeldUp
from tierfs.stores.hot import join

log = logging.getLogger(__name__)

#: So many tasks pyfuse3 may start by itself: it counts those down that end, and mount.requests starts them instead.
_NO_TASKS = -(1 << 31)
_BY_HANDLE = frozenset({"read", "write", "fsync"})  # operations that name an open file
_KERNEL_CACHE_S = 3600.0  # single-writer contract: names and attributes change through the mount alone
_SHARED_CACHE_S = 1.0
_LAST_ERRORS = 100

_F = TypeVar("_F", bound=Callable[..., Awaitable[Any]])


def _answering(operation: _F) -> _F:
    """The one place where errors become errnos. Any other exception would end the mount: it becomes EIO."""
    name = operation.__name__

    @functools.wraps(operation)
    async def answer(self: "Adapter", *args: Any) -> Any:
        began_ns = _now_ns()
        try:
            if again.begin(tap.request()):
                self.repeats += 1
                self._fs.comes_again(operation.__name__)
            return await operation(self, *args)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except TierfsError as error:
            if not isinstance(error, ReadDenied):  # as it was asked for; the guard says who
                self.report(name, error, self.path_of(name, args))
            raise pyfuse3.FUSEError(error.errno) from None
        except pyfuse3.FUSEError:
            raise
        except Exception:
            log.exception("a defect of tierfs met %s", operation.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None
        finally:
            took_ns, cells = _now_ns() - began_ns, self.answered[name].cells
            cells[took_ns.bit_length()] += 1
            cells[-1] += took_ns
            if self.waiting and (held_up_ns := self.held_up.began()):
                self.held_up.say(name, self.path_of(name, args), held_up_ns)

    return cast("_F", answer)


class Adapter(pyfuse3.Operations):
    """pyfuse3's operations over a Filesystem."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, filesystem: Filesystem, shared_hot: bool, on_init: Callable[[], None], slow_ns: int = 0) -> None:
        super().__init__()
        self._fs = filesystem
        self.cache_s = _SHARED_CACHE_S if shared_hot else _KERNEL_CACHE_S
        self._on_init = on_init
        self._missing = EntryAttributes()  # number 0: the kernel keeps in mind that the name is not there
        self._missing.st_ino, self._missing.entry_timeout = pyfuse3.InodeT(0), self.cache_s
        self.held_up = HeldUp(slow_ns)
        self.waiting = self.held_up.since_ns
        self.errors: Counter[str] = Counter()
        self.answered: defaultdict[str, Doublings] = defaultdict(Doublings)  # how long operations took
        self.repeats = 0  # requests that came again after a worker died
        self.last_errors: deque[Told] = deque(maxlen=_LAST_ERRORS)

    def init(self) -> None:
        self._on_init()

    def report(self, operation: str, error: TierfsError, path: bytes) -> None:
        """Count and log what an application is told with an errno alone."""
        self.errors[type(error).__name__] += 1
        self.last_errors.append(Told(time.time_ns(), operation, path, str(error)))
        log.warning("%s: %s", operation, error)

    def path_of(self, operation: str, args: Sequence[Any]) -> bytes:
        """What an operation that waited was about; nothing when that has no name any more."""
        with suppress(OSError, TierfsError):
            ino = args[0]
            if operation in _BY_HANDLE:
                ino = self._fs.files.handles.get(ino).ino
            elif operation == "fsyncdir":
                ino = self._fs.listings.directory(ino)
            path = self._fs.nodes.path(ino)
            return join(path, args[1]) if operation == "rename" else path
        return b""

    def _entry(self, found: Found) -> EntryAttributes:
        st, entry = found.st, EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(found.ino)
        entry.entry_timeout = entry.attr_timeout = self.cache_s
        entry.st_mode, entry.st_nlink = pyfuse3.ModeT(st.st_mode), st.st_nlink
        entry.st_uid, entry.st_gid, entry.st_rdev = st.st_uid, st.st_gid, st.st_rdev
        entry.st_size, entry.st_blksize, entry.st_blocks = st.st_size, st.st_blksize, st.st_blocks
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
        return entry

    @_answering
    async def lookup(self, parent: Ino, name: bytes, ctx: RequestContext) -> EntryAttributes:  # type: ignore[override]
        try:
            return self._entry(self._fs.lookup(parent, name))
        except FileNotFoundError:
            return self._missing

    async def forget(self, inode_list: Sequence[tuple[Ino, int]]) -> None:  # type: ignore[override]
        for ino, count in inode_list:
            self._fs.forget(ino, count)

    @_answering
    async def getattr(self, ino: Ino, ctx: RequestContext) -> EntryAttributes:  # type: ignore[override]
        return self._entry(self._fs.getattr(ino))

    @_answering
    async def setattr(  # type: ignore[override]
        self, ino: Ino, attr: EntryAttributes, fields: SetattrFields, fh: Handle | None, ctx: RequestContext
    ) -> EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self._entry(await self._fs.setattr(ino, changes, fh, ctx))

    @_answering
    async def readlink(self, ino: Ino, ctx: RequestContext) -> bytes:  # type: ignore[override]
        return self._fs.readlink(ino)

    @_answering
    async def mknod(  # type: ignore[override]
        self, parent: Ino, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(self._fs.mknod(parent, name, mode, rdev, ctx))

    @_answering
    async def mkdir(self, parent: Ino, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:  # type: ignore[override]
        return self._entry(self._fs.mkdir(parent, name, mode, ctx))

    @_answering
    async def unlink(self, parent: Ino, name: bytes, ctx: RequestContext) -> None:  # type: ignore[override]
        self._fs.unlink(parent, name)

    @_answering
    async def rmdir(self, parent: Ino, name: bytes, ctx: RequestContext) -> None:  # type: ignore[override]
        self._fs.rmdir(parent, name)

    @_answering
    async def symlink(self, parent: Ino, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:  # type: ignore[override]
        return self._entry(self._fs.symlink(parent, name, target, ctx))

    @_answering
    async def rename(  # type: ignore[override]
        self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int, ctx: RequestContext
    ) -> None:
        await self._fs.rename(parent, name, new_parent, new_name, flags)

    @_answering
    async def link(self, ino: Ino, parent: Ino, name: bytes, ctx: RequestContext) -> EntryAttributes:  # type: ignore[override]
        return self._entry(await self._fs.link(ino, parent, name))

    @_answering
    async def open(self, ino: Ino, flags: int, ctx: RequestContext) -> FileInfo:  # type: ignore[override]
        handle, is_made = await self._fs.open(ino, flags, ctx), ino >= FIRST_MADE
        return FileInfo(fh=cast("pyfuse3.FileHandleT", handle), keep_cache=not is_made, direct_io=is_made)

    @_answering
    async def create(  # type: ignore[override]
        self, parent: Ino, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        found, handle = self._fs.create(parent, name, mode, flags, ctx)
        return FileInfo(fh=cast("pyfuse3.FileHandleT", handle), keep_cache=True), self._entry(found)

    @_answering
    async def read(self, fh: Handle, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]
        return tap.reply_with(await self._fs.read(fh, off, size))

    @_answering
    async def write(self, fh: Handle, off: int, buf: bytes) -> int:  # type: ignore[override]
        return await self._fs.files.write(fh, off, buf)

    @_answering
    async def release(self, fh: Handle) -> None:  # type: ignore[override]
        self._fs.release(fh)

    @_answering
    async def fsync(self, fh: Handle, datasync: bool) -> None:  # type: ignore[override]
        await self._fs.files.sync(fh, datasync)

    @_answering
    async def opendir(self, ino: Ino, ctx: RequestContext) -> Handle:  # type: ignore[override]
        return self._fs.listings.open(ino)

    @_answering
    async def readdir(self, fh: Handle, start_id: int, token: pyfuse3.ReaddirToken) -> None:  # type: ignore[override]
        listings = self._fs.listings
        directory = listings.directory(fh)
        for entry in listings.read(fh, start_id):
            name = cast("Any", entry.name)
            if not pyfuse3.readdir_reply(token, name, self._entry(entry.found), entry.next_offset):
                break
            listings.handed_out(directory, entry)

    @_answering
    async def releasedir(self, fh: Handle) -> None:  # type: ignore[override]
        self._fs.listings.close(fh)

    @_answering
    async def fsyncdir(self, fh: Handle, datasync: bool) -> None:  # type: ignore[override]
        await self._fs.sync_directory(fh)

    @_answering
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        hot, answer = self._fs.tree.hot.statvfs(), StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(answer, f"f_{name}", getattr(hot, f"f_{name}"))
        return answer

    @_answering
    async def getxattr(self, ino: Ino, name: bytes, ctx: RequestContext) -> bytes:  # type: ignore[override]
        if name.startswith(OWN_XATTRS):
            return await self._fs.labels.get(ino, name)
        return self._fs.xattrs.get(ino, name)

    @_answering
    async def listxattr(self, ino: Ino, ctx: RequestContext) -> Sequence[bytes]:  # type: ignore[override]
        return self._fs.xattrs.list(ino)

    @_answering
    async def setxattr(self, ino: Ino, name: bytes, value: bytes, ctx: RequestContext) -> None:  # type: ignore[override]
        if name.startswith(OWN_XATTRS):
            self._fs.labels.set(ino, name, value, ctx)
        else:
            await self._fs.xattrs.set(ino, name, value)

    @_answering
    async def removexattr(self, ino: Ino, name: bytes, ctx: RequestContext) -> None:  # type: ignore[override]
        if name.startswith(OWN_XATTRS):
            self._fs.labels.remove(ino, name, ctx)
        else:
            await self._fs.xattrs.remove(ino, name)


def start(adapter: Adapter, fuse_fd: int, wishes: tap.Wishes) -> None:
    """Begin a session on an open /dev/fuse that somebody else has mounted: the mount's options are theirs."""
    tap.configure(wishes, int(adapter.cache_s))
    pyfuse3.init(adapter, f"/dev/fd/{fuse_fd}", set())
    _has_begun.set()
    if not tap.is_in_place():
        raise MountError("the native module is not between pyfuse3 and libfuse: reinstall tierfs")


async def serve(adapter: Adapter, fuse_fd: int, on_end: Callable[[], None]) -> None:
    """Answer requests until the mount goes away; `on_end` hears of it before all of them are answered."""
    requests = Requests(fuse_fd, _answer_requests, on_end, adapter.held_up)
    pyfuse3._wait_fuse_readable = requests.wait  # type: ignore[attr-defined]
    await requests.serve(functools.partial(pyfuse3.main, max_tasks=_NO_TASKS))


async def _answer_requests() -> None:
    """What main() runs in each of its tasks."""
    await pyfuse3._session_loop(None, 1, _NO_TASKS)  # type: ignore[attr-defined]


def stop() -> None:
    """Close the session and leave the mount alone: it belongs to the supervisor."""
    tap.finish_replies()
    pyfuse3.close(unmount=False)


def forget_attributes(ino: Ino) -> None:
    """Have the kernel ask for the attributes of a node again. Does not block; a node it does not know is no error."""
    _notify(lambda: pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=True))


def forget_name(parent: Ino, name: bytes) -> None:
    """Have the kernel look a name up again, and ask for the listing of its directory again.

    A name that the kernel never met does not make it forget the listing (fs/fuse/dir.c, fuse_reverse_inval_entry).
    """
    if not _has_begun.is_set():
        return
    pyfuse3.invalidate_entry_async(pyfuse3.InodeT(parent), cast("Any", name), ignore_enoent=True)
    if parent not in _stale_listings:
        _stale_listings.add(parent)
        _notify(lambda: _forget_listing(parent))


#: Whether there is a session: before, the kernel knows of nothing that it would have to forget.
_has_begun = threading.Event()
#: Directories whose listing is about to be forgotten: one notification for all names that appear until then.
_stale_listings: set[Ino] = set()


def _forget_listing(directory: Ino) -> None:
    _stale_listings.discard(directory)
    pyfuse3.invalidate_inode(pyfuse3.InodeT(directory), attr_only=False)


def _notify(call: Callable[[], None]) -> None:
    """Notifications write to /dev/fuse and may wait for the kernel, which may wait for us: never in the loop."""

    def run() -> None:
        try:
            call()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.warning("the kernel refused a notification: %s", os.strerror(error.errno or 0))

    threading.Thread(target=run, name="tierfs-notify", daemon=True).start()
