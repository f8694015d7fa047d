"""The files of the tree in the order of their paths, over both tiers, a page at a time; and what patterns match."""

import os
import random

import pytest
import trio

from tests.assembly import Machine, World
from tests.t2_engine.test_service import operator_of
from tierfs.core.errors import ControlError
from tierfs.core.reports import DEEPEST
from tierfs.core.residency import Residency
from tierfs.engine import listing
from tierfs.engine.listing import Listing

#: Directories sort by their names with a slash behind, so "a-b" and "a.x" come before what is in "a".
PATHS = [b"a-b", b"a.x", b"a/b", b"a/b-c", b"a/c/d", b"a0", b"b\n", b"b/\xff\xfe", b"c d/e%41", "ü".encode()]


def listing_of(machine: Machine) -> Listing:
    return Listing(machine.tree, operator_of(machine).entries)


async def fill(machine: Machine) -> None:
    """The files, every second one cold, and what is no segment."""
    for directory in (b"a", b"a/c", b"b", b"c d", b"empty", b"a/empty"):
        machine.mkdir(directory)
    for path in random.Random(1).sample(PATHS, len(PATHS)):
        await machine.write(path, path)
    await machine.archive(*PATHS)
    await machine.release(*PATHS[::2])
    machine.symlink(b"a", b"a link")


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_have_every_file_once_in_order(world: World, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_SORTED_AT_ONCE", 2)
    async with world.running() as machine:
        await fill(machine)
        shelf, seen, after = listing_of(machine), [], b""
        while page := await shelf.page(b"", after, limit):
            assert len(page) <= limit
            seen += [one.entry.path for one in page]
            after = seen[-1]
        assert seen == PATHS == sorted(PATHS)


@pytest.mark.parametrize(
    "prefix", [b"a", b"a/", b"a/b", b"a/c/", b"a-", b"b/\xff", b"none", b"../", b"/", b"a/../", b"empty/"]
)
async def test_a_prefix_is_that_of_the_path(world: World, prefix: bytes) -> None:
    async with world.running() as machine:
        await fill(machine)
        for after in (b"", b"a/b", b"a0", b"\xff"):
            found = [one.entry.path for one in await listing_of(machine).page(prefix, after, 100)]
            assert found == [path for path in PATHS if path.startswith(prefix) and path > after]


async def test_a_listing_takes_no_thread_that_a_write_may_need(world: World) -> None:
    """Threads for fsync and the catalog are few; who lists the tree from elsewhere waits for those before it."""
    async with world.running() as machine:
        await fill(machine)
        shelf, theirs = listing_of(machine), trio.to_thread.current_default_thread_limiter()
        borrowers = [object() for _ in range(int(theirs.total_tokens))]
        for one in borrowers:
            theirs.acquire_on_behalf_of_nowait(one)
        try:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(shelf.page, b"", b"", 100)
                assert len(await shelf.matching(["*"])) == len(PATHS)
        finally:
            for one in borrowers:
                theirs.release_on_behalf_of(one)


async def test_a_file_is_found_with_its_etag(world: World) -> None:
    async with world.running() as machine:
        await fill(machine)
        shelf = listing_of(machine)
        await machine.write(b"hot", b"x")
        cold, warm, hot = [await shelf.find(path) for path in (PATHS[0], PATHS[1], b"hot")]
        assert cold
        assert warm
        assert hot
        assert [one.entry.residency for one in (cold, warm, hot)] == [
            Residency.COLD,
            Residency.MIRRORED,
            Residency.HOT,
        ]
        record = machine.catalog.get(PATHS[0])
        assert record
        assert record.object
        assert cold.etag == record.object.etag
        assert warm.etag
        assert hot.etag is None
        for path in (b"none", b"hot/below", b"a/" + b"x" * 256):
            assert await shelf.find(path) is None
        for path in (b"a", b""):
            with pytest.raises(IsADirectoryError):
                await shelf.find(path)


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        (["*"], set(PATHS)),
        (["a/*"], {b"a/b", b"a/b-c", b"a/c/d"}),
        (["b*"], {b"a/b", b"a/b-c", b"b\n", b"b/\xff\xfe"}),
        (["/a/b", "a0"], {b"a/b", b"a0"}),
        ([os.fsdecode(b"b/\xff*")], {b"b/\xff\xfe"}),
        (["none", "[", ""], set()),
    ],
)
async def test_patterns_match_files_of_both_tiers(world: World, patterns: list[str], paths: set[bytes]) -> None:
    async with world.running() as machine:
        await fill(machine)
        found = await listing_of(machine).matching(patterns)
        assert len(found) == len(set(found))
        assert set(found) == paths


async def test_directories_without_end_end_no_listing(world: World) -> None:
    """Whoever may write to the tree can make them."""
    async with world.running() as machine:
        await machine.write(b"e", b"x")
        fds = [os.open(world.hot, os.O_PATH)]
        for _ in range(DEEPEST + 100):
            os.mkdir(b"d", dir_fd=fds[-1])
            fds.append(os.open(b"d", os.O_PATH, dir_fd=fds[-1]))
        os.close(os.open(b"f", os.O_WRONLY | os.O_CREAT, dir_fd=fds[DEEPEST - 1]))
        for fd in fds:
            os.close(fd)
        deepest = b"d/" * (DEEPEST - 1) + b"f"
        shelf = listing_of(machine)
        assert [one.entry.path for one in await shelf.page(b"", b"", 10)] == [deepest, b"e"]
        assert set(await shelf.matching(["*"])) == {deepest, b"e"}


async def test_patterns_that_match_too_much_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_MATCHES", len(PATHS) - 1)
    async with world.running() as machine:
        await fill(machine)
        with pytest.raises(ControlError, match="match more than 9 files"):
            await listing_of(machine).matching(["*"])
