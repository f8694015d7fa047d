"""What the REST API is asked and answers, for FastAPI to check the one, and to describe both.

Answers are typed dicts: mypy checks them where they are made, and nothing is looked at again when they are sent.
Paths are text with Python's surrogateescape, as everywhere in tierfs: a byte that is not UTF-8 is a lone surrogate,
which JSON writes as \\udcXX. Whoever cannot have those in a string asks with "encoding": "percent".
"""

import os
from typing import Annotated, Any, Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator
from typing_extensions import TypedDict

from tierfs.admin import wire
from tierfs.core.reports import JobReport, Outcome, Verb
from tierfs.core.residency import Residency, Tier
from tierfs.engine.listing import Listed

SEGMENTS = f"{wire.API}/tiered/segments/"
JOBS = f"{wire.API}/tiered/jobs/"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a path is a string")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError("it holds surrogates that stand for no byte") from None
    return value


#: Any text that stands for bytes; pydantic's own strings hold no surrogates.
Text = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string"})]

#: Each is tried with each name of the tree: so many, and none that is longer than a path may be, percent-encoded.
_MOST_GLOBS = 100
_LONGEST_GLOB = 3 * 4096


def _glob(value: object) -> str:
    if len(text := _text(value)) > _LONGEST_GLOB:
        raise ValueError(f"it is longer than {_LONGEST_GLOB} characters")
    return text


#: The same, for a shell pattern.
Glob = Annotated[str, PlainValidator(_glob), WithJsonSchema({"type": "string", "maxLength": _LONGEST_GLOB})]

_ONE_OF: list[Any] = [{"required": [name]} for name in ("segment_path", "segment_paths", "globs")]


class Which(BaseModel):
    """Which files to move: one, several, or those that match shell patterns; exactly one of these three."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"oneOf": _ONE_OF})

    segment_path: Text = Field("", description="A file, relative to the mountpoint.")
    segment_paths: list[Text] = Field([], description="Several files.", min_length=1)
    globs: list[Glob] = Field(
        [],
        description="All files that match one of these shell patterns: one with a slash is matched against the whole "
        "path, one without against each name in it.",
        min_length=1,
        max_length=_MOST_GLOBS,
    )
    recursive: bool = Field(False, description="A directory stands for all files below it.")
    asynchronous: bool = Field(False, description="Answer at once, with a job that goes on by itself.")
    encoding: Literal["text", "percent"] = Field(
        "text", description="percent: the paths are percent-encoded, as in URLs."
    )

    @model_validator(mode="after")
    def _is_one(self) -> "Which":
        if len(self.model_fields_set & {"segment_path", "segment_paths", "globs"}) != 1:
            raise ValueError("say exactly one of segment_path, segment_paths and globs")
        return self

    @property
    def is_one_file(self) -> bool:
        """Whether a single path was named: its failure is that of the request."""
        return "segment_path" in self.model_fields_set

    def paths(self) -> list[bytes]:
        """The paths that were named, not checked yet."""
        return [self._bytes(one) for one in ([self.segment_path] if self.is_one_file else self.segment_paths)]

    def patterns(self) -> list[str]:
        """The patterns that were given."""
        return [os.fsdecode(self._bytes(one)) for one in self.globs]

    def _bytes(self, text: str) -> bytes:
        written = os.fsencode(text)
        return unquote_to_bytes(written) if self.encoding == "percent" else written


class Segment(TypedDict):
    """A file of the tree."""

    segment_path: Annotated[str, Field(description="Relative to the mountpoint.")]
    href: Annotated[str, Field(description="Where to ask for it: percent-encoded ASCII, whatever its name is made of.")]
    policy: Annotated[str, Field(description='The profile of the mount, or "default".')]
    is_archived: Annotated[bool, Field(description="Whether an object in the store holds its bytes.")]
    residency: Residency
    tier: Tier
    kind: Annotated[Literal["file", "symlink", "other"], Field(description="Only files are ever archived.")]
    size_bytes: int
    object_key: str | None
    etag: str | None
    cached_bytes: Annotated[int, Field(description="Bytes of it in the chunk cache.")]
    pinned: bool
    reason: Annotated[str, Field(description="Why it is not archived, or not released, yet; may be empty.")]
    mtime: Annotated[float, Field(description="Seconds since the epoch.")]


class SegmentPage(TypedDict):
    """Files in the byte order of their paths."""

    segments: list[Segment]
    next: Annotated[str | None, Field(description="Where the next page is; null at the end.")]


class Moved(TypedDict):
    """What became of one file."""

    segment_path: str
    result: Literal["done", "unchanged", "failed"]
    reason: str
    bytes: int


class Movement(TypedDict):
    """What became of a request to move files."""

    files: Annotated[int, Field(description="How many files it was about.")]
    bytes: Annotated[int, Field(description="The size of them all.")]
    done: int
    unchanged: int
    failed: int
    segments: Annotated[list[Moved], Field(description="One by one, in the order in which they were done.")]
    omitted: Annotated[int, Field(description="How many more there are than are listed.")]


class Job(TypedDict):
    """Work that goes on by itself."""

    id: str
    href: str
    verb: Verb
    state: Literal["running", "done", "failed", "cancelled"]
    begun: Annotated[float, Field(description="Seconds since the epoch.")]
    ended: float | None
    files: int
    bytes: int
    done: int
    done_bytes: int
    failed: int
    reason: str


class JobDetail(Job):
    """A job, and what failed of it."""

    failures: Annotated[list[Moved], Field(description="Up to a thousand.")]


class JobList(TypedDict):
    """Those that run, and the last that ended."""

    jobs: list[Job]


class Pin(TypedDict):
    """A path that is never released, and all below it."""

    segment_path: str
    href: str


class PinList(TypedDict):
    """What is pinned."""

    pins: Annotated[list[Pin], Field(description="What operators pinned.")]
    patterns: Annotated[list[str], Field(description="What the setting `pins` says.")]


class Pinned(TypedDict):
    """What became of a pin."""

    segment_path: str
    pinned: bool
    changed: bool


class Planned(TypedDict):
    """What the policy would do to one file."""

    segment_path: str
    verb: Verb
    size_bytes: int
    reason: str


class Plan(TypedDict):
    """What the policy would do now."""

    files: int
    bytes: int
    actions: list[Planned]
    omitted: Annotated[int, Field(description="How many more there are than are listed.")]


class Stats(TypedDict):
    """The mount in figures. A segment is a regular file."""

    total_segments: int
    hot_segments: int
    warm_segments: Annotated[int, Field(description="In both places, identical.")]
    cold_segments: int
    archived_segments: Annotated[
        int, Field(description="Those whose bytes the store has: warm and cold, without lost.")
    ]
    lost_segments: Annotated[int, Field(description="Those of the cold ones whose bytes cannot be had.")]
    total_size_bytes: int
    hot_bytes: int
    warm_bytes: int
    cold_bytes: int
    status: Annotated[dict[str, Any], Field(description="What `tierfs status --json` says.")]


class Configuration(TypedDict):
    """What the mount was made with."""

    mountpoint: str
    store: str
    hot_directory: str
    state_directory: str
    version: str
    settings: dict[str, Any]


class Health(TypedDict):
    """The worker answers."""

    status: Literal["ok"]
    version: str
    worker_pid: int


class StoreState(TypedDict):
    """What is known of the store; it is not asked for this."""

    is_known: Annotated[bool, Field(description="False while the process that talks to it is away.")]
    reads: Annotated[str, Field(description="closed: it is asked; open: it is spared; half-open: it is tried.")]
    writes: str
    lease: Annotated[str, Field(description="held: this mount may write to it.")]
    reason: str


class Readiness(TypedDict):
    """The mount serves."""

    status: Literal["ready"]
    mountpoint: str
    store: StoreState


class Complaint(TypedDict):
    """What went wrong."""

    kind: Annotated[str, Field(description="A class of error.")]
    message: Annotated[str, Field(description="A sentence for a person.")]


class Refusal(TypedDict):
    """The body of every answer that is not a success."""

    error: Complaint


def href_of(path: bytes) -> str:
    """Where the API has a file."""
    return SEGMENTS + quote_from_bytes(path)


def segment_of(listed: Listed, policy: str) -> Segment:
    """A file as the API shows it."""
    e = listed.entry
    assert e.kind != "directory"
    return {
        "segment_path": os.fsdecode(e.path),
        "href": href_of(e.path),
        "policy": policy,
        "is_archived": e.key is not None and e.residency not in (Residency.ARCHIVING, Residency.LOST),
        "residency": e.residency,
        "tier": e.tier,
        "kind": e.kind,
        "size_bytes": e.size,
        "object_key": e.key,
        "etag": listed.etag,
        "cached_bytes": e.cached_bytes,
        "pinned": e.pinned,
        "reason": e.reason,
        "mtime": e.mtime_ns / 1e9,
    }


def moved_of(outcome: Outcome) -> Moved:
    """An outcome as the API shows it."""
    return {
        "segment_path": os.fsdecode(outcome.path),
        "result": outcome.result,
        "reason": outcome.reason,
        "bytes": outcome.bytes,
    }


def job_of(report: JobReport) -> Job:
    """A job as the API shows it."""
    return {
        "id": report.id,
        "href": JOBS + report.id,
        "verb": report.verb,
        "state": report.state,
        "begun": report.begun_ns / 1e9,
        "ended": report.ended_ns / 1e9 if report.ended_ns else None,
        "files": report.files,
        "bytes": report.bytes,
        "done": report.done,
        "done_bytes": report.done_bytes,
        "failed": report.failed,
        "reason": report.reason,
    }
