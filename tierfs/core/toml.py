"""Settings as TOML, as a settings file has them."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from tierfs.core.config import HEADINGS, Settings
from tierfs.core.secrets import shown_setting

#: What a basic string of TOML cannot have as it is: quotes, backslashes, and control characters but the tab.
_NOT_AS_IT_IS = re.compile(r'["\\\x00-\x08\x0a-\x1f\x7f]')


def toml_of(value: Any) -> str:
    """A setting's value as TOML; unset is written as an empty string, which is read as unset."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if type(value) is int:
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(toml_of(one) for one in value)}]"
    return f'"{_NOT_AS_IT_IS.sub(_escaped, str(value))}"'


def toml_of_setting(name: str, value: Any) -> str:
    """The same, with "auto" for a yes-or-no that tierfs decides."""
    is_auto = value is None and bool in get_args(Settings.model_fields[name].annotation)
    return '"auto"' if is_auto else toml_of(value)


def settings_file(where: Mapping[str, str], settings: Settings) -> str:
    """A settings file with all that a mount runs with. What is secret in a URL is *** in it."""
    lines = [f"{name} = {toml_of(shown(value))}" for name, value in where.items()]
    for name in Settings.model_fields:
        if name in HEADINGS:
            lines += ["", f"# {HEADINGS[name]}"]
        lines.append(f"{name} = {toml_of_setting(name, shown(getattr(settings, name)))}")
    return "\n".join([*lines, ""])


def shown(value: Any) -> Any:
    """The value of a setting as whoever may see settings may see it."""
    return shown_setting(value) if type(value) is str else value


def _escaped(found: re.Match[str]) -> str:
    char = found.group()
    return f"\\{char}" if char in '"\\' else f"\\u{ord(char):04X}"
