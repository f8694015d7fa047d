"""Who may have cold bytes fetched: rules by user, group and command, and who opened a file.

A rule is a line: `deny command=clamscan`, `limit uid=backup`, `limit command=updatedb,find uid=0`. Each condition
names alternatives; all conditions of a rule must hold. The first rule that fits decides, without one: allow.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import NamedTuple

#: The kernel keeps so many bytes of a command's name (TASK_COMM_LEN, proc_pid_comm(5)).
_COMMAND_BYTES = 15
_FIELDS = ("uid", "gid", "command")
_BETWEEN = re.compile(r";|,(?=\s*(?:allow|limit|deny)\s)")


class Access(IntEnum):
    """How cold bytes are given to who opened a file; two bits of the session, so the numbers stay what they are."""

    ALLOW = 0
    LIMIT = 1
    DENY = 2


class Opener(NamedTuple):
    """Who opened a file: `command` is the name of the process, empty where nobody knows it; pid 0 where it has none."""

    command: str = ""
    uid: int = 0
    pid: int = 0
    access: Access = Access.ALLOW

    @property
    def group(self) -> tuple[str, int]:
        """With whom it shares its turns, and is counted."""
        return (self.command, self.uid)


#: Whoever nobody asked about.
ANYBODY = Opener()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: alternatives by field; a field without any fits everybody. Users and groups as they were written."""

    access: Access
    uid: tuple[str, ...] = ()
    gid: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    def fits(self, uid: int, gid: int, command: Callable[[], str]) -> bool:
        """Whether it is about this process; `command` is asked only where the answer depends on it."""
        if (self.uid and str(uid) not in self.uid) or (self.gid and str(gid) not in self.gid):
            return False
        return not self.command or any(_is_called(command(), pattern) for pattern in self.command)


def _is_called(command: str, pattern: str) -> bool:
    kept = pattern.encode(errors="surrogateescape")[:_COMMAND_BYTES].decode(errors="surrogateescape")
    return bool(command) and (fnmatchcase(command, pattern) or command == kept)


def parse_rule(text: str) -> Rule:
    """Read a rule. ValueError says what is wrong with it."""
    verb, *conditions = text.split() or [""]
    try:
        access = Access[verb.upper()]
    except KeyError:
        raise ValueError(
            f"{text!r} begins with {verb!r}: write it as `deny command=clamscan`, or limit, or allow"
        ) from None
    found: dict[str, tuple[str, ...]] = {}
    for condition in conditions:
        field, _, values = condition.partition("=")
        alternatives = tuple(values.split(","))
        if field not in _FIELDS or not all(alternatives):
            raise ValueError(f"{condition!r} in {text!r} is none of uid=..., gid=..., command=...")
        if field in found:
            raise ValueError(f"{field} stands twice in {text!r}: write it once, as {field}=ONE,OTHER")
        found[field] = alternatives
    return Rule(access, **found)


def split_rules(text: str) -> list[str]:
    """The rules in one text: a semicolon stands between two, or a comma before the first word of a rule."""
    return [rule for part in _BETWEEN.split(text) if (rule := " ".join(part.split()))]


def decide(rules: Iterable[Rule], uid: int, gid: int, command: Callable[[], str]) -> Access:
    """What the first rule that fits says; `command` is asked at most as often as rules need it."""
    return next((rule.access for rule in rules if rule.fits(uid, gid, command)), Access.ALLOW)
