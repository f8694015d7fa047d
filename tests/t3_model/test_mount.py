"""Height 3: a real mount, with kernel passthrough where there is any, and without; the policy runs all the time."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.mounting import Plan, directory, mounted
from tests.t3_model.mount_subject import MountSubject
from tests.t3_model.transparency import Subject, Transparency

FLAGS = ("--chunk-size=4", "--read-ahead=64", "--min-size=1", "--policy-interval=100ms")
AT_ONCE = ("--warm-after=0s", "--cold-after=0s", "--settle=0s")

SETTINGS = settings(
    max_examples=10,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.mount
@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_a_mount_is_transparent(passthrough: str) -> None:
    with directory() as home, mounted(Plan(home, flags=(*FLAGS, f"--passthrough={passthrough}"))) as mount:

        class MountTransparency(Transparency):
            """Residency transparency of a mount."""

            def make_subject(self) -> Subject:
                return MountSubject(mount)

        run_state_machine_as_test(MountTransparency, settings=SETTINGS)
