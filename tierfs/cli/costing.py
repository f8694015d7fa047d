"""cost: what the tree costs, would cost all hot, and would cost under the policy."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from tierfs.admin import registry
from tierfs.admin.client import Client
from tierfs.cli import rendering
from tierfs.cli.exits import Exit, exit_of
from tierfs.core.cost_report import shown
from tierfs.core.errors import TierfsError

_SECONDS_PER_HOUR = 3600


@click.command()
@click.argument("mountpoint", required=False)
@click.option("--prices", metavar="FILE", help="Price table (TOML), instead of the one of the mount.")
@click.option("--print-prices", is_flag=True, help="Print the table that comes with tierfs, to be edited.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the schema is described above.")
def cost(mountpoint: str | None, prices: str | None, print_prices: bool, as_json: bool) -> int:
    """Show what the tree of one mount, or of all mounts of this host, costs in a month, and what the last day cost.

    \b
    tierfs cost /srv/data
    tierfs cost --print-prices > /etc/tierfs/prices.toml     write your own prices into it
    tierfs cost /srv/data --prices /etc/tierfs/prices.toml

    Now: the files on the SSD, the chunk cache, and the objects in the store. All hot: the same files without a store.
    Policy: once all that is due by age is archived and released. Prices are those of the table, which says its date:
    without discounts, free allowances and taxes. The price of the SSD is yours to say (ssd_gb_month).

    Warnings say where the store bills more than there is: objects below the minimum size of their class, objects that
    went away, came back or changed before its minimum duration was over.

    With --json: one object for a MOUNTPOINT, an array of objects without. Dollars are decimal numbers as text.

    \b
    mountpoint, store  text
    prices         {storage_class, date, source, ssd_gb_month, store_gb_month}
    month          {now, all_hot, policy}: {ssd, store, total, ssd_bytes, objects, object_bytes, billed_bytes}
    day            {seconds, requests, bytes_uploaded, bytes_downloaded, retrieval, egress, total}; requests: operation
                   to {count, dollars}; seconds: how much of the last day was watched
    small_objects  {files, bytes, dollars, losing_files, losing_bytes, losing_dollars, pays_from_bytes}: below the
                   minimum size, and dearer in the store than on the SSD; under the policy, dollars by the month
    early          {deleted, restored, rewritten}: {files, bytes}, and dollars for deleted; before the minimum duration
    warnings       sentences
    """
    # Imported when needed: it brings pydantic.
    from tierfs.stores.price_file import builtin_prices, own_prices

    if print_prices:
        click.echo(builtin_prices(), nl=False)
        return Exit.OK
    own = own_prices(prices) if prices is not None else None
    if mountpoint is not None:
        found, failures = [_costs_of(registry.find_mountpoint(mountpoint), own)], list[TierfsError]()
    else:
        found, failures = _costs_of_all(own)
    if as_json:
        click.echo(json.dumps(found if mountpoint is None else found[0], indent=1))
    elif found or not failures:
        lines = [line for one in found for line in cost_lines(one)]
        click.echo("\n".join(lines or ["no tierfs mount on this host"]))
    for failure in failures:
        click.echo(f"tierfs: {failure}", err=True)
    return exit_of(failures[0]) if failures else Exit.OK


def _costs_of(mount: registry.Mount, own: str | None) -> dict[str, Any]:
    return {"mountpoint": mount.mountpoint, "store": mount.store, **Client.of(mount).costs(own)}


def _costs_of_all(own: str | None) -> tuple[list[dict[str, Any]], list[TierfsError]]:
    """What the mounts of this host cost, and why that is not known of others."""
    found, failures = list[dict[str, Any]](), list[TierfsError]()
    for mount in registry.mounts():
        try:
            found.append(_costs_of(mount, own))
        except TierfsError as error:
            failures.append(error)
    return found, failures


def cost_lines(costs: Mapping[str, Any]) -> Iterator[str]:
    """The figures of one mount, for a person."""
    prices, month = costs["prices"], costs["month"]
    name = f", {prices['storage_class']}" if prices["storage_class"] else ""
    place = f"{rendering.shown_path(costs['mountpoint'])}  {rendering.shown_path(costs['store'])}"
    yield click.style(place, bold=True) + name
    yield f"  {'':<9}{'SSD':>9}{'':>10}{'OBJECTS':>12}{'STORE':>9}{'':>10}{'A MONTH':>12}"
    for title, key in (("now", "now"), ("all hot", "all_hot"), ("policy", "policy")):
        one = month[key]
        ssd = f"{rendering.shown_size(one['ssd_bytes']):>9}{shown(one['ssd']):>10}"
        store = f"{one['objects']:>12}{rendering.shown_size(one['object_bytes']):>9}{shown(one['store']):>10}"
        yield f"  {title:<9}{ssd}{store}{shown(one['total']):>12}"
    yield from _day_lines(costs["day"])
    yield f"  prices   {prices['source']} ({prices['date']})"
    yield f"           the SSD at ${prices['ssd_gb_month']} a GB and month"
    for warning in costs["warnings"]:
        yield click.style(f"  warning: {warning}", fg="yellow")


def _day_lines(day: Mapping[str, Any]) -> Iterator[str]:
    if not day["requests"]:
        yield "  last day nothing was asked of the store"
        return
    hours = day["seconds"] / _SECONDS_PER_HOUR
    watched = "" if hours >= 23 else f" (of which {hours:.1f} hours were watched)"
    moved = f"{rendering.shown_size(day['bytes_uploaded'])} up, {rendering.shown_size(day['bytes_downloaded'])} down"
    back = f"retrieval {shown(day['retrieval'])}, egress {shown(day['egress'])}"
    yield f"  last day {shown(day['total'])}{watched}: {moved}; {back}"
    for name, one in sorted(day["requests"].items(), key=lambda item: -item[1]["count"]):
        yield f"    {name:<24}{one['count']:>10}{shown(one['dollars']):>12}"
