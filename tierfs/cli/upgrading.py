"""upgrade: the next worker takes a mount over, without anybody noticing."""

import os
import signal
import time
from contextlib import suppress
from typing import Any

import click

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.core.errors import ControlError, MountError

_PATIENCE_S = 90.0  # what is being moved may take a while to end
_LOOK_S = 0.05


@click.command()
@click.argument("mountpoint")
def upgrade(mountpoint: str) -> None:
    """Have a mount served by the tierfs that is installed now, without taking it away.

    \b
    pip install --upgrade tierfs
    tierfs upgrade /srv/data

    Applications keep their open files, and wait for some milliseconds at most. What is being moved is finished, or
    given up and gone on with afterwards. What is installed is started and asked whether it can go on with this mount
    before the old worker stops: when it cannot, nothing changes, and the reason is said. SIGHUP to the supervisor
    (`systemctl reload`) does the same.
    """
    mount = registry.find_mountpoint(mountpoint)
    before = Client.of(mount).status()
    try:
        os.kill(mount.supervisor_pid, signal.SIGHUP)
    except ProcessLookupError:
        raise MountError(f"the supervisor of {mount.mountpoint} (pid {mount.supervisor_pid}) is gone") from None
    except PermissionError:
        raise MountError(f"{mount.mountpoint} belongs to another user: run this as that user, or as root") from None
    after = _wait_for_the_next(mount, before)
    took_ms = after["succession"]["seconds"] * 1e3
    click.echo(
        f"{mount.mountpoint}: tierfs {before['version']} (pid {before['worker_pid']}) handed over to "
        f"{after['version']} (pid {after['worker_pid']}), {after['fuse']['open_files']} open files, in {took_ms:.0f} ms"
    )


def _wait_for_the_next(mount: registry.Mount, before: dict[str, Any]) -> dict[str, Any]:
    """The status of the next worker. MountError where the upgrade was refused, or is not done in time."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        with suppress(ControlError):  # nobody answers between two workers
            now = Client.of(mount).status()
            if now["worker_pid"] != before["worker_pid"]:
                return now
            if now["succession"]["refused_upgrades"] > before["succession"]["refused_upgrades"]:
                reasons = [text for text in now["warnings"] if text.startswith(_REFUSED)]
                raise MountError(f"{mount.mountpoint} is served as before: {' '.join(reasons)}")
    raise MountError(f"{mount.mountpoint} was not handed over within {_PATIENCE_S:g} s; its log says why")


_REFUSED = "the last upgrade was refused"
