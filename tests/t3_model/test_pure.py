"""Height 1: residency and policy alone, over records; a file is a number that counts its versions.

Where the bytes are is kept twice: as the table says (residency), and as what would really be on a disk and in a bucket.
A reader that follows the table must find the version that was written last, whatever happened in between.
"""

import stat
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.t3_model import examples
from tierfs.core.config import Settings
from tierfs.core.policy import Fill, HotFile, Verb, plan, why_kept, why_never
from tierfs.core.residency import TRANSIENT, WITHOUT_HOT_BYTES, Event, IllegalTransition, Residency, next_residency

H = 3600 * 10**9
SETTINGS = Settings.of(warm_after="1h", cold_after="3h", settle="0s", min_size="1B")
NAMES = [b"a", b"b", b"c"]

names = st.sampled_from(NAMES)


@dataclass(frozen=True)
class File:
    """One file: what its record says, and what is where. None: nothing there."""

    residency: Residency
    version: int
    hot: int | None
    bucket: int | None = None
    uploading: int | None = None
    changed_ns: int = 0
    restored_ns: int = 0
    writers: int = 0
    readers: int = 0
    pinned: bool = False

    def after(self, event: Event, **changes: object) -> "File":
        """The file after an event of the table."""
        return replace(self, residency=next_residency(self.residency, event), **changes)  # type: ignore[arg-type]

    @property
    def readable(self) -> int | None:
        """What a reader finds that believes the table."""
        return self.bucket if self.residency in WITHOUT_HOT_BYTES else self.hot


class PureTransparency(RuleBasedStateMachine):
    """Applications write; tierfs archives, releases, restores, crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[bytes, File] = {}
        self.now_ns = 100 * H
        self.versions = 0

    @initialize()
    def some_files(self) -> None:
        for name in NAMES:
            self.versions += 1
            self.files[name] = File(Residency.HOT, self.versions, self.versions, changed_ns=self.now_ns)

    # -- applications --------------------------------------------------------------------------------------------

    @rule(name=names)
    def write(self, name: bytes) -> None:
        """A write needs hot bytes: it restores first, or replaces everything."""
        self.restore(name)
        file = self.files[name]
        self.versions += 1
        if file.residency in WITHOUT_HOT_BYTES:
            return
        self.files[name] = file.after(
            Event.WRITTEN, version=self.versions, hot=self.versions, changed_ns=self.now_ns, uploading=None
        )

    @rule(name=names)
    def replace_content(self, name: bytes) -> None:
        self.versions += 1
        self.files[name] = self.files[name].after(
            Event.REPLACED, version=self.versions, hot=self.versions, changed_ns=self.now_ns, uploading=None
        )

    @rule(name=names, writers=st.integers(0, 1), readers=st.integers(0, 1), pinned=st.booleans())
    def use(self, name: bytes, writers: int, readers: int, pinned: bool) -> None:
        self.files[name] = replace(self.files[name], writers=writers, readers=readers, pinned=pinned)

    # -- tierfs --------------------------------------------------------------------------------------------------

    def look(self, name: bytes) -> HotFile:
        file = self.files[name]
        return HotFile(
            path=name,
            mode=stat.S_IFREG,
            nlink=1,
            size=10,
            mtime_ns=file.changed_ns,
            ctime_ns=file.changed_ns,
            residency=file.residency,
            readers=file.readers,
            writers=file.writers,
            pinned=file.pinned,
            restored_ns=file.restored_ns,
        )

    def begin_archive(self, name: bytes) -> None:
        file = self.files[name]
        if file.residency is Residency.HOT and why_never(self.look(name), SETTINGS) is None:
            self.files[name] = file.after(Event.ARCHIVE_STARTED, uploading=file.hot, bucket=None)

    def release(self, name: bytes) -> None:
        file = self.files[name]
        if file.residency is Residency.MIRRORED and why_kept(self.look(name)) is None:
            self.files[name] = file.after(Event.RELEASED, hot=None)

    @rule(name=names)
    def archive(self, name: bytes) -> None:
        self.begin_archive(name)

    @rule(name=names, works=st.booleans())
    def end_archive(self, name: bytes, works: bool) -> None:
        file = self.files[name]
        if file.residency is not Residency.ARCHIVING:
            return
        if not works:
            self.files[name] = file.after(Event.ABORTED, uploading=None)
        elif file.uploading == file.hot and not file.writers:
            self.files[name] = file.after(Event.ARCHIVED, bucket=file.uploading, uploading=None)
        else:
            self.files[name] = file.after(Event.WRITTEN, uploading=None)

    @rule(name=names)
    def release_one(self, name: bytes) -> None:
        self.release(name)

    @rule(name=names)
    def begin_restore(self, name: bytes) -> None:
        if self.files[name].residency is Residency.COLD:
            self.files[name] = self.files[name].after(Event.RESTORE_STARTED)

    @rule(name=names)
    def restore(self, name: bytes) -> None:
        self.begin_restore(name)
        file = self.files[name]
        if file.residency is Residency.RESTORING:
            self.files[name] = file.after(Event.RESTORED, hot=file.bucket, restored_ns=self.now_ns)

    @rule(name=names)
    def abort_restore(self, name: bytes) -> None:
        if self.files[name].residency is Residency.RESTORING:
            self.files[name] = self.files[name].after(Event.ABORTED)

    @rule(hours=st.integers(0, 4), hot=st.integers(0, 100))
    def policy_pass(self, hours: int, hot: int) -> None:
        self.now_ns += hours * H
        with_hot_bytes = [self.look(n) for n, file in self.files.items() if file.residency not in WITHOUT_HOT_BYTES]
        for action in plan(with_hot_bytes, Fill(hot, hot, 100), SETTINGS, self.now_ns):
            before = self.files[action.path]
            if action.verb is Verb.ARCHIVE:
                self.begin_archive(action.path)
                assert self.files[action.path].residency is Residency.ARCHIVING
            else:
                self.release(action.path)
                assert self.files[action.path].residency is Residency.COLD
                assert (before.pinned, before.readers, before.writers) == (False, 0, 0)

    @rule()
    def crash(self) -> None:
        for name, file in self.files.items():
            alive = replace(file, writers=0, readers=0, uploading=None)
            self.files[name] = alive.after(Event.CRASHED) if file.residency in TRANSIENT else alive

    @precondition(lambda self: any(file.residency is Residency.COLD for file in self.files.values()))
    @rule(name=names)
    def object_is_missing_for_a_while(self, name: bytes) -> None:
        if self.files[name].residency is Residency.COLD:
            lost = self.files[name].after(Event.MISSING)
            self.files[name] = lost.after(Event.FOUND)

    # -- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def every_file_has_its_last_version(self) -> None:
        for name, file in self.files.items():
            assert file.readable == file.version, (name, file)

    @invariant()
    def mirrored_means_identical(self) -> None:
        for file in self.files.values():
            if file.residency is Residency.MIRRORED:
                assert file.hot == file.bucket
            assert (file.hot is None) == (file.residency in WITHOUT_HOT_BYTES)

    @invariant()
    def hot_bytes_cannot_go_from_anywhere_else(self) -> None:
        for file in self.files.values():
            if file.residency is not Residency.MIRRORED:
                try:
                    next_residency(file.residency, Event.RELEASED)
                except IllegalTransition:
                    continue
                raise AssertionError(file)


TestPure = PureTransparency.TestCase
TestPure.settings = settings(max_examples=examples(75, 50), stateful_step_count=50)
