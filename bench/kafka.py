"""The part of the benchmark with a Kafka broker: every row for every node, in turns."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from confluent_kafka import KafkaException

from bench.cold import ColdResults
from bench.contenders import Missing
from bench.kafka_nodes import KAFKA_CONTENDERS, Node, Stage
from bench.kafka_rows import KafkaRow
from bench.processes import MountError
from bench.rows import Impossible
from tierfs.core.errors import ControlError

#: What may befall one node; the others go on.
_FAILURES = (OSError, AssertionError, KafkaException, ControlError, Impossible)


def begin_nodes(stage: Stage, names: Sequence[str], exits: ExitStack, say: Callable[[str], None]) -> list[Node]:
    """Start the brokers of those who can take part; say why the others do not."""
    present = []
    for name in names:
        try:
            present.append(exits.enter_context(KAFKA_CONTENDERS[name](stage)))
        except (Missing, MountError) as error:
            say(f"left out: {name}: {error}")
    return present


def measure_kafka(
    rows: Sequence[KafkaRow], nodes: Sequence[Node], rounds: int, say: Callable[[str], None]
) -> Iterator[ColdResults]:
    """Every row, in rounds; in a round everybody in turns. Yields the same results again and again, as they grow."""
    results = ColdResults()
    for row in rows:
        for number in range(rounds):
            first = number % len(nodes)
            for node in [*nodes[first:], *nodes[:first]]:
                began = time.monotonic()
                _measure(row, node, results)
                say(f"{row.name}: round {number + 1} of {rounds}: {node.name}: {time.monotonic() - began:.1f} s")
                yield results


def _measure(row: KafkaRow, node: Node, results: ColdResults) -> None:
    failed = f"{node.name}: {row.name}: "
    if node.name in row.without or any(failure.startswith(failed) for failure in results.failures):
        return
    try:
        values = row.act(node)
    except _FAILURES as error:
        results.failures.append(failed + (str(error)[-300:] or type(error).__name__))
        return
    for line, value in values.items():
        results.values[line][node.name].append(value)
