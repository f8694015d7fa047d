"""manual: man pages, from what `--help` says: the same text, the same flags, set by the same calls."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tierfs import __version__

_SECTION = "1"
_VERBATIM = "\b"  # click's mark of a paragraph whose lines stay as they are
#: What roff would read as its own (groff_char(7)): a backslash first.
_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}


@click.command()
@click.argument("directory")
def manual(directory: str) -> None:
    """Write man pages into DIRECTORY/man1: one of tierfs, one of each command.

    \b
    tierfs manual /usr/local/share/man
    man tierfs-mount

    They say what `--help` says. ./bootstrap puts them where man(1) looks when .venv/bin is in PATH.
    """
    root = click.get_current_context().find_root().command
    place = Path(directory, f"man{_SECTION}")
    place.mkdir(parents=True, exist_ok=True)
    for name, text in pages(root):
        (place / f"{name}.{_SECTION}").write_text(text)


def pages(root: click.Command) -> Iterator[tuple[str, str]]:
    """The name and the text (roff, with the macros of man(7)) of each page."""
    yield from _pages_below(click.Context(root, info_name="tierfs", **root.context_settings))


def _pages_below(context: click.Context) -> Iterator[tuple[str, str]]:
    command = context.command
    yield context.command_path.replace(" ", "-"), _page(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                below = click.Context(found, info_name=name, parent=context, **found.context_settings)
                yield from _pages_below(below)


def _page(context: click.Context) -> str:
    name, formatter = context.command_path.replace(" ", "-"), _Roff()
    about = context.command.get_short_help_str(limit=200).rstrip(".")
    formatter.write(f'.TH {_plain(name.upper())} {_SECTION} "" "tierfs {_plain(__version__)}" "tierfs"\n')
    formatter.write(f".SH NAME\n{_plain(name)} \\- {_plain(about)}\n")
    context.command.format_help(context, formatter)
    parent = context.parent
    if parent is not None:
        formatter.write(f".SH SEE ALSO\n.BR {_plain(parent.command_path.replace(' ', '-'))} ({_SECTION})\n")
    return formatter.getvalue()


class _Roff(click.HelpFormatter):
    """What click's commands write their help to, here as roff."""

    def __init__(self) -> None:
        super().__init__()
        self._is_described = self._is_in_section = False

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.write(f".SH SYNOPSIS\n.B {_plain(prog)}\n{_plain(args)}\n")

    def write_heading(self, heading: str) -> None:
        self.write(f".SH {_plain(heading.upper())}\n")

    def write_paragraph(self) -> None:
        """Headings part what has to be parted."""

    def write_text(self, text: str) -> None:
        if not self._is_in_section:
            self.write_heading("notes" if self._is_described else "description")
            self._is_described = True
        for paragraph in text.split("\n\n"):
            lines = paragraph.strip("\n").split("\n")
            if lines[0].strip(" ") == _VERBATIM:
                self.write(".PP\n.RS 4\n.nf\n" + _lines(lines[1:]) + ".fi\n.RE\n")
            else:
                self.write(".PP\n" + _lines(line.strip() for line in lines))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        for term, text in rows:
            self.write(f".TP\n.B {_plain(term)}\n" + _lines(line.strip() for line in text.splitlines()))

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self.write_heading(name)
        self._is_in_section = True
        yield
        self._is_in_section = False


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{_plain(line)}\n" for line in lines)


def _plain(text: str) -> str:
    """Text that stands for itself: what begins with a dot is no request of roff."""
    escaped = "".join(_ESCAPES.get(char, char) for char in text)
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped
