"""Height 3: a real mount, with kernel passthrough where there is any, and without; the policy runs all the time.

Its store fails now and then; its worker is killed, and another one takes over; the whole mount is killed, too.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test
from hypothesis.strategies import integers

from tests.t3_model import examples
from tests.t3_model.lives import lives
from tests.t3_model.mount_subject import MountSubject
from tests.t3_model.transparency import Subject, Transparency

SETTINGS = settings(
    max_examples=examples(5, 50),
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.mount
@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_a_mount_is_transparent(passthrough: str) -> None:
    with lives(f"--passthrough={passthrough}") as mounts:

        class MountTransparency(Transparency):
            """Residency transparency of a mount."""

            subject: MountSubject

            def make_subject(self) -> Subject:
                return MountSubject(mounts)

            @rule(patience=integers(0, 8))
            def the_worker_is_killed(self, patience: int) -> None:
                """While whatever comes next is under way: nobody notices."""
                self.subject.kill_worker_in(patience)

        run_state_machine_as_test(MountTransparency, settings=SETTINGS)
