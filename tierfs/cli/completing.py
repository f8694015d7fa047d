"""completion: what makes bash, zsh and fish complete commands, flags, values and paths. click's own mechanism.

The shell runs `tierfs` with a variable that asks for completions; what is given then is found by the commands'
parameters, as for --help.
"""

from contextlib import suppress

import click
from click.shell_completion import CompletionItem, get_completion_class

from tierfs.core.errors import ControlError

#: What click looks for in the environment.
VARIABLE = "_TIERFS_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")
_FILES = {"config", "file", "paths"}
_DIRECTORIES = {"directory", "hot", "state"}
#: These make a mount, or look at a directory before there is one.
_BEFORE_A_MOUNT = {"mount", "rebuild"}
#: What stands first here, and alone, is a mountpoint.
_STORE_OR_MOUNTPOINT = {"doctor", "plan"}


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print a script for SHELL, which is to be read where the shell looks for completions.

    \b
    tierfs completion bash > /usr/share/bash-completion/completions/tierfs
    tierfs completion zsh > /usr/local/share/zsh/site-functions/_tierfs
    tierfs completion fish > /etc/fish/completions/tierfs.fish
    source <(tierfs completion bash)          in this shell alone

    Commands, flags and their values are completed, the mounts of this host where a mountpoint is asked for, and files.
    """
    context = click.get_current_context().find_root()
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.command, {}, "tierfs", VARIABLE).source(), nl=False)


def complete_paths(name: str, command: click.Command) -> None:
    """Have the arguments of a command that are paths, but are checked later, completed as such."""
    for parameter in command.params:
        if not isinstance(parameter.type, click.types.StringParamType):
            continue
        if parameter.name in _FILES:
            parameter.type = _Path("file")
        elif parameter.name in _DIRECTORIES or (parameter.name == "mountpoint" and name in _BEFORE_A_MOUNT):
            parameter.type = _Path("dir")
        elif parameter.name == "mountpoint" or (parameter.name == "store" and name in _STORE_OR_MOUNTPOINT):
            parameter.type = _Mountpoint()


class _Path(click.types.StringParamType):
    """Text that the shell completes as files, or as directories."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type=self._kind)]


class _Mountpoint(click.types.StringParamType):
    """Text that is a mount of this host: from the registry, because a mount that is stuck must not hold up a shell."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        # Imported when needed: the names of commands are completed without it.
        from tierfs.admin import registry

        known: list[str] = []
        with suppress(ControlError, OSError):
            known = [mount.mountpoint for mount in registry.mounts() if mount.mountpoint.startswith(incomplete)]
        return [CompletionItem(one) for one in known] or [CompletionItem(incomplete, type="dir")]
