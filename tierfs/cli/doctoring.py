"""doctor: what is wrong, what it means, what to do."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import click

from tierfs.admin import registry
from tierfs.cli.exits import Exit
from tierfs.cli.flags import SettingsCommand, settings_options
from tierfs.cli.mounting import default_state, request_of, unasked
from tierfs.cli.rendering import is_terminal, shown_path
from tierfs.cli.sources import Gathered, gather
from tierfs.core.config import MountRequest, Settings
from tierfs.core.diagnosis import Diagnosis, Verdict, worst
from tierfs.core.errors import ConfigError, ControlError
from tierfs.doctor.patient import Patient
from tierfs.doctor.visit import visit
from tierfs.stores.state import request_in

_COLOURS = {Verdict.OK: "green", Verdict.SKIPPED: "blue", Verdict.WARNING: "yellow", Verdict.PROBLEM: "red"}
_PLURALS = {Verdict.WARNING: "warnings", Verdict.PROBLEM: "problems"}


@click.command(cls=SettingsCommand)
@click.argument("store", required=False)
@click.argument("mountpoint", required=False)
@click.option("--hot", metavar="DIR", help="Hot directory, when it is not the mountpoint itself.")
@click.option("--state", metavar="DIR", help="State directory, when it is not the usual one.")
@click.option("--quick", is_flag=True, help="Do not measure how fast the bucket is.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the schema is described above.")
@settings_options
def doctor(
    store: str | None,
    mountpoint: str | None,
    hot: str | None,
    state: str | None,
    quick: bool,
    as_json: bool,
    config: str | None,
    **flags: object,
) -> int:
    """Look for what is wrong: on this host, with a mount that is to be made, or with one that runs.

    \b
    tierfs doctor                               this host, and its mounts
    tierfs doctor s3://my-bucket /srv/data      before the first mount; takes what `tierfs mount` takes
    tierfs doctor --config /etc/tierfs/data.toml
    tierfs doctor /srv/data                     a mount that runs, or did last
    tierfs doctor /srv/data --json | jq '.checks[] | select(.verdict == "problem")'

    Kernel, /dev/fuse, privileges, limits, libraries; the hot directory's filesystem, and whether the kernel passes its
    files through; the state directory and the catalog; disks; the way to the store, its clock, credentials, each action
    of IAM by itself, what the server cannot do, who has the lease, how fast it is; the mounts of this host.

    A mount that runs is not disturbed: the lease and the catalog are only read, no path below a mountpoint is touched,
    and what is written to the bucket lies below PREFIX/.tierfs/ and is removed again. What hangs is given up and said.

    Exit code: 0 without a problem (there may be warnings), 10 with one.

    With --json: one object.

    \b
    verdict   ok, warning or problem: the worst of all
    checks    [{subject, verdict, found, meaning, remedy}]; verdict may also be skipped (it could not be looked at);
              meaning and remedy are empty where there is nothing to explain
    """
    if store is not None and mountpoint is None and "://" not in store:
        store, mountpoint = None, store
    where = {"store": store, "mountpoint": mountpoint, "hot": hot, "state": state}
    return _tell(visit(_patient(config, where | flags, quick)), as_json)


def _tell(diagnoses: Iterable[Diagnosis], as_json: bool) -> int:
    """Print what is found, as it is found; the exit code."""
    found: list[Diagnosis] = []
    for diagnosis in diagnoses:
        found.append(diagnosis)
        if not as_json:
            click.echo(_text(diagnosis))
    verdict = worst(found)
    if as_json:
        click.echo(json.dumps({"verdict": _told(verdict), "checks": [asdict(one) for one in found]}, indent=1))
    else:
        click.echo(_sum(found))
    return Exit.TROUBLE if verdict is Verdict.PROBLEM else Exit.OK


def _patient(config: str | None, flags: Mapping[str, object], is_quick: bool) -> Patient:
    """Who is meant. Nothing is asked of a mountpoint, which may be stuck. click.UsageError."""
    try:
        gathered = gather(config, os.environ, flags)
        request = _request(gathered)
    except ConfigError as error:
        return Patient(complaint=str(error), is_quick=is_quick)
    return Patient(request, _running(request.mountpoint) if request else None, is_quick=is_quick)


def _request(gathered: Gathered) -> MountRequest | None:
    """The mount that was described, or the one that was made last with the same mountpoint. ConfigError."""
    where = gathered.where
    if "store" in where and "mountpoint" in where:
        return request_of(gathered, foreground=False, is_kept=True)
    if "store" in where:
        raise click.UsageError("a STORE is mounted somewhere: name the MOUNTPOINT, too", click.get_current_context())
    if "mountpoint" not in where:
        return None
    mountpoint = unasked(str(where["mountpoint"].value))
    running = _running(mountpoint)
    if "state" in where:
        state = os.path.abspath(str(where["state"].value))
    else:
        state = running.state_directory if running else default_state(mountpoint)
    try:
        told = request_in(Path(state))
    except ConfigError:
        raise click.UsageError(
            f"nothing is mounted at {mountpoint}, and {state} knows of nothing that was: name the STORE, too",
            click.get_current_context(),
        ) from None
    settings = Settings.of(**told["settings"])
    return MountRequest(told["source"], told["mountpoint"], told["hot"], state, settings)


def _running(mountpoint: str) -> registry.Mount | None:
    """The mount that is served there now."""
    with suppress(ControlError):
        return next((one for one in registry.mounts() if one.mountpoint == mountpoint and one.is_alive), None)
    return None


def _text(one: Diagnosis) -> str:
    verdict = f"{one.verdict:<8}"
    shown = click.style(verdict, fg=_COLOURS[one.verdict]) if is_terminal() else verdict
    lines = [f"{shown} {shown_path(f'{one.subject}: {one.found}')}"]  # a server may say anything
    lines += [f"{'':<9}{shown_path(one.meaning)}"] if one.meaning else []
    lines += [f"{'':<9}to do: {shown_path(one.remedy)}"] if one.remedy else []
    return "\n".join(lines)


def _sum(found: list[Diagnosis]) -> str:
    counts = Counter(one.verdict for one in found)
    shown = [
        f"{counts[one]} {plural if counts[one] != 1 else plural[:-1]}" for one, plural in reversed(_PLURALS.items())
    ]
    return f"{', '.join(shown)}, {counts[Verdict.OK]} ok"


def _told(verdict: Verdict) -> str:
    """The verdict over all: what could not be looked at is no verdict."""
    return Verdict.OK if verdict is Verdict.SKIPPED else verdict
