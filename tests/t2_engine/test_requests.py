"""Who takes the next request while others wait with theirs, and how long those waited."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tierfs.engine.waits import waiting_for
from tierfs.mount.requests import Requests
from tierfs.mount.slow import HeldUp

HOUR_NS = 3600 * 10**9


class Kernel:
    """A pipe in the place of /dev/fuse: a request is a byte, `q` is answered at once, `w` waits until it may end."""

    def __init__(self, read: int, write: int, limit_ns: int) -> None:
        self.held_up = HeldUp(limit_ns)
        self.answered: list[tuple[bytes, bool]] = []  # and whether it had to wait
        self.may_end = trio.Event()
        self._read, self._write = read, write
        self.requests = Requests(read, self._answer, self._end, self.held_up)

    def send(self, requests: bytes) -> None:
        os.write(self._write, requests)

    async def serve(self) -> None:
        await self.requests.serve(self._answer)

    def _end(self) -> None:
        trio.lowlevel.notify_closing(self._read)

    async def _answer(self) -> None:
        while await self.requests.wait():
            request = os.read(self._read, 1)
            if request == b"e" or not request:
                return
            if request == b"w":
                with waiting_for("a test"):
                    await self.may_end.wait()
            began_ns = self.held_up.began() if self.held_up.since_ns else 0
            if began_ns:
                self.held_up.say("read", b"file", began_ns)
            self.answered.append((request, began_ns > 0))


@asynccontextmanager
async def kernel(limit_ns: int) -> AsyncIterator[Kernel]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    try:
        made = Kernel(read, write, limit_ns)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.serve)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        os.close(read)
        os.close(write)


async def rest() -> None:
    """Until everybody waits, for requests or with one."""
    await trio.testing.wait_all_tasks_blocked(0.02)


async def test_what_is_answered_at_once_is_not_noticed() -> None:
    async with kernel(HOUR_NS) as one:
        for _ in range(3):
            one.send(b"q" * 100)
            await rest()
        assert one.answered == [(b"q", False)] * 300
        assert one.held_up.since_ns == {}


async def test_those_that_wait_are_noticed_and_no_others() -> None:
    async with kernel(HOUR_NS) as one:
        one.send(b"qqwqqwwqq")
        await rest()
        assert one.answered == [(b"q", False)] * 6
        assert len(one.held_up.since_ns) == 3
        one.may_end.set()
        await rest()
        assert one.answered[6:] == [(b"w", True)] * 3
        assert one.held_up.since_ns == {}
        one.send(b"qqq")
        await rest()
        assert one.answered[9:] == [(b"q", False)] * 3


async def test_a_task_that_comes_back_is_not_taken_for_one_that_waits() -> None:
    async with kernel(HOUR_NS) as one:
        for _ in range(5):
            one.may_end = trio.Event()
            one.send(b"w" * 40)
            await rest()
            assert len(one.held_up.since_ns) == 40
            one.may_end.set()
            one.send(b"q" * 40)
            await rest()
            assert one.held_up.since_ns == {}
        assert one.answered.count((b"w", True)) == one.answered.count((b"q", False)) == 200


async def test_what_was_waited_for_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with kernel(1) as one:
        one.send(b"w")
        await rest()
        one.may_end.set()
        await rest()
        (text,) = caplog.messages
        assert text.startswith("slow: read of file took ")
        assert "s for a test" in text


async def test_nobody_looks_where_it_is_turned_off() -> None:
    async with kernel(0) as one:
        one.send(b"w")
        await rest()
        assert one.held_up.since_ns == {}
