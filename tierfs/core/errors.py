"""The one tree of errors.

    TierfsError                       errno  what an operator does
    |- ConfigError                    EINVAL corrects the setting that it names
    |- MountError                     EIO    corrects the mountpoint, the device or the privileges that it names
    |- ControlError                   EIO    starts the mount, or corrects the request
    |  `- NoSuchJob                   EIO    looks at `tierfs jobs`
    |- NotEligible                    EBUSY  waits, or takes away the reason that it names
    |- CatalogError                   EIO    runs `tierfs check`
    |  `- CatalogFull                 ENOSPC makes room on the disk of the state directory
    |- FileLost                       EIO    brings the object back, or removes the file
    |- ReadDenied                   EACCES changes the rules of `access`, if it is not meant
    |- OverBudget                   EDQUOT raises restore_limit, or waits
    |- DeadlineExceeded               EIO    looks at the store and the network; raises cold_timeout
    `- StoreError                     EIO
       |- ObjectMissing               EIO    (404) the object was removed behind tierfs
       |- ObjectChanged               EIO    (412, or another ETag) the object was overwritten behind tierfs
       |- IntegrityError              EIO    bytes are not the ones that were archived
       |- AccessDenied                EIO    (401, 403) corrects credentials or bucket policy
       |- BucketMissing               EIO    creates the bucket or corrects its name
       |- NoLease                     EIO    another mount may write below this prefix: looks who, and unmounts one
       |- StoreRefused                EIO    (other 4xx) reads the store's message
       `- StoreUnavailable            EIO    (5xx, 429, no connection, time-out) waits: the only one that is retried
          `- StoreSpared              EIO    waits: the store failed too often, and was not asked

Each class carries the errno that a system call gets. `str(error)` is one sentence for a person.
"""

import errno as _errno
from typing import ClassVar


class TierfsError(Exception):
    """Base of all errors of tierfs; `errno` is what a system call that meets it returns."""

    errno: ClassVar[int] = _errno.EIO


class ConfigError(TierfsError):
    """A setting, a flag or an environment variable is unknown or nonsensical (EINVAL)."""

    errno = _errno.EINVAL


class MountError(TierfsError):
    """The mount cannot be made, served or taken away (EIO)."""


class ControlError(TierfsError):
    """The control API cannot be reached or refused the request (EIO)."""


class NoSuchJob(ControlError):
    """There is no job of this id, or it ended long ago (EIO)."""


class NotEligible(TierfsError):
    """The policy's rules forbid this change of residency now; the message is the reason (EBUSY)."""

    errno = _errno.EBUSY


class CatalogError(TierfsError):
    """The catalog cannot be opened, or is not one that this version reads (EIO)."""


class CatalogFull(CatalogError):
    """The catalog cannot grow: the disk of the state directory is full (ENOSPC)."""

    errno = _errno.ENOSPC


class FileLost(TierfsError):
    """The only copy was in the bucket and is gone (EIO)."""


class ReadDenied(TierfsError):
    """A rule of `access` refuses to have cold bytes fetched for this process (EACCES)."""

    errno = _errno.EACCES


class OverBudget(TierfsError):
    """A write would bring back more than restore_limit allows now (EDQUOT)."""

    errno = _errno.EDQUOT


class DeadlineExceeded(TierfsError):
    """The cold store did not answer within the deadline of a cold read (EIO)."""


class StoreError(TierfsError):
    """Base of what a cold store answers when it does not do what it was asked (EIO)."""


class ObjectMissing(StoreError):
    """The object does not exist (404 NoSuchKey)."""


class ObjectChanged(StoreError):
    """The object is no longer the recorded one (412, or the answer carries another ETag or length)."""


class IntegrityError(StoreError):
    """Bytes that came back, or a checksum that the store computed, differ from what was archived."""


class AccessDenied(StoreError):
    """The credentials are missing, wrong, expired or not allowed to do this (401, 403)."""


class BucketMissing(StoreError):
    """The bucket, or the directory of a file:// store, does not exist."""


class NoLease(StoreError):
    """This mount may not write to the store now: it does not hold the lease of its prefix."""


class StoreRefused(StoreError):
    """The store rejects the request for good (a 4xx that no retry mends)."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or is overloaded (5xx, 429, connection, time-out): worth a retry.

    `wait_ns`: nanoseconds until it will be asked again; None where nobody decided that.
    """

    wait_ns: int | None = None


class StoreSpared(StoreUnavailable):
    """The store was not asked at all, because it failed too often."""
