"""What an application compares with a model, and what it remembers for the case that they differ."""

import errno
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from tests.model import Model, Node

_T = TypeVar("_T")

#: Operations that are remembered, and those of them that are told of the file that differs.
_REMEMBERED = 50_000
_TOLD = 40


class Mismatch(AssertionError):
    """What was seen is not what the model says; the message tells it all."""


class Witness:
    """A directory beside its model. With `is_patient` a read may end early: a store fails in its middle."""

    def __init__(self, root: Path, is_patient: bool) -> None:
        self._root = os.fsencode(root)
        self._is_patient = is_patient
        self._model = Model()
        self._remembered: deque[tuple[object, ...]] = deque(maxlen=_REMEMBERED)
        self.operations = 0
        self.counts: Counter[str] = Counter()

    def _at(self, path: bytes) -> bytes:
        return self._root + b"/" + path

    def _note(self, what: str, node: Node | None, *rest: object) -> None:
        self._remembered.append((self.operations, what, node, *rest))

    def _compare(self, what: str, node: Node, offset: int, got: bytes, wanted: bytes | bytearray) -> None:
        self.counts["compared_bytes"] += len(got)
        if got == wanted:
            return
        if self._is_patient and wanted.startswith(got):
            self.counts["short_reads"] += 1  # the kernel gives what it has, when what follows fails
            return
        pairs = zip(got, wanted, strict=False)
        at = next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(got), len(wanted)))
        self._differs(
            node,
            f"{what} at {offset}: the first difference is at offset {offset + at}, "
            f"got {len(got)} bytes, there {got[at : at + 24].hex()}, "
            f"wanted {len(wanted)}, there {bytes(wanted[at : at + 24]).hex()}; "
            f"{sum(one != other for one, other in zip(got, wanted, strict=False))} bytes differ",
        )

    def _differs(self, node: Node | None, what: str) -> NoReturn:
        raise Mismatch(f"{what}\n{self.history(node)}")

    def history(self, node: Node | None) -> str:
        """What was done to a file, the latest last; None: to all."""
        told = [entry for entry in self._remembered if node is None or entry[2] in (node, None)][-_TOLD:]
        names = [os.fsdecode(path) for path, other in self._model.nodes.items() if other is node]
        lines = [f"  {entry[0]}: {entry[1]} {' '.join(map(str, entry[3:]))}" for entry in told]
        about = f"operation {self.operations}; names {names}" if node else "all files"
        return "\n".join([f"{about}; its last operations:", *lines])

    def everything_remembered(self) -> Iterator[str]:
        """A line for each operation that is remembered, of whatever file; files are numbers."""
        for number, what, node, *rest in self._remembered:
            yield f"{number}: {what} of {id(node):x}: {' '.join(map(str, rest))}"

    def _both(self, real: Callable[[], _T], modelled: Callable[[], object]) -> _T | None:
        """Do the same to the mount and to the model; None where both refuse it, with the same errno."""
        try:
            result = real()
        except OSError as error:
            if error.errno == errno.EIO:
                raise  # no directory says that: it has not happened
            try:
                modelled()
            except OSError as expected:
                if expected.errno == error.errno:
                    return None
            raise
        try:
            modelled()
        except OSError as expected:
            self._differs(None, f"operation {self.operations} succeeded instead of {expected}")
        return result

    def _compare_names(self, directory: bytes) -> None:
        got = sorted(os.listdir(self._at(directory)))
        start = len(directory) + 1
        wanted = sorted(path[start:] for path in self._model.nodes if path.startswith(directory + b"/"))
        if got != wanted:
            self._differs(None, f"names in {directory!r}: got {got}, wanted {wanted}")

    def _compare_stat(self, path: bytes) -> None:
        node = self._model.nodes[path]
        st = os.stat(self._at(path))
        links = sum(other is node for other in self._model.nodes.values())
        if (st.st_size, st.st_nlink) != (len(node.data), links):
            seen = f"got {st.st_size} bytes and {st.st_nlink} names, wanted {len(node.data)} and {links}"
            self._differs(node, f"stat of {path!r}: {seen}")

    def _compare_whole(self, path: bytes) -> None:
        node = self._model.nodes[path]
        with open(self._at(path), "rb", buffering=0) as file:
            self._compare(f"whole {path!r}", node, 0, file.readall(), node.data)
