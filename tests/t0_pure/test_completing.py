"""Shell completion in a real bash, and man pages that roff takes: both from the commands as they are."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.conftest import require
from tierfs.admin import registry
from tierfs.cli import main as command_line
from tierfs.cli.main import tierfs
from tierfs.cli.manual import pages

#: What a line of the shell completes to: the function that bash would call, called as bash calls it.
_ASK = """
source <(tierfs completion bash)
complete -p tierfs
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_tierfs_completion tierfs 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """PATH with a `tierfs` of this interpreter in it."""
    program = tmp_path / "bin" / "tierfs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tierfs "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def completed(path: str, *words: str) -> list[str]:
    """What bash would offer for the last of these words."""
    command = ["bash", "-c", _ASK, "bash", *words]
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True)
    head, *found = done.stdout.splitlines()
    assert head.startswith("complete ")
    assert head.endswith(" -F _tierfs_completion tierfs")
    return [one for one in found if one]


def asked(path: str, shell: str, words: str, current: int | str) -> list[str]:
    """The lines that the script of a shell is given."""
    variables = {"PATH": path, "_TIERFS_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": str(current)}
    done = subprocess.run(["tierfs"], env=os.environ | variables, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.splitlines()


def test_bash_completes_commands_flags_and_values(path: str) -> None:
    assert completed(path, "tierfs", "re") == ["release", "restore", "rebuild"]
    assert completed(path, "tierfs", "config", "s") == ["sample", "show"]
    assert completed(path, "tierfs", "mount", "--warm") == ["--warm-after", "--warm-successor"]
    assert completed(path, "tierfs", "mount", "--checksum", "") == ["auto", "when_required"]
    assert completed(path, "tierfs", "nonsense", "--st") == []


def test_paths_are_completed_as_files_and_mountpoints_by_the_registry(path: str) -> None:
    registry.register(registry.Mount("/srv/data", "s3://b", "/srv/data", "/state", os.getpid(), os.getpid(), "1"))
    try:
        assert asked(path, "bash", "tierfs ls /sr", 2) == ["file,/sr"]
        assert asked(path, "bash", "tierfs mount s3://b /sr", 3) == ["dir,/sr"]
        assert asked(path, "bash", "tierfs umount /sr", 2) == ["plain,/srv/data"]
        assert asked(path, "bash", "tierfs umount /none", 2) == ["dir,/none"]
    finally:
        registry.unregister("/srv/data")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_what_a_command_does(path: str, shell: str) -> None:
    script = subprocess.run(["tierfs", "completion", shell], env=os.environ | {"PATH": path}, capture_output=True)
    assert b"_TIERFS_COMPLETE" in script.stdout
    found = asked(path, shell, "tierfs umo", 1 if shell == "zsh" else "umo")  # fish says the word itself
    assert any("Take a mount away; its hot files stay where they are." in line for line in found)


def test_names_are_completed_without_importing_the_commands() -> None:
    code = "import sys\nfrom tierfs.cli.main import main\ntry: main()\nfinally: print('pydantic' in sys.modules)"
    variables = {"_TIERFS_COMPLETE": "bash_complete", "COMP_WORDS": "tierfs ", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True)
    *names, has_imported = done.stdout.splitlines()
    assert names == [f"plain,{name}" for name in command_line._COMMANDS]
    assert has_imported == "False"


def test_there_is_a_man_page_of_each_command_with_all_that_help_says(tmp_path: Path) -> None:
    require(shutil.which("groff"), "groff is not installed (Debian package groff-base)")
    subprocess.run([sys.executable, "-m", "tierfs", "manual", str(tmp_path)], check=True)
    files = sorted((tmp_path / "man1").iterdir())
    written = dict(pages(tierfs))
    assert {file.name: file.read_text() for file in files} == {f"{name}.1": text for name, text in written.items()}
    assert {f"tierfs-{name}" for name in command_line._COMMANDS} <= set(written)
    assert "tierfs-config-show" in written
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", *files], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["mount", "status", "config"])
def test_a_man_page_says_what_help_says(tmp_path: Path, name: str) -> None:
    require(shutil.which("groff"), "groff is not installed (Debian package groff-base)")
    text = dict(pages(tierfs))[f"tierfs-{name}"]
    shown = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=200n", "-rHY=0"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    root = click.Context(tierfs, info_name="tierfs")
    command = tierfs.get_command(root, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=root)
    assert words_of(command.get_help(context)) - words_of(shown) <= {"usage"}


def words_of(text: str) -> set[str]:
    """Its words: headings are written in another way, and --help ends lines at hyphens."""
    return {word.lower().rstrip(":") for word in re.sub(r"(?<=\w-)\n\s+", "", text).split()}
