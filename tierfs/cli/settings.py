"""config: what the settings are, and whether they make sense."""

import json
import os

import click

from tierfs.cli.flags import SettingsCommand, settings_options
from tierfs.cli.sources import gather, sample
from tierfs.core.config import HEADINGS, Settings
from tierfs.core.profiles import PROFILES
from tierfs.core.toml import toml_of, toml_of_setting


@click.group(name="config")
def config() -> None:
    """Show and check settings.

    \b
    tierfs config show --config /etc/tierfs/data.toml
    tierfs config check /etc/tierfs/data.toml
    tierfs config sample > data.toml
    """


@config.command(cls=SettingsCommand)
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: setting to value, as it is written.")
def show(config: str | None, as_json: bool, **flags: object) -> None:
    """Show every setting, its value, and where the value was given.

    \b
    TIERFS_WARM_AFTER=2h tierfs config show --config /etc/tierfs/data.toml

    The output is a settings file itself.
    """
    gathered = gather(config, os.environ, flags)
    if as_json:
        where = {name: one.value for name, one in gathered.where.items()}
        click.echo(json.dumps(where | gathered.settings.model_dump(mode="json"), indent=1))
        return
    for name, one in gathered.where.items():
        click.echo(f"{name} = {toml_of(one.value)}  # {one.source}")
    for name in Settings.model_fields:
        if name in HEADINGS:
            click.echo(f"\n# {HEADINGS[name]}")
        source = gathered.given[name].source if name in gathered.given else "default"
        click.echo(f"{name} = {toml_of_setting(name, getattr(gathered.settings, name))}  # {source}")


@config.command()
@click.argument("file")
def check(file: str) -> None:
    """Check a settings file, together with the environment; say every mistake.

    \b
    tierfs config check /etc/tierfs/data.toml
    """
    gather(file, os.environ, {})
    click.echo(f"{file}: ok")


@config.command(name="sample")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="generic", help="Show the values of a profile.")
def print_sample(profile: str) -> None:
    """Print a settings file with every setting, its meaning and its default.

    \b
    tierfs config sample > /etc/tierfs/data.toml
    tierfs config sample --profile kafka > /etc/tierfs/kafka.toml
    """
    click.echo(sample(profile), nl=False)
