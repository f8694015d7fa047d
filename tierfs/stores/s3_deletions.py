"""Deletions from a bucket: many objects with one request, one by one where the server does not take that.

An answer is believed for the keys that it names alone: servers leave some out, and say 200 to what they do not know.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tierfs.core.errors import IntegrityError, ObjectMissing, StoreError, StoreRefused
from tierfs.stores.cold import Deleted, delete_each
from tierfs.stores.s3_answers import Wire, advise, classify, sentence

_log = logging.getLogger(__name__)

_AT_ONCE = 8  # single deletions, where there is no other way


class Deletions:
    """ColdStore.delete_many() for a bucket. `delete` deletes one object, a request at most `most` of them."""

    def __init__(self, wire: Wire, delete: Callable[[str], None], most: int) -> None:
        self._wire = wire
        self._delete = delete
        self._most = most
        self._takes_many = True

    def run(self, keys: Sequence[str]) -> Deleted:
        """See ColdStore. A server that refused once to delete many objects is not asked again."""
        done: dict[str, StoreError | None] = {}
        plain = [key for key in keys if is_plain(key)] if self._takes_many else []
        try:
            for first in range(0, len(plain), self._most):
                some = plain[first : first + self._most]
                done |= read_answer(some, self._wire.call("delete_objects", Delete=_order(some)))
        except (StoreRefused, IntegrityError, ObjectMissing) as error:
            self._takes_many = False
            _log.info("objects are deleted one by one: %s", error)
        single = delete_each(self._delete, [key for key in keys if key not in done], _AT_ONCE)
        gone = [key for key, error in done.items() if error is None]
        failures = {key: error for key, error in done.items() if error}
        return Deleted((*gone, *single.gone), {**failures, **single.failures})


def is_plain(key: str) -> bool:
    """Whether a key is the same after any reader of XML: some drop space at its ends, and would delete another one."""
    return key == key.strip() and key.isprintable()


def _order(keys: Sequence[str]) -> dict[str, object]:
    return {"Objects": [{"Key": key} for key in keys], "Quiet": False}


def read_answer(keys: Sequence[str], answer: Mapping[str, Any]) -> dict[str, StoreError | None]:
    """What an answer says of the keys that were asked for: None for those that are gone; the others are not named."""
    wanted = frozenset(keys)
    said: dict[str, StoreError | None] = {entry.get("Key", ""): None for entry in answer.get("Deleted", ())}
    for entry in answer.get("Errors", ()):
        key, code = entry.get("Key", ""), str(entry.get("Code", ""))
        kind = classify(0, code, "delete_object")
        why = f"{entry.get('Message') or 'the store refused'} ({code})"
        said[key] = (
            None
            if kind is ObjectMissing
            else kind(sentence("delete_object", key, "the bucket", why, advise(code, kind)))
        )
    return {key: error for key, error in said.items() if key in wanted}
