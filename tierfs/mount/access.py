"""Who opened a file: told apart at open(2), and remembered with the handle.

Flags of a handle are those of open(2) in the lower 32 bits. Above them stand what the rules said of who opened it, and
its pid: so the session has both, and the next worker knows them. Whatever else is known of a process, /proc says when
its first cold byte is asked for.
"""

import grp
import logging
import os
import pwd
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache

from tierfs.core.access import Access, Opener, Rule, decide, parse_rule
from tierfs.core.errors import ConfigError
from tierfs.core.reports import happened
from tierfs.mount.owners import Caller

log = logging.getLogger(__name__)

_ACCESS_SHIFT, _PID_SHIFT = 32, 34
_ENOUGH = 1 << 11  # bytes of /proc/PID/status: what is needed stands in the first lines

#: Who opened a file and has ended since, or is in another container.
GONE = Opener(command="a process that is gone", uid=-2)


def rules_of(texts: Iterable[str], is_mounted: bool = False) -> tuple[Rule, ...]:
    """Rules with the numbers of this host's users and groups. ConfigError where it does not have them.

    A mount that is there already goes on without the rule: a user may have been removed since.
    """

    def numbers(names: tuple[str, ...], kind: str, find: Callable[[str], int]) -> tuple[str, ...]:
        found = []
        for name in names:
            try:
                found.append(name if name.isdecimal() else str(find(name)))
            except KeyError:
                raise ConfigError(f"access: this host has no {kind} {name!r}") from None
        return tuple(found)

    def resolved(rule: Rule) -> Rule:
        uid = numbers(rule.uid, "user", lambda name: pwd.getpwnam(name).pw_uid)
        return replace(rule, uid=uid, gid=numbers(rule.gid, "group", lambda name: grp.getgrnam(name).gr_gid))

    found = []
    for text in texts:
        try:
            found.append(resolved(parse_rule(text)))
        except ConfigError as error:
            if not is_mounted:
                raise
            log.warning("%s any more: %r fits nobody", error, text, extra=happened("unfit"))
    return tuple(found)


class Gate:
    """Decides at open(2). Without rules it looks at nothing: a hot open costs no more."""

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        self._rules = rules

    def marks(self, caller: Caller) -> int:
        """What stands above the flags of open(2)."""
        access = Access.ALLOW
        if self._rules:
            command = cache(lambda: opener_of(caller.pid).command)
            access = decide(self._rules, caller.uid, caller.gid, command)
        return access << _ACCESS_SHIFT | caller.pid << _PID_SHIFT

    @staticmethod
    def is_denied(flags: int) -> bool:
        """Whether who opened a handle gets nothing that would have to be fetched."""
        return flags >> _ACCESS_SHIFT & 3 == Access.DENY

    @staticmethod
    def opener(flags: int) -> Opener:
        """Who opened a handle with these flags."""
        access = Access(flags >> _ACCESS_SHIFT & 3)
        return opener_of(flags >> _PID_SHIFT)._replace(access=access)


def opener_of(thread: int) -> Opener:
    """The process of a thread (0: none that this host knows), by the name of its first thread; GONE."""
    try:
        status = _status(thread) if thread else b""
        pid = int(_field(status, b"Tgid"))
        if pid != thread:
            with suppress(OSError):
                status = _status(pid)
        uid = int(_field(status, b"Uid").split()[3])  # the one that files are opened with
        name = _field(status, b"Name").decode(errors="replace")
    except (OSError, ValueError, IndexError):
        return GONE._replace(pid=thread)
    return Opener(name, uid, pid)


def _status(pid: int) -> bytes:
    fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _ENOUGH)
    finally:
        os.close(fd)


def _field(status: bytes, name: bytes) -> bytes:
    """One line of proc_pid_status(5)."""
    _, found, rest = (b"\n" + status).partition(b"\n" + name + b":\t")
    return rest.partition(b"\n")[0] if found else b""
