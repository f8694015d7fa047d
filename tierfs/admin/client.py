"""The other end of the control API: synchronous, for the command line and for scripts."""

import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx

from tierfs.admin import wire
from tierfs.admin.registry import Mount, short_path, socket_of
from tierfs.core.errors import ControlError, TierfsError
from tierfs.core.reports import (
    CheckOrder,
    Entry,
    EventReport,
    Finding,
    JobReport,
    Outcome,
    PlannedAction,
    Report,
    Total,
    Verb,
)

_CONNECT_SECONDS = 5.0
#: Status looks at all hot files, a million of them within a minute or two; a worker that needs longer is not well.
_STATUS_SECONDS = 180.0
#: It takes milliseconds; a mount that does not answer by then hangs.
_ACTIVITY_SECONDS = 10.0
_PLAIN_CHECK = CheckOrder()


class Client:
    """One running mount, as its control API shows it.

    Every method raises ControlError when the mount cannot be reached, and the error that the mount met otherwise.
    Paths are bytes relative to the mountpoint.
    """

    def __init__(self, mountpoint: str, socket_path: Path) -> None:
        self.mountpoint = mountpoint
        self._socket_path = socket_path

    @classmethod
    def of(cls, mount: Mount) -> "Client":
        """The client of a registered mount. ControlError when its supervisor is gone."""
        if not mount.is_alive:
            raise ControlError(
                f"the mount at {mount.mountpoint!r} is stale: its supervisor (pid {mount.supervisor_pid}) is gone; "
                f"run `tierfs umount {mount.mountpoint}` and mount again"
            )
        return cls(mount.mountpoint, socket_of(mount.mountpoint))

    def status(self, is_quick: bool = False) -> dict[str, Any]:
        """The mount in figures; `is_quick`: hot files as they were counted a while ago, where to count takes long."""
        with self._asking(
            "GET", f"{wire.API}/status{'?quick=true' if is_quick else ''}", None, _STATUS_SECONDS
        ) as answer:
            return cast("dict[str, Any]", json.loads(answer.read()))

    def activity(self) -> dict[str, Any]:
        """What goes on right now."""
        with self._asking("GET", f"{wire.API}/activity", None, _ACTIVITY_SECONDS) as answer:
            return cast("dict[str, Any]", json.loads(answer.read()))

    def metrics(self) -> str:
        """What the mount counts, in the text format of Prometheus."""
        with self._asking("GET", wire.METRICS, None, _STATUS_SECONDS) as answer:
            return answer.read().decode()

    def list_entries(self, paths: Sequence[bytes], recursive: bool) -> Generator[Entry | Outcome, None, None]:
        """A file itself, the entries of a directory; a failed outcome for a path that is not there."""
        return cast("Generator[Entry | Outcome, None, None]", self._post("list", paths, recursive=recursive))

    def move(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> Generator[Total | Outcome, None, None]:
        """Archive, release or restore; closing the iterator cancels what is not done yet."""
        return cast("Generator[Total | Outcome, None, None]", self._post(verb, paths, recursive=recursive))

    def leave(self) -> Generator[Total | Outcome, None, None]:
        """Pin everything, then restore everything. NotEligible where there is no room for it."""
        return cast("Generator[Total | Outcome, None, None]", self._reports("POST", "leave", None))

    def pin(self, paths: Sequence[bytes]) -> Generator[Outcome, None, None]:
        """Never release these files, or the files below these directories."""
        return cast("Generator[Outcome, None, None]", self._post("pin", paths))

    def unpin(self, paths: Sequence[bytes]) -> Generator[Outcome, None, None]:
        """Take pins away."""
        return cast("Generator[Outcome, None, None]", self._post("unpin", paths))

    def evict(self, paths: Sequence[bytes] | None) -> Generator[Outcome, None, None]:
        """Drop the chunks of these files from the cache; None: of all files."""
        return cast("Generator[Outcome, None, None]", self._post("evict", paths))

    def plan(self) -> Generator[PlannedAction, None, None]:
        """What the policy would do now."""
        return cast("Generator[PlannedAction, None, None]", self._reports("GET", "plan", None))

    def costs(self, prices: str | None = None) -> dict[str, Any]:
        """What the tree costs; `prices` is the text of a price table, None for the one of the mount. ConfigError."""
        with self._asking("POST", f"{wire.API}/cost", wire.dump({"prices": prices}), _STATUS_SECONDS) as answer:
            return cast("dict[str, Any]", json.loads(answer.read()))

    def check(self, order: CheckOrder = _PLAIN_CHECK) -> Generator[Finding | Total | Outcome, None, None]:
        """Where catalog, hot directory, bucket and cache disagree; deep: also a total, and an outcome per object."""
        body = wire.dump(wire.order_to_json(order))
        return cast("Generator[Finding | Total | Outcome, None, None]", self._reports("POST", "check", body))

    def events(self, after: int = 0, follow: bool = False) -> Generator[EventReport, None, None]:
        """The events after this number, 0 for all that are kept; with `follow` also those to come, until closed."""
        name = f"events?after={after}&follow={'true' if follow else 'false'}"
        return cast("Generator[EventReport, None, None]", self._reports("GET", name, None))

    def start_job(self, verb: Verb, paths: Sequence[bytes], recursive: bool) -> JobReport:
        """Begin to archive, release or restore files in the worker, and do not wait for it."""
        named = [os.fsdecode(path) for path in paths]
        (job,) = self._reports("POST", "jobs", wire.dump({"verb": verb, "paths": named, "recursive": recursive}))
        return cast("JobReport", job)

    def jobs(self) -> list[JobReport]:
        """The jobs that run, and the last hundred that ended; the newest last."""
        return cast("list[JobReport]", list(self._reports("GET", "jobs", None)))

    def job(self, job_id: str) -> tuple[JobReport, list[Outcome]]:
        """One job, and what failed of it. NoSuchJob."""
        job, *failures = self._reports("GET", f"jobs/{quote(job_id, safe='')}", None)
        return cast("JobReport", job), cast("list[Outcome]", failures)

    def cancel_job(self, job_id: str) -> JobReport:
        """End a job soon; what it had done stands. NoSuchJob."""
        (job,) = self._reports("DELETE", f"jobs/{quote(job_id, safe='')}", None)
        return cast("JobReport", job)

    def _post(self, name: str, paths: Sequence[bytes] | None, **rest: bool) -> Generator[Report, None, None]:
        body = {"paths": None if paths is None else [os.fsdecode(path) for path in paths], **rest}
        return self._reports("POST", name, wire.dump(body))

    def _reports(self, method: str, name: str, body: bytes | None) -> Generator[Report, None, None]:
        with self._asking(method, f"{wire.API}/{name}", body, None) as answer:
            for line in answer.iter_lines():
                yield wire.from_json(json.loads(line))

    @contextmanager
    def _asking(self, method: str, path: str, body: bytes | None, seconds: float | None) -> Iterator[httpx.Response]:
        """The answer to one request, its body still to be read. Raises the error that the mount answers with."""
        if self._socket_path.exists() and not os.access(self._socket_path, os.W_OK):
            raise ControlError(f"the mount at {self.mountpoint!r} belongs to another user: become that user, or root")
        timeout = httpx.Timeout(seconds, connect=_CONNECT_SECONDS)
        try:
            with (
                short_path(self._socket_path) as uds,
                httpx.Client(transport=_transport(uds), base_url="http://tierfs", timeout=timeout) as http,
                http.stream(method, path, content=body) as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    raise _error_of(answer)
                yield answer
        except httpx.TimeoutException:
            raise ControlError(f"the mount at {self.mountpoint!r} does not answer; look into its log") from None
        except (httpx.TransportError, OSError) as error:
            raise ControlError(
                f"the mount at {self.mountpoint!r} cannot be reached ({error}): its worker is being started or "
                "is gone; look into its log"
            ) from None


def _transport(uds: str) -> httpx.HTTPTransport:
    """A way to a Unix socket. Nothing is encrypted there, so no certificates are loaded for it: 30 ms a request."""
    return httpx.HTTPTransport(uds=uds, verify=False)


def _error_of(answer: httpx.Response) -> TierfsError:
    body = answer.read()
    try:
        return wire.error_from_json(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        said = f"{answer.status_code} {answer.reason_phrase}"
        return ControlError(f"the mount refused {answer.request.url.path} ({said}): it runs another version of tierfs")
