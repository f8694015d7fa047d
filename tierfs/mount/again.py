"""Requests that come again: the kernel sends what a worker had read and not answered when it died once more.

It marks their numbers. What the dead worker may have done of such a request is looked up by its number and undone, or
found done: see mount/takeover.py, and those methods of the filesystem that ask is_again().
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: FUSE_UNIQUE_RESEND (include/uapi/linux/fuse.h)
_AGAIN = 1 << 63

_request: ContextVar[int] = ContextVar("request", default=0)


def begin(request: int) -> bool:
    """This task answers a request now; whether it comes again."""
    _request.set(request)
    return request >= _AGAIN


def number() -> int:
    """The number of the request that this task answers, the same when it comes again; 0 outside of requests."""
    return _request.get() & ~_AGAIN


def is_again() -> bool:
    """Whether the request that this task answers may have been carried out before."""
    return _request.get() >= _AGAIN


@contextmanager
def made_already() -> Iterator[None]:
    """Make a name; that it is there is no error when the request comes again: it was not when that was sent."""
    try:
        yield
    except FileExistsError:
        if not is_again():
            raise
