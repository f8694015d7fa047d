"""Do something as another user: in a child process, because root's rights cannot be laid down for a while."""

import os
import pickle
from collections.abc import Callable
from typing import TypeVar, cast

_T = TypeVar("_T")

#: A user and group that own nothing else on the machine.
STRANGER = 54321


def run_as(uid: int, function: Callable[[], _T]) -> _T:
    """Call `function` in a child process that is user and group `uid`; returns and raises what it does."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as out:
                pickle.dump(_called(uid, function), out)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        data = answers.read()
    os.waitpid(child, 0)
    succeeded, value = pickle.loads(data)
    if not succeeded:
        raise value
    return cast("_T", value)


def _called(uid: int, function: Callable[[], _T]) -> tuple[bool, object]:
    try:
        if uid != os.getuid():
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        os.umask(0o022)
        return True, function()
    except BaseException as error:
        return False, error
