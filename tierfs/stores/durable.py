"""What a power cut must not take, in the state directory."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """fsync(2) of a file or a directory. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
