"""How cold files are read, and what is counted of it."""

from dataclasses import dataclass, field

from tierfs.core.histogram import Histogram


@dataclass(frozen=True, slots=True)
class HydrateSettings:
    """How cold files are read; sizes in bytes. `deadline_ns` None waits for ever.

    `chunk_size` is for objects whose record names none; `fetch_bytes` bounds one GET, `read_ahead_bytes` one handle's
    window, `concurrency` the GETs at a time, `memory_bytes` all chunks in memory, `streams` the restores at a time.
    The rates are bytes per second, 0 for no limit: of reads, of those of them who are limited, of restores.
    `storm_bytes` within a minute are a storm, 0 for never.
    """

    chunk_size: int = 1 << 20
    read_ahead_bytes: int = 64 << 20
    deadline_ns: int | None = 30_000_000_000
    concurrency: int = 16
    fetch_bytes: int = 8 << 20
    memory_bytes: int = 80 << 20
    streams: int = 2
    hydrate_rate: int = 0
    limited_rate: int = 4 << 20
    restore_rate: int = 0
    storm_bytes: int = 0

    @property
    def flight_bytes(self) -> int:
        """Memory for chunks on their way to readers, and recently landed ones."""
        return self.memory_bytes * 9 // 11

    @property
    def recent_bytes(self) -> int:
        """The part of them that landed ones may take, the windows of all readers among them."""
        return self.flight_bytes * 8 // 9

    @property
    def stream_bytes(self) -> int:
        """Memory for one restore."""
        return (self.memory_bytes - self.flight_bytes) // self.streams


@dataclass(slots=True)
class HydrateCounters:
    """Running totals since the start. Bytes are those of whole, checked chunks from the store (`bytes_fetched`).

    `bytes_cached` came out of the chunk cache: whole chunks, or what was read of them where they were read in place.
    `reads` are those of handles, `waited` is how long those of them waited whose chunks were not all in memory.
    """

    reads: int = 0
    bytes_asked: int = 0
    bytes_fetched: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    gets: int = 0
    waited: Histogram = field(default_factory=Histogram)
    retries: int = 0
    deadline_misses: int = 0
    corrupt_chunks: int = 0
    bytes_cached: int = 0
