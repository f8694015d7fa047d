"""What is interrupted: one call each, the steps that it takes, and what it may leave behind."""

import ctypes
import fcntl
import os
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from tests.crashes.arming import Order
from tests.crashes.scene import (
    CONTENT,
    OTHER,
    Change,
    Scene,
    changed,
    exchanged,
    has_both,
    linked,
    nothing,
    removed,
    renamed,
)
from tests.crashes.stage import INTERRUPTED
from tests.crashes.ways import POWER, WITHOUT_TAKE_OVER, Way
from tests.mounting import MountFailed
from tierfs.core.reports import Verb
from tierfs.stores.hot import RENAME_EXCHANGE, _renameat2
from tierfs.stores.s3_answers import TransferSizes

Act = Callable[[Scene], None]

#: The theatre with an S3 server, and the size of a part of an upload to it.
S3 = "s3"
#: Theatres with snapshots in the bucket: in the others, objects are deleted without waiting for the next one.
FIRST_SNAPSHOT, SNAPSHOT, REBUILD = "first snapshot", "snapshot", "rebuild"
LEASE = "lease"
SETTINGS = {
    FIRST_SNAPSHOT: {"snapshot_interval": "1h"},
    SNAPSHOT: {"snapshot_interval": "1h"},
    REBUILD: {"snapshot_interval": "1h"},
    LEASE: {"lease": "10s"},
}
_PART = TransferSizes().part


def _nothing(_scene: Scene) -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """One call in a scene that was prepared for it.

    `steps` are those of the worker, `cold_steps` those of the cold process, in no order. After a crash the tree is as
    before, as after (`effect`), or one of `halves`; after a power cut it may be one of `undone` as well. After
    `sync`, and where the next worker has taken over, it is as after, whatever happens. Scenarios of one `theatre` are
    played on stages of their own.
    """

    name: str
    prepare: Act
    act: Act
    steps: tuple[str, ...] = ()
    cold_steps: tuple[str, ...] = ()
    effect: Change = nothing
    halves: tuple[Change, ...] = ()
    undone: tuple[Change, ...] = ()
    settle: Act = _nothing
    sync: Act = Scene.sync
    ways: tuple[Way, ...] = tuple(Way)
    theatre: str = ""


def scenarios() -> list[Scenario]:
    """All of them."""
    usual = [*_archives(), *_releases(), *_restores(), *_names(), *_renames(), *_bucket(), *_recoveries()]
    return [*usual, *_take_overs(), *_first_mounts(), *_multiparts(), *_snapshots(), *_rebuilds(), *_leases()]


# -- archive -----------------------------------------------------------------------------------------------------


def _archives() -> list[Scenario]:
    def archive(scene: Scene) -> None:
        scene.move("archive", "f")

    def prepare_stale(scene: Scene) -> None:
        scene.file("f", "mirrored")
        scene.rewrite("f")

    def prepare_buried(scene: Scene) -> None:
        scene.file("f", "cold")
        scene.at("f").unlink()
        scene.file("f", content=OTHER)

    def prepare_taken(scene: Scene) -> None:
        scene.file("f", "mirrored")
        scene.at("f").rename(scene.at("g"))
        renamed("f", "g")(scene.tree)
        scene.rewrite("g")
        scene.file("f")

    def prepare_change(scene: Scene) -> None:
        scene.file("f")
        scene.give(Order("after", "archive.upload", touch=str(scene.hot / "f")))

    def prepare_shorter(scene: Scene) -> None:
        scene.file("f")
        scene.give(Order("before", "archive.upload", shorten=str(scene.at("f"))))

    def prepare_unlink(scene: Scene) -> None:
        scene.file("f")
        scene.give(Order("after", "archive.upload", unlink=str(scene.at("f"))))

    return [
        Scenario(
            "archive a file",
            lambda scene: scene.file("f"),
            archive,
            ("archive.start", "archive.sync_catalog", "archive.commit"),
            ("archive.sync_bytes", "archive.upload", "directory.body", "directory.description", "directory.name"),
        ),
        Scenario(
            "archive a newer version",
            prepare_stale,
            archive,
            ("archive.start", "archive.commit"),
            ("directory.name", "directory.forget"),
        ),
        Scenario(
            "archive where an object is to be deleted",
            prepare_buried,
            archive,
            ("delete.sync_catalog", "delete.object", "delete.commit", "archive.start", "archive.commit"),
        ),
        Scenario("archive where a hot file has the key", prepare_taken, archive, ("archive.take_key", "archive.start")),
        Scenario("archive a file that changes", prepare_change, archive, ("archive.give_up",), effect=_touched("f")),
        Scenario(
            "archive a file that is cut",
            prepare_shorter,
            archive,
            ("archive.abort",),
            effect=changed("f", content=CONTENT[:10], mtime_ns=None),
        ),
        Scenario("archive a file that is removed", prepare_unlink, archive, ("archive.bury",), effect=removed("f")),
    ]


def _touched(name: str) -> Change:
    return changed(name, mtime_ns=None)


# -- release, evict ----------------------------------------------------------------------------------------------

_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_APPEND_ONLY = 0x20  # FS_APPEND_FL: in such a directory names come, and none goes


def _guard(scene: Scene, name: str, is_guarded: bool) -> None:
    """Have the local filesystem refuse that names go from a directory."""
    fd = os.open(scene.hot / name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(fd, _GETFLAGS, struct.pack("l", 0)))
        flags = flags | _APPEND_ONLY if is_guarded else flags & ~_APPEND_ONLY
        fcntl.ioctl(fd, _SETFLAGS, struct.pack("l", flags))
    finally:
        os.close(fd)


def _releases() -> list[Scenario]:
    def release(scene: Scene) -> None:
        scene.move("release", "f")

    def prepare_guarded(scene: Scene) -> None:
        scene.directory("d")
        scene.file("d/f", "mirrored")
        _guard(scene, "d", True)

    def prepare_cached(scene: Scene) -> None:
        scene.file("f", "cold")
        assert scene.at("f").read_bytes() == CONTENT

    def evict_some(scene: Scene) -> None:
        scene.evict("f")

    def read(scene: Scene) -> None:
        assert scene.at("f").read_bytes() == CONTENT

    return [
        Scenario(
            "release a file",
            lambda scene: scene.file("f", "mirrored"),
            release,
            ("release.sync_catalog", "release.commit", "release.unlink"),
        ),
        Scenario(
            "release a file that cannot go",
            prepare_guarded,
            lambda scene: scene.move("release", "d/f"),
            ("release.undo",),
            settle=lambda scene: _guard(scene, "d", False),
        ),
        Scenario("evict a file", prepare_cached, evict_some, (), ("cache.evict", "cache.unlink")),
        Scenario("read a cold file", lambda scene: scene.file("f", "cold"), read, (), ("cache.write", "cache.keep")),
    ]


# -- restore, write, truncate ------------------------------------------------------------------------------------

_RESTORE = ("restore.start", "restore.fill", "restore.sync", "restore.name", "restore.commit", "restore.sync_names")


def _restores() -> list[Scenario]:
    def cold(scene: Scene) -> None:
        scene.file("f", "cold")

    def prepare_full(scene: Scene) -> None:
        cold(scene)
        scene.give(Order("before", "restore.commit", fails=True))

    def write(scene: Scene) -> None:
        with scene.at("f").open("r+b", buffering=0) as file:
            file.write(OTHER)

    def overwrite(scene: Scene) -> None:
        with scene.at("f").open("wb", buffering=0) as file:
            file.write(OTHER)

    def restore_wrong_object(scene: Scene) -> None:
        with _without_object(scene, "f"):
            (scene.bucket / "f").write_bytes(OTHER)
            scene.move("restore", "f")

    def lose(scene: Scene) -> None:
        with _without_object(scene, "f"), suppress(OSError):
            scene.at("f").read_bytes()

    def prepare_lost(scene: Scene) -> None:
        cold(scene)
        lose(scene)

    def wait_until_found(scene: Scene) -> None:
        if scene.residency("f") == "lost":
            _pass_again(scene)
        scene.stage.wait_until(lambda: scene.residency("f") != "lost", "the object is found")

    def write_in_place(scene: Scene) -> None:
        fd = os.open(scene.at("f"), os.O_RDWR)
        try:
            os.pwrite(fd, OTHER, 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def write_durably(scene: Scene) -> None:
        fd = os.open(scene.at("f"), os.O_RDWR | os.O_DSYNC)
        try:
            os.pwrite(fd, OTHER, 0)
        finally:
            os.close(fd)

    partly = CONTENT.replace(CONTENT[: len(OTHER)], OTHER, 1)
    return [
        Scenario("restore a file", cold, lambda scene: scene.move("restore", "f"), _RESTORE),
        Scenario(
            "write to a cold file",
            cold,
            write,
            (*_RESTORE, "write.commit"),
            effect=changed("f", content=partly, mtime_ns=None),
        ),
        Scenario(
            "truncate a cold file",
            cold,
            overwrite,
            ("overwrite.name", "overwrite.sync_names", "overwrite.commit"),
            effect=changed("f", content=OTHER, mtime_ns=None),
            halves=(changed("f", content=b"", mtime_ns=None),),
        ),
        *(
            Scenario(
                name,
                lambda scene: scene.file("f", "mirrored"),
                act,
                effect=changed("f", content=partly, mtime_ns=None),
                sync=_nothing,
            )
            for name, act in (
                ("fdatasync in a mirrored file", write_in_place),
                ("O_DSYNC in a mirrored file", write_durably),
            )
        ),
        Scenario(
            "restore while the catalog is full",
            prepare_full,
            lambda scene: scene.move("restore", "f"),
            ("restore.unname", "restore.abort"),
        ),
        Scenario("restore from another object", cold, restore_wrong_object, ("restore.abort",)),
        Scenario("read a lost file", cold, lose, ("lost.commit",), settle=wait_until_found, sync=_nothing),
        Scenario("find a lost file", prepare_lost, _pass_again, ("found.commit",), settle=wait_until_found),
    ]


class _without_object:  # used like a function
    """The object of a file is elsewhere while the block runs, and as it was afterwards."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._object = scene.bucket / name
        self._aside = scene.stage.plan.home / "bucket" / ".tierfs-store" / f"aside-{scene.name}"

    def __enter__(self) -> None:
        self._object.rename(self._aside)

    def __exit__(self, *_exception: object) -> None:
        with suppress(OSError):  # a power cut brings it back
            self._object.parent.mkdir(exist_ok=True)
            self._aside.rename(self._object)


def _pass_again(scene: Scene) -> None:
    """A worker begins with a pass of the policy, and that with what the bucket still owes."""
    scene.stage.pass_again()


# -- names and attributes ----------------------------------------------------------------------------------------


def _names() -> list[Scenario]:
    def unlink(scene: Scene) -> None:
        scene.at("f").unlink()

    def chmod(scene: Scene) -> None:
        scene.at("f").chmod(0o604)

    def setxattr(scene: Scene) -> None:
        os.setxattr(scene.at("f"), "user.more", b"value")

    def prepare_pinned(scene: Scene) -> None:
        scene.file("f", "mirrored")
        scene.pin("f")

    return [
        Scenario("unlink a hot file", lambda scene: scene.file("f"), unlink, ("unlink.name",), effect=removed("f")),
        Scenario(
            "unlink a pinned, mirrored file",
            prepare_pinned,
            unlink,
            ("forget.commit", "pins.commit", "unlink.name"),
            effect=removed("f"),
        ),
        Scenario(
            "unlink a cold file",
            lambda scene: scene.file("f", "cold"),
            unlink,
            ("forget.commit",),
            effect=removed("f"),
        ),
        Scenario(
            "chmod of a mirrored file",
            lambda scene: scene.file("f", "mirrored"),
            chmod,
            ("identity.commit",),
            effect=changed("f", mode=0o604),
        ),
        Scenario(
            "setxattr of a cold file",
            lambda scene: scene.file("f", "cold"),
            setxattr,
            ("attributes.commit",),
            effect=lambda tree: changed("f", xattrs=tuple(sorted((*tree["f"].xattrs, ("user.more", b"value")))))(tree),
        ),
        Scenario(
            "link to a mirrored file",
            lambda scene: scene.file("f", "mirrored"),
            lambda scene: os.link(scene.at("f"), scene.at("g")),
            ("link.name", "write.commit"),
            effect=linked("f", "g"),
        ),
    ]


# -- rename ------------------------------------------------------------------------------------------------------

_CARRIED = ("rename.intend", "rename.sync_catalog", "rename.name", "rename.follow")


def _rename(source: str, target: str, flags: int = 0) -> Act:
    def act(scene: Scene) -> None:
        if _renameat2(-100, os.fsencode(scene.at(source)), -100, os.fsencode(scene.at(target)), flags):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return act


def _two(one: str, other: str) -> Act:
    def prepare(scene: Scene) -> None:
        scene.file("f", one)
        scene.file("g", other, OTHER)

    return prepare


def _renames() -> list[Scenario]:
    def prepare_directory(scene: Scene) -> None:
        scene.directory("d")
        for residency in ("hot", "mirrored", "cold"):
            scene.file(f"d/{residency}", residency)

    def prepare_guarded(scene: Scene) -> None:
        scene.directory("d")
        scene.file("d/f", "mirrored")
        _guard(scene, "d", True)

    there = renamed("f", "g")
    return [
        Scenario(
            "rename a mirrored file",
            lambda scene: scene.file("f", "mirrored"),
            _rename("f", "g"),
            (*_CARRIED, "identity.commit"),
            effect=there,
            undone=(has_both("f", "g"),),
        ),
        Scenario(
            "rename a directory",
            prepare_directory,
            _rename("d", "e"),
            (*_CARRIED, "rename.sync_names"),
            effect=renamed("d", "e"),
        ),
        Scenario(
            "rename a mirrored file over another",
            _two("mirrored", "mirrored"),
            _rename("f", "g"),
            (*_CARRIED, "identity.commit"),
            effect=there,
            undone=(has_both("f", "g"),),
        ),
        Scenario(
            "rename a hot file over a cold one",
            _two("hot", "cold"),
            _rename("f", "g"),
            (*_CARRIED, "rename.sync_names"),
            effect=there,
        ),
        Scenario(
            "rename a hot file over a mirrored one",
            _two("hot", "mirrored"),
            _rename("f", "g"),
            ("rename_hot.name", "forget.commit"),
            effect=there,
        ),
        Scenario(
            "rename a cold file",
            lambda scene: scene.file("f", "cold"),
            _rename("f", "g"),
            ("rename_cold.commit", "attributes.commit"),
            effect=there,
        ),
        Scenario(
            "rename a cold file over a hot one",
            _two("cold", "hot"),
            _rename("f", "g"),
            (
                "rename_cold.commit",
                "rename_cold.sync_catalog",
                "rename_cold.unlink",
                "rename_cold.sync_names",
                "rename_cold.spare",
            ),
            effect=there,
        ),
        Scenario(
            "exchange two cold files",
            _two("cold", "cold"),
            _rename("f", "g", RENAME_EXCHANGE),
            ("rename_cold.exchange",),
            effect=exchanged("f", "g"),
        ),
        Scenario(
            "exchange a mirrored and a cold file",
            _two("mirrored", "cold"),
            _rename("f", "g", RENAME_EXCHANGE),
            (*_CARRIED, "rename.sync_names", "identity.commit"),
            effect=exchanged("f", "g"),
        ),
        Scenario(
            "a rename that is refused",
            prepare_guarded,
            _refused(_rename("d/f", "g")),
            ("rename.withdraw",),
            settle=lambda scene: _guard(scene, "d", False),
        ),
    ]


def _refused(act: Act) -> Act:
    def attempt(scene: Scene) -> None:
        with suppress(PermissionError):
            act(scene)

    return attempt


# -- what the bucket owes ----------------------------------------------------------------------------------------


def _bucket() -> list[Scenario]:
    def prepare_deletion(scene: Scene) -> None:
        scene.file("f", "cold")
        scene.at("f").unlink()
        removed("f")(scene.tree)

    def prepare_move(scene: Scene) -> None:
        scene.file("f", "cold")
        _rename("f", "g")(scene)
        renamed("f", "g")(scene.tree)

    def prepare_reached(scene: Scene) -> None:
        prepare_move(scene)
        _rename("g", "f")(scene)
        renamed("g", "f")(scene.tree)

    def prepare_taken(scene: Scene) -> None:
        scene.file("g", "mirrored")
        _rename("g", "x")(scene)
        renamed("g", "x")(scene.tree)
        scene.rewrite("x")
        prepare_move(scene)

    return [
        Scenario(
            "delete an object",
            prepare_deletion,
            _pass_again,
            ("delete.sync_catalog", "delete.object", "delete.commit"),
            ("directory.delete", "directory.forget"),
        ),
        Scenario(
            "move an object",
            prepare_move,
            _pass_again,
            ("move.bury", "move.sync_catalog", "move.copy", "move.commit"),
            ("directory.body", "directory.description", "directory.name"),
        ),
        Scenario("move an object back", prepare_reached, _pass_again, ("move.reached",)),
        Scenario("move an object where a hot file has the key", prepare_taken, _pass_again, ("move.take_key",)),
    ]


# -- recovery ----------------------------------------------------------------------------------------------------


def _crashed(prepare: Act, act: Act, step: str, afterwards: Act = _nothing) -> Act:
    """Prepare a scene by a crash before a step of something else."""

    def prepared(scene: Scene) -> None:
        prepare(scene)
        scene.give(Order("before", step, kill="all"))
        with suppress(*INTERRUPTED):
            act(scene)
        scene.stage.wait_dead()
        afterwards(scene)

    return prepared


def _mount_once(scene: Scene) -> None:
    with suppress(MountFailed):
        scene.stage.start_now()


def _recoveries() -> list[Scenario]:
    def hot(scene: Scene) -> None:
        scene.file("f")

    def mirrored(scene: Scene) -> None:
        scene.file("f", "mirrored")

    def cold(scene: Scene) -> None:
        scene.file("f", "cold")

    def lose_hot(scene: Scene) -> None:
        (scene.hot / "f").unlink()
        removed("f")(scene.tree)

    def follow(scene: Scene) -> None:
        renamed("f", "g")(scene.tree)

    def archive(scene: Scene) -> None:
        scene.move("archive", "f")

    over = _crashed(_two("cold", "hot"), _rename("f", "g"), "rename_cold.unlink", follow)
    renaming = _crashed(mirrored, _rename("f", "g"), "rename.follow", follow)
    recoveries = [
        Scenario(
            "recover an archive", _crashed(hot, archive, "archive.sync_catalog"), _mount_once, ("recover.commit",)
        ),
        Scenario(
            "recover a release",
            _crashed(mirrored, lambda scene: scene.move("release", "f"), "release.unlink"),
            _mount_once,
            ("recover.commit",),
        ),
        Scenario(
            "recover a restore",
            _crashed(cold, lambda scene: scene.move("restore", "f"), "restore.commit"),
            _mount_once,
            ("recover.commit",),
        ),
        Scenario("recover a rename", renaming, _mount_once, ("recover.follow", "identity.commit")),
        Scenario(
            "withdraw a rename",
            _crashed(mirrored, _rename("f", "g"), "rename.name"),
            _mount_once,
            ("recover.withdraw",),
        ),
        Scenario(
            "recover a rename over a hot file",
            over,
            _mount_once,
            ("recover.unlink", "recover.sync_names", "recover.spare"),
        ),
        Scenario(
            "forget what was removed meanwhile",
            _crashed(hot, archive, "archive.sync_catalog", lose_hot),
            _mount_once,
            ("recover.forget",),
        ),
    ]
    return [replace(scenario, ways=WITHOUT_TAKE_OVER) for scenario in recoveries]


def _take_overs() -> list[Scenario]:
    """A worker is killed over a call, and the next one while it settles what the first one has left."""

    def case(prepare: Act, act: Act, killed_before: str, *steps: str, effect: Change = nothing) -> Scenario:
        def prepare_kill(scene: Scene) -> None:
            prepare(scene)
            scene.give(Order("before", killed_before, kill="this"))

        name = f"take over from one that died before {killed_before}"
        return Scenario(name, prepare_kill, act, steps, effect=effect, ways=(Way.TAKE_OVER,))

    def file(residency: str) -> Act:
        return lambda scene: scene.file("f", residency)

    def move(verb: Verb) -> Act:
        return lambda scene: scene.move(verb, "f")

    there = renamed("f", "g")
    followed = ("recover.follow", "identity.commit")
    replaced = ("recover.unlink", "recover.sync_names", "recover.spare")
    return [
        case(file("hot"), move("archive"), "archive.sync_catalog", "recover.commit"),
        case(file("mirrored"), move("release"), "release.unlink", "recover.commit"),
        case(file("cold"), move("restore"), "restore.commit", "recover.commit"),
        case(file("mirrored"), _rename("f", "g"), "rename.follow", *followed, effect=there),
        case(file("mirrored"), _rename("f", "g"), "rename.name", "recover.withdraw", effect=there),
        case(_two("cold", "hot"), _rename("f", "g"), "rename_cold.unlink", *replaced, effect=there),
    ]


# -- the first mount, with objects in the bucket -----------------------------------------------------------------


def _first_mounts() -> list[Scenario]:
    def prepare(scene: Scene) -> None:
        scene.file("f", "cold")
        changed("f", ino=None)(scene.tree)  # who finds it in the bucket gives it another number

    def mount_without_state(scene: Scene) -> None:
        scene.stage.stop()
        for path in scene.stage.plan.state.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        scene.stage.sync()
        _mount_once(scene)

    steps = ("catalog.create", "catalog.checkpoint", "scan.adopt", "scan.complete")
    return [
        Scenario(
            "find what is in the bucket", prepare, mount_without_state, steps, ways=WITHOUT_TAKE_OVER, theatre="scan"
        )
    ]


# -- uploads in parts, to a server -------------------------------------------------------------------------------


def _multiparts() -> list[Scenario]:
    large = CONTENT * (_PART // len(CONTENT) + 2)

    def prepare(scene: Scene) -> None:
        scene.file("f", content=large)

    def prepare_shorter(scene: Scene) -> None:
        prepare(scene)
        scene.give(Order("after", "multipart.begin", shorten=str(scene.at("f"))))

    def archive(scene: Scene) -> None:
        scene.move("archive", "f")

    ways, theatre = (Way.CRASH, Way.COLD_CRASH), S3
    steps = ("multipart.begin", "multipart.note", "multipart.part", "multipart.complete", "multipart.forget")
    shorter = changed("f", content=large[:10], mtime_ns=None)
    return [
        Scenario("archive a large file", prepare, archive, (), steps, ways=ways, theatre=theatre),
        Scenario(
            "archive a large file that is cut",
            prepare_shorter,
            archive,
            (),
            ("multipart.abort",),
            effect=shorter,
            ways=ways,
            theatre=theatre,
        ),
    ]


# -- snapshots of the tree, and a rebuild from one ---------------------------------------------------------------


def _snapshots() -> list[Scenario]:
    def prepare(scene: Scene) -> None:
        for name in ("one", "two"):  # each mount leaves a snapshot at its end, and two are kept
            scene.file(name, "mirrored")
            _pass_again(scene)
        scene.file("f", "cold")

    def leave(scene: Scene) -> None:
        scene.stage.stop()

    def cold(scene: Scene) -> None:
        scene.file("f", "cold")

    taken, first = ("snapshot.put", "snapshot.forget"), ("snapshot.commit",)
    ways = (Way.CRASH, *POWER)
    return [
        Scenario("a snapshot", prepare, leave, (), taken, ways=ways, theatre=SNAPSHOT),
        Scenario("the first snapshot", cold, leave, first, ways=ways, theatre=FIRST_SNAPSHOT),
    ]


def _rebuilds() -> list[Scenario]:
    def prepare(scene: Scene) -> None:
        scene.file("f", "cold")
        scene.file("g", "mirrored", OTHER)
        scene.directory("d")
        for name in ("f", "g"):
            changed(name, ino=None)(scene.tree)  # no snapshot has numbers

    def rebuild(scene: Scene) -> None:
        scene.stage.stop()
        scene.stage.sync()
        if not scene.stage.rebuild():
            scene.stage.replug()
            assert scene.stage.rebuild()

    steps = ("rebuild.names", "rebuild.aside", "rebuild.publish")
    ways = (Way.CRASH, Way.POWER)
    return [Scenario("rebuild", prepare, rebuild, steps, ways=ways, theatre=REBUILD)]


# -- the lease of the bucket -------------------------------------------------------------------------------------


def _leases() -> list[Scenario]:
    def prepare(scene: Scene) -> None:
        scene.file("f", "cold")

    def prepare_unmounted(scene: Scene) -> None:
        prepare(scene)
        scene.stage.stop()

    def leave(scene: Scene) -> None:
        scene.stage.stop()

    def use(scene: Scene) -> None:
        """The mount after the crash has the lease at once, whatever the one before has left of its own."""
        scene.file("g", "cold")
        assert scene.stage.mount.status()["lease"]["state"] == "held"

    def case(name: str, preparation: Act, act: Act, *steps: str) -> Scenario:
        ways = (Way.CRASH, *POWER)
        return Scenario(name, preparation, act, (), steps, settle=use, ways=ways, theatre=LEASE)

    return [
        case("take the lease", prepare_unmounted, _mount_once, "lease.take", "lease.remember"),
        case("renew the lease", prepare, _nothing, "lease.renew"),
        case("give the lease back", prepare, leave, "lease.free"),
    ]
