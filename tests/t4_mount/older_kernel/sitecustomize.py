"""Python loads this at its start, in the processes of a mount on a kernel that cannot send requests again."""

import sys

if "tierfs.worker" in sys.orig_argv:
    from tierfs.mount import tap

    tap.sends_again = lambda: False
