"""mount.tierfs: what mount(8) calls for `mount -t tierfs` and for lines of /etc/fstab.

    mount.tierfs STORE DIR [-sfnv] [-o NAME=VALUE,NAME,...]

mount(8) looks for it in /sbin. Exit codes are those of mount(8): 1 for what was asked for, 2 for what the system does
not give, 4 for a defect, 8 when interrupted, 32 when the mount cannot be made.
"""

import getopt
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn, get_args, get_origin

import click

from tierfs.admin import registry
from tierfs.cli.mounting import request_of
from tierfs.cli.sources import flag_of, gather
from tierfs.core.config import MountRequest, Settings, closest
from tierfs.core.errors import ConfigError, TierfsError
from tierfs.mount import kernel, launch

_USAGE = "usage: mount.tierfs STORE DIR [-sfnv] [-o OPTIONS]"
_WRONG, _SYSTEM, _DEFECT, _INTERRUPTED, _FAILED = 1, 2, 4, 8, 32  # mount(8), EXIT STATUS

#: Options that mount(8), systemd and fstab(5) keep to themselves, or that say what is so anyway.
_FOR_OTHERS = {"defaults", "rw", "exec", "async", "nosuid", "nodev", "nomand", "silent", "loud", "nofail", "_netdev"}
_FOR_OTHERS |= {
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "group",
    "comment",
    "uhelper",
    "helper",
}
#: Access times are those of the hot directory's own mount.
_FOR_OTHERS |= {"atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime"}
_FOR_OTHERS |= {"lazytime", "nolazytime"}
_WHERE = ("hot", "state")
_SWITCHES = ("take_over",)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a line of options asks for, in the words of `tierfs mount`."""

    flags: dict[str, object] = field(default_factory=dict)
    config: str | None = None
    take_over: bool = False
    noexec: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One call by mount(8)."""

    store: str
    mountpoint: str
    options: str
    is_sloppy: bool = False
    is_fake: bool = False
    is_verbose: bool = False


def split_options(text: str) -> Iterator[tuple[str, str | None]]:
    """Names and values of comma-separated options; quotes around a part, or a backslash before it, keep a comma.

    mount(8) passes both on as they are.
    """
    option, is_quoted, position = "", False, 0
    while position <= len(text):
        letter = text[position : position + 1]
        if letter == "\\" and text[position + 1 : position + 2] in ("\\", ",", '"'):
            position += 1
            option += text[position]
        elif letter == '"':
            is_quoted = not is_quoted
        elif letter == "" or (letter == "," and not is_quoted):
            name, equals, value = option.partition("=")
            if name:
                yield name.strip(), value if equals else None
            option = ""
        else:
            option += letter
        position += 1
    if is_quoted:
        raise ConfigError(f"a quote is not closed in the options {text}")


def plan_options(text: str, is_sloppy: bool = False) -> Asked:
    """What the options ask for. ConfigError for one that nobody knows, unless `is_sloppy`."""
    asked, problems = Asked(), []
    for given, value in split_options(text):
        name = given.replace("-", "_")
        if given in _FOR_OTHERS or given.startswith(("x-", "X-")):
            continue
        if given in ("ro", "noexec"):
            flags = asked.flags | ({"read_only": "true"} if given == "ro" else {})
            asked = replace(asked, flags=flags, noexec=asked.noexec or given == "noexec")
        elif name == "config":
            asked = replace(asked, config=value)
        elif name in _SWITCHES and value is None:
            asked = replace(asked, take_over=True)
        elif name in _WHERE or name in Settings.model_fields:
            asked = replace(asked, flags=asked.flags | {name: _value_of(name, value, asked.flags.get(name))})
        elif given == "remount":
            problems.append("a tierfs mount cannot be remounted: unmount it, and mount it again")
        elif not is_sloppy:
            known = [*Settings.model_fields, *_WHERE, *_SWITCHES, "config", "ro", "noexec"]
            problems.append(f"there is no option {given!r}{closest(name, known)}")
    if problems:
        raise ConfigError("\n".join(problems))
    return asked


def _value_of(name: str, value: str | None, before: object) -> str:
    """The value of a setting as text; a bare name is a yes, a list may be given in several options."""
    kind = Settings.model_fields[name].annotation if name in Settings.model_fields else str
    if value is None:
        if kind is bool or bool in get_args(kind):
            return "true"
        raise ConfigError(f"the option {name} needs a value: {name}=...")
    is_list = get_origin(kind) is tuple
    return f"{before},{value}" if is_list and before else value


def read_call(arguments: Sequence[str]) -> Call:
    """The command line of a mount helper (mount(8), EXTERNAL HELPERS). ConfigError."""
    try:
        switches, words = getopt.gnu_getopt(list(arguments), "sfnvo:N:t:")
    except getopt.GetoptError as error:
        raise ConfigError(f"{error}; {_USAGE}") from None
    if len(words) != 2:
        raise ConfigError(_USAGE)
    given = {letter for letter, _ in switches}
    if "-N" in given:
        raise ConfigError("mounting in another mount namespace is not possible: enter it first (nsenter)")
    options = ",".join(value for letter, value in switches if letter == "-o")
    return Call(words[0], words[1], options, "-s" in given, "-f" in given, "-v" in given)


def mount(call: Call) -> int:
    """Do what mount(8) asks for. TierfsError, UsageError, OSError."""
    asked = plan_options(call.options, call.is_sloppy)
    store = None if call.store in ("none", "tierfs") else call.store
    where = {"store": store, "mountpoint": call.mountpoint}
    _wait_for_an_end(os.path.realpath(call.mountpoint))
    request = request_of(gather(asked.config, os.environ, {**where, **asked.flags}, _source_of), foreground=False)
    if call.is_verbose:
        _say(f"{request.store_url} at {request.mountpoint}, hot directory {request.hot}, state in {request.state}")
    if call.is_fake:
        launch.check(request)
        return 0
    status = launch.start(replace(request, take_over=asked.take_over))
    if asked.noexec:
        _forbid_execution(request)
    return status


def _wait_for_an_end(mountpoint: str) -> None:
    """Wait for the end of a mount that is gone: umount(8) does not, and somebody may mount again at once."""
    if kernel.mounted_at(mountpoint) is None:
        for one in registry.mounts():
            if one.mountpoint == mountpoint and one.is_alive:
                launch.wait_until_gone(one.supervisor_pid)


def _forbid_execution(request: MountRequest) -> None:
    """`noexec`, which mount(8) adds to the mounts of users; they cannot have it themselves."""
    if os.geteuid() != 0:
        _say("noexec is not done: only root can")
        return
    try:
        kernel.forbid_execution(request.mountpoint, request.settings.read_only)
    except OSError:
        launch.stop(request.mountpoint, lazy=True)
        raise


def _source_of(name: str) -> str:
    return flag_of(name) if name in ("store", "mountpoint") else f"the option {name}"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run as mount(8)'s helper and exit."""
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    try:
        return mount(read_call(arguments))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (ConfigError, click.UsageError) as error:
        _say(error.format_message() if isinstance(error, click.UsageError) else str(error))
        return _WRONG
    except TierfsError as error:
        _say(str(error))
        return _FAILED
    except OSError as error:
        _say(str(error))
        return _SYSTEM
    except Exception as error:
        _say(f"this is a defect of tierfs: {type(error).__name__}: {error}")
        return _DEFECT


def _say(message: str) -> None:
    for line in message.splitlines():
        click.echo(f"mount.tierfs: {line}", err=True)


if __name__ == "__main__":
    main()
