"""A broker with its data directory on the mount: nats-server, JetStream's file store.

JetStream writes a stream into blocks of 8 MiB, one after the other. It writes the last one; the others are closed, and
the policy takes them.
"""

import asyncio
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.mounting import Mount, Plan, directory
from tests.t5_apps.conftest import MakeMount, need, wait_until
from tests.t5_apps.jetstream import PATIENCE_S, broker, connected, ordered
from tierfs.core.reports import Entry

_STREAM = "events"
_TOTAL = 200 << 20
_FIRST_SHARE = _TOTAL // 4
_LARGEST = 256 << 10
_AT_ONCE = 32


def messages() -> Iterator[bytes]:
    """The messages, the same ones every time: 200 MiB in all sizes."""
    chooser, left = random.Random(7), _TOTAL
    while left > 0:
        message = chooser.randbytes(min(left, chooser.choice((100, 10_000, 100_000, _LARGEST))))
        left -= len(message)
        yield message


@contextmanager
def _timed(what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - start:.1f} s")


async def _publish(url: str, some: list[bytes]) -> None:
    client = await connected(url)
    jetstream = client.jetstream(timeout=PATIENCE_S)
    await jetstream.add_stream(name=_STREAM, subjects=["events.>"])
    for start in range(0, len(some), _AT_ONCE):
        await asyncio.gather(
            *(jetstream.publish(f"events.{len(one) % 7}", one) for one in some[start : start + _AT_ONCE])
        )
    await client.close()


async def _consume(url: str, expected: Iterator[bytes]) -> int:
    """Read the whole stream from its beginning; how many messages came, each of them the expected one."""
    client = await connected(url)
    jetstream = client.jetstream(timeout=PATIENCE_S)
    count = 0
    subscription = await ordered(jetstream)
    for want in expected:
        message = await subscription.next_msg(timeout=PATIENCE_S)
        assert message.data == want, f"message {count + 1} differs"
        count += 1
    await client.close()
    return count


def _blocks(mount: Mount) -> list[Entry]:
    entries = mount.client.list_entries([b""], recursive=True)
    return [
        one for one in entries if isinstance(one, Entry) and one.path.endswith(b".blk") and b"/obs/" not in one.path
    ]


def test_jetstream_outgrows_its_disk(make_mount: MakeMount) -> None:
    need("nats-server")
    everything = list(messages())
    first = 0
    size = 0
    while size < _FIRST_SHARE:
        size += len(everything[first])
        first += 1
    with directory() as home:
        plan = Plan(home)
        plan.hot.mkdir()
        # The broker lives in a plain directory, until that is too small: then the mount is put over it.
        with _timed("publish 50 MiB, plain"), broker(plan.hot, home) as server:
            asyncio.run(_publish(server.url, everything[:first]))
        ages = ("--auto-archive", "--warm-after", "1s", "--cold-after", "2s", "--policy-interval", "500ms")
        with make_mount("broker", *ages, "--cache-size", "32MiB", home=home) as mount:
            with _timed("publish 150 MiB, mounted"), broker(mount.path, home) as server:
                asyncio.run(_publish(server.url, everything[first:]))
                _wait_for_closed_blocks(mount)
            before = mount.downloaded()
            with _timed("restart"), broker(mount.path, home) as server:
                with _timed("consume 200 MiB"):
                    assert asyncio.run(_consume(server.url, iter(everything))) == len(everything)
                downloaded = mount.downloaded() - before
                print(f"downloaded {downloaded >> 20} MiB")
                assert downloaded > _TOTAL // 2, "the bytes did not come from the bucket"
                # And it goes on: what is published now is read behind all the cold blocks.
                asyncio.run(_publish(server.url, everything[:50]))
                assert asyncio.run(_consume(server.url, iter(everything + everything[:50]))) == len(everything) + 50
            os.unlink(home / "nats.log")


def _wait_for_closed_blocks(mount: Mount) -> None:
    """Until most of the broker's bytes are in the bucket alone, while it runs. The block that it writes stays hot."""

    def cold_bytes() -> int:
        return sum(block.size for block in _blocks(mount) if block.tier == "cold")

    def explain() -> str:
        blocks = _blocks(mount)
        cold = [block for block in blocks if block.tier == "cold"]
        rest = [
            (os.fsdecode(block.path), block.size, block.residency, block.reason)
            for block in blocks
            if block not in cold
        ]
        return f"{len(cold)} of {len(blocks)} blocks are cold; the rest: {rest}"

    try:
        wait_until(lambda: cold_bytes() > _TOTAL * 9 // 10, explain, PATIENCE_S)
    finally:
        print(explain())
