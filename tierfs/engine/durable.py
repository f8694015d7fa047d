"""Making things durable without holding up the loop."""

import os

import trio

from tierfs.stores.hot import HotTier


async def sync_directory(hot: HotTier, path: bytes) -> None:
    """fsync(2) of a directory of the hot tier, in a thread. ENOENT, EIO."""
    fd = hot.open_directory(path)
    try:
        await trio.to_thread.run_sync(os.fsync, fd)
    finally:
        os.close(fd)
