"""Flags, made from the settings: their names, their defaults and their one sentence each."""

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from tierfs.core.config import HEADINGS, Settings
from tierfs.core.quantities import Age, Size, Watermark

_METAVARS: dict[Any, str] = {
    Age: "AGE",
    Size: "SIZE",
    Watermark: "SIZE|PERCENT",
    int: "NUMBER",
    tuple[str, ...]: "PATTERN",
}
#: Settings that are written like others and mean something else.
_NAMED = {
    "endpoint_url": "URL",
    "access": "RULE",
    "prices": "FILE",
    "api_address": "ADDRESS",
    "api_token_file": "FILE",
}


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one flag per setting; one that is not given arrives as None, or empty."""
    for name, field in reversed(Settings.model_fields.items()):
        command = _option(name, field)(command)
    return click.option("--config", metavar="FILE", help="Settings file (TOML); else TIERFS_CONFIG names it.")(command)


def _option(name: str, field: FieldInfo) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag, kind = f"--{name.replace('_', '-')}", field.annotation
    text = f"{field.description} [{_default_of(field)}]"
    if kind is bool or bool in get_args(kind):
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    if get_origin(kind) is Literal:
        return click.option(flag, name, type=click.Choice(get_args(kind)), default=None, help=text)
    is_repeated = kind == tuple[str, ...]
    metavar = _NAMED.get(name) or _METAVARS.get(kind, "TEXT")
    callback = _split if metavar == "PATTERN" else None
    return click.option(flag, name, metavar=metavar, multiple=is_repeated, default=None, help=text, callback=callback)


def _split(_ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns with commas between them are several, as in the environment: files seldom have commas in their names."""
    return tuple(part.strip() for one in value for part in one.split(","))


def _default_of(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == ():
        return "auto" if bool in get_args(field.annotation) else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


class SettingsCommand(click.Command):
    """A command whose --help shows the settings under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: list[tuple[str, list[tuple[str, str]]]] = [("Options", [])]
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option):
                continue
            if parameter.name in HEADINGS:
                sections.append((HEADINGS[parameter.name], []))
            record = parameter.get_help_record(ctx)
            if record and parameter.name not in Settings.model_fields:
                sections[0][1].append(record)
            elif record:
                sections[-1][1].append(record)
        for title, rows in sections:
            with formatter.section(title):
                formatter.write_dl(rows)
