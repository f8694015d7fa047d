"""The documents are true where a program can tell: settings, exit codes, links, names of tests and modules."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tierfs.cli.exits import MEANINGS
from tierfs.core.config import Settings
from tierfs.core.profiles import PROFILES
from tierfs.core.toml import toml_of_setting

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
DOCUMENTS = (README, ROOT / "CHANGELOG.md", *sorted(path for path in DOCS.glob("*.md") if path.name != "BENCHMARKS.md"))

_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_MODULE = re.compile(r"^\| `([\w/]+\.(?:py|c|h))` \|", re.MULTILINE)


def text_of(document: Path) -> str:
    """What a document says, without its indented blocks."""
    return "".join(line for line in document.read_text().splitlines(keepends=True) if not line.startswith("    "))


def section(document: Path, title: str) -> str:
    """The text below a heading of the second level."""
    parts = text_of(document).split(f"\n## {title}\n")
    assert len(parts) == 2, f"{document.name} has no section {title!r}, or two"
    return parts[1].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = {index for index, line in enumerate(lines) if set(line) <= set("|-")}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for index, line in enumerate(lines)
        if index not in rules and index + 1 not in rules
    ]


def anchor_of(heading: str) -> str:
    """The name that a forge gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_readme_names_every_setting_with_its_default_in_order() -> None:
    told = [(name.strip("`"), default.strip("`")) for name, default, _why in rows(section(README, "Settings"))]
    real = [(name, toml_of_setting(name, field.default)) for name, field in Settings.model_fields.items()]
    assert told == real


@pytest.mark.parametrize("profile", [name for name in PROFILES if PROFILES[name]])
def test_the_page_of_profiles_has_every_value_with_its_reason(profile: str) -> None:
    real = [
        [f"`{name}`", f"`{toml_of_setting(name, choice.value)}`", choice.why]
        for name, choice in PROFILES[profile].items()
    ]
    assert rows(section(DOCS / "PROFILES.md", profile)) == real


def test_the_readme_names_every_exit_code() -> None:
    told = {int(code): meaning for code, meaning in rows(section(README, "Commands")) if code.isdigit()}
    assert told == {int(code): meaning for code, meaning in MEANINGS.items()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_inside_the_repository_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(text_of(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            anchors = {anchor_of(heading) for heading in _HEADING.findall(text_of(target))}
            assert anchor in anchors, f"{link} names a heading that is not there"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_the_tests_that_a_document_names_exist(document: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", document.read_text()))
    missing = named - _functions(ROOT / "tests")
    assert not missing, f"{document.name} names tests that are not there: {sorted(missing)}"


def test_the_table_of_rooms_has_every_module_once() -> None:
    """Whoever adds a module says in one line, in docs/ARCHITECTURE.md, what it is."""
    told = _MODULE.findall(section(ROOT / "docs" / "ARCHITECTURE.md", "Rooms"))
    sources = [path for kind in ("py", "c", "h") for path in (ROOT / "tierfs").rglob(f"*.{kind}")]
    real = {str(path.relative_to(ROOT / "tierfs")) for path in sources if not path.name.startswith("__")}
    assert len(told) == len(set(told)), "a module stands there twice"
    assert set(told) == real


@cache
def _functions(directory: Path) -> set[str]:
    """The names of all functions of tests."""
    trees = [ast.parse(path.read_text()) for path in directory.rglob("test_*.py")]
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
