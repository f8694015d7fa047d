"""`tierfs`: finds the command, and turns every error into one sentence and an exit code.

Commands are imported when they are called: pydantic and httpx cost more than `tierfs --help` may take.
"""

import difflib
import importlib
import signal
import sys
import traceback
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from tierfs import __version__
from tierfs.cli.exits import MEANINGS, Exit, exit_of
from tierfs.core.errors import TierfsError

#: Where each command is, and its line in `tierfs --help`.
_COMMANDS = {
    "mount": ("tierfs.cli.mounting:mount", "Mount a directory and a bucket as one tree."),
    "umount": ("tierfs.cli.mounting:umount", "Take a mount away; its hot files stay where they are."),
    "upgrade": ("tierfs.cli.upgrading:upgrade", "Have a mount served by the tierfs that is installed now."),
    "status": ("tierfs.cli.observing:status", "Show a mount, or all of this host, in figures."),
    "top": ("tierfs.cli.topping:top", "Show a mount as it lives: rates, transfers, the hottest files."),
    "metrics": ("tierfs.cli.observing:metrics", "Print what is counted, for Prometheus."),
    "events": ("tierfs.cli.watching:events", "Show what happened to a mount, and follow what happens."),
    "jobs": ("tierfs.cli.watching:jobs", "Show and cancel what was begun with --background."),
    "ls": ("tierfs.cli.observing:ls", "Show where the bytes of files are, and why."),
    "archive": ("tierfs.cli.moving:archive", "Copy files to the bucket and verify them; they stay hot."),
    "release": ("tierfs.cli.moving:release", "Archive files if need be, then drop their hot bytes."),
    "restore": ("tierfs.cli.moving:restore", "Bring files back to the hot tier."),
    "pin": ("tierfs.cli.moving:pin", "Never release these files."),
    "unpin": ("tierfs.cli.moving:unpin", "Take pins away."),
    "evict": ("tierfs.cli.moving:evict", "Drop chunks from the cache: always harmless."),
    "plan": ("tierfs.cli.planning:plan", "Show what the policy would do now, and why."),
    "cost": ("tierfs.cli.costing:cost", "Show what the tree costs, would cost all hot, and why."),
    "check": ("tierfs.cli.checking:check", "Compare catalog, hot directory, bucket and cache; repair."),
    "rebuild": ("tierfs.cli.checking:rebuild", "Make the catalog anew from the bucket, when the SSD is lost."),
    "doctor": ("tierfs.cli.doctoring:doctor", "Look for what is wrong, before a mount or with one."),
    "config": ("tierfs.cli.settings:config", "Show and check settings."),
    "completion": ("tierfs.cli.completing:completion", "Print what makes a shell complete commands and flags."),
    "manual": ("tierfs.cli.manual:manual", "Write man pages."),
    "demo": ("tierfs.cli.demo:demo", "The whole story on this machine, in under a minute."),
}

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:<4}{meaning}" for code, meaning in MEANINGS.items())


class _Commands(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        if ctx.resilient_parsing:  # for a shell that completes
            from tierfs.cli.completing import complete_paths

            complete_paths(cmd_name, command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands by their names alone: click would import every one of them."""
        rows = [(name, text) for name, (_, text) in _COMMANDS.items() if name.startswith(incomplete)]
        named = [CompletionItem(name, help=text) for name, text in rows]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            raise click.UsageError(
                f"there is no command {args[0]!r}{f', did you mean {close[0]}?' if close else ''}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="tierfs %(version)s")
def tierfs() -> None:
    """One directory tree, two tiers: a local directory (hot) and a bucket (cold).

    \b
    tierfs mount s3://my-bucket /srv/data    the files of /srv/data, now with a bucket below
    tierfs ls /srv/data                      where each file is
    tierfs release /srv/data/old.log         to the bucket, and off the disk
    cat /srv/data/old.log                    comes back as it is read
    tierfs umount /srv/data

    `tierfs demo` shows all of it. `tierfs COMMAND --help` explains a command.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = tierfs.main(args=arguments, prog_name="tierfs", standalone_mode=False)
        return int(result or Exit.OK)
    except (click.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # people press it twice: the way out is not interrupted again
        _say("interrupted; what was done stays done")
        return Exit.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    except click.UsageError as error:
        hint = f" (`{error.ctx.command_path} --help` explains)" if error.ctx else ""
        _say(error.format_message().rstrip(".") + hint)
        return Exit.USAGE
    except click.ClickException as error:
        _say(error.format_message())
        return error.exit_code
    except (TierfsError, OSError) as error:
        _say(_sentence(error))
        return exit_of(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        _say(f"this is a defect of tierfs: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})")
        return Exit.SOME_FAILED


def _sentence(error: TierfsError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename!r}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _say(message: str) -> None:
    """One line per sentence; what the terminal cannot show is escaped (stderr never fails on it)."""
    for line in message.splitlines() or ["failed"]:
        click.echo(f"tierfs: {line}", err=True)
