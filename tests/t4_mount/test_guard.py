"""Rules and budgets on a real mount: a program that is refused, one that is held back, a storm that is reported."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import mounting
from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.modes import wait_until
from tierfs.cli.rendering import status_lines

pytestmark = pytest.mark.mount

CHUNK = 64 << 10
SCANNER = "tierfs-t-scan"
FLAGS = ("--chunk-size", "64KiB", "--read-ahead", "256KiB")
CONTENT = random.Random(1).randbytes(4 * CHUNK)


def program(home: Path, original: str = "cat") -> Path:
    """A copy of a program that is called otherwise."""
    path, found = home / SCANNER, shutil.which(original)
    assert found
    shutil.copy(found, path)
    return path


def run(program: Path, *paths: Path) -> "subprocess.CompletedProcess[bytes]":
    """What it prints, says and ends with."""
    return subprocess.run([program, *paths], capture_output=True, timeout=120, check=False)


def readers(mount: Mount) -> dict[str, dict[str, object]]:
    """Who had cold bytes fetched, or was refused them, of late."""
    return {reader["command"]: reader for reader in mount.status()["cold_readers"]}


def test_a_denied_program_reads_what_is_hot_and_goes_on() -> None:
    """Nothing is fetched for it, no other program notices, and what is in the cache it may read."""
    with directory() as home, mounted(Plan(home, flags=(*FLAGS, "--access", f"deny command={SCANNER}"))) as mount:
        scanner, hot, cold = program(home), mount.path / "hot", mount.path / "cold"
        hot.write_bytes(b"hot")
        mount.make_cold(cold, CONTENT)
        downloaded = mount.downloaded()
        done = run(scanner, cold, hot)
        assert (done.returncode, done.stdout) == (1, b"hot")
        assert done.stderr.strip().endswith(b"/cold: Permission denied")
        assert mount.downloaded() == downloaded
        assert readers(mount)[SCANNER]["denied"] == 1
        assert "is refused cold bytes by a rule of `access`: /cold and perhaps more" in mount.log.read_text()
        assert mount.status()["errors"]["reads"] == 0
        assert cold.read_bytes() == CONTENT
        wait_until(lambda: mount.entry("cold").cached_bytes == len(CONTENT))
        assert run(scanner, cold).stdout == CONTENT


#: Opens a file, tells when it has read a byte of it, and reads the rest when it is told to.
READS_LATER = 'exec 3< "$1"; read -rN1 -u3 byte; echo "$byte"; read -r; read -rN3000000 -u3 rest; echo "${#rest}"'


def test_who_opened_a_file_is_known_after_a_take_over() -> None:
    """A handle is what the rules said when it was opened, whoever serves it, and whatever is cached later."""
    text = b"x" * (32 * CHUNK)
    with directory() as home, mounted(Plan(home, flags=(*FLAGS, "--access", f"deny command={SCANNER}"))) as mount:
        cold, scanner = mount.path / "cold", program(home, "bash")
        mount.make_cold(cold, text)
        assert cold.read_bytes() == text
        wait_until(lambda: mount.entry("cold").cached_bytes == len(text))
        forget_pages(cold)
        command = [scanner, "-c", READS_LATER, SCANNER, cold]
        environment = os.environ | {"LC_ALL": "C"}
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as reader:
            assert reader.stdout
            assert reader.stdout.readline() == b"x\n"
            mount.wait_taken_over(mount.kill_worker())
            downloaded = mount.downloaded()  # its cold process is there again
            mount.evict()
            said, complaints = reader.communicate(b"\n", timeout=120)
        assert int(said) < len(text) // 2
        assert b"Permission denied" in complaints
        assert mount.downloaded() == downloaded
        assert readers(mount)[SCANNER]["denied"]


def test_a_file_that_goes_cold_while_a_denied_program_has_it_open() -> None:
    """It was hot when it was opened: what is not hot any more is refused all the same."""
    flags = (*FLAGS, "--access", f"deny command={SCANNER}", "--open-files", "idle", "--idle-files", "*")
    text = b"x" * (32 * CHUNK)
    with directory() as home, mounted(Plan(home, flags=flags)) as mount:
        path, scanner = mount.path / "file", program(home, "bash")
        path.write_bytes(text)
        forget_pages(path)
        environment = os.environ | {"LC_ALL": "C"}
        with subprocess.Popen(
            [scanner, "-c", READS_LATER, SCANNER, path],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as reader:
            assert reader.stdout
            assert reader.stdout.readline() == b"x\n"
            mount.release("file")
            downloaded = mount.downloaded()
            said, complaints = reader.communicate(b"\n", timeout=120)
        assert int(said) < len(text) // 2
        assert b"Permission denied" in complaints
        assert mount.downloaded() == downloaded


def forget_pages(path: Path) -> None:
    """What the kernel has of a file."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_limited_program_holds_nobody_up() -> None:
    """It waits for its second chunk for hours, and can be killed. Others have what they want; they are not late."""
    flags = (*FLAGS, "--access", f"limit command={SCANNER}", "--limited-rate", "1")
    with directory() as home, mounted(Plan(home, flags=flags)) as mount:
        scanned, consumed = mount.path / "scanned", mount.path / "consumed"
        mount.make_cold(scanned, CONTENT)
        mount.make_cold(consumed, CONTENT[::-1])
        with subprocess.Popen([program(home), scanned], stdout=subprocess.DEVNULL) as scan:
            try:
                wait_until(lambda: mount.status()["budgets"]["limited"]["waiting"] > 0)
                assert consumed.read_bytes() == CONTENT[::-1]
                assert scan.poll() is None
                assert readers(mount)[SCANNER]["access"] == "limit"
                assert readers(mount)[SCANNER]["bytes"] == CHUNK
                wait_until(lambda: mount.entry("consumed").cached_bytes == len(CONTENT))
                assert mount.entry("scanned").cached_bytes == 0
            finally:
                scan.kill()


def test_a_storm_is_reported() -> None:
    """In the log, in one sentence, and in `status`."""
    with directory() as home, mounted(Plan(home, flags=(*FLAGS, "--storm-threshold", "512KiB"))) as mount:
        (mount.path / "old").mkdir()
        files = [mount.path / "old" / str(number) for number in range(4)]
        for path in files:
            mount.make_cold(path, CONTENT)
        assert run(program(home), *files).stdout == CONTENT * 4
        reader = readers(mount)[SCANNER]
        expected = {"uid": os.getuid(), "bytes": 4 * len(CONTENT), "files": 4, "directory": "old", "is_storm": True}
        assert expected.items() <= reader.items()
        said = [line for line in mount.log.read_text().splitlines() if "cold files" in line]
        assert len(said) == 1
        assert f"{SCANNER} (uid {os.getuid()}), pid " in said[0]
        assert f'most of it below /old; access = ["limit command={SCANNER}"] would hold it back' in said[0]
        shown = [line for line in status_lines(mount.status(), 0.0) if "cold readers" in line]
        assert f"{SCANNER} (uid {os.getuid()}): 1.0M from 4 files in 60 s, most below /old: a storm" in shown[0]


def test_a_rule_for_nobody_is_refused_at_the_mount() -> None:
    """Rather than to hold back nobody."""
    with directory() as home:
        failure = mounting.run(Plan(home, flags=("--access", "deny uid=no-such-user")))
        assert "access: this host has no user 'no-such-user'" in failure.output


def test_writers_are_told_that_the_limit_is_reached() -> None:
    """EDQUOT, after cold_timeout; the file is cold as before, and an operator may restore it."""
    flags = (*FLAGS, "--restore-limit", "256KiB", "--cold-timeout", "1s")
    with directory() as home, mounted(Plan(home, flags=flags)) as mount:
        first, second = mount.path / "first", mount.path / "second"
        for path in (first, second):
            mount.make_cold(path, CONTENT)
        with first.open("ab") as file:
            file.write(b"!")
        with second.open("ab", buffering=0) as file, pytest.raises(OSError, match="quota"):
            file.write(b"!")
        assert mount.residency("second") == "cold"
        assert "a write needs its 262144 bytes back, and of restore_limit" in mount.log.read_text()
        mount.restore("second")
        with second.open("ab") as file:
            file.write(b"!")
        assert first.read_bytes() == second.read_bytes() == CONTENT + b"!"
