"""Where an interrupted training finds how far it had come.

A checkpoint is one object, named by its step and the hash of its content, so that a damaged one is told
from a whole one. The last two of a training are kept: should the newest be damaged, the one before is still
there. They are working material: a training clears its own once its model is stored, and ``sweep`` removes
those of trainings that never came back.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime, timedelta

from nightshift.lake.store import NoSuchObjectError, open_store
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

_KEPT = 2


class Checkpoints:
    """The checkpoints of one training.

    Args:
        uc: The use case it belongs to.
        training: Names the training by everything that decides its outcome; safe as part of a path.
    """

    def __init__(self, uc: UseCase, training: str) -> None:
        self._folder = f"{_root(uc)}{training}/"

    def keep(self, state: bytes, step: int) -> None:
        """Write ``state`` as reached at ``step`` and remove all but the last two."""
        store = open_store()
        store.put(f"{self._folder}{step:012d}-{hashlib.sha256(state).hexdigest()}", state)
        for key in store.list(self._folder)[:-_KEPT]:
            store.delete(key)

    def newest(self) -> bytes | None:
        """Return the newest whole checkpoint, or None. Damaged ones are removed, with a warning each."""
        store = open_store()
        for key in reversed(store.list(self._folder)):
            try:
                state = store.get(key)
            except NoSuchObjectError:
                continue
            if hashlib.sha256(state).hexdigest() == key.rpartition("-")[2]:
                return state
            log.warning("checkpoint %s is damaged (%d bytes): the one before is used", key, len(state))
            store.delete(key)
        return None

    def clear(self) -> None:
        """Remove all of them; no error when there are none."""
        store = open_store()
        for key in store.list(self._folder):
            store.delete(key)


def sweep(uc: UseCase, older_than_days: int) -> int:
    """Remove checkpoints last written more than ``older_than_days`` ago; return how many."""
    store = open_store()
    limit = datetime.now(UTC) - timedelta(days=older_than_days)
    forgotten = [key for key, when in store.modified(_root(uc)).items() if when < limit]
    for key in forgotten:
        store.delete(key)
    return len(forgotten)


def _root(uc: UseCase) -> str:
    return f"checkpoints/{uc.name}/"
