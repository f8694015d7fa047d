"""The directory `.tierfs`: there for who asks by name, in no listing, and nothing in it can be changed."""

import errno
import json
import logging
import os
import stat
import tomllib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.assembly import CALLER, Machine, World
from tests.invariants import check_invariants
from tests.t2_engine.test_service import operator_of
from tierfs.admin.pages import pages_of
from tierfs.core.config import Settings
from tierfs.core.records import Fd, Handle
from tierfs.engine.numbers import FIRST_MADE, ROOT
from tierfs.engine.observed import Told
from tierfs.engine.tree import Tree
from tierfs.mount import again
from tierfs.mount.changes import Changes
from tierfs.mount.filesystem import Filesystem
from tierfs.mount.parked import Parked
from tierfs.mount.session import Kind, Session

FILES = [b"config", b"errors", b"events", b"plan", b"stats"]
_AGAIN = 1 << 63


def offer(machine: Machine) -> None:
    """Files that say how often they were opened."""
    opened = 0

    async def page() -> bytes:
        nonlocal opened
        opened += 1
        return b"made %d times\n" % opened

    machine.filesystem.control.offer(dict.fromkeys(FILES, page))


async def open_page(machine: Machine, name: bytes, flags: int = os.O_RDONLY) -> Handle:
    with machine.node(b".tierfs/" + name) as ino:
        return await machine.filesystem.open(ino, flags, CALLER)


async def content(machine: Machine, handle: Handle, offset: int = 0) -> bytes:
    return b"".join(await machine.filesystem.read(handle, offset, 1 << 20))


async def test_it_is_found_by_its_name_and_in_no_listing(world: World) -> None:
    async with world.running() as machine:
        await machine.write(b"file", b"text")
        machine.mkdir(b"d")
        found = machine.stat(b".tierfs")
        assert (found.st.st_mode, found.st.st_uid) == (stat.S_IFDIR | 0o500, os.geteuid())
        assert machine.list(b"") == [b"d", b"file"]
        assert machine.list(b".tierfs") == FILES
        inside = machine.stat(b".tierfs/stats")
        assert (inside.st.st_mode, inside.st.st_size) == (stat.S_IFREG | 0o400, 0)
        for missing in (b".tierfs/other", b".tierfs/stats/x", b".tierfs/.tierfs", b"d/.tierfs"):
            with pytest.raises(FileNotFoundError):
                machine.stat(missing)
        numbers = [machine.stat(b".tierfs/" + name).ino for name in FILES] + [found.ino]
        assert len(set(numbers)) == len(FILES) + 1
        assert min(numbers) >= FIRST_MADE
        assert len(machine.filesystem.nodes) == 1
        check_invariants(machine)


async def test_a_listing_goes_on_where_it_was(world: World) -> None:
    async with world.running() as machine:
        listings = machine.filesystem.listings
        handle = listings.open(FIRST_MADE)
        entries = list(listings.read(handle, 0))
        assert [entry.name for entry in entries] == [b".", b"..", *FILES]
        assert entries[1].found.ino == ROOT
        for index, entry in enumerate(entries):
            listings.handed_out(FIRST_MADE, entry)
            assert list(listings.read(handle, entry.next_offset)) == entries[index + 1 :]
        listings.close(handle)
        assert len(machine.filesystem.nodes) == 1


async def test_a_file_stays_for_a_handle_what_it_was_when_it_was_opened(world: World) -> None:
    async with world.running() as machine:
        offer(machine)
        first = await open_page(machine, b"stats")
        second = await open_page(machine, b"stats")
        assert await content(machine, first) == b"made 1 times\n"
        assert await content(machine, second) == b"made 2 times\n"
        assert await content(machine, first, 5) == b"1 times\n"
        assert await content(machine, first, 1000) == b""
        machine.filesystem.release(first)
        assert await content(machine, second) == b"made 2 times\n"
        machine.filesystem.release(second)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await content(machine, second)
        assert not list(machine.session.cells())
        check_invariants(machine)


async def test_who_opens_a_file_before_there_is_anything_to_say_waits(world: World) -> None:
    async with world.running() as machine:
        said: list[bytes] = []

        async def read() -> None:
            handle = await open_page(machine, b"plan")
            said.append(await content(machine, handle))
            machine.filesystem.release(handle)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert not said
            offer(machine)
        assert said == [b"made 1 times\n"]


async def _make(machine: Machine, path: bytes) -> None:
    directory, _, name = path.rpartition(b"/")
    with machine.node(directory) as ino:
        machine.filesystem.create(ino, name, 0o644, os.O_WRONLY, CALLER)


async def _change(machine: Machine, changes: Changes) -> None:
    with machine.node(b".tierfs/stats") as ino:
        await machine.filesystem.setattr(ino, changes, None, CALLER)


def _now(call: Callable[..., Any], *arguments: Any) -> Callable[[Machine], Awaitable[None]]:
    async def do(machine: Machine) -> None:
        call(machine, *arguments)

    return do


CHANGES: dict[str, Callable[[Machine], Awaitable[Any]]] = {
    "create in it": partial(_make, path=b".tierfs/new"),
    "create it": partial(_make, path=b".tierfs"),
    "mkdir": _now(Machine.mkdir, b".tierfs"),
    "mkdir in it": _now(Machine.mkdir, b".tierfs/new"),
    "symlink": _now(Machine.symlink, b"file", b".tierfs"),
    "unlink": _now(Machine.unlink, b".tierfs/stats"),
    "rmdir": _now(Machine.rmdir, b".tierfs"),
    "rename it": lambda machine: machine.rename(b".tierfs", b"new"),
    "rename over it": lambda machine: machine.rename(b"file", b".tierfs"),
    "rename out of it": lambda machine: machine.rename(b".tierfs/stats", b"new"),
    "rename into it": lambda machine: machine.rename(b"file", b".tierfs/stats"),
    "exchange": lambda machine: machine.rename(b"file", b".tierfs", 2),
    "link into it": lambda machine: machine.link(b"file", b".tierfs/new"),
    "link out of it": lambda machine: machine.link(b".tierfs/stats", b"new"),
    "truncate": lambda machine: machine.truncate(b".tierfs/stats", 0),
    "grow": lambda machine: machine.truncate(b".tierfs/stats", 7),
    "chmod": partial(_change, changes=Changes(mode=0o777)),
    "chown": partial(_change, changes=Changes(uid=1)),
    "utimens": partial(_change, changes=Changes(mtime_ns=1)),
    "setxattr": lambda machine: machine.setxattr(b".tierfs/stats", b"user.a", b""),
    "removexattr": lambda machine: machine.removexattr(b".tierfs/stats", b"user.a"),
    "open for writing": lambda machine: open_page(machine, b"stats", os.O_WRONLY),
    "open and truncate": lambda machine: open_page(machine, b"stats", os.O_RDONLY | os.O_TRUNC),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_nothing_can_be_changed(world: World, change: Callable[[Machine], Awaitable[Any]]) -> None:
    async with world.running() as machine:
        offer(machine)
        await machine.write(b"file", b"text")
        with pytest.raises(OSError, match="Read-only file system") as failure:
            await change(machine)
        assert failure.value.errno == errno.EROFS
        assert machine.list(b".tierfs") == FILES
        assert await machine.contents() == {b"file": b"text"}
        assert machine.xattrs(b".tierfs/stats") == {}
        check_invariants(machine)


@pytest.mark.parametrize("is_cold", [False, True])
async def test_an_entry_of_the_tree_with_this_name_wins(
    world: World, caplog: pytest.LogCaptureFixture, is_cold: bool
) -> None:
    (world.hot / ".tierfs").write_text("mine")
    async with world.running() as machine:
        with caplog.at_level(logging.WARNING):
            offer(machine)
            if is_cold:
                await machine.release(b".tierfs")
            assert machine.list(b"") == [b".tierfs"]
            assert await machine.read(b".tierfs") == b"mine"
        assert [record.message for record in caplog.records if "control directory" in record.message] == [
            "the tree has an entry .tierfs of its own: there is no control directory until it is renamed"
        ]
        await machine.rename(b".tierfs", b"other")
        assert machine.list(b"") == [b"other"]
        assert machine.list(b".tierfs") == FILES
        await machine.sweep()
        check_invariants(machine)


async def test_it_can_be_turned_off(world: World) -> None:
    world.settings = Settings.model_validate(world.settings.model_dump() | {"control_directory": False})
    async with world.running() as machine:
        offer(machine)
        with pytest.raises(FileNotFoundError):
            machine.stat(b".tierfs")
        machine.mkdir(b".tierfs")
        assert machine.list(b"") == [b".tierfs"]


async def test_open_files_are_there_after_a_worker_died(world: World) -> None:
    parked: dict[str, Fd] = {}

    def park(name: str, fd: int | None) -> None:
        if fd is None:
            os.close(parked.pop(name))
        else:
            parked[name] = Fd(os.dup(fd))

    async with world.running() as machine:
        offer(machine)
        machine.filesystem.begin(Parked(park))
        again.begin(2)
        kept, closed = await open_page(machine, b"stats"), await open_page(machine, b"stats")
        again.begin(4)
        unanswered = await open_page(machine, b"plan")
        machine.filesystem.release(closed)
        Parked(park).page(Handle(unanswered + 1), Fd(machine.session.fd))  # of an open that was not carried out
        lost = machine.session.add(Kind.PAGE, FIRST_MADE, 0, Handle(unanswered + 2))  # the supervisor was gone
        assert lost

        session = Session(machine.session.fd)
        following = Filesystem(Tree(machine.tier), machine.hydrator, machine.restorer, session)
        following.take_over(Parked(park, {name: Fd(os.dup(fd)) for name, fd in parked.items()}))
        assert b"".join(await following.read(kept, 5, 100)) == b"1 times\n"
        assert unanswered in following.control
        again.begin(_AGAIN | 4)
        following.comes_again("open")
        assert unanswered not in following.control
        assert set(parked) == {f"page-{kept}"}
        following.release(kept)
        assert not parked
        assert not [cell for cell in session.cells() if cell.kind == Kind.PAGE]
        following.close()
        session.close()


async def test_a_file_with_an_inode_number_of_the_control_directory_gets_another_one(world: World) -> None:
    async with world.running() as machine:
        device = world.hot.stat().st_dev
        st = os.stat_result((stat.S_IFREG | 0o644, FIRST_MADE + 1, device, 1, 0, 0, 0, 0, 0, 0))
        assert ROOT < machine.tier.numbers.of(st) < FIRST_MADE


async def test_what_the_files_say(world: World) -> None:
    async with world.running() as machine:
        operator, settings = operator_of(machine), world.settings
        await machine.write(b"old\xff", b"content!")
        world.offset_ns = 3 * 3600 * 10**9
        await machine.write(b"failed", b"content!")
        machine.tier.failures[b"failed"] = (2, 99, "the store is away")
        request = {"source": "s3://b/p", "mountpoint": "/m\udcff\n", "hot": "/hot", "state": "/state", "other": ""}
        told = [Told(17, "read", b"read", "the object is gone")]
        machine.filesystem.control.offer(pages_of(operator, request, machine.tier, told))

        async def said(name: bytes) -> str:
            handle = await open_page(machine, name)
            text = await content(machine, handle)
            machine.filesystem.release(handle)
            return text.decode("ascii")

        assert json.loads(await said(b"stats")).keys() == (await operator.status()).keys()
        planned = [json.loads(line)["planned"] for line in (await said(b"plan")).splitlines()]
        (old,) = [action for action in planned if action["path"] == "old\udcff"]
        assert (old["verb"], old["size"], old["reason"]) == ("archive", 8, "unchanged for 3h")
        machine.tier.events.record("pass", reason="1 to archive")
        happened = [json.loads(line)["event"] for line in (await said(b"events")).splitlines()]
        assert (happened[-1]["kind"], happened[-1]["reason"]) == ("pass", "1 to archive")
        assert [json.loads(line) for line in (await said(b"errors")).splitlines()] == [
            {"at_ns": 17, "operation": "read", "path": "read", "error": "the object is gone"},
            {"path": "failed", "failures": 2, "retry_at_ns": 99, "error": "the store is away"},
        ]
        written = tomllib.loads(await said(b"config"))
        where = {name: written.pop(name) for name in ("store", "mountpoint", "hot", "state")}
        assert where == {"store": "s3://b/p", "mountpoint": "/m\\xff\n", "hot": "/hot", "state": "/state"}
        assert Settings.of(**written) == settings
