"""Git on the mount: cold packs are checked, read, added to, and packed again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import Mount
from tests.t5_apps.conftest import MakeMount, need, run
from tierfs.cli.demo_tree import copy_sample, real_roots

_WHO = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost", "-c", "gc.auto=0", "-c", "safe.directory=*")


@pytest.fixture(scope="module")
def mount(make_mount: MakeMount) -> Iterator[Mount]:
    need("git")
    with make_mount("git") as made:
        yield made


def git(where: Path, *arguments: str | Path) -> str:
    """Run git in a repository."""
    return run("git", "-C", where, *_WHO, *arguments)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a history, of real files, packed."""
    need("git")
    path = tmp_path_factory.mktemp("git") / "origin"
    copy_sample(real_roots()[:2], path, 800, 16 << 20)
    git(path, "init", "--quiet", "--initial-branch=main")
    for number, directory in enumerate(sorted(path.iterdir())):
        if directory.name != ".git":
            git(path, "add", directory.name)
            git(path, "commit", "--quiet", "-m", f"part {number}")
    for step in range(5):
        for changed in sorted(path.rglob("*.py"))[step::7]:
            changed.write_text(changed.read_text(errors="ignore") + f"# step {step}\n")
        git(path, "commit", "--quiet", "-a", "--allow-empty", "-m", f"step {step}")
    git(path, "gc", "--quiet")
    return path


def test_clone_goes_cold_and_stays_a_repository(mount: Mount, origin: Path, tmp_path: Path) -> None:
    clone = mount.path / "clone"
    run("git", *_WHO, "clone", "--quiet", "--no-local", origin, clone)
    mount.release_all()
    mount.evict()
    (pack,) = (clone / ".git" / "objects" / "pack").glob("*.pack")
    inside = pack.relative_to(mount.path)
    assert mount.residency(str(inside)) == "cold"

    git(clone, "fsck", "--full", "--strict")
    assert mount.residency(str(inside)) == "cold", "reading brought the pack back"
    assert git(clone, "log", "-p", "--stat", "main") == git(origin, "log", "-p", "--stat", "main")

    again = tmp_path / "again"
    run("git", *_WHO, "clone", "--quiet", "--no-local", clone, again)
    assert git(again, "rev-parse", "HEAD^{tree}") == git(origin, "rev-parse", "HEAD^{tree}")
    git(again, "fsck", "--full")


def test_work_goes_on_over_cold_packs(mount: Mount, origin: Path) -> None:
    work = mount.path / "work"
    run("git", *_WHO, "clone", "--quiet", "--no-local", origin, work)
    mount.release_all()
    assert git(work, "status", "--porcelain") == ""
    changed = sorted(work.rglob("*.py"))[:50]
    for path in changed:
        with path.open("a") as file:
            file.write("# changed while cold\n")
    assert len(git(work, "status", "--porcelain").splitlines()) == len(changed)
    git(work, "switch", "--quiet", "-c", "topic")
    git(work, "commit", "--quiet", "-a", "-m", "on the mount")
    git(work, "switch", "--quiet", "main")
    git(work, "merge", "--quiet", "--no-ff", "-m", "merge", "topic")
    git(work, "gc", "--quiet", "--prune=now")  # writes new packs, removes the cold ones
    git(work, "fsck", "--full", "--strict")
    mount.release_all()
    mount.evict()
    git(work, "fsck", "--full", "--strict")
    assert git(work, "diff", "--stat", "origin/main", "main").count("|") == len(changed)
    assert git(work, "status", "--porcelain") == ""
