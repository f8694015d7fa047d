"""Files that are open and rest: with open_files = idle their hot bytes go underneath their handles, and come back."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.assembly import CHUNK, Machine, Open, World, meanwhile
from tests.invariants import check_invariants
from tests.t2_engine.races import nobody_writes
from tierfs.core.config import Settings
from tierfs.core.errors import NotEligible
from tierfs.core.residency import Residency

LOG, INDEX = b"0.log", b"0.index"
DATA = b"some chunks"
HOUR_NS = 3600 * 10**9

SETTINGS = Settings.of(
    chunk_size=CHUNK,
    read_ahead=0,
    min_size=1,
    cache_size="64MiB",
    warm_after="1h",
    cold_after="2h",
    settle="0s",
    open_files="idle",
    idle_files=["*.log", "*.log.swap"],
)


@pytest.fixture
async def machine(swift_path: Path) -> AsyncIterator[Machine]:
    async with World(swift_path / "world", SETTINGS).running() as machine:
        yield machine
        check_invariants(machine)


async def opened(machine: Machine, path: bytes, flags: int = os.O_RDWR) -> Open:
    """A file with content, kept open by who wrote it."""
    file = await machine.open(path, flags | os.O_CREAT)
    await file.write(0, DATA)
    return file


async def pass_hours(machine: Machine, hours: int) -> None:
    """So much later, two passes of the policy: one archives, one releases."""
    machine.world.offset_ns += hours * HOUR_NS
    await machine.daemon.run_pass()
    await machine.daemon.run_pass()


async def test_the_policy_moves_what_is_open_and_rests(machine: Machine) -> None:
    """Readers and the writer go on with the object; a write brings the file back, for all of them."""
    writer = await opened(machine, LOG)
    reader = await machine.open(LOG, os.O_RDONLY)
    await pass_hours(machine, 1)
    assert machine.residency(LOG) is Residency.MIRRORED
    await pass_hours(machine, 1)
    assert machine.residency(LOG) is Residency.COLD
    assert await reader.read(0, 100) == await writer.read(0, 100) == DATA
    assert (await machine.open(LOG, os.O_RDONLY)).size() == len(DATA)
    check_invariants(machine)
    await writer.write(len(DATA), b"!")
    assert machine.residency(LOG) is Residency.HOT
    assert await reader.read(0, 100) == DATA + b"!"
    await pass_hours(machine, 2)
    assert machine.residency(LOG) is Residency.COLD
    assert await reader.read(0, 100) == DATA + b"!"


async def test_others_stay_while_they_are_open(machine: Machine) -> None:
    file = await opened(machine, INDEX)
    await pass_hours(machine, 2)
    assert machine.residency(INDEX) is Residency.HOT
    file.close()
    reader = await machine.open(INDEX, os.O_RDONLY)
    await pass_hours(machine, 2)
    assert machine.residency(INDEX) is Residency.MIRRORED
    reader.close()
    await pass_hours(machine, 0)
    assert machine.residency(INDEX) is Residency.COLD


async def test_a_file_is_what_it_was_opened_as(machine: Machine) -> None:
    """Renamed while it is open: what was opened under a name that matches may go, another one may not."""
    virtual, held = await opened(machine, b"0.log.swap"), await opened(machine, b"1.index")
    await machine.rename(b"0.log.swap", LOG)
    await machine.rename(b"1.index", b"1.log")
    await pass_hours(machine, 2)
    assert machine.residency(LOG) is Residency.COLD
    assert machine.residency(b"1.log") is Residency.HOT
    assert await virtual.read(0, 100) == await held.read(0, 100) == DATA
    with pytest.raises(NotEligible, match="open for writing"):
        await machine.archive(b"1.log")


async def test_an_open_file_that_rests_is_not_archived_while_it_is_written_to(machine: Machine) -> None:
    """Its identity tells, although nobody has to open it for that."""
    file = await opened(machine, LOG)
    async with meanwhile(machine.world, "put", machine.archive, LOG) as archiving:
        await file.write(0, b"S")
    assert isinstance(archiving.error, NotEligible)
    assert str(archiving.error) == "changed while it was being archived"
    assert machine.residency(LOG) is Residency.HOT
    await machine.release(LOG)
    assert await file.read(0, 100) == b"S" + DATA[1:]


async def test_nothing_goes_from_under_a_thread(machine: Machine) -> None:
    """What reads or syncs outside of the loop has the descriptor for itself."""
    file = await opened(machine, LOG)
    await machine.archive(LOG)
    with (
        machine.filesystem.files.handles.get(file.handle).in_use(),
        pytest.raises(NotEligible, match="open"),
    ):
        await machine.release(LOG)
    await machine.release(LOG)
    assert await file.read(0, 100) == DATA


async def test_somebody_else_has_it_open(machine: Machine) -> None:
    """Outside of the mount, or by a mapping that outlived its handle: it stays, and the handles are on it again."""
    file = await opened(machine, LOG)
    await machine.archive(LOG)
    other = os.open(machine.world.hot / "0.log", os.O_RDONLY)
    with pytest.raises(NotEligible, match="open or mapped"):
        await machine.release(LOG)
    check_invariants(machine)
    assert machine.filesystem.files.handles.get(file.handle).fd is not None
    os.close(other)
    await machine.release(LOG)
    assert await file.read(0, 100) == DATA


async def test_a_release_that_fails_gives_the_bytes_back(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await opened(machine, LOG)
    await machine.archive(LOG)

    def refuse(_path: bytes) -> None:
        raise PermissionError(1, "immutable")

    with monkeypatch.context() as patch:
        patch.setattr(machine.hot, "unlink", refuse)
        with pytest.raises(PermissionError):
            await machine.release(LOG)
    assert machine.residency(LOG) is Residency.MIRRORED
    check_invariants(machine)
    await file.write(0, b"S")
    assert machine.residency(LOG) is Residency.HOT


async def test_attributes_that_change_under_a_writer_are_no_reason_to_believe(machine: Machine) -> None:
    """A write in the same tick of the clock would not show: the file is archived again."""
    file = await opened(machine, LOG)
    with nobody_writes(machine):
        await machine.archive(LOG)
    await machine.change(LOG, mtime_ns=machine.world.now())
    await file.write(0, b"S")
    await pass_hours(machine, 2)
    await pass_hours(machine, 2)
    assert machine.residency(LOG) is Residency.COLD
    assert await file.read(0, 100) == b"S" + DATA[1:]


async def test_what_was_removed_lives_on_in_its_handles(machine: Machine) -> None:
    """Hot or cold: read, written to, and another file of the name is another file."""
    hot, cold = await opened(machine, b"hot.log"), await opened(machine, b"cold.log")
    await machine.archive(b"hot.log")
    await machine.release(b"cold.log")
    for file, path in ((hot, b"hot.log"), (cold, b"cold.log")):
        machine.unlink(path)
        await machine.write(path, b"another")
        assert await file.read(0, 100) == DATA
        await file.write(0, b"S")
        assert await file.read(0, 100) == b"S" + DATA[1:]
        assert await machine.read(path) == b"another"
        file.close()
    await machine.sweep()


async def test_a_sync_of_what_went_cold_brings_nothing_back(machine: Machine) -> None:
    file = await opened(machine, LOG)
    await machine.release(LOG)
    await machine.filesystem.files.sync(file.handle, data_only=False)
    assert machine.residency(LOG) is Residency.COLD
