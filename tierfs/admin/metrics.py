"""Metrics of a mount in the text format of Prometheus, by its official client; docs/METRICS.md is their table.

No registry of the process: each answer is made of one snapshot, by collectors that live as long as the answer. It is
made piece by piece, so that who answers the kernel meanwhile need not wait for all of it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tierfs.admin import metrics_cold, metrics_mount, metrics_tiers
from tierfs.core.errors import ControlError
from tierfs.engine.measures import Measures

_SAMPLES_AT_ONCE = 50  # half a millisecond


async def scrape(measures: Measures, accept: str = "") -> tuple[bytes, str]:
    """The metrics and their media type; `accept` is what the client says that it reads."""
    processes = await trio.to_thread.run_sync(metrics_mount.families_of_processes, measures)
    pieces, media_type = _exposition(measures, processes, accept)
    text = bytearray()
    for piece in pieces:
        text += piece
        await trio.lowlevel.checkpoint()
    return bytes(text), media_type


def exposition(measures: Measures, accept: str = "") -> tuple[bytes, str]:
    """The same, without a pause."""
    pieces, media_type = _exposition(measures, metrics_mount.families_of_processes(measures), accept)
    return b"".join(pieces), media_type


def _exposition(measures: Measures, processes: list[Metric], accept: str) -> tuple[Iterator[bytes], str]:
    encode, media_type = choose_encoder(accept)
    families = chain(
        metrics_mount.families_of(measures),
        metrics_tiers.families_of(measures),
        metrics_cold.families_of(measures),
        processes,
    )
    return _encoded(encode, families), media_type


def _encoded(encode: Callable[[Collector], bytes], families: Iterable[Metric]) -> Iterator[bytes]:
    """The text of the families, a few samples at a time."""
    end = encode(_registry_of(_Given([])))  # one of the formats has a last line
    for family in families:
        for first in range(0, max(1, len(family.samples)), _SAMPLES_AT_ONCE):
            part = Metric(family.name, family.documentation, family.type)
            part.samples = family.samples[first : first + _SAMPLES_AT_ONCE]
            text = encode(_registry_of(_Given([part]))).removesuffix(end)
            # Help and type stand once, before the first sample.
            yield text.split(b"\n", 2)[2] if first else text
    yield end


def merged(texts: Sequence[str]) -> str:
    """The metrics of several mounts as one text: each family once, as the format wants it. ControlError for others."""
    families: dict[str, Metric] = {}
    try:
        for family in (family for text in texts for family in text_string_to_metric_families(text)):
            families.setdefault(family.name, family)
            if families[family.name] is not family:
                families[family.name].samples.extend(family.samples)
    except ValueError as error:
        raise ControlError(f"a mount sent metrics that cannot be read: {error}") from None
    return generate_latest(_registry_of(_Given(families.values()))).decode()


class _Given(Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _registry_of(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
