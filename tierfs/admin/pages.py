"""What the files of the control directory say: JSON as the control API has it, settings as TOML.

config   the settings that the mount runs with: a settings file
errors   JSON lines: the last errors that applications were told as an errno alone, then the files that could not
         be moved, and when they are tried again
events   JSON lines: what happened, as far as it is kept, the newest last
plan     JSON lines: what the policy would do now
stats    `tierfs status --json`
"""

import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

import trio

from tierfs.admin import wire
from tierfs.admin.service import Service
from tierfs.core.config import Settings
from tierfs.core.reports import Report
from tierfs.core.toml import settings_file
from tierfs.engine.observed import Told
from tierfs.engine.tier import Tier

Page = Callable[[], Awaitable[bytes]]

_LINES_AT_ONCE = 100
_PATHS = ("mountpoint", "hot", "state")


def pages_of(service: Service, request: Mapping[str, str], tier: Tier, told: Iterable[Told]) -> dict[bytes, Page]:
    """Every file by its name. `request` says which mount it is; `told` is what applications were told last."""
    paths = {name: os.fsencode(request[name]).decode("utf-8", "backslashreplace") for name in _PATHS}  # as TOML may be
    where = {"store": request["source"], **paths}
    return {
        b"config": partial(_config, where, tier.settings),
        b"errors": partial(_errors, told, tier.failures),
        b"events": partial(_events, service),
        b"plan": partial(_plan, service),
        b"stats": partial(_stats, service),
    }


async def _config(where: Mapping[str, str], settings: Settings) -> bytes:
    return settings_file(where, settings).encode("utf-8", "backslashreplace")


async def _errors(told: Iterable[Told], failures: Mapping[bytes, tuple[int, int, str]]) -> bytes:
    lines: list[dict[str, object]] = [
        {"at_ns": one.at_ns, "operation": one.operation, "path": os.fsdecode(one.path), "error": one.error}
        for one in told
    ]
    for path, (count, retry_at_ns, error) in failures.items():
        lines.append({"path": os.fsdecode(path), "failures": count, "retry_at_ns": retry_at_ns, "error": error})
    return await _lines(lines)


async def _events(service: Service) -> bytes:
    found: list[Report] = [event async for event in service.events(0, follow=False)]
    return await _lines(map(wire.to_json, found))


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
