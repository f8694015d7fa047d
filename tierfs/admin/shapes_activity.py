"""What the REST API answers about what goes on right now; see shapes."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

_OF_LATE = "Of the last `latencies_over_s` seconds; null without any."


class Operation(TypedDict):
    """Requests of one kind by the kernel."""

    count: Annotated[int, Field(description="All that reached tierfs, as in `fuse.requests` of `status`.")]
    timed: Annotated[int, Field(description="Those of them that the worker's Python answered.")]
    seconds: Annotated[float, Field(description="How long these took, all together.")]


class Bytes(TypedDict):
    """Totals in bytes."""

    read_hot: Annotated[int, Field(description="Of hot files, by applications; see `unseen`.")]
    written_hot: int
    grown_hot: Annotated[
        int,
        Field(
            description="By how much more the hot tier's filesystem is used, without what was moved between the tiers; "
            "negative when more was removed. Others who use it are in it."
        ),
    ]
    read_cold: Annotated[int, Field(description="What reads of cold files asked for.")]
    read_cached: Annotated[int, Field(description="What came out of the chunk cache for them.")]
    downloaded: int
    uploaded: int


class ColdWaits(TypedDict):
    """How long reads of cold files waited, of those whose chunks were not in memory."""

    count: int
    seconds: float
    p50_s: Annotated[float | None, Field(description=_OF_LATE)]
    p99_s: Annotated[float | None, Field(description=_OF_LATE)]


class CacheUse(TypedDict):
    """The chunk cache."""

    hits: int
    misses: int
    bytes: int
    limit_bytes: int


class Requests(TypedDict):
    """Requests of one kind to the store."""

    count: int
    failed: int
    p50_s: Annotated[float | None, Field(description="To the answer, of a GET to its head. " + _OF_LATE)]
    p99_s: Annotated[float | None, Field(description=_OF_LATE)]


class StoreUse(TypedDict):
    """The store."""

    state: Annotated[
        Literal["closed", "open", "half-open", ""],
        Field(description="closed: it is asked; open: it is spared; half-open: it is tried; empty: nobody knows."),
    ]
    reason: str
    requests: Annotated[dict[str, Requests], Field(description="By operation of S3.")]


class Transfer(TypedDict):
    """A file on its way."""

    path: str
    verb: Literal["archive", "restore", "read"]
    bytes: Annotated[int, Field(description="All of it; of a read that is not in order: what is on its way.")]
    done_bytes: int
    begun_ns: int


class HotFile(TypedDict):
    """A file that is used much: counts of the last minute or so, in which older use weighs less."""

    path: str
    tier: Literal["hot", "cold"]
    opens: float
    bytes: Annotated[int, Field(description="Read while it was cold; what is read of hot files is not known by file.")]


class Fill(TypedDict):
    """How full the tiers were."""

    at_ns: int
    hot_bytes: int
    warm_bytes: int
    cold_bytes: int
    cache_bytes: int


class Failure(TypedDict):
    """Something that went wrong."""

    at_ns: int
    operation: Annotated[str, Field(description="Of an application; background: of tierfs, by itself or when asked.")]
    path: Annotated[str, Field(description="May be empty.")]
    error: str


class Candidate(TypedDict):
    """A file that the policy wants to move."""

    path: str
    size: int
    verb: Literal["archive", "release"]
    reason: str


class Activity(TypedDict):
    """What goes on right now."""

    as_of_ns: int
    since_ns: Annotated[int, Field(description="When this worker began, and all totals with it.")]
    worker_pid: int
    io_mode: Annotated[
        Literal["passthrough", "plain"], Field(description="passthrough: the kernel does the I/O of hot files itself.")
    ]
    operations: Annotated[dict[str, Operation], Field(description="By operation of FUSE.")]
    bytes: Bytes
    unseen: Annotated[str, Field(description="What `bytes` cannot know, in a sentence; empty when it knows all.")]
    latencies_over_s: Annotated[float, Field(description="How many seconds p50_s and p99_s are about: up to 120.")]
    cold_waits: ColdWaits
    cache: CacheUse
    store: StoreUse
    transfers: Annotated[list[Transfer], Field(description="The oldest first, at most a hundred.")]
    hottest: Annotated[list[HotFile], Field(description="The twenty that are used most, those first.")]
    fill: Annotated[
        list[Fill],
        Field(description="A sample a minute for half an hour, then every ten minutes for a day; the newest last."),
    ]
    errors: Annotated[list[Failure], Field(description="The last twenty, the newest last.")]
    candidates: Annotated[
        list[Candidate], Field(description="The twenty largest files that the policy wanted to move when it planned.")
    ]
    candidates_as_of_ns: Annotated[int, Field(description="When that was; 0: it never did.")]
