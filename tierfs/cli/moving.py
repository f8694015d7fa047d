"""The commands that move bytes, or say which may be moved: archive, release, restore, pin, unpin, evict."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import click

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.cli.exits import Exit
from tierfs.cli.progress import Report, Tally, follow
from tierfs.cli.rendering import shown_path
from tierfs.cli.targets import group_by_mount
from tierfs.core.reports import Outcome, Verb

_PATHS = click.argument("paths", metavar="PATH...", nargs=-1, required=True)
_RECURSIVE = click.option("-r", "--recursive", is_flag=True, help="Everything below directories.")
_BACKGROUND = click.option(
    "--background", is_flag=True, help="Begin a job in the mount, print its id, and do not wait: see `tierfs jobs`."
)

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


def _move(verb: Verb, done: str, paths: Sequence[str], recursive: bool, background: bool) -> int:
    if background:
        for mount, inside in group_by_mount(paths):
            click.echo(Client.of(mount).start_job(verb, inside, recursive).id)
        return Exit.OK
    return _run(paths, done, lambda client, inside: client.move(verb, inside, recursive))


@click.command()
@_PATHS
@_RECURSIVE
@_BACKGROUND
def archive(paths: tuple[str, ...], recursive: bool, background: bool) -> int:
    """Copy files to the bucket and verify the copy; the hot bytes stay ("warm").

    \b
    tierfs archive -r /srv/data/2024
    tierfs archive -r --background /srv/data/2023

    A file that is open for writing, empty or hard-linked is left alone, and the reason is said. Patterns, ages and pins
    are for the policy: a file that is named here is archived in spite of them.
    """
    return _move("archive", "archived", paths, recursive, background)


@click.command()
@_PATHS
@_RECURSIVE
@_BACKGROUND
def release(paths: tuple[str, ...], recursive: bool, background: bool) -> int:
    """Drop the hot bytes of files, after archiving those that are not yet in the bucket.

    \b
    tierfs release /srv/data/old.log

    Hot bytes go only after the copy in the bucket was verified. The file stays in the tree; its bytes come back as they
    are read. The rest of its segment goes with it; what the setting keep_hot names, only when it is named here.
    """
    return _move("release", "released", paths, recursive, background)


@click.command()
@_PATHS
@_RECURSIVE
@_BACKGROUND
@click.option("--all", "everything", is_flag=True, help="All of a MOUNTPOINT, to do without the mount afterwards.")
def restore(paths: tuple[str, ...], recursive: bool, background: bool, everything: bool) -> int:
    """Bring whole cold files back to the hot tier, each with the rest of its segment.

    \b
    tierfs restore -r /srv/data/2024
    tierfs restore -r --all /srv/data

    With --all the mountpoint is pinned first, so that nothing is released or archived meanwhile, and nothing begins
    where the hot tier has no room for all of it. It can be interrupted and called again: what is hot stays as it is. At
    its end it says how to take the mount away; `tierfs unpin MOUNTPOINT` is how to stay.
    """
    if not everything:
        return _move("restore", "restored", paths, recursive, background)
    if background:
        raise click.UsageError("--all is followed to its end, so it has no --background", click.get_current_context())
    if len(paths) != 1:
        raise click.UsageError("--all takes one MOUNTPOINT", click.get_current_context())
    return _leave(registry.find_mountpoint(paths[0]))


def _leave(mount: registry.Mount) -> int:
    client, tally = Client.of(mount), Tally("restored")
    where = shown_path(mount.mountpoint)
    follow(mount.mountpoint, _after_saying(f"{where} is pinned until `tierfs unpin {where}`", client.leave()), tally)
    click.echo(tally.summary())
    status = client.status()
    cold, lost = status["cold"]["files"], (status.get("lost") or {}).get("files")
    if tally.failed or cold:
        gone = f", {lost} of them lost: `tierfs ls -r {where}` says which" if lost else ""
        click.echo(f"tierfs: {cold} files are still cold{gone}; call it again to go on", err=True)
        return Exit.SOME_FAILED
    click.echo(f"all files are in {shown_path(mount.hot_directory)}: the mount is not needed any more")
    click.echo(f"`tierfs umount {where}` takes it away, when nobody has files of it open")
    click.echo(f"after that, nobody needs {shown_path(mount.state_directory)} and the objects of {mount.store}")
    return Exit.OK


def _after_saying(text: str, reports: Generator[Report, None, None]) -> Generator[Report, None, None]:
    """The reports; once the first one shows that the request was not refused, the text."""
    with closing(reports):
        for index, report in enumerate(reports):
            if index == 0:
                click.echo(text)
            yield report


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
