"""What the exit code of a command says."""

from enum import IntEnum

from tierfs.core import errors


class Exit(IntEnum):
    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    SETTINGS = 3
    MOUNT = 4
    NOT_RUNNING = 5
    STORE = 6
    DISAGREEMENT = 7
    CATALOG = 8
    REPAIRED = 9
    TROUBLE = 10
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "done",
    Exit.SOME_FAILED: "some files failed (each is named on stderr), or a defect of tierfs",
    Exit.USAGE: "the command line is wrong",
    Exit.SETTINGS: "a setting is unknown or nonsensical",
    Exit.MOUNT: "the mount could not be made or taken away",
    Exit.NOT_RUNNING: "no such mount, or it does not answer",
    Exit.STORE: "the bucket is missing, refuses or cannot be reached",
    Exit.DISAGREEMENT: "check or rebuild found disagreements, which are left",
    Exit.CATALOG: "the catalog is missing, damaged, or of another version",
    Exit.REPAIRED: "check found disagreements, and repaired them all",
    Exit.TROUBLE: "doctor found a problem",
    Exit.INTERRUPTED: "interrupted; what was done stays done",
}

_EXITS: tuple[tuple[type[Exception], Exit], ...] = (
    (errors.ConfigError, Exit.SETTINGS),
    (errors.MountError, Exit.MOUNT),
    (errors.ControlError, Exit.NOT_RUNNING),
    (errors.StoreError, Exit.STORE),
    (errors.DeadlineExceeded, Exit.STORE),
    (errors.CatalogError, Exit.CATALOG),
)


def exit_of(error: Exception) -> Exit:
    """The exit code of a command that an error ended."""
    return next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.SOME_FAILED)
