"""Python loads this at its start, in the processes of a mount whose crash is wanted: see tests.crashes.arming."""

import gc
import os
import sys

if {"tierfs.worker", "tierfs.cold", "rebuild"} & {*sys.orig_argv}:
    gc.set_threshold(100_000)  # a fifth of the time that a start takes, and there are hundreds
    from tests.crashes import arming

    arming.arm(os.environ[arming.STAGE])
