"""The file in the state directory that a mount's history outlives its worker in: small, and no loss when it is."""

import json
import os
from pathlib import Path
from typing import Any

_NAME = "history.json"
#: A history of other bytes than we write is not read: whoever made it has not read this.
_LARGEST_BYTES = 4 << 20


class HistoryFile:
    """DIR/history.json. What cannot be read is nothing; what cannot be written is an OSError."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / _NAME

    def read(self) -> dict[str, Any]:
        """What was written last; nothing where there is no file, or a damaged one."""
        try:
            with open(self.path, "rb") as file:
                values = json.loads(file.read(_LARGEST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return values if isinstance(values, dict) else {}

    def write(self, values: dict[str, Any]) -> None:
        """Replace what was written. Not synced: a power cut may leave the one before, or none. OSError."""
        fresh = self.path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="ascii") as file:
            json.dump(values, file, separators=(",", ":"))
        fresh.replace(self.path)
