"""The lease: who may write below a prefix of a store, and what a mount makes of the one that it finds there. Pure.

One small object says who owns the prefix. It is replaced only by who saw what it replaces, and carries a new mark each
time. The epoch goes up with every new owner, so one that comes back finds that it is not meant any more.

An owner may begin requests for `ttl_ns` after it asked for the renewal that the store granted, by its own clock. Nobody
else writes before `patience_ns` have passed since that renewal, by the store's clock: what lies between is for requests
that were under way.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Self


@dataclass(frozen=True, slots=True)
class Owner:
    """A mount that wants to write; `where` names it to a person.

    `identity` is of the state directory, `machine` of the host that it is on, `session` of the mount: new each time.
    """

    identity: str
    machine: str
    session: str
    where: str


@dataclass(frozen=True, slots=True)
class Lease:
    """What the object says. Times are nanoseconds since the epoch by the owner's clock, for people.

    Nobody writes before `begins_ns`, when the time of who had it before has run out.

    INVARIANT: `mark` is new each time that it is written. A lease without owner (`is_free`) was given back.
    """

    epoch: int
    owner: Owner
    mark: str
    taken_ns: int
    renewed_ns: int
    ttl_ns: int
    begins_ns: int = 0
    is_free: bool = False

    @property
    def patience_ns(self) -> int:
        """How old it must be before somebody else may write."""
        return self.ttl_ns + self.ttl_ns // 2

    def format(self) -> str:
        """The text of the object."""
        until = datetime.fromtimestamp((self.renewed_ns + self.ttl_ns) / 1e9, UTC).isoformat(timespec="seconds")
        return json.dumps(asdict(self) | {"tierfs-lease": 1, "expires": until}, indent=1) + "\n"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What format() wrote; None for anything else."""
        try:
            told = json.loads(text)
            owner = Owner(**{name: str(told["owner"][name]) for name in Owner.__slots__})
            numbers = {name: int(told[name]) for name in ("epoch", "taken_ns", "renewed_ns", "ttl_ns", "begins_ns")}
            return cls(owner=owner, mark=str(told["mark"]), is_free=bool(told["is_free"]), **numbers)
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class Found:
    """The lease that is in the store: `tag` changes with its text, `age_ns` is by the store's clock.

    `lease` is None when the object is there and says something else.
    """

    lease: Lease | None
    tag: str
    age_ns: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a mount knows of itself when it asks.

    `was_held`: it had the lease in this session. `is_alone`: no process that wrote for this state directory before is
    left. `is_forced`: an operator says that the owner is not to be waited for. `now_ns`: by the host's clock.
    """

    owner: Owner
    now_ns: int
    was_held: bool = False
    is_alone: bool = True
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class Take:
    """Write a lease of this epoch; begin to write `wait_ns` after that."""

    epoch: int
    wait_ns: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Somebody else has it. `is_final`: and it was ours before, in this session."""

    lease: Lease | None
    age_ns: int
    is_final: bool = False


def plan_claim(found: Found | None, claim: Claim) -> Take | Refusal:
    """Whether a mount may have the lease, and when it may write."""
    if found is None:
        return Take(1)
    lease = found.lease
    if lease is None:
        return Take(1) if claim.is_forced else Refusal(None, found.age_ns)
    rest_ns = max(0, lease.begins_ns - claim.now_ns)
    left_ns = max(0, lease.patience_ns - found.age_ns, rest_ns)
    if lease.owner.session == claim.owner.session:  # of a process of this mount that ended
        return Take(lease.epoch + lease.is_free, rest_ns if claim.is_alone or lease.is_free else left_ns)
    if claim.was_held:
        return Refusal(lease, found.age_ns, is_final=True)
    if lease.is_free or found.age_ns >= lease.patience_ns:
        return Take(lease.epoch + 1, rest_ns)
    if lease.owner.identity == claim.owner.identity:
        is_gone = claim.is_alone and lease.owner.machine == claim.owner.machine
        return Take(lease.epoch + 1, rest_ns if is_gone else left_ns)
    if claim.is_forced:
        return Take(lease.epoch + 1, left_ns)
    return Refusal(lease, found.age_ns)


def renewed(lease: Lease, mark: str, now_ns: int) -> Lease:
    """The same lease, a bit later."""
    return replace(lease, mark=mark, renewed_ns=now_ns)


def explain(refusal: Refusal, place: str) -> str:
    """Why a mount may not write, for a person: who has the lease, since when, and what to do."""
    lease = refusal.lease
    if lease is None:
        return f"{place} holds something else than a lease where the lease should be; --take-over replaces it"
    since = datetime.fromtimestamp(lease.taken_ns / 1e9, UTC).isoformat(timespec="seconds")
    age, left = refusal.age_ns / 1e9, max(0, lease.patience_ns - refusal.age_ns) / 1e9
    if refusal.is_final:
        return (
            f"{place} was taken over by another mount ({lease.owner.where}) at {since}: "
            "this one writes nothing there any more; unmount one of them, mount this one again to take it back"
        )
    return (
        f"{place} belongs to another mount ({lease.owner.where}) since {since}, heard of {age:.0f} s ago: unmount that "
        f"one, or mount with --read-only; if it is gone for good, wait {left:.0f} s, or use --take-over"
    )


#: The place of the lease object below the prefix of a mount; see core.keys.RESERVED.
KEY = "lease"

#: What stands before each request that changes the store: returns, or raises core.errors.NoLease.
Fence = Callable[[], None]


def unfenced() -> None:
    """A Fence for who owns the store in another way."""
