"""The cold tier in a directory: a big disk, or a share. No server needed, and every object is a plain file.

    DIR/KEY                         the bytes of an object
    DIR/.tierfs-store/about/..      one small file per object: its ETag and user metadata
    DIR/.tierfs-store/new/..        what is being written

An object appears by rename, whole and fsynced. Its description is named after the key and the body's mtime and size:
the new one is complete before the new body shows, the old one goes after it, so a crash between leaves a pair that
fits. `cp -a` and `rsync -a` of DIR keep the pairs. A body without description was written, or changed, by something
else: its ETag is made from mtime and size. Extended attributes would be simpler, but not every share has them.
"""

import errno
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace

from isal import isal_zlib

from tierfs.core.errors import (
    AccessDenied,
    BucketMissing,
    IntegrityError,
    NoLease,
    ObjectChanged,
    ObjectMissing,
    StoreRefused,
)
from tierfs.core.lease import Fence, unfenced
from tierfs.core.steps import step
from tierfs.stores.cold import Deleted, Meter, ObjectInfo, Progress, Source, StoreCounters, delete_each, plain_metadata
from tierfs.stores.directory_layout import (
    ABOUT,
    DIRECTORY,
    NEW,
    REQUESTS,
    RESERVED,
    About,
    Bytes,
    OpenFile,
    about_path,
    explain,
    forget_about,
    info_of,
    make_directory,
    parent_of,
    remove_empty,
    remove_leftovers,
    split_key,
    stat_or_none,
    walk_below,
    write_about,
    write_all,
)

_log = logging.getLogger(__name__)

#: Bytes read and written at once.
BLOCK = 1 << 20
#: Objects of the self-test: gone when it ends, but for one that was killed. A list leaves them out.
_SELF_TEST = ".tierfs-self-test-"
#: Nobody is still writing a file in NEW that did not change for so long.
_LEFTOVER_S = 24 * 3600

_BODY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # somebody may have put a fifo there


class DirectoryStore:
    """ColdStore in a directory.

    INVARIANT: nothing outside the directory is touched: parts of keys are looked up one by one, symbolic links are not
    followed.
    """

    def __init__(self, directory: str, fence: Fence = unfenced) -> None:
        self._meter = Meter()
        self._fence = fence
        self._place = f"directory {directory}"
        self._lock = threading.Lock()
        try:
            self._root = os.open(directory, DIRECTORY)
        except PermissionError as error:
            raise AccessDenied(f"cannot open the {self._place}: permission denied") from error
        except OSError as error:
            raise BucketMissing(
                f"cannot open the {self._place}: {error.strerror}; create it or mount its disk"
            ) from error
        # A disk that is not mounted looks like an empty directory: once seen, this must not go away.
        self._was_ours = self._exists(RESERVED)

    @property
    def counters(self) -> StoreCounters:
        """Running totals since it was opened."""
        return self._meter.totals

    def expect_objects(self) -> None:
        """The caller knows that objects were written here: BucketMissing if there is no trace of a store."""
        if not self._exists(RESERVED):
            raise BucketMissing(f"the {self._place} is not the store that it was: is its disk mounted?")
        self._was_ours = True

    def put(self, key: str, source: Source, metadata: Mapping[str, str], progress: Progress) -> ObjectInfo:
        """Write, fsync, read back and compare, then rename into place; see ColdStore."""
        parts = split_key(key)
        about = About(etag=secrets.token_hex(20), metadata=plain_metadata(metadata))
        with self._telling("write", key):
            self._prepare()
        leftovers = [name := b"%s/%s" % (NEW, secrets.token_hex(16).encode())]
        try:
            with step("directory.body"):
                body = self._write_body(key, name, source, progress)
            leftovers.append(about_path(key, body))
            with self._telling("write", key):
                with step("directory.description"):
                    write_about(self._root, key, about, body)
                self._publish(key, parts, name)
        except BaseException:
            for path in leftovers:
                with suppress(OSError):
                    os.unlink(path, dir_fd=self._root)
            raise
        info = self.head(key)
        if (info.etag, info.size) != (about.etag, source.size):
            raise IntegrityError(f"cannot write object {key} in {self._place}: something else wrote the same key")
        return info

    def _write_body(self, key: str, name: bytes, source: Source, progress: Progress) -> os.stat_result:
        """Copy the source to `name`; what is returned identifies the body for ever."""
        self._meter.count_request("PutObject")
        with self._telling("write", key):
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._root)
        try:
            size = crc32 = 0
            while size < source.size:
                block = source.read_at(size, min(BLOCK, source.size - size))
                if not block:
                    break
                with self._telling("write", key):
                    write_all(fd, block)
                crc32 = isal_zlib.crc32(block, crc32)
                size += len(block)
                self._meter.count_bytes(uploaded=len(block))
                progress(len(block))
            if size != source.size:
                raise IntegrityError(
                    f"cannot write object {key}: the file became shorter while it was read ({size} bytes)"
                )
            with self._telling("write", key):
                body = self._stamp(key, fd)
                os.fsync(fd)
            self._verify(key, fd, size, crc32, progress)
            return body
        finally:
            os.close(fd)

    def _stamp(self, key: str, fd: int) -> os.stat_result:
        """Give the body an mtime that no other body of this key has, whatever the filesystem makes of it."""
        now_ns = time.time_ns()
        while True:
            os.utime(fd, ns=(now_ns, now_ns))
            body = os.fstat(fd)
            if not self._exists(about_path(key, body)):
                return body
            now_ns += 1_000_000_000

    def _verify(self, key: str, fd: int, size: int, crc32: int, progress: Progress) -> None:
        """Read the body back, from the disk or the share as far as the kernel allows, and compare."""
        with suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        offset = found = 0
        while True:
            with self._telling("read back", key):
                block = os.pread(fd, BLOCK, offset)
            if not block:
                break
            found = isal_zlib.crc32(block, found)
            offset += len(block)
            progress(0)
        if (offset, found) != (size, crc32):
            raise IntegrityError(f"cannot write object {key} in {self._place}: what reads back is not what was written")

    def _publish(self, key: str, parts: tuple[bytes, ...], name: bytes) -> None:
        """The one step that makes the new body visible; then the description of the old one goes."""
        with self._lock, parent_of(self._root, parts, create=True) as parent:
            old = stat_or_none(parts[-1], parent)
            self._fence()
            with step("directory.name"):
                os.rename(name, parts[-1], src_dir_fd=self._root, dst_dir_fd=parent)
                os.fsync(parent)
        if old is not None:
            with step("directory.forget"):
                forget_about(self._root, key, old)

    def get(
        self, key: str, start: int, stop: int, etag: str, version_id: str | None = None
    ) -> Generator[bytes, None, None]:
        """Stream the bytes [start, stop); see ColdStore. A body that is replaced meanwhile is read to its end."""
        if start >= stop:
            return
        self._meter.count_request("GetObject")
        asked_ns = time.monotonic_ns()
        with self._body(key) as (fd, info):
            if etag and info.etag != etag:
                raise ObjectChanged(f"cannot read object {key} in {self._place}: it was overwritten")
            if info.size < stop:
                raise ObjectChanged(f"cannot read object {key} in {self._place}: it is shorter than recorded")
            while start < stop:
                with self._telling("read", key):
                    block = os.pread(fd, min(BLOCK, stop - start), start)
                if not block:
                    raise IntegrityError(f"cannot read object {key} in {self._place}: ends {stop - start} bytes early")
                if asked_ns:
                    self._meter.count_first_byte(time.monotonic_ns() - asked_ns)
                    asked_ns = 0
                start += len(block)
                self._meter.count_bytes(downloaded=len(block))
                yield block

    def head(self, key: str) -> ObjectInfo:
        """Describe one object; see ColdStore."""
        self._meter.count_request("HeadObject")
        with self._body(key) as (_, info):
            return info

    @contextmanager
    def _body(self, key: str) -> Iterator[tuple[int, ObjectInfo]]:
        """An open object, and its description."""
        parts = split_key(key)
        while True:
            with self._telling("read", key), parent_of(self._root, parts) as parent:
                fd = os.open(parts[-1], _BODY, dir_fd=parent)
            try:
                with self._telling("read", key):
                    body = os.fstat(fd)
                    if not stat.S_ISREG(body.st_mode):
                        raise FileNotFoundError(errno.ENOENT, "not a regular file")
                    about = self._find_about(key, body)
                    if about is None and self._was_replaced(parts, body):
                        continue  # a put took the description away after the open
                yield fd, info_of(key, body, about)
                return
            finally:
                os.close(fd)

    def _was_replaced(self, parts: tuple[bytes, ...], body: os.stat_result) -> bool:
        with parent_of(self._root, parts) as parent:
            now = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
        return (now.st_ino, now.st_mtime_ns, now.st_size) != (body.st_ino, body.st_mtime_ns, body.st_size)

    def _find_about(self, key: str, body: os.stat_result) -> About | None:
        try:
            fd = os.open(about_path(key, body), _BODY, dir_fd=self._root)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            return About.parse(key, file.read())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix`; see ColdStore. Names that are not UTF-8 are no keys: logged."""
        self._meter.count_request("ListObjectsV2")
        self._must_be_ours()
        below, _, _ = prefix.rpartition("/")
        try:
            parts = split_key(below) if below else ()
        except StoreRefused:
            return  # no object has such a key
        with ExitStack() as opened:
            with self._telling("list", prefix):
                try:
                    top = opened.enter_context(parent_of(self._root, (*parts, b"")))
                except (FileNotFoundError, NotADirectoryError):
                    self._must_be_ours()
                    return
            walk = opened.enter_context(closing(walk_below(top)))
            while True:
                with self._telling("list", prefix):
                    step = next(walk, None)
                    if step is None:
                        return
                    at, directories, files, fd = step
                    path = b"/".join((*parts, *at.split(b"/")[1:]))
                    if not path and RESERVED in directories:
                        directories.remove(RESERVED)
                    found = [info for name in files if (info := self._entry(path, name, prefix, fd))]
                yield from found

    def _entry(self, path: bytes, name: bytes, prefix: str, fd: int) -> ObjectInfo | None:
        try:
            key = (path + b"/" + name if path else name).decode()
        except UnicodeDecodeError:
            _log.warning("%s: %r is not UTF-8, so it is not an object", self._place, path + b"/" + name)
            return None
        body = stat_or_none(name, fd)
        if body is None or not stat.S_ISREG(body.st_mode) or not key.startswith(prefix) or key.startswith(_SELF_TEST):
            return None
        info = info_of(key, body, self._find_about(key, body))
        return replace(info, metadata={})

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo:
        """Copy an object inside the directory; see ColdStore."""
        self._meter.count_request("CopyObject")
        with self._body(source.key) as (fd, info):
            if (info.etag, info.size) != (source.etag, source.size):
                raise ObjectChanged(f"cannot copy object {source.key} in {self._place}: it was overwritten")
            return self.put(key, OpenFile(fd), info.metadata, lambda _moved: None)

    def delete(self, key: str) -> None:
        """Delete an object, and directories that it leaves empty; deleting one that is not there succeeds."""
        parts = split_key(key)
        self._meter.count_request("DeleteObject")
        with self._telling("delete", key):
            try:
                with self._lock, parent_of(self._root, parts) as parent:
                    body = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
                    if stat.S_ISDIR(body.st_mode):
                        return  # not an object
                    self._fence()
                    with step("directory.delete"):
                        os.unlink(parts[-1], dir_fd=parent)
                        os.fsync(parent)
                    remove_empty(self._root, parts[:-1])
            except (FileNotFoundError, NotADirectoryError):
                self._must_be_ours()
                return
            with step("directory.forget"):
                forget_about(self._root, key, body)

    def delete_many(self, keys: Sequence[str]) -> Deleted:
        return delete_each(self.delete, keys)

    def tidy(self) -> None:
        """Nothing to do: what a crash left is removed when the directory is looked at (see probe)."""

    def probe(self) -> tuple[str, ...]:
        """Write, read and delete an object; say in sentences what a directory cannot do; see ColdStore."""
        body = b"tierfs wrote this object to see that it can; it may be deleted"
        key = f"{_SELF_TEST}{secrets.token_hex(8)}"
        says = "an object cannot have the name of a directory that others are in, nor a name part above 255 bytes"
        try:
            self._fence()
            with self._telling("use", ""):
                self._prepare()
                remove_leftovers(NEW, self._root, time.time() - _LEFTOVER_S)
            info = self.put(key, Bytes(body), {"tierfs-test": "kept"}, lambda _moved: None)
        except NoLease:
            return (says,)  # what it may not write it does not try
        except AccessDenied as error:
            with self._telling("use", ""):
                os.listdir(self._root)
            return (f"objects cannot be written, so nothing can be archived ({error})",)
        try:
            if b"".join(self.get(key, 0, len(body), info.etag)) != body or info.metadata != {"tierfs-test": "kept"}:
                raise StoreRefused(f"{self._place} cannot be used: an object reads back differently")
        finally:
            self.delete(key)
        return (says,)

    def close(self) -> None:
        """Close the directory."""
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def _prepare(self) -> None:
        """Make the place for descriptions and new bodies."""
        for path in (RESERVED, NEW, ABOUT):
            found = stat_or_none(path, self._root)
            if found is None:
                self._must_be_ours()
                make_directory(path, self._root)
            elif not stat.S_ISDIR(found.st_mode):  # a link, perhaps, to somewhere else
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
        self._was_ours = True

    def _must_be_ours(self) -> None:
        """BucketMissing when what was there has gone as a whole: nothing in it may be taken for deleted."""
        if self._was_ours and not self._exists(RESERVED):
            raise BucketMissing(f"the {self._place} has lost {RESERVED.decode()}: mount its disk, or bring it back")

    def _exists(self, path: bytes) -> bool:
        return stat_or_none(path, self._root) is not None

    @contextmanager
    def _telling(self, verb: str, key: str) -> Iterator[None]:
        """Turn an OSError of the block into one of core/errors, with a sentence for a person."""
        try:
            yield
        except OSError as error:
            kind, why = explain(error, writing=verb == "write")
            self._meter.count_failure(REQUESTS.get(verb, "HeadBucket"), kind)
            if kind is ObjectMissing:
                self._must_be_ours()
            what = f"object {key} in {self._place}" if key else f"the {self._place}"
            raise kind(f"cannot {verb} {what}: {why}") from error
