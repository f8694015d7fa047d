"""Archive and release: what is sent, what is believed, and everything that can happen while it is under way."""

import hashlib
import os
import stat
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio

from tests.assembly import CHUNK, PREFIX, Machine, Open, World, meanwhile
from tests.invariants import check_invariants
from tierfs.core.errors import AccessDenied, NotEligible, ObjectChanged, ObjectMissing, StoreUnavailable
from tierfs.core.residency import Residency
from tierfs.engine.archive import _CLOCK_REALTIME_COARSE
from tierfs.engine.upload import Digest, metadata_of
from tierfs.stores.hot import RENAME_EXCHANGE, identity_of

HOT, MIRRORED, COLD = Residency.HOT, Residency.MIRRORED, Residency.COLD


async def test_an_archive_is_verified_and_described(world: World) -> None:
    data = b"ten bytes!"
    async with world.running() as machine:
        await machine.write(b"a", data)
        await machine.change(b"a", mode=0o640, mtime_ns=1_600_000_000_123_456_789)
        await machine.setxattr(b"a", b"user.x", b"y")
        await machine.archive(b"a")
        record = machine.catalog.get(b"a")
        assert record
        assert record.object
        assert record.object.sha256 == hashlib.sha256(data).digest()
        crcs = [zlib.crc32(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK)]
        assert [record.object.crc_of(index) for index in range(4)] == [*crcs, None]
        info = world.memory.head(PREFIX + "a")
        assert info.metadata["tierfs-mode"] == "640"
        assert info.metadata["tierfs-mtime-ns"] == "1600000000123456789"
        assert info.metadata["tierfs-size"] == "10"
        assert "tierfs-xattrs" in info.metadata
        assert machine.residency(b"a") is MIRRORED
        check_invariants(machine)


def test_attributes_that_do_not_fit_stay_out_of_the_object(world: World) -> None:
    from tierfs.core.records import Attributes

    attributes = Attributes(stat.S_IFREG | 0o644, 0, 0, 3, 0, 0, 0, ((b"user.long", bytes(2000)),))
    metadata = metadata_of(attributes, Digest(bytes(32), bytes(4), 3), 5)
    assert "tierfs-xattrs" not in metadata
    assert sum(map(len, [*metadata, *metadata.values()])) < 2048


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 1])
async def test_the_way_there_and_back(world: World, size: int) -> None:
    data = os.urandom(size)
    async with world.running() as machine:
        await machine.write(b"a", data)
        before = machine.stat(b"a").st
        await machine.release(b"a")
        assert machine.residency(b"a") is COLD
        assert os.listdir(world.hot) == []
        cold = machine.stat(b"a").st
        for name in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_atime_ns", "st_ctime_ns"):
            assert getattr(cold, name) == getattr(before, name), name
        assert await machine.read(b"a") == data
        await machine.restore(b"a")
        assert (world.hot / "a").read_bytes() == data
        assert machine.stat(b"a").st.st_mtime_ns == before.st_mtime_ns
        check_invariants(machine)


# -- never ---------------------------------------------------------------------------------------------------------


async def test_what_is_never_archived(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"linked", b"x")
        await machine.link(b"linked", b"other")
        machine.mkdir(b"directory")
        machine.symlink(b"linked", b"symlink")
        (await machine.open(b"empty", os.O_CREAT | os.O_WRONLY)).close()
        os.mkfifo(world.hot / "fifo")
        writer = await machine.open(b"written", os.O_CREAT | os.O_WRONLY)
        await writer.write(0, b"x")
        for path, reason in [
            (b"linked", "2 hard links"),
            (b"directory", "not a regular file"),
            (b"symlink", "not a regular file"),
            (b"fifo", "not a regular file"),
            (b"empty", "empty"),
            (b"written", "open for writing"),
        ]:
            with pytest.raises(NotEligible, match=reason):
                await machine.archive(path)
        writer.close()
        await machine.archive(b"written")
        with pytest.raises(NotEligible, match="already archived"):
            await machine.archive(b"written")
        assert list(world.memory.objects) == [PREFIX + "written"]
        check_invariants(machine)


async def test_a_path_too_long_for_a_key_stays_hot(world: World) -> None:
    async with world.running() as machine:
        path = b"d" * 200
        for _ in range(5):
            machine.mkdir(path)
            path += b"/" + b"d" * 200
        await machine.write(path, b"x")
        with pytest.raises(NotEligible, match="too long"):
            await machine.archive(path)
        check_invariants(machine)


# -- while the upload is under way -----------------------------------------------------------------------------------


Meanwhile = Callable[[Machine], Awaitable[None]]


async def write_in_place(machine: Machine) -> None:
    file = await machine.open(b"a", os.O_WRONLY)
    await file.write(0, b"X")
    file.close()


async def open_for_writing(machine: Machine) -> None:
    (await machine.open(b"a", os.O_WRONLY)).close()


async def append_behind_the_mount(machine: Machine) -> None:
    with open(machine.world.hot / "a", "ab") as file:
        file.write(b"more")


async def overwrite_behind_the_mount_and_forge_mtime(machine: Machine) -> None:
    st = os.stat(machine.world.hot / "a")
    with open(machine.world.hot / "a", "r+b") as file:
        file.write(b"X")
    os.utime(machine.world.hot / "a", ns=(st.st_atime_ns, st.st_mtime_ns))


async def truncate(machine: Machine) -> None:
    await machine.truncate(b"a", 3)


async def empty(machine: Machine) -> None:
    (await machine.open(b"a", os.O_WRONLY | os.O_TRUNC)).close()


async def unlink(machine: Machine) -> None:
    machine.unlink(b"a")


async def unlink_and_make_again(machine: Machine) -> None:
    machine.unlink(b"a")
    await machine.write(b"a", b"another file")


async def rename_over(machine: Machine) -> None:
    await machine.rename(b"other", b"a")


async def exchange(machine: Machine) -> None:
    await machine.rename(b"other", b"a", RENAME_EXCHANGE)


async def rename_away(machine: Machine) -> None:
    await machine.rename(b"a", b"b")


async def rename_its_directory(machine: Machine) -> None:
    machine.mkdir(b"d")
    await machine.rename(b"a", b"d/a")
    await machine.rename(b"d", b"e")


async def link(machine: Machine) -> None:
    await machine.link(b"a", b"b")


async def link_and_unlink(machine: Machine) -> None:
    await machine.link(b"a", b"b")
    machine.unlink(b"b")


async def chmod(machine: Machine) -> None:
    await machine.change(b"a", mode=0o600)


async def utime(machine: Machine) -> None:
    await machine.change(b"a", mtime_ns=5)


async def setxattr(machine: Machine) -> None:
    await machine.setxattr(b"a", b"user.x", b"y")


async def read(machine: Machine) -> None:
    assert await machine.read(b"a") == b"first content"


@pytest.mark.parametrize(
    ("happens", "is_archived"),
    [
        (write_in_place, False),
        (open_for_writing, False),
        (append_behind_the_mount, False),
        (overwrite_behind_the_mount_and_forge_mtime, False),
        (truncate, False),
        (empty, False),
        (unlink, False),
        (unlink_and_make_again, False),
        (rename_over, False),
        (exchange, True),
        (rename_away, True),
        (rename_its_directory, True),
        (link, False),
        (link_and_unlink, False),
        (chmod, True),
        (utime, True),
        (setxattr, True),
        (read, True),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("was_archived", [False, True], ids=["first", "again"])
async def test_what_happens_during_an_archive(
    world: World, happens: Meanwhile, is_archived: bool, was_archived: bool
) -> None:
    """The upload is complete but for its answer; what happens now decides whether it is believed."""
    async with world.running() as machine:
        if was_archived:
            await machine.write(b"a", b"older content")
            await machine.archive(b"a")
        await machine.write(b"a", b"first content")
        await machine.write(b"other", b"other content")
        async with meanwhile(world, "put", machine.archive, b"a") as archive:
            await happens(machine)
            expected = await machine.contents()
        assert (archive.error is None) == is_archived, archive.error
        assert is_archived or isinstance(archive.error, NotEligible)
        assert await machine.contents() == expected
        check_invariants(machine)
        mirrored = [record for record in machine.catalog.records() if record.residency is MIRRORED]
        assert len(mirrored) == is_archived
        await machine.sweep()
        check_invariants(machine)
        for path in expected:
            if machine.stat(path).st.st_nlink == 1 and expected[path]:
                await machine.release(path)
        assert await machine.contents() == expected
        await machine.sweep()
        check_invariants(machine)
        cold = sorted(PREFIX + path.decode() for path in expected if machine.residency(path) is COLD)
        assert sorted(world.memory.objects) == cold or happens in (empty, link, truncate)


async def test_a_writer_that_is_still_there_refuses_the_archive(world: World) -> None:
    """It may have written through a mapping, which shows only later."""
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        files: list[Open] = []
        async with meanwhile(world, "put", machine.archive, b"a") as archive:
            files.append(await machine.open(b"a", os.O_RDWR))
        assert isinstance(archive.error, NotEligible)
        assert machine.residency(b"a") is HOT
        files[0].close()
        await machine.archive(b"a")
        check_invariants(machine)


async def test_two_archives_of_one_file(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        async with meanwhile(world, "put", machine.archive, b"a") as archive:
            with pytest.raises(NotEligible, match="being archived"):
                await machine.archive(b"a")
        assert archive.error is None
        assert machine.residency(b"a") is MIRRORED


async def test_an_upload_that_nobody_waits_for_cannot_overwrite_the_next(world: World) -> None:
    """The first upload is stuck; the name is taken by another file, which is archived: one after the other."""
    async with world.running() as machine:
        await machine.write(b"a", b"one")
        async with meanwhile(world, "put", machine.archive, b"a") as first:
            machine.unlink(b"a")
            await machine.write(b"b", b"two")
            await machine.rename(b"b", b"a")
            with pytest.raises(NotEligible):
                await machine.archive(b"a")
        assert isinstance(first.error, NotEligible)
        await machine.archive(b"a")
        assert world.memory.objects == {PREFIX + "a": b"two"}
        check_invariants(machine)


@pytest.mark.parametrize("after_effect", [False, True])
async def test_an_upload_that_fails(world: World, after_effect: bool) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        world.store.fail("put", StoreUnavailable("gone"), after_effect=after_effect)
        with pytest.raises(StoreUnavailable):
            await machine.archive(b"a")
        assert machine.residency(b"a") is HOT
        check_invariants(machine)
        machine.unlink(b"a")
        check_invariants(machine)
        await machine.sweep()
        assert world.memory.objects == {}


async def test_an_upload_under_another_name_that_fails_leaves_nothing(world: World) -> None:
    """The object may be there although the store said no: it must not come back as a file."""
    async with world.running() as machine:
        await machine.write(b"a", b"one")
        await machine.archive(b"a")
        await machine.write(b"a", b"two")
        await machine.rename(b"a", b"b")
        world.store.fail("put", AccessDenied("no"), after_effect=True)
        with pytest.raises(AccessDenied):
            await machine.archive(b"b")
        machine.unlink(b"b")
        check_invariants(machine)
        await machine.sweep()
        assert world.memory.objects == {}


async def test_an_upload_under_another_name_that_comes_too_late_leaves_nothing(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"one")
        await machine.archive(b"a")
        await machine.write(b"a", b"two")
        await machine.rename(b"a", b"b")
        async with meanwhile(world, "put", machine.archive, b"b") as archive:
            with open(world.hot / "b", "ab") as file:
                file.write(b"!")
        assert isinstance(archive.error, NotEligible)
        check_invariants(machine)
        await machine.sweep()
        check_invariants(machine)
        assert list(world.memory.objects) == [PREFIX + "b"]


async def test_two_files_that_swapped_names_and_were_rewritten_can_be_archived(world: World) -> None:
    """Each key holds an older version of the other file."""
    async with world.running() as machine:
        for path in (b"a", b"b"):
            await machine.write(path, b"old " + path)
            await machine.archive(path)
        await machine.rename(b"a", b"b", RENAME_EXCHANGE)
        for path in (b"a", b"b"):
            await machine.write(path, b"new " + path)
        for path in (b"a", b"b"):
            await machine.archive(path)
            check_invariants(machine)
        await machine.sweep()
        assert world.memory.objects == {PREFIX + "a": b"new a", PREFIX + "b": b"new b"}


async def test_a_key_that_a_removed_open_file_still_reads_is_not_overwritten(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"first life, quite long")
        await machine.release(b"a")
        reader = await machine.open(b"a", os.O_RDONLY)
        machine.unlink(b"a")
        await machine.write(b"a", b"second life")
        with pytest.raises(NotEligible, match="still reads"):
            await machine.archive(b"a")
        await machine.sweep()
        await machine.hydrator.evict(None)
        assert await reader.read(12, 100) == b"quite long"
        reader.close()
        await machine.archive(b"a")
        check_invariants(machine)
        assert world.memory.objects == {PREFIX + "a": b"second life"}


# -- release ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("happens", "is_released"),
    [
        (write_in_place, False),
        (open_for_writing, True),
        (append_behind_the_mount, False),
        (overwrite_behind_the_mount_and_forge_mtime, False),
        (truncate, False),
        (empty, False),
        (unlink, False),
        (unlink_and_make_again, False),
        (rename_over, False),
        (exchange, False),
        (rename_away, False),
        (link, False),
        (chmod, True),
        (utime, True),
        (setxattr, True),
        (read, True),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_happens_during_a_release(world: World, happens: Meanwhile, is_released: bool) -> None:
    """The object was looked at; the answer is on its way; what happens now decides whether the hot bytes go."""
    async with world.running() as machine:
        await machine.write(b"a", b"first content")
        await machine.write(b"other", b"other content")
        await machine.archive(b"a", b"other")
        async with meanwhile(world, "head", machine.archiver.release, b"a") as release:
            await happens(machine)
            expected = await machine.contents()
        assert (release.error is None) == is_released, release.error
        assert await machine.contents() == expected
        check_invariants(machine)


async def test_a_file_that_took_the_name_is_not_released_for_the_one_that_was_looked_at(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"one")
        await machine.write(b"b", b"two")
        await machine.archive(b"a", b"b")
        async with meanwhile(world, "head", machine.archiver.release, b"a") as release:
            await machine.rename(b"b", b"a")
        assert isinstance(release.error, NotEligible)
        assert (world.hot / "a").read_bytes() == b"two"


async def test_open_files_and_pins_keep_their_hot_bytes(world: World) -> None:
    async with world.running() as machine:
        machine.mkdir(b"d")
        await machine.write(b"d/a", b"content")
        await machine.archive(b"d/a")
        reader = await machine.open(b"d/a", os.O_RDONLY)
        with pytest.raises(NotEligible, match="open"):
            await machine.archiver.release(b"d/a")
        reader.close()
        machine.tier.pins.add(b"d")
        with pytest.raises(NotEligible, match="pinned"):
            await machine.archiver.release(b"d/a")
        machine.tier.pins.discard(b"d")
        await machine.archiver.release(b"d/a")


async def test_bytes_that_outlived_their_times_are_not_released(world: World) -> None:
    """fdatasync, then a power cut: the bytes are new, inode, size, mtime and ctime are those of the archive."""
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        await machine.archive(b"a")
        record = machine.catalog.get(b"a")
        assert record is not None
        fd = machine.hot.open(b"a", os.O_WRONLY)
        os.pwrite(fd, b"CONTENT", 0)
        os.close(fd)
        st = machine.hot.lstat(b"a")
        machine.catalog.put(replace(record, identity=identity_of(st)))  # as if it had been so all the time
        while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= st.st_ctime_ns:  # the next worker begins later
            await trio.to_thread.run_sync(time.sleep, 0.001)
    async with world.running() as machine:
        assert machine.residency(b"a") is MIRRORED
        with pytest.raises(NotEligible, match="its bytes are not those"):
            await machine.archiver.release(b"a")
        assert machine.residency(b"a") is HOT
        await machine.release(b"a")
        assert machine.residency(b"a") is COLD
        assert await machine.read(b"a") == b"CONTENT"
        check_invariants(machine)


async def test_an_object_that_is_gone_or_overwritten_keeps_the_hot_bytes(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        await machine.archive(b"a")
        world.memory.delete(PREFIX + "a")
        with pytest.raises(ObjectMissing):
            await machine.archiver.release(b"a")
        assert machine.residency(b"a") is HOT
        await machine.archive(b"a")
        world.memory._store(PREFIX + "a", b"foreign", {})
        with pytest.raises(ObjectChanged):
            await machine.archiver.release(b"a")
        assert machine.residency(b"a") is HOT
        await machine.release(b"a")
        assert await machine.read(b"a") == b"content"
        check_invariants(machine)


async def test_hot_bytes_that_cannot_be_removed_leave_the_file_warm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        await machine.archive(b"a")

        def refuse(path: bytes) -> None:
            raise PermissionError(1, "immutable")

        with monkeypatch.context() as patch:
            patch.setattr(machine.hot, "unlink", refuse)
            with pytest.raises(PermissionError):
                await machine.archiver.release(b"a")
        assert machine.residency(b"a") is MIRRORED
        check_invariants(machine)
        await machine.archiver.release(b"a")


async def test_attributes_changed_after_the_archive_are_those_of_the_cold_file(world: World) -> None:
    """Our own chmod, chown, utime and setxattr change the ctime: the file stays warm, and keeps what was set."""
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        await machine.archive(b"a")
        await machine.change(b"a", mode=0o600)
        await machine.change(b"a", mtime_ns=12345)
        await machine.setxattr(b"a", b"user.k", b"v")
        await machine.rename(b"a", b"b")
        assert machine.residency(b"b") is MIRRORED
        await machine.archiver.release(b"b")
        st = machine.stat(b"b").st
        assert (stat.S_IMODE(st.st_mode), st.st_mtime_ns) == (0o600, 12345)
        assert machine.xattrs(b"b") == {b"user.k": b"v"}
        check_invariants(machine)


async def test_a_change_behind_the_mount_makes_a_warm_file_hot(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"a", b"content")
        await machine.archive(b"a")
        await overwrite_behind_the_mount_and_forge_mtime(machine)
        assert machine.residency(b"a") is HOT
        await machine.change(b"a", mode=0o600)
        assert machine.residency(b"a") is HOT
        with pytest.raises(NotEligible):
            await machine.archiver.release(b"a")
