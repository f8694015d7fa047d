"""The circuit breaker before a store, with threads: who is refused, who tries, what counts as an answer."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.fakes import BytesSource, FaultyStore, HeldStore, MemoryStore, no_progress
from tierfs.core.errors import AccessDenied, BucketMissing, IntegrityError, ObjectMissing, StoreError, StoreUnavailable
from tierfs.stores.breaker import Breaker, BreakerRules, BreakerStore

BODY = b"0123456789"
DOWN = StoreUnavailable("nothing answers")


class World:
    """A breaker before a store that fails and waits on command; its clock stands still."""

    def __init__(self) -> None:
        self.now_ns = 1
        self.faulty = FaultyStore(MemoryStore(block_size=4))
        self.held = HeldStore(self.faulty)
        rules = BreakerRules(failures=3, longest_pause_ns=8_000_000_000)
        self.store = BreakerStore(self.held, rules)
        self.store.reads = Breaker("reads", rules, lambda: self.now_ns)
        self.store.writes = Breaker("writes", rules, lambda: self.now_ns)
        self.info = self.store.put("key", BytesSource(BODY), {}, no_progress)

    def read(self) -> bytes:
        return b"".join(self.store.get("key", 0, len(BODY), self.info.etag))

    def open(self) -> None:
        """Let reads fail until they are refused."""
        self.faulty.fail("get", DOWN, times=None)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="nothing answers"):
                self.read()
        assert self.store.health()["reads"].state == "open"

    def pass_time(self) -> None:
        """Long enough for the next try."""
        self.now_ns += 8_000_000_000


@pytest.fixture
def world() -> World:
    return World()


def test_a_store_that_fails_is_spared_and_heals(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Refusals ask the store nothing and say why; the first try that succeeds closes the circuit."""
    world.open()
    asked = len(world.faulty.calls)
    for _ in range(10):
        with pytest.raises(
            StoreUnavailable, match=r"spared since .* next try is in .* last answer was: nothing answers"
        ):
            world.read()
        with pytest.raises(StoreUnavailable):
            world.store.head("key")
    assert len(world.faulty.calls) == asked
    health = world.store.health()["reads"]
    assert (health.failures, health.opened, health.refused, health.reason) == (3, 1, 20, "nothing answers")
    world.pass_time()
    with pytest.raises(StoreUnavailable, match=r"^nothing answers$"):
        world.read()
    assert len(world.faulty.calls) == asked + 1
    world.faulty.heal()
    world.pass_time()
    assert world.read() == BODY
    assert world.store.health()["reads"].state == "closed"
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["reads", "reads"]
    assert "is spared: nothing answers" in caplog.messages[0]
    assert "the store answers again" in caplog.messages[1]


def test_writes_that_fail_keep_nobody_from_reading(world: World) -> None:
    """A store whose disk is full serves reads; deletions and copies share the writes' circuit."""
    world.faulty.fail("put", StoreUnavailable("full"), times=None)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="full"):
            world.store.put("other", BytesSource(BODY), {}, no_progress)
    with pytest.raises(StoreUnavailable, match="spared"):
        world.store.delete("key")
    with pytest.raises(StoreUnavailable, match="spared"):
        world.store.copy(world.info, "copy")
    assert world.read() == BODY
    assert list(world.store.list("")) != []
    assert world.store.health()["writes"].state == "open"


@pytest.mark.parametrize("answer", [ObjectMissing, AccessDenied, BucketMissing, IntegrityError])
def test_refusals_are_answers(world: World, answer: type[StoreError]) -> None:
    """They open nothing, they end a row of failures, and a try that meets one has found the store up."""
    world.faulty.fail("get", answer("no"), times=20)
    for _ in range(20):
        with pytest.raises(answer):
            world.read()
    assert world.store.health()["reads"].state == "closed"
    world.open()
    world.faulty.heal()
    world.faulty.fail("get", answer("no"))
    world.pass_time()
    with pytest.raises(answer):
        world.read()
    assert world.read() == BODY


def test_one_try_at_a_time(world: World) -> None:
    """While it is under way all others are refused; the first block closes the circuit, not the last one."""
    world.open()
    world.faulty.heal()
    world.pass_time()
    world.held.hold("get")
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(world.read)
        world.held.wait_until_waiting()
        assert world.store.health()["reads"].state == "half-open"
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="spared"):
                world.read()
        world.held.release()
        assert first.result() == BODY
    slow = world.store.get("key", 0, len(BODY), world.info.etag)
    assert next(slow) == BODY[:4]
    assert world.store.health()["reads"].state == "closed"


def test_a_try_that_hangs_does_not_keep_others_off(world: World) -> None:
    """After the longest pause the next request tries too; the one that hung changes nothing when it fails at last."""
    world.open()
    world.pass_time()
    world.held.hold("get")
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(world.read)
        world.held.wait_until_waiting()
        with pytest.raises(StoreUnavailable, match="spared"):
            world.store.head("key")
        world.pass_time()
        assert world.store.head("key") == world.info
        world.held.release()
        with pytest.raises(StoreUnavailable, match="nothing answers"):
            hanging.result()
    assert world.store.health()["reads"].state == "closed"


def test_an_answer_that_breaks_off_neither_opens_nor_ends_a_row(world: World) -> None:
    """One object that always breaks off shuts nobody out; a store that is tried and breaks off answers."""

    def break_off() -> str:
        with suppress(StoreUnavailable), world.store.reads.request() as heard:
            heard()
            raise DOWN
        return world.store.health()["reads"].state

    assert [break_off() for _ in range(20)] == ["closed"] * 20
    world.faulty.fail("get", DOWN, times=3)
    for _ in range(3):
        break_off()
        with pytest.raises(StoreUnavailable):
            world.read()
    assert world.store.health()["reads"].state == "open"
    world.pass_time()
    assert break_off() == "closed"


def test_a_caller_that_gives_up_says_nothing_about_the_store(world: World) -> None:
    """What was not heard of proves nothing; the next request is the try. What was heard of proves enough."""
    world.open()
    world.faulty.heal()
    world.pass_time()

    world.store.get("key", 0, len(BODY), world.info.etag).close()
    assert world.store.health()["reads"].state == "open"
    with pytest.raises(ZeroDivisionError), world.store.reads.request():
        raise ZeroDivisionError
    assert world.store.health()["reads"].state == "open"
    partly = world.store.get("key", 0, len(BODY), world.info.etag)
    next(partly)
    partly.close()
    assert world.store.health()["reads"].state == "closed"


def test_the_self_test_is_never_refused(world: World) -> None:
    """And heals."""
    world.open()
    assert world.store.probe() == ()
    assert world.store.health()["reads"].state == "closed"


def test_many_threads_and_a_store_that_comes_and_goes(world: World) -> None:
    """No call is lost, no wrong byte is given, and in the end the circuit is closed."""
    outcomes: list[bytes | str] = []
    lock = threading.Lock()
    started = threading.Barrier(9)

    def reader() -> None:
        started.wait()
        for _ in range(200):
            outcome: bytes | str
            try:
                outcome = world.read()
            except StoreUnavailable as error:
                outcome = str(error)
            with lock:
                outcomes.append(outcome)

    threads = [threading.Thread(target=reader) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait()
    for turn in range(200):
        if turn % 2:
            world.faulty.heal()
        else:
            world.faulty.fail("get", DOWN, times=None)
        world.now_ns += 100_000_000
    for thread in threads:
        thread.join()
    world.faulty.heal()
    world.pass_time()
    assert world.read() == BODY
    assert len(outcomes) == 8 * 200
    assert all(outcome == BODY or isinstance(outcome, str) for outcome in outcomes)
    assert world.store.health()["reads"].state == "closed"


def test_zero_length_reads_ask_nothing(world: World) -> None:
    """And so say nothing."""
    world.open()
    assert list(world.store.get("key", 3, 3, world.info.etag)) == []
    assert world.store.health()["reads"].state == "open"
