"""Residency: where the authoritative bytes of a file are, and the only ways it changes.

Rules
- One table. What is not in it is a programming error (IllegalTransition), never a silent no-op.
- WRITTEN leads to HOT from every residency that has hot bytes: a write always wins over an archive.
- REPLACED (O_TRUNC, rename over it) leads to HOT from everywhere: nobody needs the old bytes, nothing is downloaded.
- RELEASED leaves MIRRORED only: hot bytes go when the bucket is known to hold the same.
- CRASHED lands each transient residency in the stable one whose bytes are certain.
- MISSING is what the bucket says, FOUND takes it back: LOST heals when the object returns.
"""

from enum import StrEnum


class Residency(StrEnum):
    HOT = "hot"
    ARCHIVING = "archiving"
    MIRRORED = "mirrored"
    COLD = "cold"
    RESTORING = "restoring"
    LOST = "lost"


class Event(StrEnum):
    ARCHIVE_STARTED = "archive_started"
    ARCHIVED = "archived"
    ABORTED = "aborted"
    WRITTEN = "written"
    RELEASED = "released"
    RESTORE_STARTED = "restore_started"
    RESTORED = "restored"
    REPLACED = "replaced"
    MISSING = "missing"
    FOUND = "found"
    CRASHED = "crashed"


class Tier(StrEnum):
    """What users are shown: three temperatures instead of six residencies."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"


class IllegalTransition(AssertionError):
    """An event that cannot happen in this residency: a defect of tierfs."""


_R, _E = Residency, Event
_TABLE: dict[tuple[Residency, Event], Residency] = {
    (_R.HOT, _E.ARCHIVE_STARTED): _R.ARCHIVING,
    (_R.HOT, _E.WRITTEN): _R.HOT,
    (_R.ARCHIVING, _E.ARCHIVED): _R.MIRRORED,
    (_R.ARCHIVING, _E.ABORTED): _R.HOT,
    (_R.ARCHIVING, _E.WRITTEN): _R.HOT,
    (_R.ARCHIVING, _E.CRASHED): _R.HOT,
    (_R.MIRRORED, _E.WRITTEN): _R.HOT,
    (_R.MIRRORED, _E.RELEASED): _R.COLD,
    (_R.COLD, _E.RESTORE_STARTED): _R.RESTORING,
    (_R.COLD, _E.MISSING): _R.LOST,
    (_R.RESTORING, _E.RESTORED): _R.MIRRORED,
    (_R.RESTORING, _E.ABORTED): _R.COLD,
    (_R.RESTORING, _E.CRASHED): _R.COLD,
    (_R.RESTORING, _E.MISSING): _R.LOST,
    (_R.LOST, _E.FOUND): _R.COLD,
    **{(residency, _E.REPLACED): _R.HOT for residency in _R},
}

#: Residencies in which the hot directory has no bytes of the file: the catalog alone knows that it exists.
WITHOUT_HOT_BYTES = frozenset({_R.COLD, _R.RESTORING, _R.LOST})

#: Residencies that only a running worker can leave.
TRANSIENT = frozenset({_R.ARCHIVING, _R.RESTORING})

_TIERS = {_R.HOT: Tier.HOT, _R.ARCHIVING: Tier.HOT, _R.MIRRORED: Tier.WARM}


def next_residency(residency: Residency, event: Event) -> Residency:
    """The residency that `event` leads to. IllegalTransition when the table has none."""
    try:
        return _TABLE[residency, event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot happen to a file that is {residency}") from None


def tier_of(residency: Residency) -> Tier:
    """The temperature that users are shown for a residency."""
    return _TIERS.get(residency, Tier.COLD)
