"""The native tap by itself: good, cut and random messages under sanitizers and valgrind."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "tierfs/mount/native"
UNITS = ["tap.c", "attached.c", "directories.c", "inflight.c", "replies.c", "hotfiles.c"]
SOURCES = [str(ROOT / "tests/native/tap_test.c"), *(str(NATIVE / unit) for unit in UNITS)]
STRICT = ["-std=gnu11", "-pthread", "-g", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}"]


def build(target: Path, *flags: str) -> Path:
    require(shutil.which("gcc") is not None, "gcc is not installed")
    subprocess.run(["gcc", *STRICT, *flags, *SOURCES, "-o", str(target)], check=True, timeout=280)
    return target


def test_tap_survives_bad_messages_under_sanitizers(tmp_path: Path) -> None:
    program = build(tmp_path / "tap", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    done = subprocess.run([program], capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_tap_survives_bad_messages_under_valgrind(tmp_path: Path) -> None:
    require(shutil.which("valgrind") is not None, "valgrind is not installed")
    program = build(tmp_path / "tap", "-O1")
    command = ["valgrind", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=all", "-q", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", ["module.c", *UNITS])
def test_native_sources_compile_without_a_warning(tmp_path: Path, source: str) -> None:
    import sysconfig

    require(shutil.which("gcc") is not None and shutil.which("pkg-config") is not None, "gcc and pkg-config")
    fuse = subprocess.check_output(["pkg-config", "--cflags", "fuse3"], text=True).split()
    include = f"-I{sysconfig.get_paths()['include']}"
    path = str(NATIVE / source)
    command = ["gcc", *STRICT, "-O2", "-fPIC", *fuse, include, "-c", path, "-o", str(tmp_path / "object.o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stderr) == (0, "")
