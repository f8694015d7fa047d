"""Reading back what was archived: does an object hold the bytes that its record says? Blocking functions."""

import hashlib
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing

from isal import isal_zlib

from tierfs.core.errors import IntegrityError, StoreRefused
from tierfs.core.records import ObjectRef
from tierfs.stores.cold import ColdStore


def verify(store: ColdStore, ref: ObjectRef, spend: Callable[[int], None], stop: threading.Event) -> None:
    """Read an object whole, and compare SHA-256 and the CRC-32 of each chunk with what was recorded.

    `spend` is told each block's size. IntegrityError when they differ, other StoreErrors when it cannot be read;
    StoreRefused when `stop` is set.
    """
    digest, crcs, crc, read = hashlib.sha256(), bytearray(), 0, 0
    with ExitStack() as stack:
        blocks = store.get(ref.key, 0, ref.size, ref.etag, ref.version_id)
        if isinstance(blocks, Generator):
            stack.enter_context(closing(blocks))
        for block in blocks:
            spend(len(block))
            if stop.is_set():
                raise StoreRefused("the check was interrupted")
            digest.update(block)
            view = memoryview(block)
            while view and ref.crcs:
                piece = view[: ref.chunk_size - read % ref.chunk_size]
                view = view[len(piece) :]
                read += len(piece)
                crc = isal_zlib.crc32(piece, crc)
                if read % ref.chunk_size == 0 or read == ref.size:
                    crcs += crc.to_bytes(4, "little")
                    crc = 0
    if ref.sha256 and digest.digest() != ref.sha256:
        raise IntegrityError(f"the object {ref.key} does not have the SHA-256 of what was archived")
    if ref.crcs and crcs != ref.crcs:
        raise IntegrityError(f"the CRC-32s that are recorded of {ref.key} are not those of its chunks")
