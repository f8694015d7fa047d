"""The commands that look at mounts and change nothing: status, metrics, ls."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import click

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.cli import rendering
from tierfs.cli.exits import Exit
from tierfs.cli.targets import group_by_mount
from tierfs.core.errors import ControlError
from tierfs.core.reports import Entry, Outcome

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON; the schema is described above.")


@click.command()
@click.argument("mountpoint", required=False)
@_JSON
def status(mountpoint: str | None, as_json: bool) -> int:
    """Show one mount, or all mounts of this host, in figures.

    \b
    tierfs status
    tierfs status /srv/data --json

    With --json: one object for a MOUNTPOINT, an array of objects without.

    \b
    mountpoint, store, hot_directory, state_directory, api, version   text
    hot, warm, cold    {files, bytes}; hot_disk: {size, free, level, high, low}, the filesystem of the hot tier
    as_of_ns           when hot files were looked at, ns since the epoch; in a large tree by the policy's last pass
    lost               {files, bytes}: those of the cold files whose bytes are gone; `ls -r` says which
    cold_reads         {reads, bytes_asked, bytes_fetched, gets, waits, deadline_misses, retries, corrupt_chunks};
                       waits: how long reads waited whose chunks were not in memory
    cache              {bytes, limit_bytes, hits, misses, bypassed, errors}
    store_io           {bytes_uploaded, bytes_downloaded, requests, requests_by_operation, first_byte}; first_byte: how
                       long GETs took until their answer began
    breaker            {reads, writes}: {state, failures, since_ns, next_try_ns, reason, opened, refused}; state: closed
                       (the store is asked), open (it failed and is spared), half-open (it is tried)
    cold_readers       [{command, uid, pid, name, access, bytes, restored, requests, files, denied, directory,
                       is_storm}]: what had to be fetched in the last minute, and for whom; the busiest first.
                       restored: of the bytes, for files that it writes to; denied: how often it was refused
    budgets            {hydrate, limited, restore, restore_limit}: {waiting, waited_s}; those that are set
    runway             {free_bytes, releasable_bytes, history_s, up, down, is_down}; up, down (the store): {state,
                       bytes_per_second, seconds}: until the hot tier is full; state: unknown, steady or filling
    queue              {archiving, restoring, deletions, moves}: what waits for the bucket
    errors             {reads, policy, files}: counts; files: path to reason
    passthrough, read_only   text: whether hot I/O goes past the daemon; true or false
    policy             {last_pass_ns, next_pass_ns, planned}: ns since the epoch
    warnings           sentences
    succession         {take_overs, seconds, requests_again, refused_upgrades}: from one worker to the next; seconds:
                       what the last take-over took
    worker_pid, supervisor_pid, cold_pid, cold_restarts
    unreachable        only for a mount that does not answer: why

    waits and first_byte are {count, sum_s, p50_s, p99_s, buckets}, in seconds; buckets are [upper bound, how many took
    at most so long].
    """
    known = [registry.find_mountpoint(mountpoint)] if mountpoint is not None else registry.mounts()
    if mountpoint is not None:
        found = [Client.of(known[0]).status()]
    else:
        found = [_status_or_why_not(mount) for mount in known]
    if as_json:
        click.echo(json.dumps(found if mountpoint is None else found[0], indent=1))
    else:
        _print_status(found)
    return Exit.NOT_RUNNING if any("unreachable" in one for one in found) else Exit.OK


def _status_or_why_not(mount: registry.Mount) -> dict[str, Any]:
    try:
        return Client.of(mount).status()
    except ControlError as error:
        return {"mountpoint": mount.mountpoint, "store": mount.store, "unreachable": str(error)}


def _print_status(found: list[dict[str, Any]]) -> None:
    if not found:
        click.echo("no tierfs mount on this host")
    for one in found:
        if "unreachable" in one:
            click.echo(f"tierfs: {one['unreachable']}", err=True)
        else:
            click.echo("\n".join(rendering.status_lines(one, time.time())))


@click.command()
@click.argument("mountpoint", required=False)
def metrics(mountpoint: str | None) -> int:
    """Print what one mount, or all mounts of this host, count, in the text format of Prometheus.

    \b
    tierfs metrics /srv/data
    tierfs metrics | grep cold_wait
    cd /var/lib/prometheus/node-exporter && tierfs metrics > .tierfs && mv .tierfs tierfs.prom

    The last line is what a timer runs, every minute or so, for the textfile collector of node_exporter: because of the
    rename it never reads half a file. A scraper that can talk HTTP to a Unix socket finds the same at /metrics of a
    mount's control socket.

    Counters begin with 0 when a mount is made, and never go down until it is taken away. Each sample has the label
    mountpoint. docs/METRICS.md says what each metric means, and which ones to watch.
    """
    known = [registry.find_mountpoint(mountpoint)] if mountpoint is not None else registry.mounts()
    texts, failures = list[str](), list[ControlError]()
    for mount in known:
        try:
            texts.append(Client.of(mount).metrics())
        except ControlError as error:
            failures.append(error)
    click.echo(_merged(texts), nl=False)
    for failure in failures:
        click.echo(f"tierfs: {failure}", err=True)
    return Exit.NOT_RUNNING if failures else Exit.OK


def _merged(texts: list[str]) -> str:
    if len(texts) < 2:
        return "".join(texts)
    # Imported when needed: it brings much of the engine.
    from tierfs.admin.metrics import merged

    return merged(texts)


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Everything below directories.")
@_JSON
def ls(paths: tuple[str, ...], recursive: bool, as_json: bool) -> int:
    """Show where the bytes of files are, and why they are not archived yet.

    \b
    tierfs ls /srv/data
    tierfs ls -r /srv/data --json | jq '.[] | select(.residency == "lost")'

    RESIDENCY is hot, archiving, mirrored, cold, restoring or lost; AGE is the time since the last change; CACHED is how
    much of a cold file is in the chunk cache.

    With --json: one array, an object per name.

    \b
    path          absolute path; bytes that are not UTF-8 as lone surrogates
    kind          file, directory, symlink or other
    residency     hot, archiving, mirrored, cold, restoring or lost
    tier          hot, warm or cold
    size          bytes
    mtime         seconds since the epoch
    key           key of the object, or null
    cached_bytes  bytes in the chunk cache
    pinned        true or false
    reason        why it is not archived (or not released) yet; may be empty
    """
    failures: list[tuple[str, str]] = []
    entries = _entries(paths, recursive, failures)
    if as_json:
        rendering.print_json_array(rendering.ls_json(entry, absolute) for entry, absolute in entries)
    else:
        _print_table(entries)
    for absolute, reason in failures:
        click.echo(f"tierfs: {rendering.shown_path(absolute)}: {reason}", err=True)
    return Exit.SOME_FAILED if failures else Exit.OK


def _entries(paths: tuple[str, ...], recursive: bool, failures: list[tuple[str, str]]) -> Iterator[tuple[Entry, str]]:
    for mount, inside in group_by_mount(paths):
        for found in Client.of(mount).list_entries(inside, recursive):
            absolute = rendering.shown_absolute(mount.mountpoint, found.path)
            if isinstance(found, Outcome):
                failures.append((absolute, found.reason))
            else:
                yield found, absolute


def _print_table(entries: Iterator[tuple[Entry, str]]) -> None:
    now, here = time.time(), os.getcwd()
    is_headed = not rendering.is_terminal()
    for entry, absolute in entries:
        if not is_headed:
            is_headed = True
            click.echo(rendering.LS_HEADER)
        click.echo(rendering.ls_line(entry, rendering.shown_near(absolute, here), now))
