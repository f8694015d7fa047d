"""config: what the settings are, and whether they make sense."""

import json
import os
from contextlib import suppress
from pathlib import Path

import click

from tierfs.cli.flags import SettingsCommand, settings_options
from tierfs.cli.mounting import default_state, unasked
from tierfs.cli.sources import Gathered, gather, mistakes_in, sample
from tierfs.core.config import HEADINGS, Settings
from tierfs.core.diagnosis import contradiction_of_cache, contradiction_of_watermark
from tierfs.core.errors import ConfigError
from tierfs.core.profiles import PROFILES
from tierfs.core.toml import shown, toml_of, toml_of_setting
from tierfs.mount import kernel


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

    The output is a settings file itself. What is secret in a URL is *** in it.
    """
    gathered = gather(config, os.environ, flags)
    if as_json:
        values = {name: one.value for name, one in gathered.where.items()} | gathered.settings.model_dump(mode="json")
        click.echo(json.dumps({name: shown(value) for name, value in values.items()}, indent=1))
        return
    for name, one in gathered.where.items():
        click.echo(f"{name} = {toml_of(shown(one.value))}  # {one.source}")
    for name in Settings.model_fields:
        if name in HEADINGS:
            click.echo(f"\n# {HEADINGS[name]}")
        source = gathered.given[name].source if name in gathered.given else "default"
        click.echo(f"{name} = {toml_of_setting(name, shown(getattr(gathered.settings, name)))}  # {source}")


@config.command()
@click.argument("file", required=False)
def check(file: str | None) -> None:
    """Check a settings file, together with the environment; say every mistake, with its line.

    \b
    tierfs config check /etc/tierfs/data.toml
    tierfs config check                          the file that TIERFS_CONFIG names, or the environment alone

    Unknown settings, values that make no sense, settings that contradict each other, and such that contradict the disks
    of this host: a cache or a watermark that is larger. Exit code: 0, or 3 with a mistake.
    `tierfs doctor --config FILE` looks at the rest.
    """
    problems = mistakes_in(file, os.environ)
    if not problems:
        problems = _larger_than_disks(gather(file, os.environ, {}))
    if problems:
        raise ConfigError("\n".join(problems))
    click.echo(f"{file or os.environ.get('TIERFS_CONFIG') or 'the environment'}: ok")


def _larger_than_disks(gathered: Gathered) -> list[str]:
    """Sizes that the disks of the mount that is meant do not have, where they are there."""
    where, settings, problems = gathered.where, gathered.settings, list[str]()
    if "mountpoint" not in where:
        return []
    mountpoint = unasked(str(where["mountpoint"].value))
    state = str(where["state"].value) if "state" in where else default_state(mountpoint)
    hot = str(where["hot"].value) if "hot" in where else mountpoint
    with suppress(OSError):
        problems.append(contradiction_of_cache(settings.cache_size, _size_of_disk(state)))
    if kernel.mounted_at(hot) is None or hot != mountpoint:  # what is mounted may be stuck, and is checked already
        with suppress(OSError):
            problems.append(contradiction_of_watermark(settings.high_watermark, _size_of_disk(hot)))
    return [problem for problem in problems if problem]


def _size_of_disk(path: str) -> int:
    """Bytes of the filesystem that a path is on, or will be. OSError."""
    above = Path(os.path.abspath(path))
    while not above.exists():
        above = above.parent
    st = os.statvfs(above)
    return st.f_blocks * st.f_frsize


@config.command(name="sample")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="generic", help="Show the values of a profile.")
def print_sample(profile: str) -> None:
    """Print a settings file with every setting, its meaning and its default.

    \b
    tierfs config sample > /etc/tierfs/data.toml
    tierfs config sample --profile kafka > /etc/tierfs/kafka.toml
    """
    click.echo(sample(profile), nl=False)
