"""Kafka with its data directory on the mount: one node, the smallest segments, transactions, compaction, retention.

Segments go cold while the broker runs and has them open. `KAFKA=long` writes 1 GiB instead of 30 MiB.
"""

import os

import pytest

from tests.conftest import require
from tests.mounting import directory
from tests.servers import S3Server
from tests.t5_apps.conftest import MakeMount
from tests.t5_apps.kafka.broker import broker
from tests.t5_apps.kafka.jars import JarsMissing, jars
from tests.t5_apps.kafka.story import AGES, LIMITS, LONG, PROFILE, SETTINGS, SHORT, Story


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kafka_outgrows_its_disk(make_mount: MakeMount, s3: S3Server) -> None:
    try:
        jars()
    except JarsMissing as missing:
        require(False, str(missing))
    scale = LONG if os.environ.get("KAFKA") == "long" else SHORT
    with (
        directory() as home,
        make_mount("kafka", *PROFILE, *AGES, *LIMITS) as mount,
        broker(mount.path, home, SETTINGS) as kafka,
    ):
        Story(mount, kafka, s3, "kafka", scale).tell()
