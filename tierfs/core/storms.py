"""Who reads what cold: sliding counts for each command and user, and when one of them is a storm.

Pure: the clock is an argument, in nanoseconds. Bounded memory: so many readers, and of each so many names, are kept.
"""

from collections import deque
from dataclasses import dataclass, field

from tierfs.core.access import Access, Opener

#: What is counted is what happened in the last minute, known to a twelfth of it.
WINDOW_NS = 60 * 10**9
_SLOT_NS = WINDOW_NS // 12
_MOST_READERS = 64
_MOST_FILES = 10_000  # of one reader in one slot
_MOST_DIRECTORIES = 100
#: Who is not among the first so many, all together.
OTHERS = Opener(command="others", uid=-1)


@dataclass(slots=True)
class _Slot:
    """What one reader had in a twelfth of a window."""

    number: int
    bytes: int = 0
    requests: int = 0
    restored: int = 0
    denied: int = 0
    files: set[str] = field(default_factory=set)
    directories: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ColdReader:
    """One who reads cold: what had to be fetched for it in the last minute, and how often it was refused.

    `restored` of the bytes were for files that it writes to. `directory` is where most are from; `files` is at least
    so many.
    """

    command: str
    uid: int
    pid: int
    access: Access
    bytes: int
    restored: int
    requests: int
    files: int
    denied: int
    directory: str
    is_storm: bool

    @property
    def name(self) -> str:
        """As people are told of it."""
        if self.uid == OTHERS.uid:
            return "others"
        return f"{self.command or 'a process without a name'} (uid {self.uid})"


@dataclass(frozen=True, slots=True)
class Storm:
    """A storm that began, or that is over: then `bytes` is all of it, and `lasted_ns` how long it was."""

    reader: ColdReader
    is_over: bool = False
    bytes: int = 0
    lasted_ns: int = 0

    def __str__(self) -> str:
        """One sentence for the log."""
        reader = self.reader
        if self.is_over:
            seconds = self.lasted_ns // 10**9
            return f"the storm of {reader.name} is over: {_shown(self.bytes)} had to be fetched for it in {seconds} s"
        condition = f"command={reader.command}" if reader.command else f"uid={reader.uid}"
        does, came, advice = "reads", "fetched", f'access = ["limit {condition}"] would hold it back'
        if reader.restored > reader.bytes // 2:
            does, came, advice = "writes to", "brought back", "restore_rate or restore_limit would hold it back"
        elif reader.access is Access.LIMIT:
            advice = "limited_rate holds it back"
        return (
            f"{reader.name}, pid {reader.pid}, {does} cold files: {_shown(reader.bytes)} of {reader.files} files had "
            f"to be {came} within a minute, most of it below /{reader.directory}; {advice}"
        )


def _shown(size: int) -> str:
    """Bytes for a sentence."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size} bytes"


@dataclass(slots=True)
class _Reader:
    opener: Opener
    slots: deque[_Slot] = field(default_factory=deque)
    storm_began_ns: int | None = None
    storm_bytes: int = 0

    def slot(self, now_ns: int) -> _Slot:
        """The one of now; those that are too old go."""
        number = now_ns // _SLOT_NS
        while self.slots and self.slots[0].number <= number - WINDOW_NS // _SLOT_NS:
            self.slots.popleft()
        if not self.slots or self.slots[-1].number < number:
            self.slots.append(_Slot(number))
        return self.slots[-1]

    def seen(self) -> ColdReader:
        opener, directories = self.opener, dict[str, int]()
        for slot in self.slots:
            for name, size in slot.directories.items():
                directories[name] = directories.get(name, 0) + size
        return ColdReader(
            command=opener.command,
            uid=opener.uid,
            pid=opener.pid,
            access=opener.access,
            bytes=sum(slot.bytes for slot in self.slots),
            restored=sum(slot.restored for slot in self.slots),
            requests=sum(slot.requests for slot in self.slots),
            files=len(set().union(*(slot.files for slot in self.slots))),
            denied=sum(slot.denied for slot in self.slots),
            directory=max(directories, key=lambda name: directories[name], default=""),
            is_storm=self.storm_began_ns is not None,
        )


class Census:
    """The readers of the last minute. `threshold` bytes in it make a storm, half of them less end it; 0: never.

    INVARIANT: memory is bounded, whoever reads whatever.
    """

    def __init__(self, threshold: int) -> None:
        self.storms = 0  # since the start
        self._threshold = threshold
        self._readers: dict[tuple[str, int], _Reader] = {}

    def fetched(self, opener: Opener, path: str, size: int, now_ns: int, *, is_restore: bool = False) -> Storm | None:
        """Bytes of a file had to be fetched for somebody; the storm that begins with it."""
        reader = self._reader(opener, now_ns)
        slot = reader.slot(now_ns)
        slot.bytes += size
        slot.restored += size if is_restore else 0
        slot.requests += 1
        if len(slot.files) < _MOST_FILES:
            slot.files.add(path)
        directory = path.rpartition("/")[0]
        if directory in slot.directories or len(slot.directories) < _MOST_DIRECTORIES:
            slot.directories[directory] = slot.directories.get(directory, 0) + size
        if reader.storm_began_ns is not None:
            reader.storm_bytes += size
            return None
        total = sum(one.bytes for one in reader.slots)
        if not self._threshold or total < self._threshold or opener.uid == OTHERS.uid:
            return None
        reader.storm_began_ns, reader.storm_bytes = now_ns, total
        self.storms += 1
        return Storm(reader.seen())

    def denied(self, opener: Opener, path: str, now_ns: int) -> bool:
        """Somebody was refused the bytes of a file; whether that is news: the first time in a minute."""
        reader = self._reader(opener, now_ns)
        is_news = not any(slot.denied for slot in reader.slots)
        slot = reader.slot(now_ns)
        slot.denied += 1
        if len(slot.files) < _MOST_FILES:
            slot.files.add(path)
        return is_news

    def ended(self, now_ns: int) -> list[Storm]:
        """The storms that are over; to be asked now and then. Forgets who reads no more."""
        over = []
        for group, reader in list(self._readers.items()):
            reader.slot(now_ns)
            seen = reader.seen()
            if reader.storm_began_ns is not None and seen.bytes < self._threshold // 2:
                over.append(Storm(seen, True, reader.storm_bytes, now_ns - reader.storm_began_ns))
                reader.storm_began_ns = None
            if reader.storm_began_ns is None and not (seen.requests or seen.denied):
                del self._readers[group]
        return over

    def present(self, now_ns: int) -> list[ColdReader]:
        """Who reads cold now, the busiest first."""
        for reader in self._readers.values():
            reader.slot(now_ns)
        seen = [reader.seen() for reader in self._readers.values()]
        return sorted((one for one in seen if one.requests or one.denied), key=lambda one: (-one.bytes, -one.denied))

    def _reader(self, opener: Opener, now_ns: int) -> _Reader:
        reader = self._readers.get(opener.group)
        if reader is None and len(self._readers) >= _MOST_READERS:
            opener = OTHERS
            reader = self._readers.get(opener.group)
        if reader is None:
            reader = self._readers[opener.group] = _Reader(opener)
        reader.slot(now_ns)
        reader.opener = opener
        return reader
