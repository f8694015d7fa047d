"""Every operation on every kind of file does in a mount what it does in a plain directory, hot, warm and cold."""

import os

import pytest

from tests.conftest import require
from tests.t4_mount.children import STRANGER
from tests.t4_mount.comparison import CaseLike, Told, differences, run_natively
from tests.t4_mount.operations import Case, cases

pytestmark = pytest.mark.mount

USERS = {"root": 0, "a stranger": STRANGER}


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[CaseLike, Told]]:
    """What a plain directory does, for each user."""
    require(os.geteuid() == 0, "becoming another user needs root")
    return {user: run_natively(cases(uid == 0), uid) for user, uid in USERS.items()}


# Warm is to a stranger what it is to root.
@pytest.mark.parametrize(
    ("user", "state"),
    [("root", "hot"), ("root", "warm"), ("root", "cold"), ("a stranger", "hot"), ("a stranger", "cold")],
)
def test_every_operation_does_what_a_plain_directory_does(
    expected: dict[str, dict[CaseLike, Told]], user: str, state: str
) -> None:
    """Results, errnos, and what stat, listings, contents and times say afterwards."""
    wanted = {case: told for case, told in expected[user].items() if is_wanted(case, user, state)}
    found = differences(state, wanted, USERS[user])
    assert not found, f"{len(found)} differences in {len(wanted)} cases:\n" + "\n".join(found)


def is_wanted(case: CaseLike, user: str, state: str) -> bool:
    """Whether a case may differ from one that another user and state have already."""
    assert isinstance(case, Case)
    return state == "hot" or not (case.is_always_hot or (user != "root" and not case.is_about_owners))
