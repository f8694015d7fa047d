"""The session: what one worker writes, the next one reads; also when it was killed between two stores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.assembly import World
from tierfs.core.errors import MountError
from tierfs.core.records import Handle, HotIno, Ino
from tierfs.engine.numbers import ROOT
from tierfs.mount import again
from tierfs.mount.nodes import Nodes
from tierfs.mount.session import Cell, Facts, Kind, Session

_LONGEST = b"n" * 255
_AGAIN = 1 << 63


@pytest.fixture
def session() -> Iterator[Session]:
    one = Session.fresh()
    yield one
    one.close()
    os.close(one.fd)


@contextmanager
def again_on(session: Session) -> Iterator[Session]:
    """The session as the next worker maps it."""
    one = Session(session.fd)
    try:
        yield one
    finally:
        one.close()


def cells_of(session: Session) -> list[Cell]:
    """All cells, as the next worker finds them."""
    with again_on(session) as one:
        return list(one.cells())


def known_next(session: Session) -> dict[int, tuple[Any, ...]]:
    """The nodes as the next worker knows them."""
    with again_on(session) as one:
        nodes = Nodes(one)
        cells = list(one.cells())
        first = [cell for cell in cells if cell.kind in (Kind.NODE, Kind.ORPHAN)]
        nodes.take_over(first, [cell for cell in cells if cell.kind == Kind.NAME])
        return known(nodes)


def known(nodes: Nodes) -> dict[int, tuple[Any, ...]]:
    """All that matters of nodes."""
    found = {}
    for ino in nodes.numbers():
        node = nodes.get(ino)
        assert node is not None
        if ino != ROOT:
            found[ino] = (node.parent, node.name, node.lookups, node.children, set(node.others))
    return found


@pytest.mark.parametrize("name", [b"a", b"n" * 24, b"n" * 25, b"n" * 88, b"n" * 89, _LONGEST])
def test_a_name_of_any_length_comes_back(session: Session, name: bytes) -> None:
    session.add(Kind.NODE, Ino(7), 3, ROOT, name)
    session.add(Kind.NODE, Ino(8), 1, ROOT, b"behind it")
    with_name, behind = cells_of(session)
    assert (with_name.ino, with_name.value, with_name.parent, with_name.name) == (7, 3, ROOT, name)
    assert behind.name == b"behind it"


def test_what_is_dropped_is_gone_and_its_room_is_used_again(session: Session) -> None:
    places = [session.add(Kind.NODE, Ino(ino), 1, ROOT, b"%d" % ino) for ino in range(2, 50)]
    for place in places:
        session.drop(place)
    assert cells_of(session) == []
    assert {session.add(Kind.NODE, Ino(ino), 1, ROOT, b"%d" % ino) for ino in range(2, 50)} == set(places)


def test_numbers_of_handles_and_inodes_have_64_bits(session: Session) -> None:
    handle, ino = Handle((2**32 - 1) << 32 | 5), Ino(2**63 + 1)
    session.handle(handle, ino, os.O_RDWR)
    session.number(2**40, HotIno(2**50), ino)
    opened, numbered = cells_of(session)
    assert (opened.parent, opened.ino, opened.value) == (handle, ino, os.O_RDWR)
    assert (numbered.parent, numbered.value, numbered.ino) == (2**40, 2**50, ino)


def test_a_cell_that_was_being_written_is_not_there(session: Session) -> None:
    """Its first word is stored last."""
    place = session.add(Kind.NODE, Ino(7), 1, ROOT, b"file")
    session._words[place >> 3] = 0
    assert cells_of(session) == []


def test_a_request_is_remembered_with_what_it_counted(session: Session) -> None:
    nodes = Nodes(session)
    again.begin(40)
    nodes.looked_up(Ino(7), ROOT, b"file")
    again.begin(1 << 63 | 42)  # one that comes again has the number that it had
    nodes.looked_up(Ino(7), ROOT, b"file")
    again.begin(44)
    nodes.forget(Ino(7), 1)  # forgetting is not answered, so it does not come again
    (cell,) = cells_of(session)
    assert (cell.value, cell.request) == (1, 42)


def test_facts_come_back(session: Session) -> None:
    facts = Facts(b"\0\xff INIT", 1 << 37, "lease", {"mountpoint": "/mnt/\udcff"})
    assert session.facts is None
    session.remember(facts)
    with again_on(session) as one:
        assert one.facts == facts


def test_the_session_of_a_later_version_is_refused_in_words(session: Session) -> None:
    session._words[1] = 99
    with pytest.raises(MountError, match="version 99"), again_on(session):
        pass


def test_memory_that_is_something_else_is_refused() -> None:
    fd = os.memfd_create("other")
    os.ftruncate(fd, 1 << 30)
    with pytest.raises(MountError):
        Session(fd)
    os.close(fd)


class NodesMachine(RuleBasedStateMachine):
    """Whatever the kernel asks for, another worker would know the same nodes."""

    @initialize()
    def begin(self) -> None:
        self.session = Session.fresh()
        self.nodes = Nodes(self.session)
        self.numbers = 1

    def teardown(self) -> None:
        self.session.close()
        os.close(self.session.fd)

    def some(self, choice: int) -> Ino:
        """A node with a name, or the root."""
        named = [ino for ino in self.nodes.numbers() if ino == ROOT or self.nodes.has_name(ino)]
        return sorted(named)[choice % len(named)]

    @rule(choice=st.integers(0, 99), name=st.sampled_from([b"a", b"b", b"c" * 100, _LONGEST]))
    def look_up_new(self, choice: int, name: bytes) -> None:
        parent = self.some(choice)
        if not self.nodes.named(parent, name):
            self.numbers += 1
            self.nodes.looked_up(Ino(self.numbers), parent, name)

    @rule(choice=st.integers(0, 99), above=st.integers(0, 99), name=st.sampled_from([b"a", b"d"]))
    def look_up_further_name(self, choice: int, above: int, name: bytes) -> None:
        ino, parent = self.some(choice), self.some(above)
        if ino != ROOT and not self.nodes.named(parent, name) and not self._is_above(ino, parent):
            self.nodes.looked_up(ino, parent, name)

    @rule(choice=st.integers(0, 99), count=st.integers(1, 3))
    def forget(self, choice: int, count: int) -> None:
        ino = sorted(self.nodes.numbers())[choice % len(self.nodes)]
        node = self.nodes.get(ino)
        assert node is not None
        if node.lookups:
            self.nodes.forget(ino, min(count, node.lookups))

    @rule(choice=st.integers(0, 99))
    def remove(self, choice: int) -> None:
        node = self.nodes.get(self.some(choice))
        if node and node.ino != ROOT and node.name is not None and not node.children:
            self.nodes.removed(node.ino, node.parent, node.name)

    @rule(choice=st.integers(0, 99), above=st.integers(0, 99), name=st.sampled_from([b"a", b"e" * 90]))
    def rename(self, choice: int, above: int, name: bytes) -> None:
        node, parent = self.nodes.get(self.some(choice)), self.some(above)
        if node is None or node.ino == ROOT or node.name is None or self._is_above(node.ino, parent):
            return
        if not self.nodes.named(parent, name):
            self.nodes.renamed(node.ino, (node.parent, node.name), (parent, name))

    def _is_above(self, ino: Ino, other: Ino) -> bool:
        node = self.nodes.get(other)
        while node is not None and node.ino != ROOT:
            if node.ino == ino:
                return True
            node = self.nodes.get(node.parent)
        return False

    @invariant()
    def the_next_worker_knows_the_same(self) -> None:
        if hasattr(self, "session"):
            assert known_next(self.session) == known(self.nodes)


NodesMachine.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
TestNodes = NodesMachine.TestCase


@pytest.mark.parametrize("is_dropped", [False, True])
def test_a_kill_between_the_new_name_and_the_end_of_the_old_one(session: Session, is_dropped: bool) -> None:
    nodes = Nodes(session)
    nodes.looked_up(Ino(7), ROOT, b"old")
    kept: list[int] = []
    if not is_dropped:
        session.drop = kept.append  # type: ignore[method-assign]
    nodes.renamed(Ino(7), (ROOT, b"old"), (ROOT, b"new"))
    assert known_next(session) == {7: (ROOT, b"new", 1, 0, set())}
    assert len(cells_of(session)) == 1


def test_the_cells_of_a_node_that_was_half_dropped_are_dropped(session: Session) -> None:
    nodes = Nodes(session)
    node = nodes.looked_up(Ino(7), ROOT, b"one")
    nodes.looked_up(Ino(7), ROOT, b"two")
    session.drop(node.cell)
    assert known_next(session) == {}
    assert cells_of(session) == []


async def test_an_attribute_is_removed_once(tmp_path: Path) -> None:
    """A request that comes again succeeds where it was carried out, and only there."""
    async with World(tmp_path).running() as machine:
        await machine.write(b"file", b"text")
        with machine.node(b"file") as ino:
            again.begin(2)
            await machine.filesystem.xattrs.set(ino, b"user.a", b"value")
            again.begin(4)
            await machine.filesystem.xattrs.remove(ino, b"user.a")
            again.begin(_AGAIN | 4)
            await machine.filesystem.xattrs.remove(ino, b"user.a")
            again.begin(_AGAIN | 6)  # read by the worker before, and not begun
            with pytest.raises(OSError, match="No data available"):
                await machine.filesystem.xattrs.remove(ino, b"user.a")
