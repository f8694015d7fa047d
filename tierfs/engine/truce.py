"""A store that is spared (stores.breaker) is asked when its next try is due, by one; the others wait how that ends."""

import math
from collections.abc import Callable

import trio


class Truce:
    """Whoever was refused waits here. All of it is touched by the trio thread alone.

    INVARIANT: while somebody waits, somebody who is wanted waits no longer than until the next try.
    """

    def __init__(self) -> None:
        self._next_at = math.inf  # when the first of those who wait will ask, on trio's clock
        self._is_over = trio.Event()
        self._others = trio.lowlevel.ParkingLot()

    async def wait(self, wait_ns: int, is_wanted: Callable[[], bool]) -> None:
        """After a refusal that names the next try, until it is worth asking again."""
        at = trio.current_time() + wait_ns / 1e9
        if self._next_at <= at:
            await self._others.park()
            if not is_wanted():
                self._others.unpark()
            return
        self._next_at = at
        with trio.move_on_at(at):
            await self._is_over.wait()
        if self._next_at == at:
            self._next_at = math.inf
        # One that hangs must not keep off the others: the next one asks too, is refused, and learns when to try.
        self._others.unpark()

    def answered(self) -> None:
        """The store said something: everybody may ask."""
        if self._next_at < math.inf or self._others:
            self._next_at = math.inf
            self._is_over.set()
            self._is_over = trio.Event()
            self._others.unpark_all()
