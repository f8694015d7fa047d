"""Which mounts the paths of a command line lie in."""

from collections.abc import Iterable

from tierfs.admin import registry
from tierfs.cli.rendering import shown_path
from tierfs.core.errors import ControlError


def one_mount(mountpoint: str | None) -> registry.Mount:
    """The mount that is named, or the only one. ControlError."""
    if mountpoint is not None:
        return registry.find_mountpoint(mountpoint)
    alive = [mount for mount in registry.mounts() if mount.is_alive]
    if len(alive) != 1:
        many = ", ".join(shown_path(mount.mountpoint) for mount in alive)
        raise ControlError(f"name one of the mounts of this host: {many}" if many else "no tierfs mount on this host")
    return alive[0]


def group_by_mount(paths: Iterable[str]) -> list[tuple[registry.Mount, list[bytes]]]:
    """The paths relative to their mountpoints, by mount, in the order given. ControlError."""
    found: dict[str, tuple[registry.Mount, list[bytes]]] = {}
    for path in paths:
        mount, inside = registry.find(path)
        found.setdefault(mount.mountpoint, (mount, []))[1].append(inside)
    return list(found.values())
