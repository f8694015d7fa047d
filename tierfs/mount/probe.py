"""The probe: asks the mount a question again and again, and says each time that it was answered. Standard library only.

A process of its own, because a mount that nobody serves holds up whoever asks it. For systemd's watchdog: statvfs(2) is
not answered from any cache, so the answer has come all the way from the worker.
"""

import os
import sys
import time
from contextlib import suppress


def main() -> int:
    """`python -m tierfs.mount.probe MOUNTPOINT SECONDS`: a byte on standard output for each answer."""
    mountpoint, pause_s = sys.argv[1], float(sys.argv[2])
    with suppress(BrokenPipeError, KeyboardInterrupt):
        while True:
            with suppress(OSError):  # an error is an answer, too, but not the one that is wanted
                os.statvfs(mountpoint)
                os.write(1, b".")
            time.sleep(pause_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
