"""Who is examined: this host, a mount that is to be made, or one that runs."""

from dataclasses import dataclass

from tierfs.admin.registry import Mount
from tierfs.core.config import MountRequest, Settings


@dataclass(frozen=True, slots=True)
class Patient:
    """What is known before anything is looked at. `mount` is there where the mount of the request runs.

    `complaint` is why the request makes no sense; then there is none. `is_quick`: nothing large is moved.
    """

    request: MountRequest | None = None
    mount: Mount | None = None
    complaint: str = ""
    is_quick: bool = False

    @property
    def settings(self) -> Settings:
        """The settings of the mount; the defaults where none is meant."""
        return self.request.settings if self.request else Settings()

    @property
    def covered(self) -> bool:
        """Whether the hot directory lies under its own mount, where its path leads to the mount instead."""
        return self.mount is not None and self.request is not None and self.request.in_place
