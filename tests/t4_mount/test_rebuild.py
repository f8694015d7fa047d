"""The whole story on a real mount and a real S3 server: the SSD is lost, the tree comes back."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.mounting import Plan, directory, mounted, refused
from tests.servers import S3Server
from tests.t4_mount.faulty_bucket import BUCKET, bucket_server
from tests.t4_mount.modes import wait_until
from tierfs.cli.exits import Exit

pytestmark = pytest.mark.mount

_PATIENCE_S = 180.0
LARGE = b"x" * 3000  # more than the metadata of an object has room for
CHUNK = ("--chunk-size", "64KiB")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """A server with a bucket, for all tests here; rclone, which keeps metadata of users as long as it runs."""
    with bucket_server() as started:
        yield started


def on_server(home: Path, server: S3Server) -> Plan:
    flags = ("--endpoint-url", server.endpoint_url, *CHUNK)
    return Plan(home, store=f"s3://{BUCKET}/{home.name}", flags=flags, environment=server.environment)


def tierfs(plan: Plan, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command, with what it says."""
    return subprocess.run(
        [sys.executable, "-m", "tierfs", *arguments],
        env=os.environ | dict(plan.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=_PATIENCE_S,
        check=False,
    )


def rebuild(plan: Plan, *flags: str) -> "subprocess.CompletedProcess[str]":
    store = plan.store or f"file://{plan.bucket}"
    where = (store, str(plan.mountpoint), "--hot", str(plan.hot), "--state", str(plan.state))
    return tierfs(plan, "rebuild", *where, *plan.flags, *flags)


def plant(root: Path) -> None:
    """Names, modes, times, attributes and kinds of all sorts; every file has bytes or is empty."""
    names = (b"plain", b"new\nline", b"not \xff UTF-8", b"a+b&c=d;e?f#g%41 ~'\"", "ünïcode".encode(), b"n" * 200)
    for above in ("d", "d/deep/er", "empty/within"):
        (root / above).mkdir(parents=True)
    for index, name in enumerate(names):
        for above in (b"", b"d/deep/"):
            path = os.path.join(os.fsencode(root), above + name)
            with open(path, "wb") as file:
                file.write(name * 1000 * (index + 1))
            os.chmod(path, 0o600 + index)
            os.setxattr(path, "user.k", name)
            os.utime(path, ns=(10**18 + index, 10**18 + index * 7))
    os.setxattr(root / "d/deep/plain", "user.large", LARGE)
    (root / "d" / "nothing").touch(mode=0o640)
    (root / "link").symlink_to("d/deep/plain")
    (root / "d" / "dangling").symlink_to("../nowhere")
    os.mkfifo(root / "fifo", 0o622)
    os.setxattr(root / "empty", "user.d", b"\0\xff")
    if os.geteuid() == 0:
        os.chown(root / "plain", 1234, 2345)
        os.chown(root / "empty", 1234, 2345)
        os.chown(root / "link", 1234, 2345, follow_symlinks=False)
    (root / "empty").chmod(0o2750)
    for name in ("d/deep/er", "d/deep", "empty/within", "empty", "d"):
        os.utime(root / name, ns=(10**18, 10**18 + len(name)))


def seen(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that a rebuild gives back, by path."""
    return {str(path.relative_to(root)): _look(path) for path in [root, *root.rglob("*")] if path != root}


def _look(path: Path) -> tuple[Any, ...]:
    st = path.lstat()
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)}
    is_file = stat.S_ISREG(st.st_mode)
    content = path.read_bytes() if is_file else os.readlink(path) if stat.S_ISLNK(st.st_mode) else None
    times = st.st_mtime_ns
    return st.st_mode, st.st_uid, st.st_gid, st.st_size if is_file else 0, times, attributes, content


def _xattrs(path: Path) -> list[str]:
    return [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.")]


def lose_ssd(plan: Plan) -> None:
    """Everything but the bucket."""
    shutil.rmtree(plan.state)
    shutil.rmtree(plan.hot)
    plan.hot.mkdir()


def archive_a_tree(plan: Plan) -> dict[str, tuple[Any, ...]]:
    """Mount, plant, release everything, change some of it while it is cold; what was there in the end."""
    with mounted(plan) as mount:
        plant(mount.path)
        mount.release_all()
        os.chmod(mount.path / "plain", 0o4711)
        os.setxattr(mount.path / "d/deep/plain", "user.late", b"while cold")
        (mount.path / "d/deep/plain").rename(mount.path / "renamed while cold")
        os.utime(mount.path / "d", ns=(5, 6))
        wanted = seen(mount.path)
        assert mount.status()["cold"]["files"] == 12
        assert not mount.check()
    return wanted


def test_the_ssd_is_lost_and_the_tree_comes_back(server: S3Server) -> None:
    with directory() as home:
        plan = on_server(home, server)
        wanted = archive_a_tree(plan)
        lose_ssd(plan)
        status, said = refused(plan)
        assert status == Exit.CATALOG
        assert "`tierfs rebuild`" in said
        done = rebuild(plan)
        assert (done.returncode, done.stderr) == (0, ""), done
        assert "12 files are back (0 archived again since then, 0 new since then), 0 are lost" in done.stdout
        checked = tierfs(plan, "check", "--deep", "--state", str(plan.state))
        assert (checked.returncode, checked.stderr) == (0, ""), checked
        assert checked.stdout == "catalog, hot directory, bucket and cache agree; 12 objects read back\n"
        with mounted(plan) as mount:
            assert mount.status()["cold"]["files"] == 12
            assert seen(mount.path) == wanted
            checked = tierfs(plan, "check", "--deep", "--rate", "0", str(mount.path))
            assert checked.returncode == 0, checked
            (mount.path / "plain").write_bytes(b"life goes on")
            mount.release("plain")
        with mounted(plan) as mount:
            assert (mount.path / "plain").read_bytes() == b"life goes on"


def test_what_was_archived_after_the_last_snapshot_is_there_too(server: S3Server) -> None:
    """The worker is killed: no snapshot at the end."""
    with directory() as home:
        plan = on_server(home, server)
        archive_a_tree(plan)
        with mounted(plan) as mount:
            (mount.path / "later").write_bytes(b"later" * 1000)
            os.setxattr(mount.path / "later", "user.k", b"v")
            os.utime(mount.path / "later", ns=(1, 10**18))
            mount.release("later")
            wanted = seen(mount.path)
            shutil.copytree(plan.state, home / "kept", ignore=shutil.ignore_patterns("*.sqlite*", "cache", "lock"))
            with server.client() as client:
                prefix = f"{home.name}/.tierfs/snapshots/"
                before = _copy_all(client, prefix, "kept/")
        with server.client() as client:  # what the unmount did is undone
            _delete_all(client, prefix)
            for key in before:
                client.copy_object(Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": "kept/" + key})
            _delete_all(client, "kept/")
        lose_ssd(plan)
        done = rebuild(plan)
        assert done.returncode == 0, done
        assert "13 files are back (0 archived again since then, 1 new since then), 0 are lost" in done.stdout
        with mounted(plan) as mount:
            assert seen(mount.path) == wanted


def _copy_all(client: Any, prefix: str, target: str) -> list[str]:
    keys = [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]
    for key in keys:
        client.copy_object(Bucket=BUCKET, Key=target + key, CopySource={"Bucket": BUCKET, "Key": key})
    return keys


def _delete_all(client: Any, prefix: str) -> None:
    for found in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])


def test_snapshots_are_taken_while_the_mount_serves_and_two_stay() -> None:
    flags = ("--policy-interval", "100ms", "--snapshot-interval", "100ms")
    with directory() as home, mounted(Plan(home, flags=flags)) as mount:
        snapshots = mount.plan.bucket / ".tierfs" / "snapshots"
        for number in range(4):
            (mount.path / f"d{number}").mkdir()
            wait_until(lambda number=number: f'"name":"d{number}"' in newest_of(snapshots))
            wait_until(lambda: len(list(snapshots.glob("*"))) <= 2)
        assert newest_of(snapshots).startswith('{"tierfs-snapshot":1')
        assert not mount.check()


def newest_of(snapshots: Path) -> str:
    """The text of the newest snapshot, as zcat shows it; nothing while there is none, or while it is being deleted."""
    found = sorted(snapshots.glob("*"))
    done = subprocess.run(["zcat", *found[-1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout


def test_a_tree_that_is_not_mounted_is_checked_and_repaired() -> None:
    """Also when its hot directory is elsewhere now."""
    with directory() as home:
        plan = Plan(home, flags=CHUNK)
        with mounted(plan) as mount:
            for name in ("cold", "warm"):
                mount.make_cold(mount.path / name, name.encode() * 5000)
            mount.restore("warm")
        elsewhere = plan.hot.rename(home / "elsewhere")
        (elsewhere / "warm").unlink()
        (plan.bucket / "stranger").write_bytes(b"appeared")
        where = ("--state", str(plan.state), "--hot", str(elsewhere))
        found = tierfs(plan, "check", *where)
        assert found.returncode == Exit.DISAGREEMENT, found
        assert {line.split()[0] for line in found.stdout.splitlines() if line[0] not in " 2"} == {
            "hot-missing",
            "object-unknown",
        }
        found = tierfs(plan, "check", "--repair", *where)
        assert found.returncode == Exit.REPAIRED, found
        assert tierfs(plan, "check", "--deep", *where).returncode == Exit.OK
        elsewhere.rename(plan.hot)
        with mounted(plan) as mount:
            assert mount.residency("warm") == "cold"
            assert (mount.path / "warm").read_bytes() == b"warm" * 5000
            assert (mount.path / "stranger").read_bytes() == b"appeared"


DAMAGE = {
    "garbage": lambda catalog: catalog.write_bytes(b"no database" * 1000),
    "empty": lambda catalog: catalog.write_bytes(b""),
    "missing": lambda catalog: catalog.unlink(),
    "torn": lambda catalog: _tear(catalog),
}


def _tear(catalog: Path) -> None:
    with catalog.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (catalog.stat().st_size - 4096))


def test_a_catalog_that_is_damaged_is_never_replaced_silently() -> None:
    """The mount refuses, and names the file and the command; after that command everything is as it was."""
    with directory() as home:
        plan = Plan(home, flags=CHUNK)
        with mounted(plan) as mount:
            plant(mount.path)
            mount.release("plain", "d/deep/plain")
            mount.archive("n" * 200)
            wanted = seen(mount.path)
        catalog = plan.state / "catalog.sqlite"
        whole = catalog.read_bytes()
        for damage in DAMAGE.values():
            catalog.write_bytes(whole)
            damage(catalog)
            before = catalog.read_bytes() if catalog.exists() else None
            status, said = refused(plan)
            assert status == Exit.CATALOG
            assert str(catalog) in said
            assert "tierfs rebuild" in said
            assert (catalog.read_bytes() if catalog.exists() else None) == before
        checked = tierfs(plan, "check", "--state", str(plan.state))
        assert checked.returncode == Exit.CATALOG, checked
        done = rebuild(plan)
        assert done.returncode == Exit.SETTINGS, done
        assert "there is a catalog already" in done.stderr
        done = rebuild(plan, "--replace-catalog")
        assert (done.returncode, done.stderr) == (0, ""), done
        (aside,) = [path for path in plan.state.glob("catalog.sqlite.*") if path.suffix[1:].isdigit()]
        assert aside.read_bytes() == before
        with mounted(plan) as mount:
            assert mount.residency("n" * 200) == "mirrored", "the hot bytes are the recorded ones"
            assert seen(mount.path) == wanted
            assert not mount.check()


def test_a_good_catalog_is_not_replaced_unless_told_and_no_mount_is_disturbed() -> None:
    with directory() as home:
        plan = Plan(home, flags=CHUNK)
        with mounted(plan) as mount:
            mount.make_cold(mount.path / "a", b"text" * 5000)
            done = rebuild(plan, "--replace-catalog")
            assert done.returncode == Exit.MOUNT, done
            assert "mounted already" in done.stderr
        done = rebuild(plan)
        assert done.returncode == Exit.SETTINGS, done
        assert "there is a catalog already" in done.stderr
        other = replace(plan, home=home)
        assert rebuild(other, "--replace-catalog").returncode == 0
        with mounted(plan) as mount:
            assert (mount.path / "a").read_bytes() == b"text" * 5000


def test_check_repairs_a_mount_that_serves() -> None:
    with directory() as home, mounted(Plan(home, flags=CHUNK)) as mount:
        for name in ("cold", "warm"):
            mount.make_cold(mount.path / name, name.encode() * 5000)
        mount.restore("warm")
        (mount.plan.bucket / "stranger").write_bytes(b"appeared")
        (mount.plan.bucket / "warm").unlink()
        (mount.plan.bucket / "cold").unlink()
        assert not (mount.path / "stranger").exists()
        found = tierfs(mount.plan, "check", str(mount.path))
        assert found.returncode == Exit.DISAGREEMENT, found
        assert found.stdout.endswith("3 disagreements\n")
        found = tierfs(mount.plan, "check", "--repair", str(mount.path))
        assert found.returncode == Exit.REPAIRED, found
        assert found.stdout.endswith("3 disagreements, 3 repaired\n")
        assert (mount.path / "stranger").read_bytes() == b"appeared"
        assert mount.residency("warm") == "hot"
        assert mount.residency("cold") == "lost"
        assert (mount.path / "warm").read_bytes() == b"warm" * 5000
        with pytest.raises(OSError, match="Input/output"):
            (mount.path / "cold").read_bytes()
        assert [finding.what for finding in mount.check()] == ["lost"]


def test_a_store_that_has_nothing_is_not_believed() -> None:
    """A disk that is not mounted looks like that."""
    with directory() as home:
        plan = Plan(home)
        plan.make_directories()
        done = rebuild(plan)
        assert done.returncode == Exit.SETTINGS, done
        assert "has no snapshot and no object" in done.stderr
        assert not (plan.state / "catalog.sqlite").exists()
