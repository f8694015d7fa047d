"""Some thousand files of this machine go cold by themselves; then the tools that people use cannot tell."""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounting import Mount, directory
from tests.t5_apps.conftest import MakeMount, need, run, wait_until
from tierfs.cli.demo_tree import Census, compare, copy_sample, real_roots

_FILES = 1000
_BYTES = 32 << 20
_AGE = "40 days ago"


@dataclass(frozen=True, slots=True)
class Trees:
    """The same files twice: plain, and in a mount where all that can be cold is."""

    original: Path
    mount: Mount
    census: Census


@pytest.fixture(scope="module")
def trees(make_mount: MakeMount) -> Iterator[Trees]:
    """Copied in, aged, archived and released by the policy."""
    need("rsync", "diff", "tar", "grep", "sha256sum")
    ages = ("--auto-archive", "--warm-after", "1s", "--cold-after", "1s", "--policy-interval", "500ms")
    with directory() as home, make_mount("tree", *ages, "--archive-concurrency", "8") as mount:
        original = home / "original"
        copy_sample(real_roots(), original, _FILES, _BYTES)
        _add_oddities(original)
        run("find", original, "-type", "f", "-exec", "touch", "-d", _AGE, "{}", "+")
        run("cp", "-a", f"{original}/.", mount.path)
        census = compare(original, original).census
        assert census.files > 800
        assert census.symlinks > 10
        wait_until(lambda: _is_cold(mount, census), lambda: (mount.status(), census))
        yield Trees(original, mount, census)


def _add_oddities(original: Path) -> None:
    """What a tree of a package has not: odd names, odd modes, odd sizes."""
    odd = original / "odd"
    odd.mkdir(mode=0o1770)
    for size in (1, 4095, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20):
        (odd / f"{size} bytes").write_bytes(os.urandom(size))
    (odd / "new\nline").write_text("text\n")
    Path(os.fsdecode(bytes(odd) + b"/not \xff UTF-8")).write_text("text\n")
    (odd / ("n" * 200)).write_text("a long name\n")
    (odd / "a+b&c=d;e?f#g%41 ~'\"").write_text("what a URL would choke on\n")
    for mode in (0o000, 0o400, 0o4755, 0o2711):
        path = odd / f"mode {mode:o}"
        path.write_text(f"{mode:o}\n")
        path.chmod(mode)
    with (odd / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(2 << 20)
        file.write(b"in the middle")
    (odd / "dangling").symlink_to("nowhere")


def _is_cold(mount: Mount, census: Census) -> bool:
    status = mount.status()
    return int(status["cold"]["files"]) == census.files - census.empty and int(status["warm"]["files"]) == 0


def test_diff_finds_nothing(trees: Trees) -> None:
    trees.mount.evict()
    before = trees.mount.downloaded()
    assert run("diff", "-r", "--no-dereference", trees.original, trees.mount.path) == ""
    assert trees.mount.downloaded() - before >= trees.census.bytes * 9 // 10, "the bytes did not come from the bucket"


def test_every_attribute_is_the_same(trees: Trees) -> None:
    assert compare(trees.original, trees.mount.path).differences == []


def test_find_lists_the_same(trees: Trees) -> None:
    columns = r"%y %m %U:%G %s %T@ %n %l: %P\0"
    listings = [run("find", tree, "!", "-type", "d", "-printf", columns) for tree in (trees.original, trees.mount.path)]
    assert sorted(listings[0].split("\0")) == sorted(listings[1].split("\0"))


def test_tar_packs_and_compares(trees: Trees, tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar"
    run("tar", "--xattrs", "--acls", "-cf", packed, "-C", trees.mount.path, ".")
    assert run("tar", "--xattrs", "--acls", "-df", packed, "-C", trees.original) == ""
    run("tar", "--xattrs", "--acls", "-cf", packed, "-C", trees.original, ".")
    assert run("tar", "--xattrs", "--acls", "-df", packed, "-C", trees.mount.path) == ""


def test_rsync_would_copy_nothing(trees: Trees) -> None:
    for source, target in ((trees.original, trees.mount.path), (trees.mount.path, trees.original)):
        assert run("rsync", "-aAXc", "--delete", "--dry-run", "-i", f"{source}/", f"{target}/") == ""


def test_grep_finds_the_same(trees: Trees) -> None:
    found = [
        run("grep", "-r", "--null", "-c", "-E", "copyright|import os", ".", cwd=tree, ok=(0, 1, 2))
        for tree in (trees.original, trees.mount.path)
    ]
    assert sorted(found[0].splitlines()) == sorted(found[1].splitlines())
    assert len(found[0].splitlines()) > 1000


def test_sha256sum_agrees(trees: Trees, tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    listed = run("find", ".", "-type", "f", "-exec", "sha256sum", "{}", "+", cwd=trees.original)
    sums.write_text(listed, errors="surrogateescape")
    run("sha256sum", "--quiet", "--strict", "-c", sums, cwd=trees.mount.path)


def test_copies_out_of_the_mount_are_whole(trees: Trees, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run("cp", "-a", f"{trees.mount.path}/odd", copy)
    assert compare(trees.original / "odd", copy).differences == []


def test_python_imports_from_a_cold_library(trees: Trees) -> None:
    # An interpreter takes its modules from the mount: they are found, read and compiled, and they work.
    library = trees.mount.path / "library"
    code = f"import sys; sys.path.insert(0, {str(library)!r}); import asyncio; print(asyncio.__file__)"
    assert run(sys.executable, "-S", "-B", "-c", code).strip() == str(library / "asyncio" / "__init__.py")


def test_reading_changed_no_residency(trees: Trees) -> None:
    assert _is_cold(trees.mount, trees.census)
    digest = hashlib.sha256((trees.mount.path / "odd" / "sparse").read_bytes()).digest()
    assert digest == hashlib.sha256((trees.original / "odd" / "sparse").read_bytes()).digest()
