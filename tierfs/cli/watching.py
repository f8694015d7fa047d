"""The commands that watch what goes on by itself: events, jobs."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.cli.exits import Exit
from tierfs.cli.rendering import (
    on_one_line,
    print_json_array,
    shown_absolute,
    shown_age,
    shown_duration,
    shown_path,
    shown_size,
)
from tierfs.cli.targets import one_mount
from tierfs.core.errors import ConfigError, ControlError, NoSuchJob
from tierfs.core.quantities import parse_age
from tierfs.core.reports import EventReport, JobReport, Outcome

_AGAIN_S = 0.1  # between two looks whether the next worker serves
_JOBS_HEADER = f"{'JOB':<10}{'VERB':<9}{'STATE':<11}{'FILES':>15}{'SIZE':>9}{'FAILED':>8}{'BEGAN':>8}"


@click.command()
@click.argument("mountpoint", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until interrupted.")
@click.option("--since", metavar="AGE", help="Only what is not older: 10m, 2h.")
@click.option("--after", metavar="NUMBER", type=click.IntRange(0), default=0, help="Only events with higher numbers.")
@click.option("--json", "as_json", is_flag=True, help="Print an object per line; the schema is described above.")
def events(mountpoint: str | None, follow: bool, since: str | None, after: int, as_json: bool) -> int:
    """Show what happened to a mount: the last ten thousand events since its worker began.

    \b
    tierfs events /srv/data --since 10m
    tierfs events -f                          with one mount on this host
    tierfs events --json | jq 'select(.kind == "failure")'

    An event is a file that has another residency, with the reason; a move that failed; a deletion or rename that
    reached the bucket; a pass of the policy that had something to do; the breaker, the lease, a storm of cold reads; a
    worker that took over; an operation that was slow. The log of the mount has a line for each.

    With -f, the next worker is followed when this one ends, until the mount is taken away. Nobody waits for who is slow
    to read: an event of the kind gap says that some are missing.

    With --json: a line for each, an object of

    \b
    number     higher for later ones, also those of the next worker; --after takes it
    time       seconds since the epoch
    kind       residency, failure, deletion, move, pass, room, snapshot, breaker, lease, storm, mount, take-over,
               cold-process, unfit, slow, job or gap
    path       absolute path; empty where it is about no file
    from, to   what was, and is: residencies (kind residency), or states
    reason     a sentence; may be empty
    bytes      size of the file where it moved, else 0
    duration   seconds that it took; 0 where nobody knows
    """
    mount = one_mount(mountpoint)
    if since is not None:
        try:
            oldest_ns = time.time_ns() - parse_age(since)
        except ValueError as error:
            raise ConfigError(f"--since: {error}") from None
    else:
        oldest_ns = 0
    for event in _followed(mount, after) if follow else Client.of(mount).events(after):
        if event.at_ns >= oldest_ns:
            shown = json.dumps(_event_json(event, mount)) if as_json else _event_line(event, mount)
            click.echo(shown)  # each is flushed: somebody waits for it
    return Exit.OK


def _followed(mount: registry.Mount, after: int) -> Iterator[EventReport]:
    """Events as they happen, of one worker after the other, until the mount is gone. ControlError."""
    has_heard = False
    while True:
        try:
            with closing(Client.of(mount).events(after, follow=True)) as found:
                for event in found:
                    has_heard = True
                    after = event.number
                    yield event
        except ControlError:
            if not has_heard:
                raise
            # Its worker has ended, or ends; the next one may not be there yet.
        again = [one for one in registry.mounts() if one.mountpoint == mount.mountpoint and one.is_alive]
        if not again:
            return
        mount = again[0]
        time.sleep(_AGAIN_S)


def _event_json(event: EventReport, mount: registry.Mount) -> dict[str, object]:
    return {
        "number": event.number,
        "time": event.at_ns / 1e9,
        "kind": event.kind,
        "path": shown_absolute(mount.mountpoint, event.path) if event.path else "",
        "from": event.before,
        "to": event.after,
        "reason": event.reason,
        "bytes": event.bytes,
        "duration": event.duration_ns / 1e9,
    }


def _event_line(event: EventReport, mount: registry.Mount) -> str:
    """Time, what it is, the path, and why, for a person."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at_ns / 1e9))
    turned = f"{event.before} > {event.after}" if event.kind == "residency" else f"{event.kind} {event.after}".rstrip()
    name = shown_path(shown_absolute(mount.mountpoint, event.path)) if event.path else ""
    figures = [shown_size(event.bytes)] if event.bytes else []
    figures += [shown_duration(event.duration_ns / 1e9)] if event.duration_ns else []
    parts = [name, f"({', '.join(figures)})" if figures else "", on_one_line(event.reason)]
    return f"{at}  {turned:<22}  {'  '.join(filter(None, parts))}".rstrip()


@click.command()
@click.argument("job", metavar="[ID]", required=False)
@click.option("--cancel", "cancelled", metavar="ID", help="End this job soon; what it had done stands.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the schema is described above.")
def jobs(job: str | None, cancelled: str | None, as_json: bool) -> int:
    """Show the jobs of all mounts of this host, or one of them and what failed of it.

    \b
    tierfs archive -r --background /srv/data/2023     prints an id
    tierfs jobs
    tierfs jobs 5f0c9a1e
    tierfs jobs --cancel 5f0c9a1e

    A job runs in the worker of its mount, and ends with it: an unmount, an upgrade or a crash cancels it, which is said
    here. What it had done stands; give the command again to go on. The last hundred that ended are remembered until the
    worker ends.

    With --json: an array of objects, with an ID one object.

    \b
    mountpoint               absolute path
    id, verb                 text; verb: archive, release or restore
    state                    running, done, failed (not every file did as it was told) or cancelled
    begun_ns, ended_ns       nanoseconds since the epoch; ended_ns is 0 while it runs
    files, bytes             what it is about, 0 until it has looked
    done, done_bytes         files that are through, without those that failed; bytes that moved
    failed                   files that failed
    reason                   a sentence; may be empty
    failures                 (with an ID) {path, reason}, a thousand at most
    """
    if cancelled is not None:
        if job is not None:
            raise click.UsageError("--cancel takes the ID", click.get_current_context())
        mount = _mount_with(cancelled)
        found = Client.of(mount).cancel_job(cancelled)
        click.echo(json.dumps(_job_json(found, mount), indent=1) if as_json else _job_line(found))
        return Exit.OK
    if job is None:
        return _list_jobs(as_json)
    mount = _mount_with(job)
    found, failures = Client.of(mount).job(job)
    if as_json:
        failed = [{"path": shown_absolute(mount.mountpoint, one.path), "reason": one.reason} for one in failures]
        click.echo(json.dumps({**_job_json(found, mount), "failures": failed}, indent=1))
    else:
        _print_job(found, failures, mount)
    return Exit.SOME_FAILED if found.state == "failed" else Exit.OK


def _list_jobs(as_json: bool) -> int:
    known = [(one, mount) for mount in registry.mounts() if mount.is_alive for one in Client.of(mount).jobs()]
    if as_json:
        print_json_array(_job_json(one, mount) for one, mount in known)
    elif known:
        click.echo(_JOBS_HEADER)
        for one, _ in known:
            click.echo(_job_line(one))
    else:
        click.echo("no jobs")
    return Exit.OK


def _mount_with(job_id: str) -> registry.Mount:
    """The mount that has a job of this id. NoSuchJob."""
    for mount in registry.mounts():
        if mount.is_alive and any(one.id == job_id for one in Client.of(mount).jobs()):
            return mount
    raise NoSuchJob(f"no mount of this host has a job {job_id!r}: `tierfs jobs` lists those that are known")


def _job_json(job: JobReport, mount: registry.Mount) -> dict[str, Any]:
    names = JobReport.__dataclass_fields__
    return {"mountpoint": mount.mountpoint, **{name: getattr(job, name) for name in names}}


def _job_line(job: JobReport) -> str:
    """One line of the table, and the reason below it where there is one."""
    files = f"{job.done + job.failed} of {job.files}" if job.files or job.state != "running" else "looking"
    began = shown_age(time.time() - job.begun_ns / 1e9)
    line = (
        f"{job.id:<10}{job.verb:<9}{job.state:<11}{files:>15}{shown_size(job.done_bytes):>9}{job.failed:>8}{began:>8}"
    )
    return f"{line}\n  {on_one_line(job.reason)}" if job.reason else line


def _print_job(job: JobReport, failures: list[Outcome], mount: registry.Mount) -> None:
    click.echo(_JOBS_HEADER)
    click.echo(_job_line(job))
    for one in failures:
        click.echo(f"  {shown_path(shown_absolute(mount.mountpoint, one.path))}: {on_one_line(one.reason)}")
    if job.failed > len(failures):
        click.echo(f"  and {job.failed - len(failures)} more")
