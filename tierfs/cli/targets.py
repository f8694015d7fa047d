"""Which mounts the paths of a command line lie in."""

from collections.abc import Iterable

from tierfs.admin import registry


def group_by_mount(paths: Iterable[str]) -> list[tuple[registry.Mount, list[bytes]]]:
    """The paths relative to their mountpoints, by mount, in the order given. ControlError."""
    found: dict[str, tuple[registry.Mount, list[bytes]]] = {}
    for path in paths:
        mount, inside = registry.find(path)
        found.setdefault(mount.mountpoint, (mount, []))[1].append(inside)
    return list(found.values())
