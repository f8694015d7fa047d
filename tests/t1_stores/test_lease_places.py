"""The lease where it really lies: directories and S3 servers; and its keeper, with clocks that the test sets."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import PATIENCE_S
from tests.servers import Quirk
from tests.t1_stores.conftest import Backend
from tierfs.core.errors import BucketMissing, NoLease, ObjectChanged
from tierfs.core.lease import Lease, Owner
from tierfs.stores.directory_lease import DirectoryLeasePlace
from tierfs.stores.lease import Instant, LeaseKeeper, LeasePlace, Terms, read_clocks
from tierfs.stores.s3 import S3Store

S = 1_000_000_000
TTL_NS = 60 * S


@pytest.fixture
def place(backend: Backend, prefix: str) -> Iterator[LeasePlace]:
    if backend.settings:
        store = S3Store(replace(backend.settings, prefix=prefix))
        yield store.lease_place(60.0)
        store.close()
    elif backend.directory:
        directory = backend.directory / prefix
        directory.mkdir()
        yield DirectoryLeasePlace(str(directory), False)
    else:
        pytest.skip("a lease is only where two processes meet")


class Clocks:
    """Two clocks that a test sets; they begin at the host's, since leases carry times."""

    def __init__(self) -> None:
        self.boot, self.wall = read_clocks()

    def __call__(self) -> Instant:
        return self.boot, self.wall

    def pass_s(self, boot: float, wall: float) -> None:
        self.boot += int(boot * S)
        self.wall += int(wall * S)


def terms(tmp_path: Path, name: str, session: str = "first") -> Terms:
    state = tmp_path / name
    state.mkdir(exist_ok=True)
    return Terms(Owner(name, "here", f"{session} of {name}", f"mount {name}"), TTL_NS, state)


def test_what_was_written_is_read_and_replaced_only_by_who_knows_it(place: LeasePlace, backend: Backend) -> None:
    if backend.name == "radosgw":
        pytest.skip("If-Match of Ceph 16 now and then refuses what is there; the keeper then looks and tries again")
    assert place.read() is None
    first = Lease(1, Owner("a", "b", "c", "d"), "mark", 1, 2, 3)
    tag = place.write(first.format(), None)
    found = place.read()
    assert found
    assert (found.lease, found.tag) == (first, tag)
    assert 0 <= found.age_ns < 600 * S
    assert place.is_exact(first.format()) is (Quirk.IF_NONE_MATCH_IGNORED not in backend.quirks)
    found = place.read()
    assert found
    tag = found.tag
    second = replace(first, mark="other")
    later = place.write(second.format(), tag)
    assert later != tag
    for stale in (None, tag):
        with pytest.raises(ObjectChanged):
            place.write(first.format(), stale)
    found = place.read()
    assert found
    assert (found.lease, found.tag) == (second, later)


def test_of_many_that_begin_at_once_one_has_it(place: LeasePlace, backend: Backend, tmp_path: Path) -> None:
    if backend.name == "moto":
        pytest.skip("its conditions are looked at first and written after")
    keepers = [LeaseKeeper(place, terms(tmp_path, f"state{number}")) for number in range(4)]
    threads = [threading.Thread(target=keeper.claim) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + PATIENCE_S
    while not (held := [keeper for keeper in keepers if keeper.report().state == "held"]):
        assert time.monotonic() < deadline  # a busy machine may be too slow for the pause, and then tries again
        time.sleep(0.01)
    assert len(held) == 1
    for keeper in keepers:
        keeper.end(is_idle=True)


@pytest.fixture
def shared(tmp_path: Path) -> DirectoryLeasePlace:
    (tmp_path / "store").mkdir()
    return DirectoryLeasePlace(str(tmp_path / "store"), False)


@pytest.mark.parametrize("slept", [(TTL_NS / S, 0), (0, TTL_NS / S)], ids=["a host that slept", "a paused machine"])
def test_it_runs_out_by_either_clock(shared: DirectoryLeasePlace, tmp_path: Path, slept: tuple[float, float]) -> None:
    clocks = Clocks()
    keeper = LeaseKeeper(shared, terms(tmp_path, "a"), clocks)
    with pytest.raises(NoLease, match="not asked for yet"):
        keeper.check()
    assert keeper.claim().state == "held"
    keeper.check()
    clocks.pass_s(*slept)
    with pytest.raises(NoLease, match="ran out"):
        keeper.check()
    assert keeper.report().state == "lapsed"
    keeper.claim()  # as its own next look does: nobody else came
    keeper.check()
    assert keeper.report().epoch == 1
    keeper.end(is_idle=True)
    with pytest.raises(NoLease):
        keeper.check()


def test_who_was_taken_over_never_writes_again(shared: DirectoryLeasePlace, tmp_path: Path) -> None:
    former = LeaseKeeper(shared, terms(tmp_path, "a"))
    assert former.claim().state == "held"
    clocks = Clocks()
    taker = LeaseKeeper(shared, terms(tmp_path, "b"), clocks)
    assert taker.claim().state == "refused"
    assert taker.claim(is_forced=True).state == "waiting"
    with pytest.raises(NoLease, match="may still write"):
        taker.check()
    assert former.claim().state == "lost"
    clocks.pass_s(TTL_NS * 1.5 / S, TTL_NS * 1.5 / S)
    taker.claim()
    taker.check()
    taker.end(is_idle=True)
    assert former.claim().state == "lost"
    with pytest.raises(NoLease, match="taken over"):
        former.check()
    former.end(is_idle=True)
    again = LeaseKeeper(shared, terms(tmp_path, "a"))  # the next cold process of that mount knows it, too
    assert again.claim().state == "lost"
    again.end(is_idle=True)
    remounted = LeaseKeeper(shared, terms(tmp_path, "a", "second"), clocks)
    assert remounted.claim().state == "held"
    remounted.end(is_idle=True)


def test_it_is_given_back_only_when_nothing_is_under_way(shared: DirectoryLeasePlace, tmp_path: Path) -> None:
    for is_idle, wanted in ((False, "refused"), (True, "held")):
        one = LeaseKeeper(shared, terms(tmp_path, "a", f"session {is_idle}"))
        assert one.claim().state == "held"
        one.end(is_idle)
        two = LeaseKeeper(shared, terms(tmp_path, "b", f"session {is_idle}"))
        assert two.claim().state == wanted
        two.end(is_idle=True)


def test_a_process_that_is_left_is_waited_for(shared: DirectoryLeasePlace, tmp_path: Path) -> None:
    """Stopped in the middle of a crash, it may come back and write: the remount serves, and waits."""
    left = LeaseKeeper(shared, terms(tmp_path, "a"))
    left.claim()
    remounted = LeaseKeeper(shared, terms(tmp_path, "a", "second"))
    assert remounted.claim().state == "waiting"
    left.check()
    left.end(is_idle=False)
    remounted.end(is_idle=False)


def test_a_disk_that_is_missing_is_not_made_a_store(tmp_path: Path) -> None:
    place = DirectoryLeasePlace(str(tmp_path), True)
    with pytest.raises(BucketMissing, match="is its disk mounted"):
        place.read()
    assert list(tmp_path.iterdir()) == []
