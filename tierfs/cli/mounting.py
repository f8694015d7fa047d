"""mount and umount: check what was asked for, then let the supervisor do it."""

import errno
import os
import stat
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import click

from tierfs.admin import registry
from tierfs.cli.flags import SettingsCommand, settings_options
from tierfs.cli.sources import Gathered, flag_of, gather
from tierfs.core.config import Given, MountRequest
from tierfs.core.errors import ConfigError, ControlError, MountError, TierfsError
from tierfs.mount import kernel, launch
from tierfs.stores.address import parse_store

_MOST_LINKS = 40  # as the kernel follows (path_resolution(7))


@click.command(cls=SettingsCommand)
@click.argument("store", required=False)
@click.argument("mountpoint", required=False)
@click.option("--hot", metavar="DIR", help="Hot directory, when it is not the mountpoint itself.")
@click.option("--state", metavar="DIR", help="Where catalog and chunk cache are; outside the hot directory.")
@click.option(
    "--take-over",
    is_flag=True,
    help="Take the store from the mount that owns it, which must be gone for good; writing begins when its lease "
    "has run out.",
)
@click.option("--foreground", is_flag=True, help="Stay until the mount is taken away, and log to stderr.")
@settings_options
def mount(
    store: str | None,
    mountpoint: str | None,
    hot: str | None,
    state: str | None,
    take_over: bool,
    foreground: bool,
    config: str | None,
    **flags: object,
) -> int:
    """Mount a directory and a bucket as one tree.

    \b
    tierfs mount s3://my-bucket/prefix /srv/data
    tierfs mount s3://my-bucket /mnt --hot /ssd/data --warm-after 1d --cold-after 7d
    tierfs mount file:///big/disk /srv/data --cache-size 50GiB
    tierfs mount --config /etc/tierfs/data.toml

    Without --hot the mount is in place: the files of MOUNTPOINT are the hot tier and are simply there. The command
    returns when the mount serves, or says why it does not. Credentials are found as boto3 finds them.

    Settings come from a profile (--profile kafka), the settings file, TIERFS_* in the environment
    (TIERFS_WARM_AFTER=1d), then flags; the later wins. STORE, MOUNTPOINT, hot and state may stand in the settings file.
    """
    if store is not None and mountpoint is None and "://" not in store:
        store, mountpoint = None, store
    where = {"store": store, "mountpoint": mountpoint, "hot": hot, "state": state}
    is_kept = launch.is_gone_on_with()
    try:
        request = request_of(gather(config, os.environ, {**where, **flags}), foreground, is_kept)
        return launch.start(replace(request, take_over=take_over))
    except (TierfsError, click.UsageError) as error:
        if not is_kept:
            raise
        # The exit codes of these say that nobody should try again, and systemd would close what it keeps.
        raise click.ClickException(f"{error}; the mount is kept, and whoever uses it waits") from None


@click.command()
@click.argument("mountpoint")
@click.option("--lazy", is_flag=True, help="Take it out of the tree now, although it is in use.")
def umount(mountpoint: str, lazy: bool) -> None:
    """Take a mount away; its hot files stay where they are, its cold files in the bucket.

    \b
    tierfs umount /srv/data
    """
    absolute, mount = os.path.abspath(mountpoint), None
    try:
        mount = registry.find_mountpoint(mountpoint)
        absolute = mount.mountpoint
    except ControlError:
        # A mount outlives its entry in the registry when the runtime directory was emptied.
        if not _is_ours(kernel.mounted_at(absolute)):
            raise
    if _is_ours(kernel.mounted_at(absolute)):
        launch.stop(absolute, lazy)
    if mount is not None and not lazy:
        if mount.is_alive:
            for pid in (mount.supervisor_pid, mount.worker_pid):
                launch.wait_until_gone(pid)
        registry.unregister(absolute)


def _is_ours(at: kernel.MountedAt | None) -> bool:
    return at is not None and at.filesystem_type == kernel.FILESYSTEM_TYPE


def request_of(gathered: Gathered, foreground: bool, is_kept: bool = False) -> MountRequest:
    """The mount that was asked for, with absolute paths. ConfigError, MountError.

    `is_kept`: it is there, and nobody serves it until this process does; nothing may ask it anything.
    """
    where = gathered.where
    store = str(_needed("store", where).value)
    address = parse_store(store)
    real = unasked if is_kept else os.path.realpath
    mountpoint = real(_directory("mountpoint", _needed("mountpoint", where), is_kept))
    hot = real(_directory("hot", where["hot"], is_kept)) if "hot" in where else mountpoint
    state = real(str(where["state"].value)) if "state" in where else default_state(mountpoint)
    if not is_kept:
        _refuse_taken(mountpoint)
    if hot != mountpoint and (is_within(hot, mountpoint) or is_within(mountpoint, hot)):
        raise ConfigError(
            f"the hot directory {hot!r} and the mountpoint {mountpoint!r} lie in each other: separate them"
        )
    _keep_apart(f"the state directory {state!r}", state, hot, mountpoint)
    if address.kind == "file":
        bucket = real(address.bucket_or_dir)
        _keep_apart(f"the store {store!r}", bucket, hot, mountpoint)
        _keep_apart(f"the store {store!r}", bucket, state, state)
    return MountRequest(store, mountpoint, hot, state, gathered.settings, foreground)


def default_state(mountpoint: str) -> str:
    """The state directory unless --state says it: below /var/lib/tierfs for root, XDG_STATE_HOME/tierfs for others."""
    if os.geteuid() == 0:
        base = "/var/lib"
    else:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.realpath(os.path.join(base, "tierfs", registry.escaped(mountpoint)))


def is_within(path: str, directory: str) -> bool:
    """Whether a path is a directory, or lies below it; both are absolute."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _needed(name: str, where: Mapping[str, Given]) -> Given:
    if name not in where or not where[name].value:
        example = "`tierfs mount s3://BUCKET MOUNTPOINT`, or a settings file with store and mountpoint"
        raise click.UsageError(f"{flag_of(name)} is missing: write {example}", click.get_current_context(silent=True))
    return where[name]


def _directory(name: str, given: Given, is_kept: bool) -> str:
    """A directory that exists; where a mount is kept, that is known."""
    path = str(given.value)
    if is_kept:
        return path
    path = os.path.realpath(path)
    what = "the mountpoint" if name == "mountpoint" else "the hot directory"
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountError(f"{what} {path!r} is a mount whose daemon is gone: run `tierfs umount {path}`") from None
        if error.errno == errno.ENOENT:
            raise MountError(f"{what} {path!r} does not exist: create it, or correct {given.source}") from None
        raise MountError(f"{what} {path!r} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise MountError(f"{what} {path!r} is not a directory: correct {given.source}")
    return path


def unasked(path: str) -> str:
    """The real path, without a look at a tierfs mount or below it: where nobody serves it, lstat(2) would wait."""
    found, names, links = "/", deque(os.path.abspath(path).split("/")), 0
    while names:
        found = os.path.normpath(os.path.join(found, names.popleft()))
        if _is_ours(kernel.mounted_at(found)):
            return os.path.join(found, *names)
        if links < _MOST_LINKS and os.path.islink(found):
            links += 1
            names.extendleft(reversed(os.readlink(found).split("/")))
            found = "/" if os.readlink(found).startswith("/") else os.path.dirname(found)
    return found


def _refuse_taken(mountpoint: str) -> None:
    if any(one.mountpoint == mountpoint and one.is_alive for one in registry.mounts()):
        raise MountError(f"{mountpoint!r} is mounted already: `tierfs status {mountpoint}` shows it")


def _keep_apart(what: str, path: str, hot: str, mountpoint: str) -> None:
    """State and store never lie inside the tree that they serve, nor the tree inside them."""
    for name, directory in (("hot directory", hot), ("mountpoint", mountpoint)):
        if is_within(path, directory):
            raise ConfigError(f"{what} lies inside the {name} {directory!r}: put it elsewhere")
        if is_within(directory, path):
            raise ConfigError(f"{what} contains the {name} {directory!r}: put it elsewhere")
