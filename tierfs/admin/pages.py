"""What the files of the control directory say: JSON as the control API has it, settings as TOML.

config   the settings that the mount runs with: a settings file
errors   JSON lines: the last errors that applications were told as an errno alone, then the files that could not
         be moved, and when they are tried again
plan     JSON lines: what the policy would do now
stats    `tierfs status --json`
"""

import json
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import trio

from tierfs.admin import wire
from tierfs.admin.control import Service
from tierfs.core.config import Settings
from tierfs.core.toml import settings_file

Page = Callable[[], Awaitable[bytes]]

_LINES_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class LastErrors:
    """Errors as they are kept, each with a sentence: looked at when somebody asks.

    `told`: when (ns), in which operation. `of_files`: by path, how often in a row, and when it is tried again (ns).
    """

    told: Iterable[tuple[int, str, str]]
    of_files: Mapping[bytes, tuple[int, int, str]]

    def as_json(self) -> Iterator[dict[str, object]]:
        """One object for each."""
        for at_ns, operation, error in self.told:
            yield {"at_ns": at_ns, "operation": operation, "error": error}
        for path, (failures, retry_at_ns, error) in self.of_files.items():
            yield {"path": os.fsdecode(path), "failures": failures, "retry_at_ns": retry_at_ns, "error": error}


def pages_of(service: Service, request: Mapping[str, str], settings: Settings, errors: LastErrors) -> dict[bytes, Page]:
    """Every file by its name; `request` says which mount it is."""
    where = {"store": request["source"], **{name: request[name] for name in ("mountpoint", "hot", "state")}}
    return {
        b"config": partial(_config, where, settings),
        b"errors": partial(_errors, errors),
        b"plan": partial(_plan, service),
        b"stats": partial(_stats, service),
    }


async def _config(where: Mapping[str, str], settings: Settings) -> bytes:
    return settings_file(where, settings).encode("utf-8", "backslashreplace")


async def _errors(errors: LastErrors) -> bytes:
    return await _lines(list(errors.as_json()))


async def _plan(service: Service) -> bytes:
    return await _lines(map(wire.to_json, await service.plan()))


async def _lines(objects: Iterable[Mapping[str, object]]) -> bytes:
    """JSON lines; the loop serves others between some of them."""
    lines = bytearray()
    for index, one in enumerate(objects):
        if index % _LINES_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        lines += wire.dump(one)
    return bytes(lines)


async def _stats(service: Service) -> bytes:
    return json.dumps(await service.status(), indent=1).encode("ascii") + b"\n"
