"""Height 2: the filesystem object over a real directory, the real catalog and the real cache; no FUSE."""

from hypothesis import settings

from tests.t3_model import examples
from tests.t3_model.engine_subject import EngineSubject
from tests.t3_model.transparency import Subject, Transparency


class EngineTransparency(Transparency):
    """Residency transparency of the filesystem object."""

    def make_subject(self) -> Subject:
        return EngineSubject()


TestEngine = EngineTransparency.TestCase
# Every step looks at the whole tree, and runs over a real disk: about a second for each example.
TestEngine.settings = settings(max_examples=examples(16, 40), stateful_step_count=40, report_multiple_bugs=False)
