"""check and rebuild: whether everything is right, and what to do when the SSD is lost."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.cli import rendering
from tierfs.cli.exits import Exit
from tierfs.cli.flags import SettingsCommand, settings_options
from tierfs.cli.mounting import request_of
from tierfs.cli.progress import Meter, metering
from tierfs.cli.sources import gather
from tierfs.core.quantities import parse_size
from tierfs.core.reports import CheckOrder, Finding, Outcome, Total
from tierfs.mount import launch

if TYPE_CHECKING:
    from tierfs.engine.reconcile import Rebuilt

_DEFAULT_RATE = "64MiB"

Tell = Callable[[Finding | Total | Outcome], None]


@click.command()
@click.argument("mountpoint", required=False)
@click.option("--state", metavar="DIR", help="State directory of a mount that is not running.")
@click.option("--hot", metavar="DIR", help="Its hot directory, when that is not where it was mounted from.")
@click.option("--deep", is_flag=True, help="Read every object back, and compare it with its SHA-256.")
@click.option("--repair", is_flag=True, help="Repair what can be repaired safely, and say what was done.")
@click.option(
    "--rate",
    metavar="SIZE",
    default=_DEFAULT_RATE,
    help=f"Most that --deep reads in a second; 0: all. [{_DEFAULT_RATE}]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the schema is described above.")
def check(
    mountpoint: str | None, state: str | None, hot: str | None, deep: bool, repair: bool, rate: str, as_json: bool
) -> int:
    """Compare catalog, hot directory, bucket and cache; without --repair, change nothing.

    \b
    tierfs check /srv/data
    tierfs check --deep /srv/data                    also read all objects back
    tierfs check --state /var/lib/tierfs/srv-data    with the mount stopped

    Every disagreement is said with what it means and what to do. --repair never takes the last copy of any bytes away:
    hot bytes win over the bucket, a file whose object is gone becomes lost, objects that nobody knows are shown.

    Exit code, as fsck has it: 0 nothing disagrees, 9 all that disagreed was repaired, 7 something still disagrees;
    others when the check could not be made.

    With --json: one array of {what, path, meaning, remedy, repaired}; repaired is empty, or what was done.
    """
    if (mountpoint is None) == (state is None):
        raise click.UsageError("name a MOUNTPOINT, or a state directory with --state", click.get_current_context())
    if hot is not None and state is None:
        raise click.UsageError("--hot goes with --state", click.get_current_context())
    order = CheckOrder(deep, repair, parse_rate(rate))
    root, run = _on_mount(str(mountpoint), order) if state is None else _on_state(state, hot, order)
    with metering() as meter:
        shown = _Shown(root, meter, as_json)
        run(shown.tell)
    shown.finish()
    return shown.exit_code


def parse_rate(text: str) -> int:
    """Bytes per second. click.BadParameter."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rate") from None


def _on_mount(mountpoint: str, order: CheckOrder) -> tuple[str, Callable[[Tell], None]]:
    mount = registry.find_mountpoint(mountpoint)

    def run(tell: Tell) -> None:
        for report in Client.of(mount).check(order):
            tell(report)

    return mount.mountpoint, run


def _on_state(state: str, hot: str | None, order: CheckOrder) -> tuple[str, Callable[[Tell], None]]:
    """Through the running mount that has this state directory, if there is one: a catalog has one writer."""
    directory = os.path.realpath(state)
    for mount in registry.mounts():
        if mount.state_directory == directory and mount.is_alive:
            return _on_mount(mount.mountpoint, order)
    # Imported when needed: it brings the whole engine.
    from tierfs import offline

    where = Path(directory)
    return offline.mountpoint_of(where), lambda tell: offline.check(where, hot, order, tell)


class _Shown:
    """Findings as they come, how far a deep check is, and the sum at the end."""

    def __init__(self, root: str, meter: Meter, as_json: bool) -> None:
        self._root = root
        self._meter = meter
        self._as_json = as_json
        self._found: list[Finding] = []
        self._read = 0
        self._total: int | None = None

    @property
    def exit_code(self) -> int:
        """What the check comes to."""
        if all(finding.repaired for finding in self._found):
            return Exit.REPAIRED if self._found else Exit.OK
        return Exit.DISAGREEMENT

    def tell(self, report: Finding | Total | Outcome) -> None:
        """Show one report."""
        if isinstance(report, Finding):
            self._found.append(report)
            if not self._as_json:
                click.echo(_finding_text(report, self._root))
        elif isinstance(report, Total):
            self._total = report.files
        else:
            self._read += 1
            self._meter.show("objects read", self._read, self._total)

    def finish(self) -> None:
        """Say what it comes to."""
        if self._as_json:
            rendering.print_json_array(_finding_json(finding, self._root) for finding in self._found)
            return
        repaired = sum(bool(finding.repaired) for finding in self._found)
        read = f"; {self._read} objects read back" if self._total is not None else ""
        if self._found:
            how = f", {repaired} repaired" if repaired else ""
            click.echo(f"{len(self._found)} disagreements{how}{read}")
        else:
            click.echo(f"catalog, hot directory, bucket and cache agree{read}")


def _finding_text(finding: Finding, root: str) -> str:
    name = rendering.shown_path(rendering.shown_absolute(root, finding.path))
    after = f"repaired: {finding.repaired}" if finding.repaired else f"to do: {finding.remedy}"
    return f"{finding.what}  {name}\n    {finding.meaning}\n    {after}"


def _finding_json(finding: Finding, root: str) -> dict[str, object]:
    return {
        "what": finding.what,
        "path": rendering.shown_absolute(root, finding.path),
        "meaning": finding.meaning,
        "remedy": finding.remedy,
        "repaired": finding.repaired,
    }


@click.command(cls=SettingsCommand)
@click.argument("store", required=False)
@click.argument("mountpoint", required=False)
@click.option("--hot", metavar="DIR", help="Hot directory, when it is not the mountpoint itself.")
@click.option("--state", metavar="DIR", help="Where catalog and chunk cache are to be; outside the hot directory.")
@click.option("--replace-catalog", is_flag=True, help="Put the catalog that is there aside, under another name.")
@settings_options
def rebuild(
    store: str | None,
    mountpoint: str | None,
    hot: str | None,
    state: str | None,
    replace_catalog: bool,
    config: str | None,
    **flags: object,
) -> int:
    """Make the catalog anew from the bucket: the SSD is lost, or the catalog damaged.

    \b
    tierfs rebuild s3://my-bucket/prefix /srv/data
    tierfs rebuild s3://my-bucket /mnt --hot /ssd/data --state /ssd/state
    tierfs rebuild --config /etc/tierfs/data.toml --replace-catalog

    Name what `tierfs mount` is given; nothing may be mounted. Every archived file comes back as a cold file with its
    name, owner, mode, times and extended attributes, and with it directories, symlinks and empty files: as they were in
    the newest snapshot in the bucket, or as the objects themselves say where they are newer. Nothing is downloaded but
    the snapshot, nothing is changed in the bucket. Files that are in the hot directory stay as they are: they win.

    What cannot be had is named, with what it means; the exit code is then 7. A catalog that is there already is refused
    (3) unless --replace-catalog gives it another name; it is never deleted.
    """
    if store is not None and mountpoint is None and "://" not in store:
        store, mountpoint = None, store
    where = {"store": store, "mountpoint": mountpoint, "hot": hot, "state": state}
    request = request_of(gather(config, os.environ, {**where, **flags}), foreground=False)
    launch.check(request)
    # Imported when needed: it brings the whole engine.
    from tierfs import offline

    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        click.echo(_finding_text(finding, request.mountpoint))

    with metering() as meter:
        rebuilt = offline.rebuild(
            launch.message_of(request), replace_catalog, tell, lambda what, count: meter.show(what, count, None)
        )
    click.echo("\n".join(_summary(rebuilt)))
    return Exit.DISAGREEMENT if found else Exit.OK


def _summary(rebuilt: "Rebuilt") -> list[str]:
    """What it comes to, in lines."""
    after = "now mount; `tierfs check --deep MOUNTPOINT` reads every object back"
    if not rebuilt.taken_ns:
        missing = "the bucket has no snapshot: only what the objects say of themselves is known"
        return [missing, f"{rebuilt.added} files are back", after]
    then = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(rebuilt.taken_ns / 1e9))
    back = rebuilt.recorded + rebuilt.added - rebuilt.lost
    since = f"{rebuilt.newer} archived again since then, {rebuilt.added} new since then"
    return [
        f"the snapshot is of {then}; {rebuilt.names} directories, links and the like were made again",
        f"{back} files are back ({since}), {rebuilt.lost} are lost",
        after,
    ]
