"""How paths, sizes, ages and figures are shown to people and to scripts."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from tierfs.core.reports import Entry
from tierfs.core.runway import shown_hours

_BINARY = "KMGTPE"
_AGES = ((7 * 86_400 * 10, "w", 7 * 86_400), (86_400, "d", 86_400), (3_600, "h", 3_600), (60, "m", 60), (0, "s", 1))
_MOST_READERS = 5
_OLD_S = 5.0  # figures younger than this are as good as new
_STYLES = {"hot": "red", "warm": "yellow", "cold": "cyan"}

#: What `ls` prints above its columns, on a terminal.
LS_HEADER = f"{'RESIDENCY':<10}{'SIZE':>9}{'AGE':>6}{'CACHED':>9}  PATH"


def is_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def shown_path(path: str) -> str:
    """A path on one line: as it is where that is possible, else quoted as the shell reads it ($'...')."""
    if path.isprintable() and not any("\udc80" <= char <= "\udcff" for char in path):
        return path
    parts = []
    for char in path:
        if char in "\\'":
            parts.append("\\" + char)
        elif char.isprintable():
            parts.append(char)
        else:
            parts.append("".join(f"\\x{byte:02x}" for byte in os.fsencode(char)))
    return f"$'{''.join(parts)}'"


def on_one_line(text: str) -> str:
    """What somebody said, without what could break a line or change a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def shown_size(size: float) -> str:
    """Bytes in three digits and a binary unit: 0, 512, 1.5K, 10M."""
    if size < 1024:
        return f"{size:.0f}"
    power = 0
    while size >= 1023.5 and power < len(_BINARY):
        size /= 1024
        power += 1
    return f"{size:.1f}{_BINARY[power - 1]}" if size < 9.95 else f"{size:.0f}{_BINARY[power - 1]}"


def shown_duration(seconds: float) -> str:
    """How long something took, in two digits or more: 0.4ms, 12ms, 1.5s, 30s."""
    if seconds < 0.995:
        return f"{seconds * 1e3:.1f}ms" if seconds < 0.00995 else f"{seconds * 1e3:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"


def shown_age(seconds: float) -> str:
    """A duration in its largest unit: 40s, 12m, 5h, 3d, 20w; the future is 0s."""
    seconds = max(0.0, seconds)
    for least, unit, factor in _AGES:
        if seconds >= least:
            return f"{seconds // factor:.0f}{unit}"
    return "0s"


def shown_absolute(mountpoint: str, path: bytes) -> str:
    """The absolute path of a path in a mount."""
    inside = os.fsdecode(path)
    return f"{mountpoint.rstrip('/')}/{inside}" if inside else mountpoint


def shown_near(absolute: str, directory: str) -> str:
    """A path as a person in `directory` would write it."""
    below = directory.rstrip("/") + "/"
    return absolute[len(below) :] if absolute.startswith(below) and absolute != below else absolute


def ls_line(entry: Entry, name: str, now: float) -> str:
    """One line of `ls`: columns of fixed width, so that it can be printed as it comes."""
    age = shown_age(now - entry.mtime_ns / 1e9)
    cached = shown_size(entry.cached_bytes) if entry.cached_bytes else "-"
    residency = (
        click.style(f"{entry.residency:<10}", fg=_STYLES[entry.tier]) if is_terminal() else f"{entry.residency:<10}"
    )
    notes = ["pinned"] if entry.pinned else []
    notes += [f"key {shown_path(entry.key)}"] if entry.key is not None else []
    notes += [entry.reason] if entry.reason and entry.reason not in notes else []
    if entry.kind == "directory":
        return f"{'-':<10}{'-':>9}{age:>6}{'-':>9}  {shown_path(name)}/{f'  ({notes[0]})' if entry.pinned else ''}"
    suffix = f"  ({'; '.join(notes)})" if notes else ""
    return f"{residency}{shown_size(entry.size):>9}{age:>6}{cached:>9}  {shown_path(name)}{suffix}"


def ls_json(entry: Entry, absolute: str) -> dict[str, object]:
    """The object of one entry in `ls --json`."""
    seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
    return {
        "path": absolute,
        "kind": entry.kind,
        "residency": str(entry.residency),
        "tier": str(entry.tier),
        "size": entry.size,
        "mtime": seconds + 1e-9 * nanoseconds,
        "key": entry.key,
        "cached_bytes": entry.cached_bytes,
        "pinned": entry.pinned,
        "reason": entry.reason,
    }


def print_json_array(objects: Iterable[Mapping[str, object]]) -> int:
    """Print one JSON array, an object per line, as they come, closed even after an error; return how many."""
    count = 0
    try:
        for value in objects:
            click.echo(("[\n" if count == 0 else ",\n") + json.dumps(value), nl=False)
            count += 1
    finally:
        click.echo("\n]" if count else "[]")
    return count


def status_lines(status: Mapping[str, Any], now: float) -> list[str]:
    """The figures of one mount, for a person."""
    mountpoint, hot = str(status["mountpoint"]), str(status.get("hot_directory", ""))
    place = "in place" if hot == mountpoint else f"hot tier in {shown_path(hot)}"
    mode = ", read-only" if status.get("read_only") else ""
    lines = [
        click.style(f"{shown_path(mountpoint)}  {shown_path(str(status['store']))}", bold=True) + f"  ({place}{mode})"
    ]
    for tier in ("hot", "warm", "cold"):
        figures = status[tier]
        lines.append(f"  {tier:<8}{figures['files']:>9} files {shown_size(figures['bytes']):>9}")
    lines += _age_of_figures(status.get("as_of_ns") or 0, now)
    lost = (status.get("lost") or {}).get("files")
    lines += [click.style(f"  lost    {lost:>9} files: `tierfs ls -r` says which", fg="red")] if lost else []
    lines += [f"  reads   {line}" for line in _cold_reads(status.get("cold_reads") or {}, status["store_io"])]
    lines += [f"  cold readers: {line}" for line in _cold_readers(status.get("cold_readers") or ())]
    lines += [f"  budgets {line}" for line in _budgets(status.get("budgets") or {})]
    lines.append(f"  cache   {_cache(status['cache'])}")
    lines.append(f"  store   {_store_io(status['store_io'])}")
    lines += [click.style(f"  breaker {line}", fg="red") for line in _breakers(status.get("breaker") or {}, now)]
    lines += [f"  runway  {_runway(status['runway'])}"] if status.get("runway") else []
    lines.append(f"  queue   {_counts(status['queue'])}; errors {_counts(status['errors'])}")
    lines.append(f"  policy  {_policy(status.get('policy') or {}, now)}")
    pids = ", ".join(f"{name} {status.get(f'{name}_pid')}" for name in ("worker", "cold", "supervisor"))
    lines.append(f"  passthrough {status.get('passthrough')}, {pids}")
    failed = status["errors"].get("files") or {}
    lines += [click.style(f"  error: {shown_path(path)}: {reason}", fg="red") for path, reason in failed.items()]
    lines += [click.style(f"  warning: {warning}", fg="yellow") for warning in status.get("warnings") or ()]
    return lines


def _age_of_figures(as_of_ns: int, now: float) -> list[str]:
    """Of when the figures of the tiers are, where that matters: many files, and one look at all takes long."""
    age = now - as_of_ns / 1e9
    return [f"  counted {shown_age(age)} ago, kept up with what was moved since"] if as_of_ns and age > _OLD_S else []


def _cold_reads(reads: Mapping[str, Any], io: Mapping[str, Any]) -> list[str]:
    """How long cold reads waited, and the store took; nothing before there was one."""
    if not reads.get("reads"):
        return []
    waits, first_byte = reads["waits"], io["first_byte"]
    waited = f"{waits['count']} of {reads['reads']} cold reads waited"
    late = f", {reads['deadline_misses']} in vain" if reads["deadline_misses"] else ""
    return [f"{waited}{_quantiles(waits)}{late}; first byte of the store{_quantiles(first_byte) or ': none'}"]


def _cold_readers(readers: Iterable[Mapping[str, Any]]) -> list[str]:
    """Who had cold bytes fetched in the last minute, the busiest first."""
    lines = []
    for one in list(readers)[:_MOST_READERS]:
        files = f"{shown_size(one['bytes'])} from {one['files']} files in 60 s"
        notes = [f"most below /{one['directory']}"] if one["directory"] else []
        notes += [f"{shown_size(one['restored'])} of it to be written to"] if one["restored"] else []
        notes += [f"refused {one['denied']} times"] if one["denied"] else []
        notes += ["limited"] if one["access"] == "limit" else []
        text = f"{shown_path(one['name'])}: {files}{', ' if notes else ''}{', '.join(notes)}"
        lines.append(click.style(f"{text}: a storm", fg="yellow") if one["is_storm"] else text)
    return lines


def _budgets(budgets: Mapping[str, Any]) -> list[str]:
    """Those that somebody waits for now."""
    waiting = [f"{one['waiting']} wait for {name}" for name, one in budgets.items() if one["waiting"]]
    return [", ".join(waiting)] if waiting else []


def _quantiles(durations: Mapping[str, Any]) -> str:
    if not durations["count"]:
        return ""
    return f": p50 {shown_duration(durations['p50_s'])}, p99 {shown_duration(durations['p99_s'])}"


def _cache(cache: Mapping[str, Any]) -> str:
    hits, misses = cache["hits"], cache["misses"]
    rate = f", {100 * hits / (hits + misses):.0f}% hits" if hits + misses else ""
    return f"{shown_size(cache['bytes'])} of {shown_size(cache['limit_bytes'])}{rate}"


def _store_io(io: Mapping[str, Any]) -> str:
    moved = f"{shown_size(io['bytes_uploaded'])} up, {shown_size(io['bytes_downloaded'])} down"
    return f"{moved}, {io['requests']} requests"


def _runway(runway: Mapping[str, Any]) -> str:
    """Until when the hot tier has room, as things are and with the store down."""
    up, down = runway["up"], runway["down"]
    if up["state"] == "unknown":
        return f"when the hot tier is full is known after half an hour; watched for {shown_age(runway['history_s'])}"
    if runway["is_down"]:
        return f"{outlook(down)}; the store is down"
    return f"{outlook(up)}; with the store down: {outlook(down)}"


def outlook(outlook: Mapping[str, Any]) -> str:
    """When a disk is full."""
    if outlook["state"] != "filling":
        return "not filling"
    rate = shown_size(outlook["bytes_per_second"] * 3600)
    return f"full in {shown_hours(outlook['seconds'])} at {rate} an hour"


def _breakers(breakers: Mapping[str, Any], now: float) -> list[str]:
    """A line for each kind of request that the store is spared from."""
    return [
        f"{health['state']} for {kind} since {shown_age(now - health['since_ns'] / 1e9)}: {health['failures']} failures"
        f" in a row, next try in {shown_age(health['next_try_ns'] / 1e9 - now)}: {health['reason']}"
        for kind, health in breakers.items()
        if health["state"] != "closed"
    ]


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count and isinstance(count, int)) or "none"


def _policy(policy: Mapping[str, Any], now: float) -> str:
    last, following = policy.get("last_pass_ns"), policy.get("next_pass_ns")
    parts = [f"last pass {shown_age(now - last / 1e9)} ago" if last else "no pass yet"]
    parts += [f"next in {shown_age(following / 1e9 - now)}"] if following else []
    parts += [f"{policy['planned']} planned"] if policy.get("planned") else []
    return ", ".join(parts)
