"""Looks at one mount again and again, whichever worker serves it."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.core.errors import ControlError

#: Figures that take more to find out than activity are asked for so often, in seconds.
_STATUS_EACH_S = 5.0
#: An answer takes milliseconds: a mount that needs so many seconds is shown as one that does not answer.
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The last look at a mount, and the one before; `trouble` is why there is no newer one."""

    mount: registry.Mount
    activity: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    is_gone: bool = False


class Follower:
    """Looks at a mount when it is told to."""

    def __init__(self, mount: registry.Mount) -> None:
        self.seen = Seen(mount)
        self._status_at = 0.0

    def look(self) -> Seen:
        """Look once more. ControlError when even the first look fails."""
        before = self.seen
        try:
            client = Client.of(before.mount)
            activity = client.activity()
            is_new = not before.activity or before.activity["since_ns"] != activity["since_ns"]
            status = before.status
            if is_new or time.monotonic() - self._status_at >= _STATUS_EACH_S:
                status, self._status_at = client.status(is_quick=True), time.monotonic()
        except ControlError as error:
            if not before.activity:
                raise
            self.seen = self._again(error)
        else:
            self.seen = Seen(before.mount, activity, before.activity or None, status)
        return self.seen

    def _again(self, error: ControlError) -> Seen:
        """What is known when a look failed: the next worker may be there soon."""
        mountpoint = self.seen.mount.mountpoint
        alive = [one for one in registry.mounts() if one.mountpoint == mountpoint and one.is_alive]
        if not alive:
            return replace(self.seen, trouble=f"the mount at {mountpoint!r} is gone", is_gone=True)
        return replace(self.seen, mount=alive[0], trouble=str(error))


class Watcher:
    """Follows a mount in a thread of its own, so that keys are answered while the mount does not answer."""

    def __init__(self, follower: Follower, delay_s: float, news: Callable[[], None]) -> None:
        """`news` is called in that thread after each look."""
        self._follower = follower
        self._delay_s = delay_s
        self._news = news
        self._asked_at = 0.0  # 0: not asking now
        self.looks = 0
        self._thread = threading.Thread(target=self._run, name="tierfs-top", daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin to look; ends with the process, or with the mount."""
        self._thread.start()

    def seen(self) -> Seen:
        """The last look. What ended the looking is raised."""
        if self.error:
            raise self.error
        seen, asked_at = self._follower.seen, self._asked_at
        waits_s = time.monotonic() - asked_at if asked_at else 0.0
        if waits_s > _PATIENCE_S and not seen.trouble:
            return replace(seen, trouble=f"the mount has not answered for {waits_s:.0f} s")
        return seen

    def _run(self) -> None:
        try:
            while not self._follower.seen.is_gone:
                time.sleep(self._delay_s)
                self._asked_at = time.monotonic()
                self._follower.look()
                self._asked_at = 0.0
                self.looks += 1
                self._news()
        except Exception as error:
            self.error = error
            self._news()
