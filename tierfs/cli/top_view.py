"""What `tierfs top` shows of one look: lines of text for a width and a height. Pure, but for the time zone."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from tierfs.cli.rendering import on_one_line, outlook, shown_age, shown_duration, shown_path, shown_size
from tierfs.cli.top_rates import Rates, allotted
from tierfs.cli.top_watch import Seen

#: From so many columns on, sections stand side by side.
_WIDE = 140
_MOST_ROWS = 20  # of a section where there is no height to keep to
_STATE_STYLES = {"closed": "green", "half-open": "yellow", "open": "bold red"}
_TIER_STYLES = {"hot": "red", "warm": "yellow", "cold": "cyan"}
_VERB_STYLES = {"archive": "yellow", "restore": "red", "read": "cyan"}
_FULL, _HIGH = 0.9, 0.75


@dataclass(frozen=True, slots=True)
class Paper:
    """What is written on: columns, rows (None: as many as it takes), its corner, and what bars are made of."""

    width: int
    height: int | None
    corner: str = ""
    filled: str = "█"
    empty: str = "░"


def screen(seen: Seen, paper: Paper) -> list[Text]:
    """All lines, each as wide as the paper at most, and no more than it has rows."""
    rates = Rates.between(seen.before, seen.activity)
    lines = [
        *_head(seen, rates, paper),
        *_tiers(seen, rates, paper),
        *_throughput(rates),
        *_latencies(rates, paper.width),
    ]
    for line in lines:
        line.truncate(paper.width, overflow="ellipsis")
    left = None if paper.height is None else max(0, paper.height - len(lines))
    return [*lines, *_sections(seen, rates, paper, left)][: paper.height]


# -- the head ---------------------------------------------------------------------------------------------------------


def _head(seen: Seen, rates: Rates, paper: Paper) -> list[Text]:
    now, status = seen.activity, seen.status
    at = time.strftime("%H:%M:%S", time.localtime(now["as_of_ns"] / 1e9))
    first = Text(f"{shown_path(seen.mount.mountpoint)}  {shown_path(seen.mount.store)}", "bold")
    _at_the_end(first, Text(f"{at}, over {shown_duration(rates.seconds)}{paper.corner}", "dim"), paper.width)
    lease, store = status.get("lease") or {}, now["store"]
    parts = [
        Text(f"store {_STORE_WORDS.get(store['state'], 'not known')}", _STATE_STYLES.get(store["state"], "dim")),
        *([Text(f"lease {lease['state']}", "" if lease["state"] == "held" else "bold red")] if lease else []),
        Text(f"I/O {now['io_mode']}"),
        *([Text(f"queue: {queue}")] if (queue := _queue(status.get("queue") or {})) else []),
        Text(f"{status.get('fuse', {}).get('open_files', 0)} open files"),
        Text(f"worker {now['worker_pid']} for {shown_age((now['as_of_ns'] - now['since_ns']) / 1e9)}"),
    ]
    lines = [first, Text(", ").join(parts)]
    lines += [Text(seen.trouble, "bold red")] if seen.trouble else []
    lines += [Text(f"store: {on_one_line(store['reason'])}", "red")] if store["reason"] else []
    warnings = status.get("warnings") or []
    more = f" (and {len(warnings) - 1} more: tierfs status)" if len(warnings) > 1 else ""
    lines += [Text(f"warning: {on_one_line(warnings[0])}{more}", "yellow")] if warnings else []
    return lines


_STORE_WORDS = {"closed": "asked", "open": "spared", "half-open": "tried"}


def _queue(queue: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in queue.items() if count)


def _at_the_end(line: Text, end: Text, width: int) -> None:
    """Put something at the right end of a line, which is cut off for it."""
    line.truncate(max(0, width - end.cell_len - 2), overflow="ellipsis", pad=True)
    line.append("  ")
    line.append_text(end)


# -- tiers ------------------------------------------------------------------------------------------------------------


def _tiers(seen: Seen, rates: Rates, paper: Paper) -> list[Text]:
    status, cache = seen.status, seen.activity["cache"]
    counted = Text()
    for tier in ("hot", "warm", "cold"):
        counted.append(f"{tier} ", _TIER_STYLES[tier])
        counted.append(f"{status[tier]['files']:,} files {shown_size(status[tier]['bytes'])}   ")
    if lost := (status.get("lost") or {}).get("files"):
        counted.append(f"lost {lost:,}", "bold red")
    lines = [counted]
    if disk := status.get("hot_disk"):
        used = disk["size"] - disk["free"]
        line = _bar("disk", used, disk["size"], paper)
        line.append(f" of {shown_size(disk['size'])}; {_runway(status.get('runway'))}")
        lines.append(line)
    line = _bar("cache", cache["bytes"], cache["limit_bytes"], paper, is_good_when_full=True)
    share, chunks = rates.hit_share(), rates.per_second("cache", "hits") + rates.per_second("cache", "misses")
    hits = "nothing asked of it" if share is None else f"{100 * share:.0f}% hits of {_number(chunks)} chunks/s"
    line.append(f" of {shown_size(cache['limit_bytes'])}; {hits}")
    return [*lines, line]


def _runway(runway: Mapping[str, Any] | None) -> str:
    if not runway:
        return "when it is full is not known"
    now = runway["down" if runway["is_down"] else "up"]
    return "not known yet when it is full" if now["state"] == "unknown" else outlook(now)


def _bar(name: str, part: float, whole: float, paper: Paper, is_good_when_full: bool = False) -> Text:
    """A name, a bar and a percentage."""
    share = min(1.0, max(0.0, part / whole)) if whole else 0.0
    style = "cyan" if is_good_when_full else "red" if share >= _FULL else "yellow" if share >= _HIGH else "green"
    line = Text(f"{name:<6}")
    line.append_text(_plain_bar(share, max(10, min(40, paper.width // 4)), paper, style))
    line.append(f" {100 * share:3.0f}%")
    return line


def _plain_bar(share: float, cells: int, paper: Paper, style: str) -> Text:
    full = round(share * cells)
    return Text.assemble((paper.filled * full, style), (paper.empty * (cells - full), "dim"))


# -- how fast ---------------------------------------------------------------------------------------------------------


def _throughput(rates: Rates) -> list[Text]:
    """Bytes per second. What the kernel passes through is not seen: then how the disk grows stands there."""
    rows = (
        ("read", _hot(rates, "read_hot"), "read_cold", "read_cached", "downloaded", "down"),
        ("written", _hot(rates, "written_hot"), None, None, "uploaded", "up"),
    )
    lines = [Text(f"{'bytes/s':<9}{'hot':>22}{'cold':>10}{'of cache':>10}{'store':>15}", "dim")]
    for name, hot, cold, cached, store, way in rows:
        cells = [_rate(rates.per_second("bytes", one)) if one else "" for one in (cold, cached, store)]
        lines.append(Text(f"{name:<9}{hot:>22}{cells[0]:>10}{cells[1]:>10}{cells[2]:>10} {way:<4}".rstrip()))
    return lines


def _hot(rates: Rates, name: str) -> str:
    seen = rates.per_second("bytes", name)
    if not rates.now["unseen"] or seen:
        return f"{'' if not rates.now['unseen'] else 'at least '}{_rate(seen)}"
    if name == "read_hot":
        return "by the kernel"
    grown = rates.change("bytes", "grown_hot") / rates.seconds
    return f"disk {'-' if grown < 0 else '+'}{_rate(abs(grown))}"


def _rate(bytes_per_second: float) -> str:
    return shown_size(bytes_per_second) if bytes_per_second >= 0.5 else "0"


def _number(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 9.95 else f"{per_second:.1f}"


def _latencies(rates: Rates, width: int) -> list[Text]:
    operations = rates.operations()
    line = Text("ops      ")
    line.append(f"{_number(sum(rate for _, rate, _ in operations))}/s", "bold")
    for name, rate, mean_s in operations:
        took = f" {_microseconds(mean_s)}" if mean_s is not None else ""
        if not _appended(line, Text(f"  {name} {_number(rate)}{took}"), width):
            break
    waits = rates.now["cold_waits"]
    waited = Text(f"waits    {_number(rates.per_second('cold_waits', 'count'))}/s of cold reads{_quantiles(waits)}")
    if waits["p50_s"] is not None:
        waited.append(f" of the last {rates.now['latencies_over_s']:.0f}s", "dim")
    return [line, waited, _requests(rates, width)]


def _appended(line: Text, more: Text, width: int) -> bool:
    """Append what fits as a whole; whether it did."""
    if line.cell_len + more.cell_len > width:
        return False
    line.append_text(more)
    return True


def _requests(rates: Rates, width: int) -> Text:
    """Requests to the store that are made now, the most first, and those of the last minutes."""
    requests = rates.now["store"]["requests"]
    speeds = {name: rates.per_second("store", "requests", name, "count") for name in requests}
    found = [name for name in requests if speeds[name] or requests[name]["p50_s"] is not None]
    line, is_first = Text("store    "), True
    for name in sorted(found, key=lambda name: (-speeds[name], -requests[name]["count"])):
        more = Text("" if is_first else ", ")
        failed = rates.more("store", "requests", name, "failed")
        more.append(f"{_SHORT.get(name, name)} {_number(speeds[name])}/s{_quantiles(requests[name])}")
        more.append(f" {failed:.0f} failed" if failed else "", "bold red")
        if not _appended(line, more, width):
            break
        is_first = False
    return line if found else line.append("nothing asked of it", "dim")


_SHORT = {
    "GetObject": "GET",
    "PutObject": "PUT",
    "HeadObject": "HEAD",
    "ListObjectsV2": "LIST",
    "DeleteObject": "DELETE",
    "UploadPart": "PART",
    "CopyObject": "COPY",
}


def _quantiles(one: Mapping[str, Any]) -> str:
    if one["p50_s"] is None:
        return ""
    return f" p50 {shown_duration(one['p50_s'])} p99 {shown_duration(one['p99_s'])}"


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}us" if seconds < 0.0005 else shown_duration(seconds)


# -- sections ---------------------------------------------------------------------------------------------------------

_Row = Callable[[Mapping[str, Any], int], Text]


def _sections(seen: Seen, rates: Rates, paper: Paper, rows: int | None) -> list[Text]:
    """What moves, what is used, what went wrong: those that have something, with as many rows as there are."""
    now = seen.activity
    transfers = ("TRANSFERS", now["transfers"], lambda one, width: _transfer(one, rates, paper, width))
    hottest = ("HOTTEST FILES", now["hottest"], _hot_file)
    errors = ("LAST ERRORS", list(reversed(now["errors"])), _error)
    if paper.width >= _WIDE and now["hottest"] and (now["transfers"] or now["errors"]):
        half = paper.width // 2 - 1
        left = _stacked([transfers, errors], half, rows)
        right = _stacked([hottest], paper.width - half - 2, rows)
        return _beside(left, right, half)
    return _stacked([transfers, hottest, errors], paper.width, rows)


def _stacked(
    sections: Sequence[tuple[str, Sequence[Mapping[str, Any]], _Row]], width: int, rows: int | None
) -> list[Text]:
    filled = [section for section in sections if section[1]]
    wanted = [min(_MOST_ROWS, len(items)) for _, items, _ in filled]
    given = wanted if rows is None else allotted(wanted, rows - len(filled))
    lines: list[Text] = []
    for (title, items, row), count in zip(filled, given, strict=True):
        if count:
            head = Text(f"{title} ({len(items)})" if len(items) > count else title, "reverse")
            head.truncate(width, pad=True)
            lines += [head, *(row(item, width) for item in items[:count])]
    return lines


def _beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    lines = []
    for index in range(max(len(left), len(right))):
        line = left[index].copy() if index < len(left) else Text()
        line.truncate(width, pad=True)
        if index < len(right):
            line.append("  ")
            line.append_text(right[index])
        lines.append(line)
    return lines


def _transfer(one: Mapping[str, Any], rates: Rates, paper: Paper, width: int) -> Text:
    share = one["done_bytes"] / one["bytes"] if one["bytes"] else 0.0
    left_s = rates.time_left_s(one)
    line = Text(f"{one['verb']:<8}", _VERB_STYLES[one["verb"]])
    line.append_text(_plain_bar(min(1.0, share), 12, paper, "green"))
    left = f"{shown_age(left_s)} left" if left_s is not None else ""
    line.append(f" {100 * min(1.0, share):3.0f}% of {shown_size(one['bytes']):>5} {left:>9}  ")
    return _with_path(line, one["path"], width)


def _hot_file(one: Mapping[str, Any], width: int) -> Text:
    line = Text(f"{one['tier']:<5}", _TIER_STYLES[one["tier"]])
    read = f"{shown_size(one['bytes'])} read" if one["bytes"] else ""
    line.append(f"{one['opens']:>8,.0f} opens {read:>11}  ")
    return _with_path(line, one["path"], width)


def _error(one: Mapping[str, Any], width: int) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(one["at_ns"] / 1e9))
    name = f"{shown_path(one['path'])}: " if one["path"] and one["path"] not in one["error"] else ""
    line = Text(f"{at}  {one['operation']}  ", "red")
    line.append(f"{name}{on_one_line(one['error'])}", "")
    line.truncate(width, overflow="ellipsis")
    return line


def _with_path(line: Text, path: str, width: int) -> Text:
    """A line that ends with a path; of one that is too long the end is what tells files apart."""
    shown = shown_path(path)
    room = max(1, width - line.cell_len)
    while Text(shown).cell_len > room:
        shown = "…" + shown[2:] if shown.startswith("…") else "…" + shown[1:]
        if len(shown) <= 1:
            break
    line.append(shown, "")
    return line


def plain(lines: Iterable[Text]) -> str:
    """The lines without their looks."""
    return "\n".join(line.plain.rstrip() for line in lines)
