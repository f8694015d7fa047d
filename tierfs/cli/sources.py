"""Where settings come from: the profile, a TOML file, TIERFS_* in the environment, then flags; the later wins."""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tierfs.core.config import HEADINGS, Given, Settings, closest, settings_from
from tierfs.core.errors import ConfigError
from tierfs.core.profiles import PROFILES, over_profile
from tierfs.core.toml import toml_of, toml_of_setting

#: What a file, the environment and the command line may say besides settings: which mount it is about.
WHERE = {
    "store": "s3://BUCKET[/PREFIX] or file:///DIR.",
    "mountpoint": "The directory to mount at.",
    "hot": "The hot directory, when it is not the mountpoint itself.",
    "state": "The directory for catalog and chunk cache; outside the hot directory.",
}

ENVIRONMENT_PREFIX = "TIERFS_"
#: Variables that are not settings: the settings file, and where the mounts of this host are registered.
OTHER_VARIABLES = frozenset({"TIERFS_CONFIG", "TIERFS_RUNTIME_DIR"})


@dataclass(frozen=True, slots=True)
class Gathered:
    """What all sources say together: valid settings, and which mount they are for."""

    settings: Settings
    where: Mapping[str, Given]
    given: Mapping[str, Given]


def gather(
    config: str | None,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
    shown: Callable[[str], str] | None = None,
) -> Gathered:
    """Read all sources and validate them together. ConfigError.

    `config` is the settings file, else TIERFS_CONFIG names it. `flags` are by the name of the setting; those that
    were not given are None or empty. `shown` is how a flag is written; as one of `tierfs mount` unless it is said.
    """
    shown = shown or flag_of
    path = config or environment.get("TIERFS_CONFIG")
    given = {
        **(read_file(path) if path else {}),
        **read_environment(environment),
        **{name: Given(value, shown(name)) for name, value in flags.items() if value not in (None, ())},
    }
    given = over_profile({name: one for name, one in given.items() if name not in WHERE or one.value != ""})
    settings = settings_from({name: one for name, one in given.items() if name not in WHERE})
    return Gathered(settings, {name: one for name, one in given.items() if name in WHERE}, given)


def flag_of(name: str) -> str:
    """The flag of a setting; arguments are called as in the usage line."""
    return name.upper() if name in ("store", "mountpoint") else f"--{name.replace('_', '-')}"


def read_file(path: str) -> dict[str, Given]:
    """The settings in a TOML file. ConfigError."""
    given, problems = _look_into(path)
    _raise_all(problems)
    return given


def read_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    """The settings among environment variables. ConfigError for an unknown TIERFS_* variable."""
    given, problems = _look_around(environment)
    _raise_all(problems)
    return given


def mistakes_in(config: str | None, environment: Mapping[str, str]) -> list[str]:
    """Every mistake in a settings file and the environment, a sentence each. ConfigError where it is not TOML."""
    path = config or environment.get("TIERFS_CONFIG")
    in_file, unknown = _look_into(path) if path else ({}, [])
    around, unknown_too = _look_around(environment)
    problems = [problem for problem in (*unknown, *unknown_too) if problem]
    try:
        given = over_profile({**in_file, **around})
        settings_from({name: one for name, one in given.items() if name not in WHERE})
    except ConfigError as error:
        problems += str(error).splitlines()
    return problems


def _look_into(path: str) -> tuple[dict[str, Given], list[str | None]]:
    """What a file says that is known, and what is wrong with the rest. ConfigError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"the settings file {path!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {path!r} is not TOML: {error}") from None
    sources = {name: f"{name} in {path}{_line_of(name, text)}" for name in values}
    problems = [_unknown(name, sources[name], _names(), value) for name, value in values.items()]
    known = {name: value for name, value in values.items() if name in _names()}
    problems += [_wrong_path(value, sources[name]) for name, value in known.items() if name in WHERE]
    given = {name: Given(_text_of(name, value), sources[name]) for name, value in known.items()}
    return given, problems


def _line_of(name: str, text: str) -> str:
    """The line in which a key of the top level stands; nothing where that is hard to say."""
    key = re.compile(rf"""\s*(?:\[\s*)?(["']?){re.escape(name)}\1\s*[=.\]]""")
    found = [number for number, line in enumerate(text.splitlines(), 1) if key.match(line)]
    return f", line {found[0]}" if len(found) == 1 else ""


def _look_around(environment: Mapping[str, str]) -> tuple[dict[str, Given], list[str | None]]:
    """What the environment says that is known, and what is wrong with the rest."""
    known = {ENVIRONMENT_PREFIX + name.upper(): name for name in _names()}
    found = {variable: text for variable, text in environment.items() if variable.startswith(ENVIRONMENT_PREFIX)}
    variables = [variable for variable in sorted(found) if variable not in OTHER_VARIABLES]
    problems = [_unknown(one, f"the environment variable {one}", [*known, *OTHER_VARIABLES]) for one in variables]
    mine = [one for one in variables if one in known]
    return {known[one]: Given(found[one], f"the environment variable {one}") for one in mine}, problems


def sample(profile: str = "generic") -> str:
    """A settings file in which every setting stands with its meaning and its default, commented out.

    With a profile: that of it, and its values with their reasons in the place of the defaults.
    """
    chosen = PROFILES[profile]
    lines = ["# Settings of a tierfs mount: `tierfs mount --config FILE`.", "#"]
    lines += ["# Every line shows a default; take away the # to change it. TIERFS_* variables win over this file,"]
    lines += ["# flags win over both. Ages: 90s, 10m, 168h, 7d, 1w. Sizes: 64KiB, 10GiB (K, M, G: powers of 1024),"]
    lines += ["# 10GB (powers of 1000). Patterns: one with a slash is matched against the path below the mountpoint,"]
    lines += ["# one without against each name in it.", "", "# ---- Which mount", ""]
    for name, text in WHERE.items():
        lines += [f"# {text}", f'#{name} = "{_WHERE_EXAMPLES[name]}"', ""]
    for name, field in Settings.model_fields.items():
        if name in HEADINGS:
            lines += [f"# ---- {HEADINGS[name]}", ""]
        if name == "profile" and chosen:
            lines += [f"# {field.description}", f"profile = {toml_of(profile)}", ""]
        elif name in chosen:
            lines += [f"# {field.description}", f"# Profile {profile}: {chosen[name].why}"]
            lines += [f"#{name} = {toml_of_setting(name, chosen[name].value)}", ""]
        else:
            lines += [f"# {field.description}", f"#{name} = {toml_of_setting(name, field.default)}", ""]
    return "\n".join(lines)


_WHERE_EXAMPLES = {
    "store": "s3://my-bucket/prefix",
    "mountpoint": "/srv/data",
    "hot": "/srv/data",
    "state": "/var/lib/tierfs/srv-data",
}


def _names() -> list[str]:
    return [*Settings.model_fields, *WHERE]


def _unknown(name: str, source: str, known: list[str], value: object = None) -> str | None:
    """What is wrong with a name that nobody knows, or nothing."""
    if name in known:
        return None
    if isinstance(value, dict):
        return f"{source} is a section, and the settings file has none: move its lines to the top"
    return f"{source} is not a setting{closest(name, known) or ': `tierfs config sample` lists them all'}"


def _raise_all(problems: list[str | None]) -> None:
    if found := [problem for problem in problems if problem]:
        raise ConfigError("\n".join(found))


def _wrong_path(value: object, source: str) -> str | None:
    return None if isinstance(value, str) else f"{source} is text in quotes, not {value!r}"


def _text_of(name: str, value: object) -> object:
    """Paths in a settings file are text; "~" in them is the home directory."""
    return os.path.expanduser(value) if name in WHERE and isinstance(value, str) else value
