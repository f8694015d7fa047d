"""The REST API of a real mount over TCP: refused or served, across workers, and asked what nobody would ask.

API_EXAMPLES=1000 asks each operation so often instead of a few times, and one after the other, too.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import require
from tests.mounting import Mount, Plan, directory, mounted, refused
from tests.t4_mount.modes import wait_until
from tierfs.cli.exits import Exit

pytestmark = pytest.mark.mount

TOKEN = "a-token-of-some-length"
LONG = os.environ.get("API_EXAMPLES", "")
#: What schemathesis must not do: wait for events for ever.
CONFIGURATION = """
[[operations]]
include-path = "/api/v1/tiered/events"
parameters = { "follow" = false }
"""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SHORT = ["--max-examples", "2", "--phases", "coverage,fuzzing", "--checks", CHECKS, "--generation-deterministic"]


def plan_of(home: Path, *more: str, address: str = "127.0.0.1:0", mode: int = 0o600) -> Plan:
    """A mount with the API, whose token is in a file with this mode."""
    token = home / "token"
    token.touch(mode)
    token.write_text(TOKEN)
    return Plan(home, flags=("--api-address", address, "--api-token-file", str(token), *more))


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    with directory() as home, mounted(plan_of(home)) as mount:
        yield mount


def asked(mount: Mount, path: str, token: str = TOKEN) -> httpx.Response:
    url = f"http://{mount.status()['api']}{path}"
    return httpx.get(url, headers={"authorization": f"Bearer {token}"}, timeout=60, trust_env=False)


def figures(mount: Mount) -> dict[str, Any]:
    answer = asked(mount, "/api/v1/tiered/stats")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_the_api_agrees_with_status(mount: Mount) -> None:
    mount.make_cold(mount.path / "cold", b"x" * 10)
    (mount.path / "hot").write_bytes(b"y")
    stats, status = figures(mount), mount.status()
    for tier in ("hot", "warm", "cold"):
        assert stats[f"{tier}_segments"] == status[tier]["files"]
        assert stats[f"{tier}_bytes"] == status[tier]["bytes"]
    assert (stats["cold_segments"], stats["total_size_bytes"]) == (1, 11)
    found = asked(mount, "/api/v1/tiered/segments/cold").json()
    assert (found["residency"], found["size_bytes"], found["is_archived"]) == ("cold", 10, True)
    assert asked(mount, "/api/v1/tiered/segments/cold", token="x").status_code == 401


def test_the_next_worker_listens_too_and_has_a_new_token() -> None:
    with directory() as home, mounted(plan_of(home)) as mount:
        address = mount.status()["api"]
        assert address.startswith("127.0.0.1:")
        (home / "token").write_text(f"another-{TOKEN}")
        (home / "token").chmod(0o644)
        pid = mount.kill_worker()
        mount.wait_taken_over(pid)
        status = mount.status()
        assert status["api"] == "", "files are served, and nobody is let in without a secret"
        assert any("has mode 0644" in warning for warning in status["warnings"])
        (home / "token").chmod(0o600)
        wait_until(lambda: mount.status()["api"])
        assert not any("has mode 0644" in warning for warning in mount.status()["warnings"])
        assert asked(mount, "/api/v1/tiered/stats", f"another-{TOKEN}").json()["total_segments"] == 0
        assert asked(mount, "/api/v1/tiered/stats").status_code == 401


def test_a_mount_whose_token_is_no_secret_is_refused() -> None:
    with directory() as home:
        plan = plan_of(home, mode=0o644)
        plan.make_directories()
        status, said = refused(plan)
        assert status == Exit.SETTINGS
        assert "has mode 0644: others than its owner can get at it" in said
        assert TOKEN not in said


def test_an_address_that_is_taken_refuses_the_mount(mount: Mount) -> None:
    with directory() as home:
        plan = plan_of(home, address=mount.status()["api"])
        plan.make_directories()
        status, said = refused(plan)
        assert status == Exit.MOUNT
        assert "the API cannot listen at" in said


def test_the_worker_does_not_load_what_nobody_asks_for() -> None:
    """FastAPI takes a third of a second."""
    code = "import sys, tierfs.worker; sys.exit('fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_nothing_that_is_asked_is_a_server_error(mount: Mount, tmp_path: Path) -> None:
    """What the description allows, and what it does not: answers are of the form that it promises."""
    program = shutil.which("schemathesis", path=sysconfig.get_path("scripts"))
    require(program, "schemathesis is not installed")
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    for index in range(3):
        (mount.path / f"segment-{index}").write_bytes(b"x" * 10)
    address = mount.status()["api"]
    command = [str(program), "--config-file", str(tmp_path / "schemathesis.toml"), "run"]
    command += [f"http://{address}/api/v1/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"]
    command += ["--no-color", "--request-timeout", "60"]
    # Of a parameter that is given several times the last counts, which is lenient and not what the check wants.
    long = ["--max-examples", LONG, "--checks", "all", "--exclude-checks", "negative_data_rejection"]
    command += long if LONG else SHORT
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3600, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    wait_until(lambda: asked(mount, "/healthz").status_code == 200)
