"""Settings: every value that an operator can choose, its default, its meaning and its limits.

Pure: where the values come from (a TOML file, the environment, flags) is tierfs.cli.sources. Ages are `Age`, an int in
nanoseconds; sizes are `Size`, an int in bytes; both print as people write them ("7d", "10GiB") and are read back
from that text without loss, so `Settings.model_validate_json(settings.model_dump_json())` is the identity.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tierfs.core.access import parse_rule, split_rules
from tierfs.core.errors import ConfigError
from tierfs.core.listen import absolute_path, listen_address
from tierfs.core.quantities import Age, Size, Watermark, parse_age, parse_size, parse_watermark
from tierfs.core.windows import parse_windows

_T = TypeVar("_T")

#: The smallest chunk: model tests put many boundaries into a few bytes with it.
SMALLEST_CHUNK_BYTES = 4
#: The largest chunk: a reader of one byte waits for a whole chunk.
LARGEST_CHUNK_BYTES = 64 << 20

#: The first setting of each group, and the heading of the group in --help and in the sample file.
HEADINGS = {
    "profile": "The profile",
    "region": "The bucket",
    "auto_archive": "The policy",
    "cache_size": "Cold reads",
    "hydrate_rate": "Budgets of cold bytes",
    "read_only": "The mount",
    "api_address": "The API over TCP",
}

#: In the message of a cross-check: a setting and its value, to be named by where the value was given.
_MENTION = re.compile(r"\{(\w+)\|([^}]*)\}")


def _unset(value: object) -> object:
    """TOML and the environment have no null: an empty string stands for it ("auto" does not, it is a region)."""
    return None if value == "" else value


def _auto(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in ("", "auto") else value


def _patterns(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list | tuple) and any(part in ("", "/") for part in value):
        raise ValueError("a pattern is empty")
    return value


def _segment_patterns(value: object) -> object:
    value = _patterns(value)
    for pattern in value if isinstance(value, list | tuple) else ():
        if isinstance(pattern, str) and (pattern.count("*") != 1 or pattern == "*" or set(pattern) & set("?[/")):
            raise ValueError(f"{pattern!r} is not a file name with one * in it, such as *.log")
    return value


def _endpoint(value: object) -> object:
    value = _unset(value)
    if isinstance(value, str) and not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} is not a URL: write it as http://HOST:PORT or https://HOST")
    return value


def _more_than_nothing(value: Age) -> Age:
    if value <= 0:
        raise ValueError("it must be longer than 0")
    return value


def _chunk(value: object) -> Size:
    size = parse_size(value)
    if size & (size - 1) or not SMALLEST_CHUNK_BYTES <= size <= LARGEST_CHUNK_BYTES:
        raise ValueError(f"{size} is not a power of two from {SMALLEST_CHUNK_BYTES} bytes to 64MiB")
    return size


def _windows(value: object) -> str:
    parts = [str(part) for part in value] if isinstance(value, list | tuple) else [str(value)]
    return ", ".join(map(str, parse_windows(",".join(parts))))


def _rules(value: object) -> object:
    value = split_rules(value) if isinstance(value, str) else value
    for rule in value if isinstance(value, list | tuple) else ():
        if isinstance(rule, str):
            parse_rule(rule)
    return value


Windows = Annotated[str, BeforeValidator(_windows)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns)]
SegmentPatterns = Annotated[tuple[str, ...], BeforeValidator(_segment_patterns)]
Rules = Annotated[tuple[str, ...], BeforeValidator(_rules)]
Deadline = Annotated[Age, BeforeValidator(lambda value: _more_than_nothing(parse_age(value)))]
ChunkSize = Annotated[Size, BeforeValidator(_chunk)]
OptionalText = Annotated[str | None, BeforeValidator(_unset)]
OptionalUrl = Annotated[str | None, BeforeValidator(_endpoint)]
OptionalAddress = Annotated[str | None, BeforeValidator(listen_address)]
OptionalPath = Annotated[str | None, BeforeValidator(absolute_path)]
OptionalFlag = Annotated[bool | None, BeforeValidator(_auto)]


def _setting(default: _T, text: str, **limits: Any) -> _T:
    """A field with its default and the sentence that --help, the sample file and the documents show."""
    field: _T = Field(default=default, description=text, **limits)
    return field


class Settings(BaseModel):
    """All settings of one mount, valid by construction.

    INVARIANT: warm_after <= cold_after; low_watermark < high_watermark, in the same unit; read_ahead is 0 or at least
    a chunk; cache_size is 0 or at least a chunk; segments are named where keep_newest is not 0. `profile` only says
    where values come from: it has been laid below the others already (core.profiles).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Literal["generic", "kafka", "nats", "rabbitmq"] = _setting(
        "generic", "Whose data directory it is: a set of defaults for that program (docs/PROFILES.md)."
    )

    region: OptionalText = _setting(None, "Region of the bucket; unset: as boto3 finds it.")
    endpoint_url: OptionalUrl = _setting(None, "URL of an S3 server other than AWS.")
    path_style: OptionalFlag = _setting(
        None, "Address buckets as URL/BUCKET instead of BUCKET.URL; auto: yes when endpoint_url is set."
    )
    pool_size: int = _setting(32, "Connections to the store that are kept open.", ge=1, le=1024)
    timeout: Deadline = _setting(parse_age("30s"), "How long one request to the store may be silent.")
    max_retries: int = _setting(5, "How often a request that the store could not serve is sent again.", ge=0, le=100)
    breaker_failures: int = _setting(
        5, "How many requests must fail in a row before the store is spared, and tried now and then; 0: never.", ge=0
    )
    breaker_pause: Deadline = _setting(
        parse_age("5s"),
        "Longest pause between two tries of a store that is spared; never more than a quarter of cold_timeout.",
    )
    lease: Deadline = _setting(
        parse_age("60s"),
        "How long this mount may write to the store after the store last renewed its lease; another mount may take "
        "over after one and a half times that.",
    )
    checksum: Literal["auto", "when_required"] = _setting(
        "auto", "Send and check S3 checksums (auto), or only where S3 insists, for stores that break on them."
    )
    storage_class: OptionalText = _setting(
        None, "Storage class of archived objects; unset: the bucket's.", pattern=r"^[A-Z0-9_-]+$"
    )

    prices: OptionalPath = _setting(
        None, "Price table (TOML) for `cost` and `plan`; unset: what AWS asks (`tierfs cost --print-prices`)."
    )

    auto_archive: bool = _setting(True, "Archive and release by age and watermarks, without being asked.")
    warm_after: Age = _setting(parse_age("1d"), "Archive a file that did not change for so long.")
    cold_after: Age = _setting(parse_age("7d"), "Release the hot bytes of a file that did not change for so long.")
    policy_interval: Deadline = _setting(parse_age("60s"), "Time between two passes of the policy.")
    snapshot_interval: Age = _setting(
        parse_age("10m"),
        "Shortest time between two snapshots of the tree in the bucket, for `tierfs rebuild`; 0s: none are taken.",
    )
    settle: Age = _setting(
        parse_age("30s"), "Leave a file alone whose content or attributes changed less than this ago."
    )
    open_files: Literal["closed", "idle"] = _setting(
        "closed", "Move files once they are closed, or (idle) those of idle_files while they are open and rest, too."
    )
    idle_files: Patterns = _setting(
        ("*",), "With open_files = idle: files that match are opened so that their hot bytes can go underneath."
    )
    include: Patterns = _setting(
        ("*",), "Archive only files that match one of these shell patterns (with a slash: the whole path)."
    )
    exclude: Patterns = _setting((), "Never archive files that match one of these patterns.")
    transient: Patterns = _setting(
        (),
        "Names that do not last: files that match are not archived, and a cold file that gets such a name keeps its "
        "object under the old key.",
    )
    pins: Patterns = _setting((), "Never release files that match one of these patterns.")
    segments: SegmentPatterns = _setting(
        (),
        "File names with one *: files of one directory that match them with the same text for it are one segment, and "
        "move together.",
    )
    keep_hot: Patterns = _setting(
        (), "Archive files that match one of these patterns, but leave them hot unless an operator releases them."
    )
    keep_newest: int = _setting(
        0, "So many newest segments of each directory, by the numbers in their names, are left alone.", ge=0
    )
    min_size: Size = _setting(parse_size("4KiB"), "Leave files hot that are smaller than this.")
    high_watermark: Watermark = _setting(
        parse_watermark("90%"),
        "Begin to release before cold_after when the hot tier holds more: percent of its filesystem, or bytes.",
    )
    low_watermark: Watermark = _setting(
        parse_watermark("80%"), "Having begun at high_watermark, stop releasing when the hot tier holds less."
    )
    archive_concurrency: int = _setting(4, "Files that are archived at the same time.", ge=1, le=256)

    upload_rate: Size = _setting(
        Size(0), "Most bytes per second that all archives together send to the store, on average; 0: no limit."
    )
    archive_rate: int = _setting(0, "Most files per minute that the policy archives; 0: no limit.", ge=0)
    archive_window: Windows = _setting(
        "",
        'When the policy archives, by the local clock: "22:00-06:00", several with commas; empty: always. Above '
        "high_watermark it archives at any time.",
    )

    cache_size: Size = _setting(parse_size("10GiB"), "Hard limit of the chunk cache; 0: no cache.")
    chunk_size: ChunkSize = _setting(
        parse_size("1MiB"), "Unit of fetching and caching: a power of two (less than 64KiB is for tests)."
    )
    read_ahead: Size = _setting(parse_size("64MiB"), "Most that is fetched ahead of a sequential reader; 0: nothing.")
    warm_successor: bool = _setting(
        False, "Fetch the beginning of the next segment when a sequential reader nears the end of one."
    )
    cold_timeout: Deadline = _setting(parse_age("30s"), "How long a read of a cold file may wait for the store.")
    cold_errors: Literal["eio", "block"] = _setting(
        "eio", "What a cold read does after cold_timeout: fail with EIO, or go on waiting for ever."
    )

    hydrate_rate: Size = _setting(
        Size(0), "Most bytes per second that are fetched for reads of cold files; 0: no limit."
    )
    limited_rate: Size = _setting(
        parse_size("4MiB"), "Most bytes per second that are fetched for all together who are limited by `access`."
    )
    restore_rate: Size = _setting(Size(0), "Most bytes per second that restores bring back; 0: no limit.")
    restore_concurrency: int = _setting(2, "Files that are restored at the same time.", ge=1, le=8)
    restore_limit: Size = _setting(
        Size(0), "Most bytes per hour that restores bring back which no operator asked for; 0: no limit."
    )
    access: Rules = _setting(
        (), 'Who may have cold bytes fetched: "deny command=clamscan", "limit uid=backup"; the first that fits decides.'
    )
    storm_threshold: Size = _setting(
        parse_size("1GiB"), "Warn when so many bytes within a minute had to be fetched for one command; 0: never."
    )

    read_only: bool = _setting(False, "Mount read-only.")
    allow_other: OptionalFlag = _setting(None, "Let other users in; auto: yes when root mounts.")
    passthrough: Literal["auto", "off", "required"] = _setting(
        "auto", "Let the kernel serve hot files without tierfs: where it can, never, or else do not mount."
    )
    shared_hot: bool = _setting(False, "Somebody else writes to the hot directory too: let kernel caches expire soon.")
    control_directory: bool = _setting(
        True, "Let MOUNTPOINT/.tierfs say what the mount does, to who asks for it by name: it is in no listing."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "Least severity that is logged.")
    log_format: Literal["plain", "json"] = _setting("plain", "How a line of the log is written.")
    slow_operation: Age = _setting(
        parse_age("1s"), "Log operations that waited for longer, and for what they waited; 0s: none."
    )

    api_address: OptionalAddress = _setting(
        None, "Serve the API over TCP at this address and port too, such as 127.0.0.1:9464; unset: nowhere."
    )
    api_token_file: OptionalPath = _setting(
        None, "File with the token that every request over TCP must carry; only its owner may read it."
    )

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        if self.cold_after < self.warm_after:
            raise ValueError(
                f"{{cold_after|{self.cold_after}}} is shorter than {{warm_after|{self.warm_after}}}: "
                "a file is archived before it is released, so make it at least as long"
            )
        low, high = self.low_watermark, self.high_watermark
        if low.is_percent != high.is_percent:
            raise ValueError(
                f"{{low_watermark|{low}}} and {{high_watermark|{high}}} cannot be compared: "
                "write both in percent or both in bytes"
            )
        if low.amount >= high.amount:
            raise ValueError(f"{{low_watermark|{low}}} is not below {{high_watermark|{high}}}: make it smaller")
        if self.keep_newest and not self.segments:
            raise ValueError(
                f"{{keep_newest|{self.keep_newest}}} keeps nothing without segments: say which files they are, or make "
                "it 0"
            )
        if self.api_address and not self.api_token_file:
            raise ValueError(f"{{api_address|{self.api_address}}} needs a token: say in api_token_file where it is")
        if not self.limited_rate and any(rule.split()[0].lower() == "limit" for rule in self.access):
            raise ValueError(
                "{limited_rate|0} leaves nothing to those whom {access|a rule} limits: deny them, or give some"
            )
        for name in ("read_ahead", "cache_size"):
            size: Size = getattr(self, name)
            if 0 < size < self.chunk_size:
                raise ValueError(
                    f"{{{name}|{size}}} is smaller than {{chunk_size|{self.chunk_size}}}: "
                    "make it 0 or at least one chunk"
                )
        return self

    @classmethod
    def of(cls, **values: object) -> Self:
        """Settings with these values, written as people write them ("7d", "10GiB"). ConfigError."""
        return _validated(cls, values, lambda name: name)


@dataclass(frozen=True, slots=True)
class Given:
    """A value for a setting, and in words where it was given ("--warm-after", "warm_after in /etc/tierfs.toml")."""

    value: object
    source: str


def settings_from(given: Mapping[str, Given]) -> Settings:
    """Validate what was given; ConfigError says, one sentence per line, which value from where is wrong and why."""
    values = {name: one.value for name, one in given.items()}
    return _validated(Settings, values, lambda name: given[name].source if name in given else f"the default of {name}")


def closest(name: str, known: list[str]) -> str:
    """The hint ", did you mean X?" for a misspelled name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


_S = TypeVar("_S", bound=Settings)


def _validated(model: type[_S], values: Mapping[str, object], source_of: Callable[[str], str]) -> _S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_sentence(one, source_of) for one in error.errors(include_url=False, include_context=False)]
    raise ConfigError("\n".join(problems))


def _sentence(problem: Any, source_of: Callable[[str], str]) -> str:
    """One pydantic error in words: the source, what is wrong, what to do."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return _MENTION.sub(lambda mention: f"{source_of(mention[1])} ({mention[2]})", message)
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        hint = closest(name, list(Settings.model_fields))
        return f"{source_of(name)} is not a setting{hint or ': `tierfs config show` lists them'}"
    if problem["type"] == "value_error":
        return f"{source_of(name)}: {message}"
    said = message[:1].lower() + message[1:]
    return f"{source_of(name)}: {problem['input']!r} is not valid: {said}"


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What `tierfs mount` was asked for; all paths are absolute, as str with surrogateescape.

    `hot` is the hot directory: the mountpoint itself when the mount is in place.
    """

    store_url: str
    mountpoint: str
    hot: str
    state: str
    settings: Settings
    foreground: bool = False
    take_over: bool = False

    @property
    def in_place(self) -> bool:
        """Whether the mount covers its own hot directory."""
        return self.hot == self.mountpoint

    def to_json(self) -> str:
        """The request as ASCII JSON, for another process."""
        fields = {field.name: getattr(self, field.name) for field in fields_of(self)}
        return json.dumps(fields | {"settings": self.settings.model_dump(mode="json")})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The request that to_json() wrote. ConfigError."""
        fields = json.loads(text)
        return cls(**(fields | {"settings": Settings.of(**fields["settings"])}))
