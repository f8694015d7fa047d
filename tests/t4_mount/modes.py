"""The two ways in which bytes of hot files are served, passthrough and plain FUSE, and what tests of both need."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.conftest import require
from tests.mounting import Mount, MountFailed, Plan, directory, mounted

#: Values of --passthrough that say one mode each.
MODES = ("required", "off")
#: How long, in seconds, the kernel's last request about a file may take to be answered on a busy machine.
_PATIENCE_S = 120.0


@contextmanager
def mounted_in_mode(mode: str) -> Iterator[Mount]:
    """A mount that is in one mode; where the kernel has no passthrough, that is a missing prerequisite."""
    with directory() as home, ExitStack() as exits:
        with needing_passthrough():
            made = exits.enter_context(mounted(Plan(home, flags=(f"--passthrough={mode}",))))
        yield made


@contextmanager
def needing_passthrough() -> Iterator[None]:
    """A mount that fails in the block because the kernel has no passthrough is a missing prerequisite."""
    try:
        yield
    except MountFailed as failure:
        require("passed through" not in failure.output, f"no kernel passthrough here: {failure.output}")
        raise


def is_passed_through(mount: Mount) -> bool:
    """Whether hot files are passed through to the kernel."""
    return bool(mount.status()["passthrough"] == "on")


def relative(mount: Mount, path: Path) -> str:
    """A path as the operator's commands take it."""
    return str(path.relative_to(mount.path))


def wait_until(condition: Callable[[], object]) -> None:
    """Poll."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def wait_until_all_is_closed(mount: Mount) -> None:
    """close(2) does not wait for the daemon."""
    wait_until(lambda: mount.status()["fuse"]["open_files"] == 0)


def cold_file(mount: Mount, path: Path, content: bytes) -> None:
    """Make a file, and release it."""
    path.write_bytes(content)
    wait_until_all_is_closed(mount)
    mount.release(relative(mount, path))
    assert mount.residency(relative(mount, path)) == "cold"
