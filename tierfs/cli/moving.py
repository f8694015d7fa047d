"""The commands that move bytes, or say which may be moved: archive, release, restore, pin, unpin, evict."""

from collections.abc import Callable, Generator, Sequence

import click

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.cli.exits import Exit
from tierfs.cli.progress import Report, Tally, follow
from tierfs.cli.targets import group_by_mount
from tierfs.core.reports import Outcome, Verb

_PATHS = click.argument("paths", metavar="PATH...", nargs=-1, required=True)
_RECURSIVE = click.option("-r", "--recursive", is_flag=True, help="Everything below directories.")

Reports = Generator[Report, None, None] | Generator[Outcome, None, None]


def _run(paths: Sequence[str], done: str, ask: Callable[[Client, list[bytes]], Reports]) -> int:
    """Ask each mount for its share of the paths, and show what becomes of them."""
    tally = Tally(done)
    for mount, inside in group_by_mount(paths):
        follow(mount.mountpoint, ask(Client.of(mount), inside), tally)
    return _finish(tally)


def _finish(tally: Tally) -> int:
    click.echo(tally.summary())
    return Exit.SOME_FAILED if tally.failed else Exit.OK


def _move(verb: Verb, done: str, paths: Sequence[str], recursive: bool) -> int:
    return _run(paths, done, lambda client, inside: client.move(verb, inside, recursive))


@click.command()
@_PATHS
@_RECURSIVE
def archive(paths: tuple[str, ...], recursive: bool) -> int:
    """Copy files to the bucket and verify the copy; the hot bytes stay ("warm").

    \b
    tierfs archive -r /srv/data/2024

    A file that is open for writing, empty or hard-linked is left alone, and the reason is said. Patterns, ages and pins
    are for the policy: a file that is named here is archived in spite of them.
    """
    return _move("archive", "archived", paths, recursive)


@click.command()
@_PATHS
@_RECURSIVE
def release(paths: tuple[str, ...], recursive: bool) -> int:
    """Drop the hot bytes of files, after archiving those that are not yet in the bucket.

    \b
    tierfs release /srv/data/old.log

    Hot bytes go only after the copy in the bucket was verified. The file stays in the tree; its bytes come back as they
    are read. The rest of its segment goes with it; what the setting keep_hot names, only when it is named here.
    """
    return _move("release", "released", paths, recursive)


@click.command()
@_PATHS
@_RECURSIVE
def restore(paths: tuple[str, ...], recursive: bool) -> int:
    """Bring whole cold files back to the hot tier, each with the rest of its segment.

    \b
    tierfs restore -r /srv/data/2024
    """
    return _move("restore", "restored", paths, recursive)


@click.command()
@_PATHS
def pin(paths: tuple[str, ...]) -> int:
    """Never release these files, or the files below these directories.

    \b
    tierfs pin /srv/data/index
    """
    return _run(paths, "pinned", lambda client, inside: client.pin(inside))


@click.command()
@_PATHS
def unpin(paths: tuple[str, ...]) -> int:
    """Take pins away; patterns in the setting `pins` stay.

    \b
    tierfs unpin /srv/data/index
    """
    return _run(paths, "unpinned", lambda client, inside: client.unpin(inside))


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1)
def evict(paths: tuple[str, ...]) -> int:
    """Drop the chunks of these files from the cache; without a PATH, all chunks of all mounts.

    \b
    tierfs evict /srv/data/old.log

    Always harmless: what is read again is fetched again.
    """
    if paths:
        return _run(paths, "evicted", lambda client, inside: client.evict(inside))
    tally = Tally("evicted")
    for mount in registry.mounts():
        if mount.is_alive:
            follow(mount.mountpoint, Client.of(mount).evict(None), tally)
    return _finish(tally)
