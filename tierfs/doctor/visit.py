"""One visit of the doctor: what is looked at, in which order it is told, and how long each part may be silent."""

from collections.abc import Iterator
from functools import partial

from tierfs.core.diagnosis import Diagnosis, Verdict
from tierfs.doctor.cold_tier import examine_cold_tier
from tierfs.doctor.examination import Examination, examine
from tierfs.doctor.host import examine_host
from tierfs.doctor.neighbours import examine_neighbours
from tierfs.doctor.patient import Patient
from tierfs.doctor.places import examine_hot, examine_state

#: A resolver alone may take ten seconds to give up, and a slow line some for the test of its speed.
_STORE_PATIENCE_S = 60.0


def visit(patient: Patient) -> Iterator[Diagnosis]:
    """Everything that can be looked at, as it is found. OSError where no process can be started."""
    for complaint in patient.complaint.splitlines():
        remedy = "correct it; `tierfs config check FILE` looks at a settings file alone"
        yield Diagnosis("settings", Verdict.PROBLEM, complaint, "the mount is refused", remedy)
    yield from examine(
        [
            Examination("host", partial(examine_host, patient)),
            Examination("hot directory", partial(examine_hot, patient)),
            Examination("state directory", partial(examine_state, patient)),
            Examination("store", partial(examine_cold_tier, patient), _STORE_PATIENCE_S),
            Examination("mounts", examine_neighbours),
        ]
    )
