"""Python loads this at its start, in the processes of a mount whose next version is broken: how, a file says."""

import os
import sys
from pathlib import Path

_how = Path(os.environ["BROKEN_UPGRADE_OF_TIERFS_TESTS"])
if "tierfs.worker" in sys.orig_argv and _how.exists():
    if _how.read_text() == "does not start":
        sys.exit("a module is missing")
    from tierfs.mount import tap

    tap.granted = lambda: 0  # another libfuse would agree with the kernel on other things
