"""What is kept of a run that failed."""

import dataclasses
import json
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.mounting import Mount, Plan
from tierfs.core.errors import TierfsError
from tierfs.core.reports import Entry


@contextmanager
def looked_at(mount: Mount, directory: Path) -> Iterator[None]:
    """When the block fails, write down what the mount says of itself and of every file, before it is taken away."""
    try:
        yield
    except Exception:
        (directory / "failure").write_text(traceback.format_exc())
        with suppress(TierfsError, AssertionError):
            (directory / "status.json").write_text(json.dumps(mount.status(), indent=1))
            entries = mount.client.list_entries([b""], recursive=True)
            told = [dataclasses.asdict(entry) for entry in entries if isinstance(entry, Entry)]
            (directory / "ls.json").write_text("\n".join(json.dumps(entry, default=str) for entry in told))
        raise


@contextmanager
def kept(plan: Plan, directory: Path | None) -> Iterator[None]:
    """When the block fails, copy all but the mount itself (hot directory, state, bucket, logs) to a new directory."""
    try:
        yield
    except Exception as error:
        if directory is not None:
            left_out = shutil.ignore_patterns(plan.mountpoint.name, "run")
            shutil.copytree(plan.home, directory, ignore=left_out, symlinks=True)
            error.add_note(f"the evidence is in {directory}")
        raise
