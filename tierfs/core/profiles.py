"""Profiles: what settings a broker's data directory asks for, each value with its reason.

A profile lies over the defaults and under everything that is given: file, environment, flags. docs/PROFILES.md shows
the same, a test compares. Facts behind them: what the brokers do with their files, watched with strace(1) and read in
their sources (Kafka 4, nats-server 2.9 and later, RabbitMQ 3.10 and later).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tierfs.core.config import Given, closest
from tierfs.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Choice:
    """A value as it is written in a settings file, and why a profile has it."""

    value: str | int | bool | tuple[str, ...]
    why: str


_ROOM = {
    "high_watermark": Choice(
        "80%", "A broker stops, or stops taking messages, when its disk is full: room is made long before that."
    ),
    "low_watermark": Choice("70%", "A recovery, a compaction or a restore needs room at once."),
}
_HISTORY = {
    "warm_after": Choice(
        "1h", "What nobody wrote to for an hour is finished, and an SSD that dies takes little with it."
    ),
    "cold_after": Choice("1d", "Consumers that lag lag by hours; who reads what is older reads history."),
}
_READING = {
    "warm_successor": Choice(True, "Consumers read one segment after the other."),
}

KAFKA: Mapping[str, Choice] = {
    **_HISTORY,
    "open_files": Choice("idle", "Kafka has every log open for reading and writing as long as it runs."),
    "idle_files": Choice(
        ("*.log", "*.log.cleaned", "*.log.swap"),
        "Logs, also those that compaction opens under other names. Indexes are mapped, and stay with the kernel.",
    ),
    "include": Choice(
        ("*.log", "*.index", "*.timeindex", "*.txnindex", "*.snapshot"),
        "Nothing but segments ever moves: checkpoints, locks, meta.properties and what a later version adds stay hot.",
    ),
    "exclude": Choice(
        ("__cluster_metadata-*", "__consumer_offsets-*", "__transaction_state-*", "__share_group_state-*"),
        "Kafka's own topics are small, compacted, and read whole when a broker starts or takes over a partition.",
    ),
    "transient": Choice(
        ("*.deleted", "*.cleaned", "*.swap", "*-delete"),
        "What Kafka is about to remove, or has not finished yet, has these names for a minute.",
    ),
    "segments": Choice(
        ("*.log", "*.index", "*.timeindex", "*.txnindex", "*.snapshot"),
        "Files with the same base offset are one segment to Kafka.",
    ),
    "keep_hot": Choice(
        ("*.index", "*.timeindex", "*.txnindex", "*.snapshot"),
        "Kafka maps indexes into memory to find an offset, and deletes by time after a look at them; they are small.",
    ),
    "keep_newest": Choice(
        2, "The newest one is written to, with indexes that are preallocated; a recovery may read the one before it."
    ),
    "min_size": Choice(
        1, "The smallest side files too: a broker that lost its SSD would read every segment to make them again."
    ),
    **_ROOM,
    **_READING,
    "cold_timeout": Choice(
        "10s", "A fetch that waits holds one of eight I/O threads of the broker, and its producers need them."
    ),
}

NATS: Mapping[str, Choice] = {
    **_HISTORY,
    "include": Choice(
        ("*.blk",),
        "Message blocks alone move: their .idx and .fss are rewritten all the time, as is the state of consumers.",
    ),
    "transient": Choice(
        ("__msgs__",), "A stream that is purged or deleted renames its directory to this and removes what is in it."
    ),
    "segments": Choice(("*.blk",), "A block is a segment; its number says which one is the newest."),
    "keep_hot": Choice(
        ("*.idx", "*.fss", "*.key", "meta.*", "o.dat"),
        "Read and rewritten at each start: an operator who releases a whole directory leaves them where they are.",
    ),
    "keep_newest": Choice(1, "Only the newest block of a stream is written to."),
    **_ROOM,
    **_READING,
    "cold_errors": Choice(
        "block", "nats-server counts the messages of a block that it cannot read while it recovers as lost."
    ),
}

RABBITMQ: Mapping[str, Choice] = {
    **_HISTORY,
    "include": Choice(
        ("*stream/*/*.segment", "*stream/*/*.index", "*quorum/*/*.segment"),
        "Streams and the segments of quorum queues; write-ahead log, snapshots, Mnesia and classic queues stay hot.",
    ),
    "segments": Choice(("*.segment", "*.index"), "A segment of a stream and its index have the same first offset."),
    "keep_hot": Choice(("*.index",), "Every start of a node and every consumer reads the indexes; they are small."),
    "keep_newest": Choice(1, "The newest segment of a stream or queue is written to, or gone on with after a restart."),
    "min_size": Choice(1, "The smallest index too: a node that lost its SSD needs each one."),
    **_ROOM,
    **_READING,
    "cold_errors": Choice(
        "block", "A read error ends the process of the stream or queue that met it, again after each of its restarts."
    ),
}

PROFILES: Mapping[str, Mapping[str, Choice]] = {"generic": {}, "kafka": KAFKA, "nats": NATS, "rabbitmq": RABBITMQ}


def over_profile(given: Mapping[str, Given]) -> dict[str, Given]:
    """What was given, over what the profile says that was given. ConfigError for a profile that is not there."""
    if "profile" not in given:
        return dict(given)
    asked = given["profile"]
    name = str(asked.value)
    if name not in PROFILES:
        hint = closest(name, list(PROFILES))
        raise ConfigError(f"{asked.source}: there is no profile {name!r}{hint}; there are {', '.join(PROFILES)}")
    return {one: Given(choice.value, f"{one} in profile {name}") for one, choice in PROFILES[name].items()} | dict(
        given
    )


def policy_of(profile: str) -> str:
    """Which policy the files of a mount are under, as the API and the metrics call it: its profile, or default."""
    return "default" if profile == "generic" else profile
