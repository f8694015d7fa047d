"""What every broker's story asks of its mount: which files are cold, what is in the bucket, who left what behind."""

import os
import re
from dataclasses import dataclass
from itertools import pairwise

from tests.mounting import Mount
from tests.servers import S3Server
from tests.t5_apps.conftest import wait_until
from tierfs.core.keys import is_reserved, key_of
from tierfs.core.reports import Entry
from tierfs.stores.s3_probe import is_of_self_test

#: Ages for a story that is over in seconds; objects of removed files go with the next snapshot.
AGES = ("--auto-archive", "--warm-after", "1s", "--cold-after", "2s", "--policy-interval", "500ms")
QUICK = (*AGES, "--snapshot-interval", "1s")


@dataclass(frozen=True, slots=True)
class Data:
    """A broker's data directory on a mount, and the bucket behind it; `segment`: what its segments are called."""

    mount: Mount
    s3: S3Server
    bucket: str
    segment: str

    def entries(self) -> list[Entry]:
        """All regular files of the tree."""
        entries = self.mount.client.list_entries([b""], recursive=True)
        return [one for one in entries if isinstance(one, Entry) and one.kind == "file"]

    def segments(self, below: str = "") -> list[Entry]:
        """The segments, the oldest first; `below`: of the paths that this pattern finds something in."""
        found = [
            one
            for one in self.entries()
            if re.search(self.segment, os.fsdecode(one.path)) and re.search(below, os.fsdecode(one.path))
        ]
        return sorted(found, key=lambda one: (os.path.dirname(one.path), _number(one.path)))

    def wait_until_cold(self, below: str, at_least: int) -> list[Entry]:
        """Until all of these segments are cold, except the newest of each directory; those that are then."""

        def old_and_hot() -> list[str]:
            some = self.segments(below)
            old = [
                one for one, following in pairwise(some) if os.path.dirname(one.path) == os.path.dirname(following.path)
            ]
            return [f"{one.path!r} {one.residency} {one.reason}" for one in old if one.tier != "cold"]

        def cold() -> list[Entry]:
            return [one for one in self.segments(below) if one.tier == "cold"]

        wait_until(lambda: len(cold()) >= at_least and not old_and_hot(), lambda: (len(cold()), old_and_hot()))
        return cold()

    def keys(self) -> set[str]:
        """The objects of the bucket, but for those of tierfs itself: a killed worker leaves its self-test."""
        with self.s3.client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
            found = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
        return {key for key in found if not is_reserved("", key) and not is_of_self_test(key)}

    def wait_until_gone(self, below: str) -> None:
        """Until none of these segments is in the tree any more, nor in the bucket."""
        wait_until(lambda: not self.segments(below), lambda: self.segments(below))
        self.wait_until_the_bucket_has_nothing_else()

    def wait_until_the_bucket_has_nothing_else(self) -> None:
        """Until no object is left that the tree has no file for."""

        def strangers() -> set[str]:
            return self.keys() - {key_of("", one.path) for one in self.entries()}

        # They go with the next snapshot: none that is in the bucket may name them.
        wait_until(lambda: not strangers(), strangers)

    def names(self) -> set[str]:
        """Every name in the data directory, as the broker sees it."""
        return {name for _, directories, files in os.walk(self.mount.path) for name in (*directories, *files)}


def _number(path: bytes) -> int:
    digits = re.findall(rb"[0-9]+", os.path.basename(path))
    return int(digits[0]) if digits else -1


@dataclass(slots=True)
class KillsTheWorker:
    """To be told the number of each message: kills the mount's worker at this one, while others are read."""

    mount: Mount
    at: int
    pid: int = 0

    def __call__(self, number: int) -> None:
        if number == self.at:
            self.pid = self.mount.kill_worker()

    def wait_taken_over(self) -> None:
        """It has happened, and until the next worker serves."""
        assert self.pid
        self.mount.wait_taken_over(self.pid)
