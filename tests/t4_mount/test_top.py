"""`tierfs top` of a real mount: as text, as JSON, and on a terminal, which is afterwards as it was."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.mounting import Mount, Plan, directory, mounted
from tests.t4_mount.test_events import tierfs
from tierfs.cli.exits import Exit

pytestmark = pytest.mark.mount

_PATIENCE_S = 120.0
_ON, _OFF = b"\x1b[?1049h", b"\x1b[?1049l"  # the terminal's other screen


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    with directory() as home, mounted(Plan(home)) as mount:
        mount.make_cold(mount.path / "cold", b"x" * 5000)
        assert (mount.path / "cold").read_bytes() == b"x" * 5000
        yield mount


class Terminal:
    """`tierfs top` on a terminal of 80 columns and 24 rows."""

    def __init__(self, mount: Mount) -> None:
        self._master, slave = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self._master)
        self.output = b""
        # --ctty: Ctrl-C is for whoever has the terminal.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "tierfs", "top", str(mount.path), "-d", "0.1"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
        )
        os.close(slave)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def wait_for(self, pattern: bytes) -> None:
        """Read until something is shown."""
        while not re.search(pattern, self.output):
            assert self._read(), self.output

    def wait_ended(self) -> int:
        """Read until it ends; its exit code."""
        while self._read():
            pass
        return self.process.wait(_PATIENCE_S)

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self._master)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], _PATIENCE_S)
        assert ready, self.output
        data = b""
        with suppress(OSError):  # EIO: nobody has the terminal any more
            data = os.read(self._master, 1 << 16)
        self.output += data
        return bool(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(mount: Mount) -> Iterator[Terminal]:
    opened = Terminal(mount)
    try:
        yield opened
    finally:
        opened.close()


def test_one_look_as_text(mount: Mount) -> None:
    text = tierfs("top", str(mount.path), "--once", "-d", "0.1")
    assert "hot 0 files 0   warm 0 files 0   cold 1 files 4.9K" in text
    assert "HOTTEST FILES" in text
    assert re.search(r"cold +\d+ opens +4\.9K read  cold", text)
    assert "\x1b" not in text
    assert "q quits" not in text


def test_looks_as_json(mount: Mount) -> None:
    lines = tierfs("top", str(mount.path), "-n", "2", "--json", "-d", "0.1").splitlines()
    first, second = map(json.loads, lines)
    assert first["mountpoint"] == str(mount.path)
    assert first["activity"]["as_of_ns"] < second["activity"]["as_of_ns"]
    assert all(rate >= 0 for name, rate in second["rates"]["bytes"].items() if name != "grown_hot")


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_a_key_ends_it_and_the_terminal_is_as_it_was(mount: Mount, key: bytes) -> None:
    with terminal(mount) as top:
        top.wait_for(rb"HOTTEST FILES")
        assert _ON in top.output
        assert top.attributes() != top.before  # keys come without Enter
        top.resize(160, 45)
        wide = re.escape(b"HOTTEST FILES" + b" " * 100)
        top.wait_for(wide)
        top.press(key)
        assert top.wait_ended() == Exit.OK
        assert top.output.rindex(_OFF) > top.output.rindex(_ON)
        assert top.output.endswith((b"\x1b[?25h\x1b[?1049l", b"\x1b[?1049l\x1b[?25h", b"\r\n"))
        assert top.attributes() == top.before


def test_the_next_worker_is_followed_until_the_mount_is_gone() -> None:
    with directory() as home, mounted(Plan(home)) as mount, terminal(mount) as top:
        top.wait_for(rb"worker \d+ for")
        pid = mount.kill_worker()
        mount.wait_taken_over(pid)
        top.wait_for(b"worker %d for" % mount.status()["worker_pid"])
        tierfs("umount", str(mount.path))
        assert top.wait_ended() == Exit.NOT_RUNNING
        assert b"is gone" in top.output.replace(b"\r\n", b"").rpartition(_OFF)[2]
