"""Who gets the lease of a prefix, and when it may write: every case of the table in docs/ARCHITECTURE.md."""

from dataclasses import replace

import pytest

from tierfs.core.lease import Claim, Found, Lease, Owner, Refusal, Take, explain, plan_claim

S = 1_000_000_000
ME = Owner("me", "here", "now", "host here")
BEFORE = replace(ME, session="before")
OTHER = Owner("other", "there", "theirs", "host there, mounted at /srv, state directory /var, pid 7")


def found(owner: Owner, age_s: float, *, is_free: bool = False, begins_s: int = 1000) -> Found:
    return Found(
        Lease(7, owner, "mark", 1000 * S, 2000 * S, 60 * S, begins_ns=begins_s * S, is_free=is_free),
        "tag",
        int(age_s * S),
    )


CLAIM = Claim(ME, 2000 * S)

CASES = {
    "nothing is there": (None, CLAIM, Take(1)),
    "given back": (found(OTHER, 1, is_free=True), CLAIM, Take(8)),
    "too young": (found(OTHER, 89), CLAIM, Refusal(found(OTHER, 89).lease, 89 * S)),
    "old enough": (found(OTHER, 90), CLAIM, Take(8)),
    "a crash and a remount": (found(BEFORE, 1), CLAIM, Take(8)),
    "the old process is still there": (found(BEFORE, 1), replace(CLAIM, is_alone=False), Take(8, 89 * S)),
    "and it cannot write any more": (found(BEFORE, 90), replace(CLAIM, is_alone=False), Take(8)),
    "the state directory moved": (found(replace(BEFORE, machine="there"), 30), CLAIM, Take(8, 60 * S)),
    "only the cold process died": (found(ME, 1), replace(CLAIM, was_held=True), Take(7)),
    "an answer that was lost": (found(ME, 1), CLAIM, Take(7)),
    "an operator takes over": (found(OTHER, 30), replace(CLAIM, is_forced=True), Take(8, 60 * S)),
    "taken by another": (found(OTHER, 1), replace(CLAIM, was_held=True), Refusal(found(OTHER, 1).lease, S, True)),
    "taken and given back": (
        found(OTHER, 1, is_free=True),
        replace(CLAIM, was_held=True),
        Refusal(found(OTHER, 1, is_free=True).lease, S, True),
    ),
    "taken by a remount": (
        found(BEFORE, 900),
        replace(CLAIM, was_held=True),
        Refusal(found(BEFORE, 1).lease, 900 * S, True),
    ),
    "its former owner may still write": (found(ME, 1, begins_s=2040), replace(CLAIM, was_held=True), Take(7, 40 * S)),
    "and so after a crash": (found(BEFORE, 1, begins_s=2040), CLAIM, Take(8, 40 * S)),
    "and so when it was given back": (found(OTHER, 1, begins_s=2040, is_free=True), CLAIM, Take(8, 40 * S)),
    "something else": (Found(None, "tag", 0), CLAIM, Refusal(None, 0)),
    "something else, replaced": (Found(None, "tag", 0), replace(CLAIM, is_forced=True), Take(1)),
}


@pytest.mark.parametrize("case", CASES)
def test_who_gets_it(case: str) -> None:
    there, claim, wanted = CASES[case]
    assert plan_claim(there, claim) == wanted


def test_it_survives_its_text_and_nothing_else_is_one() -> None:
    lease = found(OTHER, 0).lease
    assert lease
    assert Lease.parse(lease.format()) == lease
    for text in ("", "{}", "[]", "null", "7", '{"owner": {}}', lease.format().replace('"epoch": 7', '"epoch": "x"')):
        assert Lease.parse(text) is None


def test_a_refusal_names_the_other_one_and_what_to_do() -> None:
    text = explain(Refusal(found(OTHER, 30).lease, 30 * S), "bucket b")
    for part in ("bucket b", OTHER.where, "1970-01-01T00:16:40", "heard of 30 s ago", "wait 60 s", "--take-over"):
        assert part in text
    assert "--take-over" in explain(Refusal(None, 0), "bucket b")
    assert OTHER.where in explain(Refusal(found(OTHER, 30).lease, 0, is_final=True), "bucket b")
