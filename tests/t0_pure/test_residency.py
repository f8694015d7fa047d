"""The table of residencies: complete, and saying what the rules say."""

import itertools

import pytest

from tierfs.core.residency import (
    TRANSIENT,
    WITHOUT_HOT_BYTES,
    Event,
    IllegalTransition,
    Residency,
    Tier,
    next_residency,
    tier_of,
)

HOT_BYTES = set(Residency) - WITHOUT_HOT_BYTES

#: The diagram of DESIGN.md, section 4, arrow by arrow.
ARROWS = {
    ("hot", "archive_started"): "archiving",
    ("hot", "written"): "hot",
    ("archiving", "archived"): "mirrored",
    ("archiving", "aborted"): "hot",
    ("archiving", "written"): "hot",
    ("archiving", "crashed"): "hot",
    ("mirrored", "written"): "hot",
    ("mirrored", "released"): "cold",
    ("cold", "restore_started"): "restoring",
    ("cold", "missing"): "lost",
    ("restoring", "restored"): "mirrored",
    ("restoring", "aborted"): "cold",
    ("restoring", "crashed"): "cold",
    ("restoring", "missing"): "lost",
    ("lost", "found"): "cold",
    **{(residency.value, "replaced"): "hot" for residency in Residency},
}


@pytest.mark.parametrize(("residency", "event"), list(itertools.product(Residency, Event)))
def test_every_square_of_the_table(residency: Residency, event: Event) -> None:
    expected = ARROWS.get((residency.value, event.value))
    if expected is None:
        with pytest.raises(IllegalTransition, match=f"{event} cannot happen to a file that is {residency}"):
            next_residency(residency, event)
    else:
        assert next_residency(residency, event) is Residency(expected)


def after(event: Event) -> set[tuple[Residency, Residency]]:
    found = set()
    for residency in Residency:
        try:
            found.add((residency, next_residency(residency, event)))
        except IllegalTransition:
            continue
    return found


def test_only_what_is_mirrored_is_released() -> None:
    assert after(Event.RELEASED) == {(Residency.MIRRORED, Residency.COLD)}


def test_a_write_always_wins() -> None:
    assert after(Event.WRITTEN) == {(residency, Residency.HOT) for residency in HOT_BYTES}


def test_replacing_needs_no_old_bytes() -> None:
    assert after(Event.REPLACED) == {(residency, Residency.HOT) for residency in Residency}


def test_a_crash_ends_every_transient_residency_in_a_stable_one() -> None:
    assert {residency for residency, _ in after(Event.CRASHED)} == TRANSIENT
    assert not {residency for _, residency in after(Event.CRASHED)} & TRANSIENT


def test_hot_bytes_go_by_release_alone() -> None:
    going = {
        (one, event)
        for event in Event
        for one, other in after(event)
        if one in HOT_BYTES and other in WITHOUT_HOT_BYTES
    }
    assert going == {(Residency.MIRRORED, Event.RELEASED)}


def test_temperatures() -> None:
    assert {residency: tier_of(residency) for residency in Residency} == {
        Residency.HOT: Tier.HOT,
        Residency.ARCHIVING: Tier.HOT,
        Residency.MIRRORED: Tier.WARM,
        Residency.COLD: Tier.COLD,
        Residency.RESTORING: Tier.COLD,
        Residency.LOST: Tier.COLD,
    }
