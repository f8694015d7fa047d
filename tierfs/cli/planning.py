"""plan: what the policy would do, on a mount or before there is one."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import click

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.cli import rendering
from tierfs.cli.exits import Exit
from tierfs.cli.flags import SettingsCommand, settings_options
from tierfs.cli.mounting import request_of
from tierfs.cli.rules import Rules
from tierfs.cli.sources import gather

if TYPE_CHECKING:
    from tierfs.core.config import MountRequest
    from tierfs.core.forecast import Forecast, Share

T = TypeVar("T", bytes, str)

_SHOWN_DIRECTORIES = 10


@click.command(cls=SettingsCommand)
@click.argument("store", required=False)
@click.argument("mountpoint", required=False)
@click.option("--hot", metavar="DIR", help="Hot directory, when it is not the mountpoint itself.")
@click.option("--state", metavar="DIR", help="As for `tierfs mount`; it need not exist.")
@click.option("--summary", is_flag=True, help="Of a mount: the sums alone, by verb and rule.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the schema is described above.")
@settings_options
def plan(
    store: str | None,
    mountpoint: str | None,
    hot: str | None,
    state: str | None,
    summary: bool,
    as_json: bool,
    config: str | None,
    **flags: object,
) -> int:
    """Show what the policy would do now, and why; change nothing.

    \b
    tierfs plan /srv/data                            of a mount: each file, then the sums by rule
    tierfs plan /srv/data --summary                  the sums alone
    tierfs plan s3://my-bucket /srv/data             before the first mount: in sum
    tierfs plan s3://my-bucket /srv/data --warm-after 2h --upload-rate 20MiB
    tierfs plan --config /etc/tierfs/data.toml

    With a STORE, or --config, nothing needs to be mounted, the store is not asked, and only names and attributes are
    read: what would be archived with these settings, what would leave the hot tier after that, why other files stay,
    and how long it takes at the rates that are set. Who has a file open is not known before there is a mount.

    Sums say how many requests to the store it takes, what these cost, and by how much each month is dearer or cheaper
    after that; at the prices of the setting `prices` (`tierfs cost --help`). Dollars in JSON are decimal numbers as
    text, empty where nobody knows the prices of the store: `tierfs cost` says why.

    With --json, of a mount: one array of {path, verb, size, reason, rule, requests, dollars, month}; verb is archive or
    release, size is bytes. With --summary: one array of {verb, rule, files, bytes, requests, dollars, month}.

    \b
    With --json, before the first mount, one object:
    files, bytes      all regular files
    archive, release  {files, bytes}: what would be archived; which of that would be released as soon as it is
    directories       array of {path, files, bytes}: what would be archived, by the directories of MOUNTPOINT
    rules             as with --summary
    kept              array of {reason, files, bytes}
    seconds           how long the archives take at upload_rate and archive_rate, or null
    days              the same with archive_window, or null
    """
    is_one = store is not None and mountpoint is None and "://" not in store
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if is_one and config is None and hot is None and state is None and not given:
        return _plan_of_mount(str(store), summary, as_json)
    if is_one:
        store, mountpoint = None, store
    where = {"store": store, "mountpoint": mountpoint, "hot": hot, "state": state}
    return _plan_of_directory(request_of(gather(config, os.environ, {**where, **flags}), foreground=False), as_json)


def _plan_of_mount(mountpoint: str, is_summary: bool, as_json: bool) -> int:
    mount = registry.find_mountpoint(mountpoint)
    planned, rules = Client.of(mount).plan(), Rules()
    if is_summary:
        for action in planned:
            rules.add(action)
        click.echo(json.dumps(rules.as_json(), indent=1) if as_json else "\n".join(rules.lines()) or "nothing to do")
    elif as_json:
        rendering.print_json_array(
            asdict(action) | {"path": rendering.shown_absolute(mount.mountpoint, action.path)} for action in planned
        )
    else:
        for action in planned:
            rules.add(action)
            name = rendering.shown_path(rendering.shown_absolute(mount.mountpoint, action.path))
            click.echo(f"{action.verb:<8}{rendering.shown_size(action.size):>8}  {name}  ({action.reason})")
        lines = list(rules.lines())
        click.echo("\n".join(["", *lines] if lines else ["nothing to do"]))
    return Exit.OK


def _plan_of_directory(request: "MountRequest", as_json: bool) -> int:
    # Imported when needed: it brings the whole engine.
    from tierfs import offline

    found, rules = offline.forecast_of(request), Rules()
    for action in offline.priced(found, request):
        rules.add(action)
    if as_json:
        click.echo(json.dumps({**_json_of(found, request.mountpoint), "rules": rules.as_json()}, indent=1))
    else:
        click.echo("\n".join([*_lines_of(found, request), *rules.lines(), _how_long(found, request)]))
    return Exit.OK


def _json_of(found: "Forecast", mountpoint: str) -> dict[str, object]:
    kept = [{"reason": reason, **_json_of_share(share)} for reason, share in _by_size(found.kept)]
    directories = [
        {"path": rendering.shown_absolute(mountpoint, path), **_json_of_share(share)}
        for path, share in _by_size(found.directories)
    ]
    return {
        "files": found.archived.files + sum(share.files for share in found.kept.values()),
        "bytes": found.archived.bytes + sum(share.bytes for share in found.kept.values()),
        "archive": _json_of_share(found.archived),
        "release": _json_of_share(found.released),
        "directories": directories,
        "kept": kept,
        "seconds": found.seconds,
        "days": found.days,
    }


def _json_of_share(share: "Share") -> dict[str, int]:
    return {"files": share.files, "bytes": share.bytes}


def _by_size(shares: dict[T, "Share"]) -> list[tuple[T, "Share"]]:
    return sorted(shares.items(), key=lambda one: one[1].bytes, reverse=True)


def _lines_of(found: "Forecast", request: "MountRequest") -> list[str]:
    settings = request.settings
    lines = [
        f"{rendering.shown_path(request.hot)} with {request.store_url}; nothing was changed",
        f"{_shown(found.archived)}  would be archived, unchanged for {settings.warm_after} (warm_after)",
        f"{_shown(found.released)}  of these would then be released, unchanged for {settings.cold_after} (cold_after)",
    ]
    lines += [f"{_shown(share)}  stay hot: {reason}" for reason, share in _by_size(found.kept)]
    directories = _by_size(found.directories)
    lines += ["what would be archived, by directory:"] if directories else []
    for path, share in directories[:_SHOWN_DIRECTORIES]:
        name = rendering.shown_absolute(request.mountpoint, path)
        lines.append(f"{_shown(share)}  {rendering.shown_path(name)}")
    rest = directories[_SHOWN_DIRECTORIES:]
    lines += [f"and {len(rest)} directories more; --json has them"] if rest else []
    if os.path.exists(os.path.join(request.state, "mount.json")):
        lines.append("it was mounted before: what is archived already is counted again")
    return lines


def _shown(share: "Share") -> str:
    return f"{share.files:>9} files {rendering.shown_size(share.bytes):>6}"


def _how_long(found: "Forecast", request: "MountRequest") -> str:
    settings = request.settings
    if found.seconds is None:
        return "as fast as the store takes it: neither upload_rate nor archive_rate is set"
    rates = [f"upload_rate {settings.upload_rate} per second"] if settings.upload_rate else []
    rates += [f"archive_rate {settings.archive_rate} files per minute"] if settings.archive_rate else []
    text = f"takes at least {_shown_time(found.seconds)} at {' and '.join(rates)}"
    if found.days is not None:
        text += f"; with archive_window {settings.archive_window}, {_shown_time(found.days * 86_400)} go by until then"
    return text


def _shown_time(seconds: float) -> str:
    """In two units: a migration is planned by the hour."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return "a minute"
    if hours < 1:
        return f"{minutes:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
