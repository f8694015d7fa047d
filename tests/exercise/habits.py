"""What applications do how often."""

from collections.abc import Mapping
from dataclasses import dataclass

CHUNK = 16 << 10
_READS = {"read": 260, "read_on": 90, "load": 90, "whole": 4, "direct": 10, "stat": 30}
_WRITES = {"write": 180, "write_on": 90, "store": 50, "truncate": 15, "sync": 8, "copy": 10}
_HANDLES = {"open": 25, "close": 25, "map": 4, "unmap": 4, "move_on": 15}
_NAMES = {"rename": 6, "unlink": 4, "link": 3, "swap": 2, "list": 2}
_DIRECTORIES = {"swap_directories": 1, "move_directory": 1}


@dataclass(frozen=True, slots=True)
class Habits:
    """How an application behaves. `weights` are relative; it works on `at_hand` files at a time, and moves on.

    With `is_patient` an operation that fails with EIO has not happened, and is counted: for a store that fails.
    """

    weights: Mapping[str, int]
    directories: int = 3
    files: int = 16  # of each directory
    at_hand: int = 8
    most_open: int = 4
    most_mapped: int = 10  # they outlive their descriptors
    largest_bytes: int = 160 << 10
    is_patient: bool = False

    def directory_names(self) -> list[str]:
        """Its directories."""
        return [f"d{number}" for number in range(self.directories)]

    def names(self) -> list[str]:
        """The names of all files that it may have."""
        return [f"{where}/f{number:02}" for where in self.directory_names() for number in range(self.files)]


def _habits(*weights: Mapping[str, int], is_patient: bool = True) -> Habits:
    together: dict[str, int] = {}
    for some in weights:
        for name, weight in some.items():
            together[name] = together.get(name, 0) + weight
    return Habits(together, is_patient=is_patient)


#: A mapping is SIGBUS where a store fails for good, so those who are patient have none.
_PATIENT_READS = {name: weight for name, weight in _READS.items() if name != "load"}
_PATIENT_WRITES = {name: weight for name, weight in _WRITES.items() if name != "store"}
_PATIENT_HANDLES = {"open": 25, "close": 25, "move_on": 1}

HABITS = {
    "everything": _habits(_READS, _WRITES, _HANDLES, _NAMES, _DIRECTORIES, is_patient=False),
    "reader": _habits(_PATIENT_READS, _PATIENT_HANDLES, {"write": 5, "write_on": 5, "unlink": 1}),
    "writer": _habits(_PATIENT_WRITES, _PATIENT_HANDLES, {"read": 30, "whole": 4, "unlink": 1}),
    "renamer": _habits(_PATIENT_READS, _PATIENT_WRITES, _PATIENT_HANDLES, _NAMES, _NAMES, _NAMES, _DIRECTORIES),
}
