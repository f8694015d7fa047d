"""`tierfs top`: a mount as it lives, on a whole screen or as text."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console, Group
from rich.live import Live

from tierfs.cli.exits import Exit
from tierfs.cli.rendering import is_terminal
from tierfs.cli.targets import one_mount
from tierfs.cli.top_rates import Rates
from tierfs.cli.top_terminal import single_keys
from tierfs.cli.top_view import Paper, plain, screen
from tierfs.cli.top_watch import Follower, Seen, Watcher
from tierfs.core.errors import ControlError

_QUIT = frozenset("qQ\x1b\x04")


@click.command()
@click.argument("mountpoint", required=False)
@click.option("-d", "--delay", metavar="SECONDS", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True,
              help="Look so often.")  # fmt: skip
@click.option("-n", "--count", metavar="COUNT", type=click.IntRange(1), help="End after so many looks.")
@click.option("--once", is_flag=True, help="Print one look as text, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print an object per look; the schema is described above.")
def top(mountpoint: str | None, delay: float, count: int | None, once: bool, as_json: bool) -> int:
    """Show a mount as it lives: what is read, moved and waited for now, by whom the most.

    \b
    tierfs top                       with one mount on this host
    tierfs top /srv/data -d 5
    tierfs top /srv/data --once      one look as text, over a second
    tierfs top -n 60 --json | jq .rates.bytes.downloaded

    q or Ctrl-C quits. With -n or --json looks are printed one after the other, and without a terminal just one. The
    next worker is followed when this one ends, until the mount is taken away. NO_COLOR is honoured.

    \b
    disk, cache      how full; until when the disk has room at the rate of the last hours
    bytes/s          hot: by applications. Where the kernel does the I/O itself it is not seen, and how the disk
                     grows stands in its place; cold: asked for in cold files, of it from the chunk cache
    ops              operations of applications that reached the worker, and how long one took
    waits, store     what cold reads waited; requests to the bucket and how long they took until their answer
    TRANSFERS        what is on its way, and how long it still takes at the rate so far
    HOTTEST FILES    opened most within the last minute or so, and bytes that were read of cold ones
    LAST ERRORS      what applications were told, and what did not work in the background

    With --json each line is an object of

    \b
    mountpoint  text
    trouble     why there is nothing newer, or empty
    rates       {seconds, operations, bytes, cold_waits, cache_hit_share, requests}: per second over so many seconds;
                operations by name: {per_second, mean_s}
    activity    what /api/v1/tiered/activity says: see docs/API.md
    """
    follower = Follower(one_mount(mountpoint))
    if once or as_json or count is not None or not (is_terminal() and sys.stdin.isatty()):
        looks = 1 if once or (count is None and not as_json) else count
        return _print(follower, delay, looks, as_json)
    return _watch(follower, delay)


def _print(follower: Follower, delay: float, looks: int | None, as_json: bool) -> int:
    """Look, wait and look again, so often, or for ever; the first look is what the next one is compared with."""
    follower.look()
    printed = 0
    while looks is None or printed < looks:
        time.sleep(delay)
        seen = follower.look()
        if seen.is_gone:
            raise ControlError(seen.trouble)
        click.echo(json.dumps(_as_json(seen)) if as_json else ("\n" if printed else "") + _text(seen))
        printed += 1
    return Exit.OK


def _text(seen: Seen) -> str:
    return plain(screen(seen, _paper(shutil.get_terminal_size((80, 0)).columns, None, sys.stdout.encoding)))


def _as_json(seen: Seen) -> dict[str, object]:
    rates = Rates.between(seen.before, seen.activity).as_json()
    return {"mountpoint": seen.mount.mountpoint, "trouble": seen.trouble, "rates": rates, "activity": seen.activity}


def _paper(width: int, height: int | None, encoding: str) -> Paper:
    is_plain = not encoding.lower().startswith("utf")
    corner = "" if height is None else "; q quits"
    return Paper(width, height, corner, "#", ".") if is_plain else Paper(width, height, corner)


def _watch(follower: Follower, delay: float) -> int:
    """The whole screen, until q; the terminal is left as it was."""
    follower.look()
    console = Console()
    try:
        with single_keys(sys.stdin.fileno()) as keys, _on_screen(console) as live:
            watcher = Watcher(follower, delay, keys.wake)
            watcher.start()
            pressed: str | None = ""
            while pressed is not None and not _QUIT.intersection(pressed):
                seen = watcher.seen()
                if seen.is_gone:
                    break
                paper = _paper(console.width, console.height, console.encoding)
                live.update(Group(*screen(seen, paper)), refresh=True)
                pressed = keys.wait(delay)
    except KeyboardInterrupt:
        return Exit.OK
    if follower.seen.is_gone:
        raise ControlError(follower.seen.trouble)
    return Exit.OK


@contextmanager
def _on_screen(console: Console) -> Iterator[Live]:
    """A screen of its own in this block."""
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        try:
            yield live
        finally:
            live.update("", refresh=True)  # tmux may keep lines of it when it was resized meanwhile
